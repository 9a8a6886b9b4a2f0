//! A command as an exec of the engine.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bollard::container::LogOutput;
use bollard::errors::Error as EngineError;
use bollard::exec::{CreateExecOptions, ResizeExecOptions, StartExecOptions, StartExecResults};
use bollard::models::ExecInspectResponse;
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{Mutex, Notify, mpsc};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};

use super::super::bridge::never_ran;
use super::super::create;
use super::super::error::{is_absent, map};
use super::super::life::{Life, gone};
use super::super::patience::Answer;
use crate::error::{Error, ErrorKind, Result, escape};
use crate::id::SandboxId;
use crate::sandbox::exec::{
    ExecControl, ExecEvent, ExecSession, ExecSpec, ExitStatus, SignalScope, TtySize,
};

/// Pieces of output that wait for a reader; the engine waits with the rest.
const WAITING: usize = 16;
/// How often the engine is asked whether a command has ended whose output has not.
const LOOK: Duration = Duration::from_millis(100);
/// How long output of a command that has ended may be silent before it is all.
const SILENCE: Duration = Duration::from_millis(100);
/// What the engine tells of a command that SIGKILL has ended.
const KILLED: i32 = 137;
/// Of what an engine says of a command that it could not start, with the command's
/// name; and how much of it is told, which is the end.
const WORDS: usize = 16 * 1024;
const TOLD: usize = 256;
/// The longest path that Linux takes, with the zero at its end. An engine that is given
/// a longer name may answer nobody any more.
const PATH_MAX: usize = 4096;

type Output = Pin<Box<dyn Stream<Item = Result<LogOutput, EngineError>> + Send>>;
type Input = Pin<Box<dyn AsyncWrite + Send>>;

/// Starts a command. It has started when this returns.
pub(super) async fn open(life: &Arc<Life>, id: &SandboxId, spec: &ExecSpec) -> Result<ExecSession> {
    if spec.background {
        return Err(Error::unsupported(
            "commands by the engine alone (`exec: engine`) are none of the background",
        )
        .context("field", "background"));
    }
    let name = spec.argv.first().map_or(0, Vec::len);
    if name >= PATH_MAX {
        return Err(nameless(name));
    }
    let workdir = spec.workdir.as_ref().map_or(0, String::len);
    if workdir >= PATH_MAX {
        return Err(Error::new(
            ErrorKind::NotFound,
            "the directory of the command is not there: no path is as long",
        )
        .context("field", "workdir")
        .context("bytes", workdir));
    }
    let mut cmd = Vec::new();
    for argument in &spec.argv {
        let text = String::from_utf8(argument.clone());
        cmd.push(text.map_err(|_| {
            Error::unsupported("the engine takes arguments that are UTF-8 alone")
                .context("field", "argv")
        })?);
    }
    let env = spec
        .env
        .iter()
        .map(|(name, value)| format!("{name}={value}"));
    let options = CreateExecOptions {
        attach_stdin: Some(spec.stdin || spec.tty.is_some()),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        tty: Some(spec.tty.is_some()),
        env: Some(env.collect()),
        cmd: Some(cmd),
        user: spec.user.clone(),
        working_dir: spec.workdir.clone(),
        ..CreateExecOptions::default()
    };
    let docker = &life.docker;
    let container = create::container(id);
    let made = docker.create_exec(&container, options).within(docker).await;
    let exec = match made {
        Ok(made) => made.id,
        Err(e) => return Err(life.without_bridge(&container, e).await),
    };
    let options = StartExecOptions {
        tty: spec.tty.is_some(),
        output_capacity: Some(64 * 1024),
        ..StartExecOptions::default()
    };
    let (mut output, input) = match docker.start_exec(&exec, Some(options)).within(docker).await {
        Ok(StartExecResults::Attached { output, input }) => (output, input),
        Ok(StartExecResults::Detached) => {
            return Err(Error::new(ErrorKind::Internal, "the exec was detached"));
        }
        Err(e) => return Err(life.without_bridge(&container, e).await),
    };
    if let Err(error) = started(life, &exec, &mut output, spec).await {
        if error.kind() == ErrorKind::Unavailable && life.ends_soon(&container).await {
            return Err(gone(ErrorKind::SandboxGone).source(error));
        }
        return Err(error);
    }
    let control = Arc::new(Control {
        life: Arc::clone(life),
        exec: exec.clone(),
        input: Mutex::new(spec.stdin.then_some(input)),
        asked_for: spec.stdin,
        terminal: spec.tty.is_some(),
        killed: Notify::new(),
        over: AtomicBool::new(false),
    });
    if let Some(size) = spec.tty {
        // What has ended already has no size.
        let _ = control.resize(size).await;
    }
    let (events, received) = mpsc::channel(WAITING);
    let following = Following {
        life: Arc::clone(life),
        id: id.clone(),
        exec,
        events,
        control: Arc::clone(&control),
    };
    let deadline = spec.timeout.map(|within| Instant::now() + within);
    tokio::spawn(following.run(output, deadline));
    Ok(ExecSession {
        exec: spec.exec.clone(),
        // The engine tells the host's number, which is none inside.
        pid: None,
        events: Box::pin(stream::unfold(received, |mut received| async {
            let event = received.recv().await?;
            Some((event, received))
        })),
        control,
    })
}

/// Waits until the engine has started a command, or says why it could not.
async fn started(life: &Life, exec: &str, output: &mut Output, spec: &ExecSpec) -> Result<()> {
    let docker = &life.docker;
    loop {
        let seen = docker
            .inspect_exec(exec)
            .within(docker)
            .await
            .map_err(map)?;
        if never_ran(&seen) {
            let mut said = Vec::new();
            while said.len() < WORDS
                && let Ok(Some(Ok(piece))) = timeout(SILENCE, output.next()).await
            {
                said.extend_from_slice(&piece.into_bytes());
            }
            said.truncate(WORDS);
            return Err(not_started(&String::from_utf8_lossy(&said), spec));
        }
        // One that has ended was started.
        if seen.pid.is_some_and(|pid| pid > 0) || has_ended(&seen) {
            return Ok(());
        }
        sleep(Duration::from_millis(2)).await;
    }
}

fn has_ended(seen: &ExecInspectResponse) -> bool {
    seen.running == Some(false) && seen.exit_code.is_some()
}

fn nameless(bytes: usize) -> Error {
    Error::new(
        ErrorKind::CommandNotFound,
        "no command has a name as long as this one",
    )
    .context("bytes", bytes)
}

/// The error of a command that the engine could not start, by its own words.
fn not_started(said: &str, spec: &ExecSpec) -> Error {
    let has = |words: &str| said.contains(words);
    let program = String::from_utf8_lossy(spec.argv.first().map_or(&[][..], |a| a)).into_owned();
    let directory = has("chdir to cwd") || has("mkdir") || has("Cwd must be");
    let error = if directory {
        Error::new(
            ErrorKind::NotFound,
            "the directory of the command is not there",
        )
        .context("field", "workdir")
        .context("value", spec.workdir.as_deref().unwrap_or_default())
    } else if has("executable file not found") || has("no such file or directory") {
        Error::new(
            ErrorKind::CommandNotFound,
            "there is no such command in the sandbox",
        )
        .context("command", program)
    } else if has("file name too long") {
        nameless(program.len())
    } else if has("permission denied") || has("exec format error") || has("is a directory") {
        Error::new(
            ErrorKind::CommandNotExecutable,
            "the command cannot be executed",
        )
        .context("command", program)
    } else if has("unable to find user") || has("unable to find group") {
        Error::new(ErrorKind::NotFound, "there is no such user in the sandbox")
            .context("field", "user")
            .context("value", spec.user.as_deref().unwrap_or_default())
    } else {
        Error::new(
            ErrorKind::Unavailable,
            "the docker engine could not start the command",
        )
    };
    let said = said.trim();
    let from = said.char_indices().rev().take(TOLD).last();
    match said.get(from.map_or(0, |(at, _)| at)..) {
        None | Some("") => error,
        Some(end) => error.context("engine", escape(end)),
    }
}

/// The task that follows a command to its end.
struct Following {
    life: Arc<Life>,
    id: SandboxId,
    exec: String,
    events: mpsc::Sender<Result<ExecEvent>>,
    control: Arc<Control>,
}

/// What becomes of a command.
enum End {
    /// Its first process has ended, or its output.
    Itself,
    Deadline,
    /// Somebody killed it.
    Killed,
    /// Nobody waits for it any more.
    Alone,
}

impl Following {
    async fn run(self, mut output: Output, deadline: Option<Instant>) {
        let status = match self.follow(&mut output, deadline).await {
            End::Itself => self.status().await,
            End::Deadline => self.end_all().await.map(|()| ExitStatus::TimedOut {
                sandbox_ended: true,
            }),
            End::Killed | End::Alone => self.end_all().await.map(|()| ExitStatus::Cancelled {
                sandbox_ended: true,
            }),
        };
        self.control.over.store(true, Ordering::Relaxed);
        let _ = self.events.send(status.map(ExecEvent::Exited)).await;
    }

    async fn follow(&self, output: &mut Output, deadline: Option<Instant>) -> End {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ended = false;
        let over = async {
            match deadline {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(over);
        loop {
            let next = async {
                if ended {
                    timeout(SILENCE, output.next()).await.unwrap_or(None)
                } else {
                    output.next().await
                }
            };
            let piece = tokio::select! {
                piece = next => piece,
                _ = look.tick(), if !ended => {
                    ended = self.has_ended().await;
                    continue;
                }
                () = &mut over => return End::Deadline,
                () = self.control.killed.notified() => return End::Killed,
                () = self.events.closed() => return End::Alone,
            };
            let event = match piece {
                Some(Ok(LogOutput::StdOut { message } | LogOutput::Console { message })) => {
                    ExecEvent::Stdout(message)
                }
                Some(Ok(LogOutput::StdErr { message })) => ExecEvent::Stderr(message),
                Some(Ok(LogOutput::StdIn { .. })) => continue,
                Some(Err(_)) | None => break,
            };
            // A reader that waits keeps the command waiting, and nobody else.
            tokio::select! {
                sent = self.events.send(Ok(event)) => if sent.is_err() {
                    return End::Alone;
                },
                () = &mut over => return End::Deadline,
                () = self.control.killed.notified() => return End::Killed,
            }
        }
        // Its output may end before it does.
        loop {
            if ended || self.has_ended().await {
                return End::Itself;
            }
            tokio::select! {
                _ = look.tick() => {}
                () = &mut over => return End::Deadline,
                () = self.control.killed.notified() => return End::Killed,
                () = self.events.closed() => return End::Alone,
            }
        }
    }

    /// Whether its first process has ended; so it is where the engine knows nothing
    /// of it any more.
    async fn has_ended(&self) -> bool {
        let docker = &self.life.docker;
        match docker.inspect_exec(&self.exec).within(docker).await {
            Ok(seen) => has_ended(&seen),
            Err(e) => is_absent(&e),
        }
    }

    /// What the engine says of its end. Which signal ended it that does not tell.
    async fn status(&self) -> Result<ExitStatus> {
        let docker = &self.life.docker;
        let container = create::container(&self.id);
        if !self.life.runs(&container).await {
            return Ok(ExitStatus::SandboxGone);
        }
        let seen = match docker.inspect_exec(&self.exec).within(docker).await {
            Ok(seen) => seen,
            Err(e) if is_absent(&e) => return Ok(ExitStatus::SandboxGone),
            Err(e) => return Err(map(e)),
        };
        let code = seen.exit_code.and_then(|code| i32::try_from(code).ok());
        let code = code.filter(|code| (0..=255).contains(code));
        // Of a container that is killed the commands go first.
        if code == Some(KILLED) && self.life.ends_soon(&container).await {
            return Ok(ExitStatus::SandboxGone);
        }
        code.map(|code| ExitStatus::Code { code }).ok_or_else(|| {
            Error::new(
                ErrorKind::Protocol,
                "the docker engine tells no exit code of a command that has ended",
            )
        })
    }

    /// Nothing else surely ends all that a command has started.
    async fn end_all(&self) -> Result<()> {
        Box::pin(self.life.destroy(&self.id)).await
    }
}

struct Control {
    life: Arc<Life>,
    exec: String,
    /// None once it is closed.
    input: Mutex<Option<Input>>,
    asked_for: bool,
    terminal: bool,
    killed: Notify,
    /// Whether it has ended.
    over: AtomicBool,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Control").field(&self.exec).finish()
    }
}

impl Control {
    fn closed(&self) -> Error {
        if self.asked_for {
            Error::new(
                ErrorKind::Conflict,
                "standard input is closed, or the command has ended",
            )
        } else {
            Error::invalid(
                "stdin",
                "false",
                "a command that was given standard input",
                "ask for it when the command is started",
            )
        }
    }
}

#[async_trait]
impl ExecControl for Control {
    async fn write_stdin(&self, data: Bytes) -> Result<()> {
        let mut held = self.input.lock().await;
        if self.over.load(Ordering::Relaxed) {
            *held = None;
        }
        let Some(input) = held.as_mut() else {
            return Err(self.closed());
        };
        let written = async {
            input.write_all(&data).await?;
            input.flush().await
        };
        written.await.map_err(|_| {
            *held = None;
            self.closed()
        })
    }

    async fn close_stdin(&self) -> Result<()> {
        let mut held = self.input.lock().await;
        let Some(input) = held.as_mut() else {
            return if self.asked_for {
                Ok(())
            } else {
                Err(self.closed())
            };
        };
        if self.terminal {
            // Its end-of-file character.
            let _ = input.write_all(&[4]).await;
            let _ = input.flush().await;
            return Ok(());
        }
        let _ = input.shutdown().await;
        *held = None;
        Ok(())
    }

    async fn signal(&self, signal: i32, _scope: SignalScope) -> Result<()> {
        if signal != 9 {
            return Err(Error::unsupported(
                "the engine sends commands no signals; 9 ends the command with its sandbox",
            )
            .context("field", "signal")
            .context("value", signal));
        }
        if self.over.load(Ordering::Relaxed) {
            return Err(Error::new(ErrorKind::NotFound, "the command has ended"));
        }
        self.killed.notify_one();
        Ok(())
    }

    async fn resize(&self, size: TtySize) -> Result<()> {
        if !self.terminal {
            return Err(Error::invalid(
                "tty",
                "none",
                "a command that has a terminal",
                "start it with one",
            ));
        }
        let docker = &self.life.docker;
        let size = ResizeExecOptions {
            width: size.columns,
            height: size.rows,
        };
        let resized = docker.resize_exec(&self.exec, size).within(docker).await;
        resized.map_err(map)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_started_is_an_error_of_its_kind() {
        let mut spec = ExecSpec::new(["nope"]);
        spec.workdir = Some("/nowhere".into());
        let of = |said: &str| not_started(said, &spec).kind();
        let runc = "OCI runtime exec failed: exec failed: unable to start container process: ";
        for (said, kind) in [
            (
                "exec: \"nope\": executable file not found in $PATH",
                ErrorKind::CommandNotFound,
            ),
            (
                "exec: \"/etc/hosts\": permission denied",
                ErrorKind::CommandNotExecutable,
            ),
            (
                "exec /data: exec format error",
                ErrorKind::CommandNotExecutable,
            ),
            (
                "chdir to cwd (\"/nowhere\") set in config.json failed: no such file or directory",
                ErrorKind::NotFound,
            ),
            ("file name too long", ErrorKind::CommandNotFound),
            ("", ErrorKind::Unavailable),
        ] {
            assert_eq!(of(&format!("{runc}{said}")), kind, "{said}");
        }
        let long = format!("{}: executable file not found", "a".repeat(5000));
        let error = not_started(&long, &spec);
        assert_eq!(error.kind(), ErrorKind::CommandNotFound);
        let told = error.fact("engine").unwrap();
        assert!(told.len() == TOLD && told.ends_with("not found"), "{told}");
        let error = not_started("chdir to cwd failed\u{1b}[2J", &spec);
        assert_eq!(error.fact("field"), Some("workdir"));
        assert!(!error.fact("engine").unwrap().contains('\u{1b}'));
    }
}
