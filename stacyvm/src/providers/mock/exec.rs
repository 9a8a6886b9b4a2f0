//! Starts commands, and lets callers follow and control them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::commands;
use super::fault::OutputFault;
use super::output::{Channel, Exec, INPUT_WINDOW, follow};
use super::process::{Sink, Source, Task, launch, text};
use super::sandbox::{Sandbox, State, gone};
use super::script::{Call, Script};
use super::tree::{Data, ROOT, Right};
use super::users::Account;
use crate::error::{Error, ErrorKind, Result};
use crate::id::ExecId;
use crate::sandbox::exec::{
    AttachOptions, ExecControl, ExecInfo, ExecSession, ExecSpec, ExitStatus, SignalScope, TtySize,
};
use crate::sandbox::files::FileKind;

/// Starts a command.
pub(super) fn start(
    sandbox: &Arc<Sandbox>,
    spec: &ExecSpec,
    fault: OutputFault,
) -> Result<ExecSession> {
    spec.check()?;
    if spec.tty.is_some() {
        return Err(Error::unsupported(
            "the mock has no terminals; leave tty out or use a provider that has them",
        )
        .context("field", "tty"));
    }
    let account = sandbox.account(spec.user.as_deref())?;
    let workdir = spec
        .workdir
        .clone()
        .unwrap_or_else(|| sandbox.fixed.workdir.clone());
    let bytes: Vec<Bytes> = spec.argv.iter().map(|word| word.clone().into()).collect();
    let argv = text(&bytes);
    let (pid, token) = sandbox.change(|state| {
        if state.gone {
            return Err(gone());
        }
        if state.execs.contains_key(&spec.exec) {
            return Err(Error::new(
                ErrorKind::AlreadyExists,
                format!("the sandbox has a command `{}` already", spec.exec),
            ));
        }
        check_workdir(state, &account, &workdir)?;
        let program = program(sandbox, state, &account, &workdir, &argv[0])?;
        let token = state.number();
        let mut exec = Exec::new(
            argv,
            spec.background,
            spec.stdin,
            sandbox.now(),
            sandbox.fixed.ring_bytes,
        );
        exec.follower = Some(token);
        exec.fault = fault;
        let task = Task {
            sandbox: Arc::clone(sandbox),
            exec: spec.exec.clone(),
            pid: 0,
            argv: bytes,
            env: Arc::new(environment(sandbox, &state.claimed, &account, &spec.env)),
            account,
            workdir,
            input: if spec.stdin {
                Source::Exec
            } else {
                Source::Null
            },
            out: Sink::Exec(Channel::Out),
            err: Sink::Exec(Channel::Err),
        };
        state.execs.insert(spec.exec.clone(), exec);
        state.order.push_back(spec.exec.clone());
        let Some(pid) = launch(state, 1, true, task, program) else {
            state.execs.remove(&spec.exec);
            state.order.pop_back();
            return Err(Error::new(
                ErrorKind::ResourceExhausted,
                "the sandbox has no room for another process",
            ));
        };
        let timer = spec.timeout.map(|timeout| {
            let (sandbox, exec) = (Arc::clone(sandbox), spec.exec.clone());
            tokio::spawn(async move {
                tokio::time::sleep(timeout).await;
                let status = ExitStatus::TimedOut {
                    sandbox_ended: false,
                };
                sandbox.kill_tree(&exec, status);
            })
            .abort_handle()
        });
        if let Some(exec) = state.execs.get_mut(&spec.exec) {
            exec.first = pid;
            exec.timer = timer;
        }
        Ok((pid, token))
    })?;
    Ok(session(sandbox, spec.exec.clone(), pid, token, spec.stdin))
}

fn session(
    sandbox: &Arc<Sandbox>,
    exec: ExecId,
    pid: u32,
    token: u64,
    writes: bool,
) -> ExecSession {
    ExecSession {
        exec: exec.clone(),
        pid: Some(pid),
        control: Arc::new(Control {
            sandbox: Arc::clone(sandbox),
            exec: exec.clone(),
            writes,
        }),
        events: follow(Arc::clone(sandbox), exec, token),
    }
}

fn check_workdir(state: &State, account: &Account, workdir: &str) -> Result<()> {
    let who = &account.credentials;
    let tree = &state.tree;
    let (number, _) = tree.find(who, workdir.as_bytes(), true).map_err(|error| {
        Error::new(
            error.kind(),
            format!(
                "the working directory cannot be entered: {}",
                error.message()
            ),
        )
        .context("field", "workdir")
        .context("value", workdir)
    })?;
    if tree.node(number).kind() != FileKind::Directory {
        return Err(Error::new(
            ErrorKind::NotDirectory,
            format!("the working directory `{workdir}` is not a directory"),
        )
        .context("field", "workdir"));
    }
    tree.demand(who, number, Right::Search, workdir.as_bytes())
}

type Program = Box<dyn FnOnce(&Call) -> Script + Send>;

/// Finds what a command name means: a file of the tree, or a registered command.
fn program(
    sandbox: &Sandbox,
    state: &State,
    account: &Account,
    workdir: &str,
    name: &str,
) -> Result<Program> {
    let who = &account.credentials;
    if name.contains('/') {
        let path = if name.starts_with('/') {
            name.to_owned()
        } else {
            format!("{workdir}/{name}")
        };
        let found = state.tree.walk(who, ROOT, path.as_bytes(), true);
        if let Ok(Some(number)) = found.map(|found| found.node) {
            let refuse = |why: &str| {
                Err(Error::new(
                    ErrorKind::CommandNotExecutable,
                    format!("`{name}` cannot be executed: {why}"),
                ))
            };
            let node = state.tree.node(number);
            let Data::File(bytes) = &node.data else {
                return refuse("it is a directory");
            };
            let may = state
                .tree
                .demand(who, number, Right::Search, path.as_bytes());
            if node.mode & 0o111 == 0 || may.is_err() {
                return refuse("it has no execute permission for this user");
            }
            let text = String::from_utf8_lossy(bytes);
            return match text.strip_prefix("#!/bin/sh\n") {
                Some(lines) => {
                    let lines = lines.to_owned();
                    Ok(Box::new(move |_| commands::line(&lines)))
                }
                None => refuse("the mock executes only files that begin with #!/bin/sh"),
            };
        }
    }
    let commands = Arc::clone(&sandbox.fixed.commands);
    if commands.knows(name) {
        return Ok(Box::new(move |call| {
            commands.script(call).unwrap_or_default()
        }));
    }
    Err(Error::new(
        ErrorKind::CommandNotFound,
        format!("there is no command `{name}` in the sandbox"),
    )
    .context("remedy", "register it with the builder of the mock"))
}

fn environment(
    sandbox: &Sandbox,
    claimed: &BTreeMap<String, String>,
    account: &Account,
    own: &[(String, String)],
) -> BTreeMap<String, String> {
    let mut env = sandbox.fixed.env.clone();
    env.extend(claimed.clone());
    let account = [
        ("HOME", &account.home),
        ("USER", &account.name),
        ("LOGNAME", &account.name),
    ];
    for (name, value) in account {
        env.entry(name.to_owned()).or_insert_with(|| value.clone());
    }
    env.extend(own.iter().cloned());
    env
}

/// Follows a command that was started before.
pub(super) fn attach(
    sandbox: &Arc<Sandbox>,
    exec: &ExecId,
    options: AttachOptions,
) -> Result<ExecSession> {
    let (pid, token) = sandbox.change(|state| {
        if state.gone {
            return Err(gone());
        }
        let token = state.number();
        let Some(command) = state.execs.get_mut(exec) else {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("there is no command `{exec}` in the sandbox"),
            ));
        };
        command.follow(token, options.replay);
        Ok((command.first, token))
    })?;
    Ok(session(sandbox, exec.clone(), pid, token, options.stdin))
}

/// Lists commands, oldest first.
pub(super) fn list(sandbox: &Sandbox) -> Result<Vec<ExecInfo>> {
    let state = sandbox.alive()?;
    let infos = state.order.iter().filter_map(|id| {
        let exec = state.execs.get(id)?;
        Some(ExecInfo {
            exec: id.clone(),
            argv: exec.argv.clone(),
            pid: Some(exec.first),
            started: Some(exec.started),
            exited: exec.exited,
            tty: false,
            background: exec.background,
            processes: u32::try_from(state.members(id).len()).unwrap_or(u32::MAX),
        })
    });
    Ok(infos.collect())
}

struct Control {
    sandbox: Arc<Sandbox>,
    exec: ExecId,
    writes: bool,
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control")
            .field("exec", &self.exec)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl ExecControl for Control {
    async fn write_stdin(&self, data: Bytes) -> Result<()> {
        let mut data = Some(data);
        self.sandbox
            .until(|state| {
                let input = match state.execs.get_mut(&self.exec) {
                    Some(exec) => &mut exec.input,
                    None => return Some(Err(gone())),
                };
                if !input.asked_for || !self.writes {
                    return Some(Err(Error::new(
                        ErrorKind::InvalidArgument,
                        "standard input was not asked for when the command was started or followed",
                    )
                    .context("field", "stdin")));
                }
                if input.closed {
                    return Some(Err(Error::new(
                        ErrorKind::Conflict,
                        "standard input is closed or the command has ended",
                    )));
                }
                if input.bytes >= INPUT_WINDOW {
                    return None;
                }
                if let Some(data) = data.take().filter(|data| !data.is_empty()) {
                    input.bytes += data.len();
                    input.chunks.push_back(data);
                }
                Some(Ok(()))
            })
            .await
    }

    async fn close_stdin(&self) -> Result<()> {
        self.sandbox.change(|state| {
            if let Some(exec) = state.execs.get_mut(&self.exec) {
                exec.input.closed = true;
            }
        });
        Ok(())
    }

    async fn signal(&self, signal: i32, scope: SignalScope) -> Result<()> {
        self.sandbox.signal(&self.exec, signal, scope)
    }

    async fn resize(&self, _size: TtySize) -> Result<()> {
        Err(Error::unsupported("the mock has no terminals"))
    }
}
