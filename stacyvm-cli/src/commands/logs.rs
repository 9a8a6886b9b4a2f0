//! `logs`: what commands wrote, as far as it is kept.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::SystemTime;

use serde_json::{Map, Value, json};
use stacyvm::engine::Engine;
use stacyvm::units::parse_moment;
use stacyvm::{ExecEvent, ExecId, ExitStatus, LogEvent, Logs, LogsRequest, Result};

use crate::args::LogsArgs;
use crate::session::{self, Stream};
use crate::{exit, output};

pub(crate) async fn logs(engine: &Engine, args: &LogsArgs, json: bool) -> Result<u8> {
    let request = LogsRequest {
        exec: args.process.as_deref().map(ExecId::new).transpose()?,
        follow: args.follow,
        since: args
            .since
            .as_deref()
            .map(|since| parse_moment("since", since, SystemTime::now()))
            .transpose()?,
    };
    let sandbox = engine.get(&args.sandbox).await?;
    let reading = async {
        let mut logs = sandbox.logs(request).await?;
        match (json, args.follow) {
            (true, false) => {
                let commands = gather(&mut logs).await?;
                let report = json!({ "sandbox": sandbox.id(), "commands": commands });
                super::printed(output::json(&report))?;
                Ok(0)
            }
            (true, true) => each(&mut logs, |event| output::json_line(&event_json(&event))).await,
            (false, _) if args.process.is_some() => each(&mut logs, print).await,
            (false, _) => {
                let mut lines = Lines::new(!args.follow);
                let code = each(&mut logs, |event| lines.print(event)).await?;
                super::printed(lines.finish())?;
                Ok(code)
            }
        }
    };
    session::unless_interrupted(reading).await
}

/// Hands every event to `print`, until there is none or nobody reads.
async fn each(
    logs: &mut Logs,
    mut print: impl FnMut(LogEvent) -> std::io::Result<()>,
) -> Result<u8> {
    while let Some(event) = logs.next().await? {
        match print(event) {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {
                return Ok(exit::PIPE_CLOSED);
            }
            printed => super::printed(printed)?,
        }
    }
    Ok(0)
}

/// One command's output, as it was written.
fn print(event: LogEvent) -> std::io::Result<()> {
    match event.event {
        ExecEvent::Stdout(bytes) => write(&mut std::io::stdout().lock(), &bytes),
        ExecEvent::Stderr(bytes) => write(&mut std::io::stderr().lock(), &bytes),
        ExecEvent::Lost { stdout, stderr } => {
            tell_lost(&event.exec, stdout, stderr);
            Ok(())
        }
        ExecEvent::Exited(_) => Ok(()),
    }
}

fn write(to: &mut impl Write, bytes: &[u8]) -> std::io::Result<()> {
    to.write_all(bytes)?;
    to.flush()
}

fn tell_lost(exec: &ExecId, stdout: u64, stderr: u64) {
    output::remark(&format!(
        "{exec}: not kept any more: {stdout} bytes of standard output, {stderr} of standard error"
    ));
}

/// The output of several commands, in whole lines that say whose they are.
struct Lines {
    begun: BTreeMap<(ExecId, bool), Vec<u8>>,
    /// Whether commands come one after the other: with the next one, all lines
    /// of the last have come.
    one_by_one: bool,
    last: Option<ExecId>,
}

/// A longer line is shown in parts.
const LONGEST_LINE: usize = 64 * 1024;

impl Lines {
    fn new(one_by_one: bool) -> Self {
        Self {
            begun: BTreeMap::new(),
            one_by_one,
            last: None,
        }
    }

    fn print(&mut self, event: LogEvent) -> std::io::Result<()> {
        if self.last.as_ref() != Some(&event.exec) {
            if self.one_by_one {
                self.finish()?;
            }
            self.last = Some(event.exec.clone());
        }
        let (bytes, is_error) = match event.event {
            ExecEvent::Stdout(bytes) => (bytes, false),
            ExecEvent::Stderr(bytes) => (bytes, true),
            ExecEvent::Lost { stdout, stderr } => {
                tell_lost(&event.exec, stdout, stderr);
                return Ok(());
            }
            ExecEvent::Exited(_) => {
                for is_error in [false, true] {
                    let rest = self.begun.remove(&(event.exec.clone(), is_error));
                    print_line(&event.exec, is_error, &rest.unwrap_or_default())?;
                }
                return Ok(());
            }
        };
        let key = (event.exec, is_error);
        let begun = self.begun.entry(key.clone()).or_default();
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            begun.extend_from_slice(line);
            if line.ends_with(b"\n") || begun.len() >= LONGEST_LINE {
                print_line(&key.0, is_error, begun)?;
                begun.clear();
            }
        }
        Ok(())
    }

    /// Shows lines that have no end.
    fn finish(&mut self) -> std::io::Result<()> {
        for ((exec, is_error), line) in std::mem::take(&mut self.begun) {
            print_line(&exec, is_error, &line)?;
        }
        Ok(())
    }
}

fn print_line(exec: &ExecId, is_error: bool, line: &[u8]) -> std::io::Result<()> {
    if line.is_empty() {
        return Ok(());
    }
    let mut whole = format!("{exec} | ").into_bytes();
    whole.extend_from_slice(line);
    if !line.ends_with(b"\n") {
        whole.push(b'\n');
    }
    if is_error {
        write(&mut std::io::stderr().lock(), &whole)
    } else {
        write(&mut std::io::stdout().lock(), &whole)
    }
}

/// All that is kept of one command.
#[derive(Default)]
struct Kept {
    streams: [Stream; 2],
    lost: [u64; 2],
    status: Option<ExitStatus>,
}

async fn gather(logs: &mut Logs) -> Result<Vec<Value>> {
    let mut kept: BTreeMap<ExecId, Kept> = BTreeMap::new();
    let mut order = Vec::new();
    while let Some(event) = logs.next().await? {
        if !kept.contains_key(&event.exec) {
            order.push(event.exec.clone());
        }
        let of = kept.entry(event.exec).or_default();
        match event.event {
            ExecEvent::Stdout(bytes) => of.streams[0].add_all(&bytes),
            ExecEvent::Stderr(bytes) => of.streams[1].add_all(&bytes),
            ExecEvent::Lost { stdout, stderr } => {
                let [out, err] = of.lost;
                of.lost = [out.saturating_add(stdout), err.saturating_add(stderr)];
            }
            ExecEvent::Exited(status) => of.status = Some(status),
        }
    }
    let commands = order.iter().filter_map(|exec| {
        let of = kept.get(exec)?;
        let info = logs.commands().iter().find(|info| info.exec == *exec)?;
        let mut value = Map::new();
        value.insert("exec".into(), json!(exec));
        value.insert("argv".into(), json!(info.argv));
        value.insert("background".into(), json!(info.background));
        value.insert("status".into(), json!(of.status));
        for (which, name) in ["stdout", "stderr"].into_iter().enumerate() {
            output::bytes(&mut value, name, &of.streams[which].bytes);
            value.insert(format!("{name}_lost_bytes"), json!(of.lost[which]));
        }
        Some(Value::Object(value))
    });
    Ok(commands.collect())
}

/// One event, for a line of JSON.
fn event_json(event: &LogEvent) -> Value {
    let mut value = Map::new();
    value.insert("exec".into(), json!(event.exec));
    match &event.event {
        ExecEvent::Stdout(bytes) => output::bytes(&mut value, "stdout", bytes),
        ExecEvent::Stderr(bytes) => output::bytes(&mut value, "stderr", bytes),
        ExecEvent::Lost { stdout, stderr } => {
            value.insert("stdout_lost_bytes".into(), json!(stdout));
            value.insert("stderr_lost_bytes".into(), json!(stderr));
        }
        ExecEvent::Exited(status) => {
            value.insert("status".into(), json!(status));
        }
    }
    Value::Object(value)
}
