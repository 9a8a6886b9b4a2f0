//! `exec`: run a command in a sandbox.

use serde_json::{Map, Value, json};
use stacyvm::engine::Engine;
use stacyvm::{ExecSpec, Result, Sandbox};

use crate::args::ExecArgs;
use crate::session::{self, Kept, Out, Outcome, Signals};
use crate::{exit, output, spec};

/// What came of a command: how it ended, and its output if it was kept.
#[derive(Debug)]
pub(crate) struct Followed {
    outcome: Outcome,
    kept: Option<Kept>,
}

pub(crate) async fn exec(engine: &Engine, args: &ExecArgs, json: bool) -> Result<u8> {
    let exec = spec::exec(args)?;
    let sandbox = engine.get(&args.sandbox).await?;
    if args.detach {
        let process = sandbox.exec_spec(exec).start().await?;
        let pid = process.pid();
        let id = process.detach()?;
        super::printed(if json {
            output::json(&json!({ "sandbox": sandbox.id(), "exec": id, "pid": pid }))
        } else {
            output::line(id.as_str())
        })?;
        return Ok(0);
    }
    let followed = follow(&sandbox, exec, &mut Signals::new()?, json).await?;
    report(&sandbox, followed, json!({}))
}

/// Runs a command to its end: live, or kept for a report in JSON.
pub(crate) async fn follow(
    sandbox: &Sandbox,
    exec: ExecSpec,
    signals: &mut Signals,
    keep: bool,
) -> Result<Followed> {
    let wants = (exec.stdin, exec.tty.is_some());
    let process = signals
        .unless_interrupted(sandbox.exec_spec(exec).start())
        .await?;
    let mut kept = keep.then(Kept::default);
    let out = kept.as_mut().map_or(Out::Live, Out::Kept);
    let outcome = session::follow(process, signals, wants, out).await?;
    Ok(Followed { outcome, kept })
}

/// Prints what is left to print, and gives the exit code.
pub(crate) fn report(sandbox: &Sandbox, followed: Followed, more: Value) -> Result<u8> {
    let status = match followed.outcome {
        Outcome::OutputClosed => return Ok(exit::PIPE_CLOSED),
        Outcome::Ended(status) => status,
    };
    let code = exit::of_status(status);
    if let Some(Kept { stdout, stderr }) = followed.kept {
        let mut value = Map::new();
        value.insert("sandbox".into(), json!(sandbox.id()));
        value.insert("status".into(), json!(status));
        value.insert("exit_code".into(), json!(code));
        for (name, stream) in [("stdout", stdout), ("stderr", stderr)] {
            let truncated = format!("{name}_truncated_bytes");
            output::bytes(&mut value, name, &stream.bytes);
            value.insert(truncated, json!(stream.truncated));
        }
        if let Value::Object(more) = more {
            value.extend(more);
        }
        super::printed(output::json(&value))?;
    } else if let Some(remark) = exit::remark(status) {
        output::remark(remark);
    }
    Ok(code)
}
