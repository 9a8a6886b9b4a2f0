//! `logs`: what commands wrote, as far as it is kept.

mod lines;

use std::collections::BTreeMap;
use std::io::Write;
use std::time::SystemTime;

use serde_json::{Map, Value, json};
use stacyvm::engine::Engine;
use stacyvm::sandbox::exec_builder::DEFAULT_MAX_OUTPUT;
use stacyvm::units::parse_moment;
use stacyvm::{
    Error, ErrorKind, ExecEvent, ExecId, ExitStatus, LogEvent, Logs, LogsRequest, Result,
};

use lines::Lines;

use crate::args::LogsArgs;
use crate::{exit, output, session};

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
                let code = each(&mut logs, |event| {
                    if let ExecEvent::Lost { stdout, stderr } = event.event {
                        tell_lost(&event.exec, stdout, stderr);
                    }
                    lines.add(event).iter().try_for_each(write_line)
                })
                .await?;
                super::printed(lines.finish().iter().try_for_each(write_line))?;
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

fn write_line(line: &lines::Line) -> std::io::Result<()> {
    if line.is_error {
        write(&mut std::io::stderr().lock(), &line.text)
    } else {
        write(&mut std::io::stdout().lock(), &line.text)
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

/// All that is kept of one command.
#[derive(Default)]
struct Kept {
    streams: [Vec<u8>; 2],
    lost: [u64; 2],
    status: Option<ExitStatus>,
}

/// The most output of all commands in one document.
const MAX_GATHERED: usize = DEFAULT_MAX_OUTPUT;

async fn gather(logs: &mut Logs) -> Result<Vec<Value>> {
    let mut room = MAX_GATHERED;
    let mut kept: BTreeMap<ExecId, Kept> = BTreeMap::new();
    let mut order = Vec::new();
    while let Some(event) = logs.next().await? {
        if !kept.contains_key(&event.exec) {
            order.push(event.exec.clone());
        }
        let of = kept.entry(event.exec).or_default();
        let mut add = |which: usize, bytes: &[u8]| {
            room = room.checked_sub(bytes.len()).ok_or_else(too_much)?;
            of.streams[which].extend_from_slice(bytes);
            Ok(())
        };
        match event.event {
            ExecEvent::Stdout(bytes) => add(0, &bytes)?,
            ExecEvent::Stderr(bytes) => add(1, &bytes)?,
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
            output::bytes(&mut value, name, &of.streams[which]);
            value.insert(format!("{name}_lost_bytes"), json!(of.lost[which]));
        }
        Some(Value::Object(value))
    });
    Ok(commands.collect())
}

fn too_much() -> Error {
    Error::new(
        ErrorKind::ResourceExhausted,
        format!(
            "the sandbox holds more output than fits one document, expected at most {} MiB of all commands",
            MAX_GATHERED >> 20
        ),
    )
    .context(
        "remedy",
        "leave --json out, name one command with --process, or read lines of JSON with --follow",
    )
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
