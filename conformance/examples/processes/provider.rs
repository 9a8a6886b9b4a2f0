//! A provider that runs commands as processes of the host, and claims no isolation.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::{ffi::OsStrExt as _, process::ExitStatusExt as _};
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{io, path::Path, time::Duration};

use rustix::process::{Pid, Signal, kill_process};
use stacyvm::provider::*;
use stacyvm::sandbox::{exec::ExecInfo, exec::ExecSession, state::Observed};
use stacyvm::{Context, Error, ErrorKind, ExecId, ExecSpec, ExitStatus};
use stacyvm::{Result, SandboxId, SignalScope};
use tempfile::TempDir;
use tokio::process::Command;

#[derive(Debug, Default)]
pub(crate) struct Processes(Mutex<BTreeMap<SandboxId, Arc<Room>>>);

/// One sandbox: what was asked for, its directory, its commands; none once it is gone.
#[derive(Debug)]
struct Room {
    request: CreateRequest,
    directory: TempDir,
    running: Mutex<Option<BTreeMap<ExecId, ExecInfo>>>,
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

fn missing(what: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no such {what}"))
}

/// Kills what has this in its environment, and tells whether there was anything. Who
/// clears the environment is not found: this is no `kill_scope: tree`.
fn kill_marked(mark: &str) -> bool {
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = all.filter_map(|one| Pid::from_raw(one.file_name().to_str()?.parse().ok()?));
    let ours = pids.filter(|pid| {
        let env = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        env.split(|byte| *byte == 0)
            .any(|one| one == mark.as_bytes())
    });
    ours.filter_map(|pid| kill_process(pid, Signal::KILL).ok())
        .count()
        > 0
}

impl Room {
    fn signal(&self, exec: &ExecId, signal: i32) -> Result<()> {
        let running = lock(&self.running);
        let known = running.as_ref().and_then(|all| all.get(exec)?.pid);
        let pid = known.and_then(|pid| Pid::from_raw(pid.cast_signed()));
        let pid = pid.ok_or_else(|| missing("command"))?;
        if signal != Signal::KILL.as_raw() {
            return Err(Error::unsupported("SIGKILL alone is sent here"));
        }
        kill_process(pid, Signal::KILL).map_err(|_| missing("command"))?;
        kill_marked(&format!("STACYVM_EXEC={exec}"));
        Ok(())
    }

    fn command(&self, spec: &ExecSpec) -> Result<Command> {
        let sandbox = &self.request.spec;
        let home = self.directory.path();
        let workdir = spec.workdir.as_ref().or(sandbox.workdir.as_ref());
        let workdir = workdir.map_or(home, Path::new);
        if !workdir.is_dir() {
            return Err(missing("directory"));
        }
        let mut argv = spec.argv.iter().map(|word| OsStr::from_bytes(word));
        let mut command = Command::new(argv.next().unwrap_or_default());
        command.args(argv).current_dir(workdir).env_clear();
        command.envs([
            ("PATH", "/usr/bin:/bin"),
            ("LANG", "C.UTF-8"),
            ("USER", "one"),
        ]);
        command
            .env("HOME", home)
            .envs(&sandbox.env)
            .envs(self.request.secrets.expose());
        command.envs(spec.env.iter().map(|(name, value)| (name, value)));
        command
            .env("STACYVM_SANDBOX", self.request.id.as_str())
            .env("STACYVM_EXEC", spec.exec.as_str());
        let stdin = if spec.stdin {
            Stdio::piped()
        } else {
            Stdio::null()
        };
        command
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Ok(command)
    }
}

impl Processes {
    fn room(&self, id: &SandboxId) -> Result<Arc<Room>> {
        lock(&self.0)
            .get(id)
            .cloned()
            .ok_or_else(|| missing("sandbox"))
    }
}

#[async_trait::async_trait]
impl Provider for Processes {
    fn info(&self) -> ProviderInfo {
        let (name, runtime) = ("processes".to_owned(), "host".to_owned());
        ProviderInfo {
            name,
            runtime,
            versions: BTreeMap::new(),
        }
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            exec_stdin: true,
            image_host: true,
            network_full: true,
            env: true,
            ..Capabilities::default()
        }
    }

    async fn probe(&self, _: &Context) -> Result<ProbeReport> {
        let (usable, findings) = (cfg!(target_os = "linux"), Vec::new());
        Ok(ProbeReport { usable, findings })
    }

    async fn pull(&self, _: &Context, _: &PullRequest) -> Result<()> {
        Ok(())
    }

    async fn create(&self, _: &Context, request: &CreateRequest) -> Result<Observed> {
        let directory = TempDir::new().map_err(|error| {
            Error::new(ErrorKind::Unavailable, "there is no directory").source(error)
        })?;
        let (request, running) = (request.clone(), Mutex::new(Some(BTreeMap::new())));
        let id = request.id.clone();
        if lock(&self.0).contains_key(&id) {
            return Err(Error::new(ErrorKind::Conflict, "the id is taken"));
        }
        lock(&self.0).insert(
            id.clone(),
            Arc::new(Room {
                request,
                directory,
                running,
            }),
        );
        Ok(Observed::running(id))
    }

    async fn inspect(&self, _: &Context, id: &SandboxId) -> Result<Observed> {
        self.room(id)
            .map(|room| Observed::running(room.request.id.clone()))
    }

    async fn list(
        &self,
        _: &Context,
        after: Option<&SandboxId>,
        limit: u32,
    ) -> Result<Vec<Observed>> {
        let rooms = lock(&self.0);
        let later = rooms
            .keys()
            .filter(|id| after.is_none_or(|last| *id > last));
        Ok(later
            .take(limit as usize)
            .cloned()
            .map(Observed::running)
            .collect())
    }

    async fn destroy(&self, _: &Context, id: &SandboxId) -> Result<()> {
        if let Ok(room) = self.room(id) {
            // From here on no command starts.
            *lock(&room.running) = None;
            while kill_marked(&format!("STACYVM_SANDBOX={id}")) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            lock(&self.0).remove(id);
        }
        Ok(())
    }

    async fn exec(&self, _: &Context, id: &SandboxId, spec: &ExecSpec) -> Result<ExecSession> {
        spec.check()?;
        if spec.background || spec.tty.is_some() || spec.user.is_some() {
            return Err(Error::unsupported(
                "there is one user, no terminal, no background",
            ));
        }
        let room = self.room(id)?;
        let mut command = room.command(spec)?;
        let mut child = {
            let mut running = lock(&room.running);
            let running = running.as_mut().ok_or_else(|| missing("sandbox"))?;
            if running.contains_key(&spec.exec) {
                return Err(Error::new(ErrorKind::AlreadyExists, "the id is taken"));
            }
            let child = command.spawn().map_err(|error| {
                let kind = match error.kind() {
                    io::ErrorKind::NotFound => ErrorKind::CommandNotFound,
                    io::ErrorKind::PermissionDenied => ErrorKind::CommandNotExecutable,
                    _ => ErrorKind::ResourceExhausted,
                };
                Error::new(kind, "the command did not start").source(error)
            })?;
            running.insert(spec.exec.clone(), ExecInfo::started(spec, child.id()));
            child
        };
        let (exec, waits, kills) = (spec.exec.clone(), Arc::clone(&room), room);
        let ended = spec.exec.clone();
        let no_pipe = || Error::new(ErrorKind::Internal, "a pipe is missing");
        let piped = Piped {
            pid: child.id(),
            stdin: child.stdin.take().map(|pipe| Box::pin(pipe) as _),
            stdout: Box::pin(child.stdout.take().ok_or_else(no_pipe)?),
            stderr: Box::pin(child.stderr.take().ok_or_else(no_pipe)?),
            ended: Box::pin(async move {
                let status = child.wait().await;
                let mut running = lock(&waits.running);
                let Some(running) = running.as_mut() else {
                    return Ok(ExitStatus::SandboxGone);
                };
                running.remove(&ended);
                let status = status.map_err(|e| Error::new(ErrorKind::Internal, e.to_string()))?;
                let code = status.code().map(|code| ExitStatus::Code { code });
                let signal = status.signal().unwrap_or_default();
                Ok(code.unwrap_or(ExitStatus::Signal { signal }))
            }),
            signal: Box::new(move |signal, _| kills.signal(&exec, signal)),
        };
        Ok(piped.follow(spec))
    }

    async fn list_execs(&self, _: &Context, id: &SandboxId) -> Result<Vec<ExecInfo>> {
        let room = self.room(id)?;
        Ok(lock(&room.running)
            .iter()
            .flat_map(BTreeMap::values)
            .cloned()
            .collect())
    }

    async fn signal_exec(
        &self,
        _: &Context,
        id: &SandboxId,
        exec: &ExecId,
        signal: i32,
        _: SignalScope,
    ) -> Result<()> {
        self.room(id)?.signal(exec, signal)
    }

    stacyvm::unsupported! {
        origin, claim, set_deadline, pause, resume, attach, read_log, file, read_file, write_file,
        watch, export_tar, import_tar, dial, listen, endpoint, processes, usage, snapshot,
        delete_snapshot, leftovers, remove_leftover, disk_use, tidy,
    }
}
