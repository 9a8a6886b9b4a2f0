//! `exec`: run a command in a sandbox.

use serde_json::{Map, Value, json};
use stacyvm::engine::Engine;
use stacyvm::{ExecSpec, Output, Result, Sandbox};

use crate::args::ExecArgs;
use crate::session::{self, Outcome};
use crate::{exit, output, spec};

/// What came of a command.
pub(crate) enum Followed {
    /// Its output went to ours.
    Live(Outcome),
    /// Its output was kept.
    Kept(Output),
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
    let followed = follow_or_collect(&sandbox, exec, json).await?;
    report(&sandbox, followed, json, json!({}))
}

/// Runs a command to its end: live, or kept for a report in JSON.
pub(crate) async fn follow_or_collect(
    sandbox: &Sandbox,
    exec: ExecSpec,
    keep: bool,
) -> Result<Followed> {
    let (stdin, tty) = (exec.stdin, exec.tty.is_some());
    if keep && !stdin && !tty {
        return Ok(Followed::Kept(
            session::unless_interrupted(sandbox.exec_spec(exec).output()).await?,
        ));
    }
    let process = sandbox.exec_spec(exec).start().await?;
    Ok(Followed::Live(session::follow(process, stdin, tty).await?))
}

/// Prints what is left to print, and gives the exit code.
pub(crate) fn report(sandbox: &Sandbox, followed: Followed, json: bool, more: Value) -> Result<u8> {
    let status = match &followed {
        Followed::Live(Outcome::OutputClosed) => return Ok(exit::PIPE_CLOSED),
        Followed::Live(Outcome::Ended(status)) => *status,
        Followed::Kept(kept) => kept.status,
    };
    let code = exit::of_status(status);
    if let (true, Followed::Kept(kept)) = (json, followed) {
        let mut value = Map::new();
        value.insert("sandbox".into(), json!(sandbox.id()));
        value.insert("status".into(), json!(status));
        value.insert("exit_code".into(), json!(code));
        value.insert(
            "stdout".into(),
            json!(String::from_utf8_lossy(&kept.stdout)),
        );
        value.insert(
            "stderr".into(),
            json!(String::from_utf8_lossy(&kept.stderr)),
        );
        value.insert(
            "stdout_truncated_bytes".into(),
            json!(kept.stdout_truncated_bytes),
        );
        value.insert(
            "stderr_truncated_bytes".into(),
            json!(kept.stderr_truncated_bytes),
        );
        if let Value::Object(more) = more {
            value.extend(more);
        }
        super::printed(output::json(&value))?;
    } else if let Some(remark) = exit::remark(status) {
        output::remark(remark);
    }
    Ok(code)
}
