//! A provider that runs commands as processes of the host, and claims no isolation.

use std::ffi::OsStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{collections::BTreeMap, os::unix::ffi::OsStrExt as _, path::Path, process::Stdio};

use rustix::process::{Pid, Signal, kill_process};
use stacyvm::provider::{Capabilities, CreateRequest, Piped, ProbeReport, Provider};
use stacyvm::provider::{ProviderInfo, PullRequest};
use stacyvm::sandbox::{exec::ExecInfo, exec::ExecSession, state::Observed};
use stacyvm::{Context, Error, ErrorKind, ExecId, ExecSpec, ExitStatus};
use stacyvm::{Result, SandboxId, SignalScope};
use tempfile::TempDir;
use tokio::process::Command;

/// One sandbox: what was asked for, its directory, the commands that run.
type Room = (CreateRequest, TempDir, BTreeMap<ExecId, ExecInfo>);

/// The provider: its sandboxes end with its process.
#[derive(Clone, Debug, Default)]
pub struct Processes(Arc<Mutex<BTreeMap<SandboxId, Room>>>);

/// Kills what has this mark in its environment; whether there was anything. Who clears
/// the environment is not found: no isolation is claimed.
fn kill_marked(mark: &str) -> bool {
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = all.filter_map(|one| Pid::from_raw(one.file_name().to_str()?.parse().ok()?));
    let ours = pids.filter(|pid| {
        let env = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        env.split(|byte| *byte == 0)
            .any(|one| one == mark.as_bytes())
    });
    let killed = ours.filter(|pid| kill_process(*pid, Signal::KILL).is_ok());
    killed.count() > 0
}

fn command((request, home, _): &Room, spec: &ExecSpec) -> Result<Command> {
    let workdir = spec.workdir.as_ref().or(request.spec.workdir.as_ref());
    let workdir = workdir.map_or(home.path(), Path::new);
    if !workdir.is_dir() {
        return Err(Error::new(ErrorKind::NotFound, "no such directory"));
    }
    let mut argv = spec.argv.iter().map(|word| OsStr::from_bytes(word));
    let mut command = Command::new(argv.next().unwrap_or_default());
    command.args(argv).current_dir(workdir).env_clear();
    command.env("PATH", "/usr/bin:/bin").env("LANG", "C.UTF-8");
    command.env("HOME", home.path()).env("USER", "one");
    command
        .envs(&request.spec.env)
        .envs(request.secrets.expose());
    command.envs(spec.env.iter().cloned());
    command.env("STACYVM_SANDBOX", request.id.as_str());
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    Ok(command)
}

impl Processes {
    fn rooms(&self) -> MutexGuard<'_, BTreeMap<SandboxId, Room>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn room<T>(&self, id: &SandboxId, work: impl FnOnce(&mut Room) -> Result<T>) -> Result<T> {
        let gone = || Error::new(ErrorKind::NotFound, "no such sandbox");
        work(self.rooms().get_mut(id).ok_or_else(gone)?)
    }

    fn kill(&self, id: &SandboxId, exec: &ExecId, signal: i32) -> Result<()> {
        let ended = || Error::new(ErrorKind::NotFound, "no such command");
        if signal != Signal::KILL.as_raw() {
            return Err(Error::unsupported("SIGKILL alone is sent here"));
        }
        let pid = |room: &mut Room| Ok(room.2.get(exec).and_then(|one| one.pid));
        let pid = Pid::from_raw(self.room(id, pid)?.unwrap_or(0).cast_signed());
        kill_process(pid.ok_or_else(ended)?, Signal::KILL).map_err(|_| ended())
    }
}

#[async_trait::async_trait]
impl Provider for Processes {
    fn info(&self) -> ProviderInfo {
        ProviderInfo::new("processes", "host")
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            exec_stdin: true,
            env: true,
            image_host: true,
            network_full: true,
            ..Capabilities::default()
        }
    }

    async fn probe(&self, _: &Context) -> Result<ProbeReport> {
        let (usable, findings) = (true, Vec::new());
        Ok(ProbeReport { usable, findings })
    }

    async fn pull(&self, _: &Context, _: &PullRequest) -> Result<()> {
        Ok(())
    }

    async fn create(&self, _: &Context, request: &CreateRequest) -> Result<Observed> {
        let mut rooms = self.rooms();
        if rooms.contains_key(&request.id) {
            return Err(Error::new(ErrorKind::Conflict, "the id is taken"));
        }
        let no_home = |source| Error::new(ErrorKind::NoSpace, "no directory").source(source);
        let room = (
            request.clone(),
            TempDir::new().map_err(no_home)?,
            BTreeMap::new(),
        );
        rooms.insert(request.id.clone(), room);
        Ok(Observed::running(request.id.clone()))
    }

    async fn inspect(&self, _: &Context, id: &SandboxId) -> Result<Observed> {
        self.room(id, |_| Ok(Observed::running(id.clone())))
    }

    async fn list(
        &self,
        _: &Context,
        after: Option<&SandboxId>,
        limit: u32,
    ) -> Result<Vec<Observed>> {
        let all: Vec<SandboxId> = self.rooms().keys().cloned().collect();
        let page = all.into_iter().filter(|id| after < Some(id));
        Ok(page.take(limit as usize).map(Observed::running).collect())
    }

    async fn destroy(&self, _: &Context, id: &SandboxId) -> Result<()> {
        // No command starts in it from here on, and its directory goes last.
        let _room = self.rooms().remove(id);
        while kill_marked(&format!("STACYVM_SANDBOX={id}")) {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        Ok(())
    }

    async fn exec(&self, _: &Context, id: &SandboxId, spec: &ExecSpec) -> Result<ExecSession> {
        spec.check()?;
        if spec.background || spec.tty.is_some() || spec.user.is_some() {
            return Err(Error::unsupported("background, tty and user are not had"));
        }
        let exec = spec.exec.clone();
        let mut child = self.room(id, |room| {
            if room.2.contains_key(&exec) {
                return Err(Error::new(ErrorKind::AlreadyExists, "the id is taken"));
            }
            let child = command(room, spec)?.spawn().map_err(Piped::not_started)?;
            room.2
                .insert(exec.clone(), ExecInfo::started(spec, child.id()));
            Ok(child)
        })?;
        let failed = || Error::new(ErrorKind::Internal, "the command was lost");
        let (rooms, from, which) = (self.clone(), id.clone(), exec.clone());
        let (killer, id) = (self.clone(), id.clone());
        let piped = Piped {
            pid: child.id(),
            stdin: child.stdin.take().map(|pipe| Box::pin(pipe) as _),
            stdout: Box::pin(child.stdout.take().ok_or_else(failed)?),
            stderr: Box::pin(child.stderr.take().ok_or_else(failed)?),
            signal: Box::new(move |signal, _| killer.kill(&id, &which, signal)),
            ended: Box::pin(async move {
                let status = child.wait().await.map_err(|e| failed().source(e));
                // Without its sandbox it has ended with that.
                let known = rooms.room(&from, |room| Ok(room.2.remove(&exec)));
                known.map_or(Ok(ExitStatus::SandboxGone), |_| status.map(Into::into))
            }),
        };
        Ok(piped.follow(spec))
    }

    async fn list_execs(&self, _: &Context, id: &SandboxId) -> Result<Vec<ExecInfo>> {
        self.room(id, |room| Ok(room.2.values().cloned().collect()))
    }

    async fn signal_exec(
        &self,
        _: &Context,
        id: &SandboxId,
        exec: &ExecId,
        signal: i32,
        _: SignalScope,
    ) -> Result<()> {
        self.kill(id, exec, signal)
    }

    stacyvm::unsupported! {
        origin, claim, set_deadline, set_lifetime, pause, resume, attach, read_log, file, read_file,
        write_file, watch, export_tar, import_tar, dial, listen, endpoint, processes, usage,
        snapshot, delete_snapshot, leftovers, remove_leftover, disk_use, tidy,
    }
}
