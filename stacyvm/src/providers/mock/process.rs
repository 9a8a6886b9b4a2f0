//! Runs scripts: each process is a task that takes one step after the other.

use std::collections::{BTreeMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::output::Channel;
use super::ports;
use super::sandbox::{Ended, MOST_PROCESSES, Process, Sandbox, State};
use super::script::{Call, Script, Step};
use super::tree::ROOT;
use super::users::Account;
use crate::id::ExecId;
use crate::sandbox::files::WriteMode;

/// The most bytes that a script reads at once.
const MOST_INPUT: usize = 16 << 20;
const PIECE: usize = 64 * 1024;
const ABORT: i32 = 6;

pub(super) type Running<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Where a process writes.
#[derive(Clone, Debug)]
pub(super) enum Sink {
    Exec(Channel),
    File(u64),
    Null,
}

/// Where a process reads.
#[derive(Clone, Debug)]
pub(super) enum Source {
    Null,
    Exec,
    Bytes(Arc<Mutex<Bytes>>),
}

/// A process as its script sees it.
#[derive(Clone, Debug)]
pub(super) struct Task {
    pub(super) sandbox: Arc<Sandbox>,
    pub(super) exec: ExecId,
    pub(super) pid: u32,
    pub(super) argv: Vec<Bytes>,
    pub(super) account: Account,
    pub(super) env: Arc<BTreeMap<String, String>>,
    pub(super) workdir: String,
    pub(super) input: Source,
    pub(super) out: Sink,
    pub(super) err: Sink,
}

/// Puts a process in the table and lets it run. `None` where there is no room
/// or its parent is gone.
pub(super) fn launch(
    state: &mut State,
    parent: u32,
    new_session: bool,
    mut task: Task,
    script: impl FnOnce(&Call) -> Script + Send + 'static,
) -> Option<u32> {
    if state.gone || state.processes.len() >= MOST_PROCESSES {
        return None;
    }
    let (group, session) = match state.processes.get(&parent) {
        Some(process) => (process.group, process.session),
        None if parent == 1 => (0, 0),
        None => return None,
    };
    let pid = state.next_pid;
    state.next_pid += 1;
    task.pid = pid;
    let (group, session) = if new_session {
        (pid, pid)
    } else {
        (group, session)
    };
    state.processes.insert(
        pid,
        Process {
            parent,
            group,
            session,
            credentials: task.account.credentials.clone(),
            exec: task.exec.clone(),
            argv: text(&task.argv),
            stopped: false,
            hangs: false,
            traps: BTreeMap::new(),
            ended_children: BTreeMap::new(),
            task: None,
        },
    );
    let sandbox = Arc::clone(&task.sandbox);
    let handle = tokio::spawn(async move {
        // What the script says is asked for here and not under the lock, and a
        // function that panics is a process that aborts.
        let work = AssertUnwindSafe(async move {
            let script = script(&task.call());
            run(task, script).await
        });
        let ended = work.catch_unwind().await.unwrap_or(Ended::Signal(ABORT));
        sandbox.change(|state| state.finish(pid, ended));
    });
    if let Some(process) = state.processes.get_mut(&pid) {
        process.task = Some(handle.abort_handle());
    }
    Some(pid)
}

/// Arguments as lossy text.
pub(super) fn text(argv: &[Bytes]) -> Vec<String> {
    let text = |word: &Bytes| String::from_utf8_lossy(word).into_owned();
    argv.iter().map(text).collect()
}

impl Task {
    /// What a registered command is told.
    pub(super) fn call(&self) -> Call {
        Call {
            argv: text(&self.argv),
            argv_bytes: self.argv.clone(),
            env: (*self.env).clone(),
            workdir: self.workdir.clone(),
            user: self.account.name.clone(),
            uid: self.account.credentials.uid,
            gid: self.account.credentials.gid,
            pid: self.pid,
        }
    }

    /// A path as this process means it.
    pub(super) fn absolute(&self, path: &str) -> String {
        if path.starts_with('/') {
            path.to_owned()
        } else {
            format!("{}/{path}", self.workdir.trim_end_matches('/'))
        }
    }

    /// Waits while the process or the sandbox stands still.
    pub(super) async fn gate(&self) {
        self.sandbox
            .until(|state| state.may_run(self.pid).then_some(()))
            .await;
    }

    /// Changes the state as long as the process lives; a killed one stops here.
    pub(super) async fn act<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        let mut act = Some(act);
        self.sandbox
            .until(|state| {
                if !state.may_run(self.pid) {
                    return None;
                }
                let done = act.take().map(|act| act(state));
                state.tell_watchers();
                done
            })
            .await
    }

    /// Writes all bytes; waits while nobody reads.
    pub(super) async fn write(&self, sink: &Sink, mut bytes: Bytes) {
        while !bytes.is_empty() {
            let mut piece = Some(bytes.split_to(bytes.len().min(PIECE)));
            self.sandbox
                .until(|state| {
                    if !state.may_run(self.pid) {
                        return None;
                    }
                    match sink {
                        Sink::Null => {}
                        Sink::File(node) => {
                            let now = self.sandbox.now();
                            if state.tree.get(*node).is_some() {
                                // A full disk shows in the file, as for a program
                                // that does not look at what write returns.
                                let _ = state.tree.append(*node, piece.as_ref()?, now);
                            }
                        }
                        Sink::Exec(channel) => {
                            let exec = state.execs.get_mut(&self.exec)?;
                            if exec.is_full() {
                                return None;
                            }
                            exec.push(*channel, piece.take()?, self.sandbox.now());
                        }
                    }
                    Some(())
                })
                .await;
        }
    }

    /// The next piece of standard input; `None` at its end.
    async fn read(&self) -> Option<Bytes> {
        match &self.input {
            Source::Null => None,
            Source::Bytes(bytes) => {
                let mut bytes = bytes.lock().unwrap_or_else(PoisonError::into_inner);
                let piece = std::mem::take(&mut *bytes);
                (!piece.is_empty()).then_some(piece)
            }
            Source::Exec => {
                self.sandbox
                    .until(|state| {
                        if !state.may_run(self.pid) {
                            return None;
                        }
                        let input = &mut state.execs.get_mut(&self.exec)?.input;
                        if let Some(piece) = input.chunks.pop_front() {
                            input.bytes -= piece.len();
                            return Some(Some(piece));
                        }
                        input.closed.then_some(None)
                    })
                    .await
            }
        }
    }

    /// Gives back what was read too much.
    async fn unread(&self, rest: Bytes) {
        if rest.is_empty() {
            return;
        }
        match &self.input {
            Source::Null => {}
            Source::Bytes(bytes) => {
                let mut bytes = bytes.lock().unwrap_or_else(PoisonError::into_inner);
                *bytes = [rest, std::mem::take(&mut *bytes)].concat().into();
            }
            Source::Exec => {
                self.act(|state| {
                    if let Some(exec) = state.execs.get_mut(&self.exec) {
                        exec.input.bytes += rest.len();
                        exec.input.chunks.push_front(rest);
                    }
                })
                .await;
            }
        }
    }

    async fn read_to_end(&self) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(piece) = self.read().await {
            all.extend_from_slice(&piece);
            if all.len() >= MOST_INPUT {
                all.truncate(MOST_INPUT);
                break;
            }
        }
        all
    }

    async fn read_line(&self) -> Vec<u8> {
        let mut line = Vec::new();
        while let Some(mut piece) = self.read().await {
            if let Some(end) = piece.iter().position(|b| *b == b'\n') {
                line.extend_from_slice(&piece.split_to(end));
                self.unread(piece.slice(1..)).await;
                break;
            }
            line.extend_from_slice(&piece);
            if line.len() >= MOST_INPUT {
                break;
            }
        }
        line
    }

    async fn complain(&self, what: &str) {
        let name = self.argv.first().cloned().unwrap_or_default();
        let line = [&name[..], b": ", what.as_bytes(), b"\n"].concat();
        self.write(&self.err, line.into()).await;
    }

    async fn serve(&self, port: u16, answer: super::script::Answer) -> Ended {
        let Ok((_, _, mut backlog)) = ports::open(&self.sandbox, Some(self.pid), port) else {
            self.complain("address already in use").await;
            return Ended::Code(1);
        };
        // Dropping the set with the process closes its connections.
        let mut open = tokio::task::JoinSet::new();
        loop {
            tokio::select! {
                Some(mut connection) = backlog.recv() => {
                    let (task, answer) = (self.clone(), Arc::clone(&answer));
                    open.spawn(async move {
                        let mut buffer = vec![0; PIECE];
                        while let Ok(read @ 1..) = connection.read(&mut buffer).await {
                            task.gate().await;
                            if connection.write_all(&answer(&buffer[..read])).await.is_err() {
                                break;
                            }
                        }
                    });
                }
                Some(_) = open.join_next() => {}
                else => return Ended::Code(0),
            }
        }
    }

    async fn connect(&self, port: u16, send: &[u8]) -> Vec<u8> {
        let Ok(mut connection) = ports::dial(&self.sandbox, port) else {
            return Vec::new();
        };
        let mut received = Vec::new();
        if connection.write_all(send).await.is_ok() && connection.shutdown().await.is_ok() {
            // A connection that breaks shows what arrived before.
            let _ = connection
                .take(PIECE as u64)
                .read_to_end(&mut received)
                .await;
        }
        received
    }
}

/// Takes the steps of a script.
pub(super) fn run(task: Task, script: Script) -> Running<Ended> {
    Box::pin(async move {
        let mut steps: VecDeque<Step> = script.0.into();
        let first = |steps: &mut VecDeque<Step>, more: Script| {
            for step in more.0.into_iter().rev() {
                steps.push_front(step);
            }
        };
        while let Some(step) = steps.pop_front() {
            task.gate().await;
            match step {
                Step::Out(bytes) => task.write(&task.out, bytes).await,
                Step::Err(bytes) => task.write(&task.err, bytes).await,
                Step::Repeat(bytes) => loop {
                    task.write(&task.out, bytes.clone()).await;
                    tokio::task::yield_now().await;
                },
                Step::Sleep(duration) => tokio::time::sleep(duration).await,
                Step::CopyStdin => {
                    while let Some(bytes) = task.read().await {
                        task.write(&task.out, bytes).await;
                    }
                }
                Step::ReadStdin(then) => {
                    let more = then(task.read_to_end().await);
                    first(&mut steps, more);
                }
                Step::ReadLine(then) => {
                    let more = then(task.read_line().await);
                    first(&mut steps, more);
                }
                Step::Spawn(child) => {
                    let mut inner = task.clone();
                    inner.argv = child.argv.into_iter().map(Bytes::from).collect();
                    let (script, new_session) = (child.script, child.new_session);
                    let started = task
                        .act(|state| launch(state, task.pid, new_session, inner, move |_| script))
                        .await;
                    if started.is_none() {
                        task.complain("cannot fork").await;
                        return Ended::Code(1);
                    }
                }
                Step::Wait => {
                    task.sandbox
                        .until(|state| {
                            let waiting = state.processes.values().any(|p| p.parent == task.pid);
                            (!waiting && state.may_run(task.pid)).then_some(())
                        })
                        .await;
                }
                Step::Write { path, data, append } => {
                    let path = task.absolute(&path);
                    let how = if append {
                        WriteMode::Append
                    } else {
                        WriteMode::Replace
                    };
                    let now = task.sandbox.now();
                    let who = task.account.credentials.clone();
                    let written = task
                        .act(|state| {
                            state
                                .tree
                                .put(&who, path.as_bytes(), data.to_vec(), how, None, false, now)
                                .map(|_| ())
                        })
                        .await;
                    if let Err(error) = written {
                        task.complain(error.message()).await;
                        return Ended::Code(1);
                    }
                }
                Step::Read { path, then } => {
                    let absolute = task.absolute(&path);
                    let who = task.account.credentials.clone();
                    let read = task
                        .act(|state| state.tree.bytes(&who, absolute.as_bytes()))
                        .await;
                    match read {
                        Ok((_, bytes)) => first(&mut steps, then(bytes.to_vec())),
                        Err(error) => {
                            task.complain(error.message()).await;
                            return Ended::Code(1);
                        }
                    }
                }
                Step::Serve { port, answer } => return task.serve(port, answer).await,
                Step::Connect { port, send, then } => {
                    let more = then(task.connect(port, &send).await);
                    first(&mut steps, more);
                }
                Step::Ignore(signal) => task.trap(signal, None).await,
                Step::Trap { signal, code } => task.trap(signal, Some(code)).await,
                Step::NewSession => {
                    task.act(|state| {
                        if let Some(process) = state.processes.get_mut(&task.pid) {
                            (process.group, process.session) = (task.pid, task.pid);
                        }
                    })
                    .await;
                }
                Step::Hang => {
                    task.act(|state| {
                        if let Some(process) = state.processes.get_mut(&task.pid) {
                            process.hangs = true;
                        }
                    })
                    .await;
                }
                Step::OutOfMemory => return Ended::OutOfMemory,
                Step::Exit(code) => return Ended::Code(code & 0xff),
                Step::Die(signal) => return Ended::Signal(signal),
                Step::Shell(lines) => return super::shell_run::shell(task.clone(), lines.0).await,
            }
        }
        task.gate().await;
        Ended::Code(0)
    })
}

impl Task {
    pub(super) async fn trap(&self, signal: i32, code: Option<i32>) {
        self.act(|state| {
            if let Some(process) = state.processes.get_mut(&self.pid) {
                process.traps.insert(signal, code);
            }
        })
        .await;
    }

    /// Opens a file for a redirection.
    pub(super) async fn open(&self, path: &str, append: bool) -> Result<Sink, String> {
        let path = self.absolute(path);
        if path == "/dev/null" {
            return Ok(Sink::Null);
        }
        let who = self.account.credentials.clone();
        let now = self.sandbox.now();
        let how = if append {
            WriteMode::Append
        } else {
            WriteMode::Replace
        };
        self.act(|state| {
            state
                .tree
                .put(&who, path.as_bytes(), Vec::new(), how, None, false, now)
                .map(Sink::File)
                .map_err(|error| error.message().to_owned())
        })
        .await
    }

    /// Whether a directory can be entered.
    pub(super) async fn is_directory(&self, path: &str) -> bool {
        let who = self.account.credentials.clone();
        let path = format!("{}/", self.absolute(path));
        self.act(|state| {
            state
                .tree
                .walk(&who, ROOT, path.as_bytes(), true)
                .is_ok_and(|found| found.node.is_some())
        })
        .await
    }
}
