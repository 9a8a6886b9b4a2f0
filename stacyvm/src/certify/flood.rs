//! Attacks on whoever reads what a command writes. They cannot see what they
//! do, so whoever reads here judges it: by the library, with its bounds, in a
//! subject; in the weak place as a careless caller does, who keeps all of it.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Duration;

use stacyvm_agent::protocol::message::{self, Exited};
use stacyvm_agent::protocol::{HEADER_BYTES, Header, Kind};

use super::answer::{Answer, AttackVerdict, Attempt, MOST};
use super::control::{cannot, exit_status};
use crate::error::{Error, ErrorKind, Result};
use crate::sandbox::exec::{ExecEvent, ExitStatus};
use crate::sandbox::exec_builder::Exec;
use crate::sandbox::handle::Sandbox;
use crate::sandbox::logs::LogsRequest;

/// The most that this process may grow by for a flood: half of what the
/// smallest of them writes.
const MOST_KEPT_KIB: u64 = 64 * 1024;
/// The most that comes of processes that a command left behind.
const MOST_LATE: u64 = 16 << 20;
/// How many commands write while nobody reads.
const MANY: usize = 16;
/// What an attack that says that it ended well ends with.
const FORGED: ExitStatus = ExitStatus::Code { code: 9 };

/// Whether this module judges an attack.
pub(super) fn judges(attack: &str) -> bool {
    attack.starts_with("output.") || attack == "protocol.forged_end"
}

/// The most memory that this process had since it began to look.
struct Memory {
    before: u64,
}

impl Memory {
    fn watch() -> Option<Self> {
        // 5 sets the peak to what is used now (proc(5)).
        std::fs::write("/proc/self/clear_refs", "5").ok()?;
        Some(Self { before: peak()? })
    }

    fn grown(&self) -> Option<u64> {
        Some(peak()?.saturating_sub(self.before))
    }
}

/// The peak of this process's memory, in KiB.
fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse().ok()
}

/// What was read of a command: how much, and the end of its standard output.
#[derive(Default)]
struct Seen {
    tail: Vec<u8>,
    stderr: u64,
    status: Option<ExitStatus>,
}

impl Seen {
    fn add(&mut self, event: &ExecEvent) {
        match event {
            ExecEvent::Stdout(bytes) => {
                let end = &bytes[bytes.len().saturating_sub(MOST)..];
                self.tail.extend_from_slice(end);
                let over = self.tail.len().saturating_sub(MOST);
                self.tail.drain(..over);
            }
            ExecEvent::Stderr(bytes) => self.stderr += bytes.len() as u64,
            ExecEvent::Exited(status) => self.status = Some(*status),
            ExecEvent::Lost { .. } => {}
        }
    }

    /// What the attack said, on its last line.
    fn attempt(&self, attack: &str) -> Result<Attempt> {
        let status = self.status.unwrap_or(ExitStatus::SandboxGone);
        let all = self.tail.strip_suffix(b"\n").unwrap_or(&self.tail);
        let begins = all.iter().rposition(|byte| *byte == b'\n');
        Attempt::parse(attack, status, &self.tail[begins.map_or(0, |at| at + 1)..])
    }
}

fn answer(attack: &str, verdict: AttackVerdict, evidence: &str) -> Attempt {
    Attempt {
        answer: Some(Answer {
            attack: attack.to_owned(),
            verdict,
            errno: 0,
            evidence: evidence.to_owned(),
        }),
        status: ExitStatus::Code { code: 0 },
    }
}

/// Fired where this process grew too far; otherwise what the attack said.
fn judge_memory(attack: &str, said: Attempt, memory: &Memory) -> Attempt {
    match memory.grown() {
        Some(kib) if kib > MOST_KEPT_KIB => answer(
            attack,
            AttackVerdict::Fired,
            "what it wrote is in the memory of the host",
        ),
        Some(_) => said,
        None => unmeasured(attack),
    }
}

fn unmeasured(attack: &str) -> Attempt {
    answer(
        attack,
        AttackVerdict::Unable,
        "this process cannot measure its own memory",
    )
}

/// Fired where the caller got more of what was left behind than pipes hold.
fn judge_survivors(attack: &str, late: u64, said: Attempt) -> Attempt {
    if late > MOST_LATE {
        answer(
            attack,
            AttackVerdict::Fired,
            "the caller was held up by what was left behind",
        )
    } else {
        said
    }
}

/// Fired where another end was believed than the true one.
fn judge_end(attack: &str, told: ExitStatus, as_written: bool) -> Attempt {
    let (verdict, evidence) = match (told == FORGED, as_written) {
        (true, true) => (AttackVerdict::Silent, "it was taken for output"),
        (true, false) => (AttackVerdict::Fired, "its output was changed"),
        (false, _) => (AttackVerdict::Fired, "the end that it made up was believed"),
    };
    answer(attack, verdict, evidence)
}

/// Runs an attack in a sandbox; `exec` makes it, with words of its own.
pub(super) async fn in_sandbox(
    sandbox: &Sandbox,
    attack: &str,
    exec: impl Fn(&[String]) -> Exec,
) -> Result<Attempt> {
    if attack == "protocol.forged_end" {
        let output = exec(&[]).max_output(MOST * 4).output().await?;
        let as_written = !output.stdout.is_empty() && output.stdout == output.stderr;
        return Ok(judge_end(attack, output.status, as_written));
    }
    let Some(memory) = Memory::watch() else {
        return Ok(unmeasured(attack));
    };
    let said = match attack {
        "output.long_line" => kept(sandbox, exec(&[])).await?.attempt(attack)?,
        "output.unread" => unread(sandbox, attack, &exec, 1).await?,
        "output.many_unread" => unread(sandbox, attack, &exec, MANY).await?,
        "output.survivors" => {
            let seen = read(exec(&[])).await?;
            // Others are served while what was left goes on.
            alive(sandbox).await?;
            judge_survivors(attack, seen.stderr, seen.attempt(attack)?)
        }
        _ => read(exec(&[])).await?.attempt(attack)?,
    };
    Ok(judge_memory(attack, said, &memory))
}

async fn read(exec: Exec) -> Result<Seen> {
    let mut process = exec.start().await?;
    let mut seen = Seen::default();
    while let Some(event) = process.next_event().await? {
        seen.add(&event);
    }
    Ok(seen)
}

/// In the background, with what is kept of it read afterwards and meanwhile.
async fn kept(sandbox: &Sandbox, exec: Exec) -> Result<Seen> {
    let id = exec.background().start().await?.detach()?;
    let request = LogsRequest {
        exec: Some(id),
        follow: true,
        since: None,
    };
    let mut logs = sandbox.logs(request).await?;
    let mut seen = Seen::default();
    while let Some(event) = logs.next().await? {
        seen.add(&event.event);
    }
    Ok(seen)
}

/// Starts some, and reads nothing of them before each has given up: the first
/// that fired, else what the last of them said.
async fn unread(
    sandbox: &Sandbox,
    attack: &str,
    exec: &impl Fn(&[String]) -> Exec,
    count: usize,
) -> Result<Attempt> {
    // What they make goes with the sandbox.
    let files = sandbox.files();
    let mut running = Vec::new();
    for _ in 0..count {
        let done = format!("/tmp/stacyvm-probe-{}", super::bait::marker()?);
        running.push((exec(&[format!("done={done}")]).start().await?, done));
    }
    let mut said = None;
    for (mut process, done) in running {
        // The attack ends itself, and the command has a deadline: whatever
        // comes first, this ends.
        for _ in 0..1200 {
            if files.exists(&done).await? {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let mut seen = Seen::default();
        while let Some(event) = process.next_event().await? {
            seen.add(&event);
        }
        let attempt = seen.attempt(attack)?;
        let fired = |attempt: &Attempt| {
            let answer = attempt.answer.as_ref();
            answer.is_some_and(|answer| answer.verdict == AttackVerdict::Fired)
        };
        if !said.as_ref().is_some_and(fired) {
            said = Some(attempt);
        }
    }
    said.ok_or_else(|| Error::new(ErrorKind::Internal, "no attack was started"))
}

/// Another command is served.
async fn alive(sandbox: &Sandbox) -> Result<()> {
    let output = sandbox
        .exec(["true"])
        .timeout(Duration::from_secs(30))
        .output()
        .await?;
    if output.status.success() {
        return Ok(());
    }
    Err(
        Error::new(ErrorKind::Internal, "another command was not served")
            .context("status", output.status),
    )
}

/// Runs an attack on this host and reads it as careless callers do: both
/// streams, all of it, until nobody has them open; frames where they come.
pub(super) fn on_host(attack: &str, command: impl Fn() -> Command) -> Result<Attempt> {
    let Some(memory) = Memory::watch() else {
        return Ok(unmeasured(attack));
    };
    let count = if attack == "output.many_unread" {
        MANY
    } else {
        1
    };
    let mut all = Vec::new();
    for _ in 0..count {
        all.push(careless(command())?);
    }
    let Some((stdout, stderr, status)) = all.last() else {
        return Err(Error::new(ErrorKind::Internal, "no attack was started"));
    };
    if attack == "protocol.forged_end" {
        let told = believed(stdout).unwrap_or(*status);
        return Ok(judge_end(attack, told, stdout == stderr));
    }
    let mut seen = Seen::default();
    let tail = &stdout[stdout.len().saturating_sub(MOST)..];
    seen.add(&ExecEvent::Stdout(bytes::Bytes::copy_from_slice(tail)));
    seen.stderr = stderr.len() as u64;
    seen.status = Some(*status);
    let said = seen.attempt(attack)?;
    let said = if attack == "output.survivors" {
        judge_survivors(attack, seen.stderr, said)
    } else {
        said
    };
    Ok(judge_memory(attack, said, &memory))
}

fn careless(mut command: Command) -> Result<(Vec<u8>, Vec<u8>, ExitStatus)> {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = child
        .spawn()
        .map_err(|error| cannot("start the program of attacks", error))?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let all = |stream: Option<Box<dyn Read + Send>>| {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            // What was read before an error is judged.
            let _ = stream.read_to_end(&mut bytes);
        }
        bytes
    };
    let (stdout, stderr) = std::thread::scope(|scope| {
        let other = scope.spawn(|| all(err.map(|err| Box::new(err) as _)));
        (
            all(out.map(|out| Box::new(out) as _)),
            other.join().unwrap_or_default(),
        )
    });
    let ended = child
        .wait()
        .map_err(|error| cannot("wait for the program of attacks", error))?;
    Ok((stdout, stderr, exit_status(ended)))
}

/// The first end that frames in a command's output tell of.
fn believed(output: &[u8]) -> Option<ExitStatus> {
    let (head, rest) = output.split_first_chunk::<HEADER_BYTES>()?;
    let header = Header::decode(head).ok()?;
    let payload = rest.get(..usize::try_from(header.length).ok()?)?;
    let exited: Exited = (header.kind == Kind::Exited).then(|| message::decode(payload).ok())??;
    Some(ExitStatus::Code { code: exited.value })
}
