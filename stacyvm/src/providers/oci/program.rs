//! The helper's program: the embedded bytes, in a file that can be executed.

use std::fs::{File, TryLockError};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use rustix::fs::{MemfdFlags, Mode, SealFlags};
use stacyvm_agent::helper_protocol::Users;

use super::error::{io, system};
use super::helper::Helper;
use super::manager::{Manager, Words};
use super::obstacle::LIBEXEC;
use crate::error::{Error, ErrorKind, Result};

/// Readable by its owner alone, who is the host's. Then the kernel counts a
/// process that executes it among the host's, whichever user namespace it is
/// in: root inside owns no file of the agent in `/proc`, and traces none.
const RIGHTS: u32 = 0o511;

/// The program, executable for as long as this lives.
#[derive(Debug)]
pub(super) struct Program {
    path: PathBuf,
    /// A memory file: where it is the program, its path is `/proc/self/fd/N`;
    /// beside an installed one, it is the agent's.
    memory: Option<File>,
    /// Whether somebody put it where it is for this.
    installed: bool,
    /// Keeps a program of the cache there: its file with a shared lock.
    _kept: Option<File>,
    manager: Option<Manager>,
    /// The agent's where this user is inside.
    given_away: OnceLock<File>,
}

impl Program {
    /// Finds the program: the one that is `configured`, else one that is
    /// installed, else the embedded one, in a sealed memory file or, where those
    /// cannot be executed, in `cache`, a private directory.
    pub(super) fn prepare(configured: Option<&Path>, cache: &Path) -> Result<Self> {
        let bytes = stacyvm_agent::AGENT;
        if bytes.is_empty() {
            return Err(Error::unsupported(
                "this build of stacyvm carries no agent for this system; build it on Linux with network access or set STACYVM_AGENT_BINARY",
            ));
        }
        let program = |path: PathBuf, memory: Option<File>, installed: bool| Self {
            path,
            memory,
            installed,
            _kept: None,
            manager: None,
            given_away: OnceLock::new(),
        };
        if let Some(path) = configured {
            check_configured(path, bytes)?;
            return Ok(program(path.to_owned(), sealed(bytes), true));
        }
        let installed = LIBEXEC.iter().map(Path::new);
        if let Some(path) = installed.into_iter().find(|path| is_installed(path, bytes)) {
            return Ok(program(path.to_owned(), sealed(bytes), true));
        }
        if let Some(file) = sealed(bytes) {
            let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
            // A host may forbid executing memory files; only trying tells.
            if executes(&path)? {
                return Ok(program(path, Some(file), false));
            }
        }
        Self::of_cache(cache, bytes)
    }

    /// The program as a file of the cache, which stays there for as long as
    /// this lives.
    pub(super) fn of_cache(cache: &Path, bytes: &[u8]) -> Result<Self> {
        let (path, kept) = cached(cache, bytes)?;
        if executes(&path)? {
            return Ok(Self {
                path,
                memory: None,
                installed: false,
                _kept: Some(kept),
                given_away: OnceLock::new(),
                manager: None,
            });
        }
        Err(Error::unsupported(
            "this host executes neither memory files nor files of the state directory",
        )
        .context("path", path.display())
        .context(
            "remedy",
            "mount the state directory without noexec, or choose another with --state-dir",
        ))
    }

    /// Its path for another process than this one.
    fn path_for_others(&self) -> PathBuf {
        match &self.memory {
            Some(file) if !self.installed => {
                format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()).into()
            }
            _ => self.path.clone(),
        }
    }

    /// The agent's program, where it is not the helper's file: one that everybody
    /// may read would make root inside the owner of the agent in `/proc`, and so
    /// would one of this user's where this user is inside.
    pub(super) fn agent(&self, users: &Users) -> Option<BorrowedFd<'_>> {
        let memory = self.memory.as_ref().filter(|_| self.installed);
        let given_away = self.given_away.get().filter(|_| has_own(users));
        given_away.or(memory).map(AsFd::as_fd)
    }

    /// Makes the agent's file for sandboxes of these users, where they need one
    /// of their own. Hosts that execute no memory files have none.
    pub(super) async fn get_ready_for(&self, users: &Users) -> Result<()> {
        if !has_own(users) || self.memory.is_none() || self.given_away.get().is_some() {
            return Ok(());
        }
        let Some(file) = sealed(stacyvm_agent::AGENT) else {
            return Ok(());
        };
        Helper::give_away(self, file.as_fd(), users.clone()).await?;
        // Another create may have been first.
        let _ = self.given_away.set(file);
        Ok(())
    }

    /// Whether it lies where an administrator put it.
    pub(super) fn is_installed(&self) -> bool {
        self.installed
    }

    /// Has helpers started in a place among the cgroups that this manager gives.
    pub(super) fn start_by(&mut self, manager: Option<&Manager>) {
        self.manager = manager.cloned();
    }

    /// Starts a helper whose standard input is this end of its owner channel.
    /// With it comes what the program says that gives it its place, where one does.
    pub(super) fn start(&self, owner: OwnedFd) -> Result<(Child, Option<Words>)> {
        let Some(manager) = &self.manager else {
            return Ok((self.start_here(owner)?, None));
        };
        let words = Words::new();
        let stderr = words.as_ref().and_then(Words::stdio);
        let command = manager.command(&self.path_for_others());
        let child = spawn(command, owner, stderr.unwrap_or_else(Stdio::null))?;
        Ok((child, words))
    }

    /// As [`Self::start`], for a helper that makes no sandbox: it needs no
    /// place among the cgroups.
    pub(super) fn start_here(&self, owner: OwnedFd) -> Result<Child> {
        let mut command = Command::new(&self.path);
        command.arg0("stacyvm-helper").env_clear();
        spawn(command, owner, Stdio::null())
    }
}

/// Whether this user is inside, beside others.
fn has_own(users: &Users) -> bool {
    matches!(users, Users::Delegated(range) if range.own.is_some())
}

/// No `pre_exec`, `uid` or the like: those would fork this process, which costs
/// as much as it has memory.
fn spawn(mut command: Command, owner: OwnedFd, stderr: Stdio) -> Result<Child> {
    #[cfg(feature = "faults")]
    command.envs(stacyvm_agent::faults::selected().map(|f| (stacyvm_agent::faults::VARIABLE, f)));
    command
        .stdin(Stdio::from(owner))
        .stdout(Stdio::null())
        .stderr(stderr)
        .spawn()
        .map_err(|e| io("start a helper", e))
}

/// What an administrator installed: root's, and nobody else's to change.
fn is_installed(path: &Path, bytes: &[u8]) -> bool {
    let Ok(meta) = std::fs::metadata(path) else {
        return false;
    };
    let roots = meta.uid() == 0 && meta.mode() & 0o022 == 0;
    if roots && is_same(path, bytes) {
        return true;
    }
    tracing::warn!(path = %path.display(), "an installed helper is not used: it is of another version, or not root's alone");
    false
}

/// One that is configured is used or is an error.
fn check_configured(path: &Path, bytes: &[u8]) -> Result<()> {
    let refused = |expected: &str, remedy: &str| {
        Err(Error::invalid("helper", path.display(), expected, remedy))
    };
    if !path.is_absolute() {
        return refused("an absolute path", "write the whole path");
    }
    let meta = std::fs::metadata(path).map_err(|e| {
        Error::invalid(
            "helper",
            path.display(),
            "an existing file",
            "install it, or leave it out",
        )
        .source(e)
    })?;
    let trusted = [0, rustix::process::geteuid().as_raw()].contains(&meta.uid());
    if !trusted || meta.mode() & 0o022 != 0 {
        return refused(
            "a file of root or of this user that nobody else can write",
            "correct its owner and mode",
        );
    }
    if !is_same(path, bytes) {
        return refused(
            "the helper of this version of stacyvm",
            "install it again from this version",
        );
    }
    Ok(())
}

fn sealed(bytes: &[u8]) -> Option<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = rustix::fs::memfd_create("stacyvm-helper", flags | MemfdFlags::EXEC)
        // Kernels before 6.3 do not know the flag.
        .or_else(|_| rustix::fs::memfd_create("stacyvm-helper", flags))
        .ok()?;
    let mut file = File::from(fd);
    file.write_all(bytes).ok()?;
    rustix::fs::fchmod(&file, Mode::from_raw_mode(RIGHTS)).ok()?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&file, seals).ok()?;
    Some(file)
}

/// Whether the program runs from this path: as the helper without an owner it
/// ends at once. An error is no answer: descriptors, memory or processes ran out.
pub(super) fn executes(path: &Path) -> Result<bool> {
    let started = Command::new(path)
        .arg0("stacyvm-helper")
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    match started.map_err(|e| io("start the helper's program", e)) {
        Ok(mut child) => {
            // A process that ignores SIGCHLD learns of no end: an error is none
            // of the execution, which has succeeded.
            let _ = child.wait();
            Ok(true)
        }
        Err(error) if error.kind() == ErrorKind::ResourceExhausted => Err(error.context(
            "remedy",
            "raise what this process may have (ulimit -n, ulimit -u, memory), or close something",
        )),
        Err(_) => Ok(false),
    }
}

/// Locks the cache against all who write or remove there, which takes them
/// some milliseconds.
fn lock_cache(cache: &Path) -> Result<File> {
    let locked = File::open(cache).and_then(|directory| directory.lock().map(|()| directory));
    locked.map_err(|e| io("lock the cache", e).context("path", cache.display()))
}

/// Whether an engine that lives would execute this file of a cache.
pub(super) fn is_kept(path: &Path) -> bool {
    let file = File::open(path);
    file.is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
}

/// Removes a file of a cache; false where it went, or an engine that lives
/// would execute it.
pub(super) fn remove_cached(path: &Path) -> Result<bool> {
    let _lock = lock_cache(path.parent().unwrap_or(path))?;
    if is_kept(path) {
        return Ok(false);
    }
    match std::fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(io("remove a cached program", error)),
    }
}

/// A file of the cache with a shared lock, if it has these bytes.
fn keep(path: &Path, bytes: &[u8]) -> Result<Option<File>> {
    if !is_same(path, bytes) {
        return Ok(None);
    }
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
        .and_then(|file| file.lock_shared().map(|()| file))
        .map_err(|e| io("lock the helper in the state directory", e))?;
    Ok(Some(file))
}

/// The program in the cache, by its digest, with the lock that keeps it there;
/// checked each time.
fn cached(cache: &Path, bytes: &[u8]) -> Result<(PathBuf, File)> {
    use sha2::{Digest, Sha256};
    let digest = Sha256::digest(bytes);
    let mut name = String::new();
    for byte in &digest {
        name.extend(
            [byte >> 4, byte & 15].map(|half| char::from(b"0123456789abcdef"[usize::from(half)])),
        );
    }
    let path = cache.join(format!("helper-{name}"));
    let _lock = lock_cache(cache)?;
    if let Some(kept) = keep(&path, bytes)? {
        return Ok((path, kept));
    }
    let draft = cache.join(format!("helper-{name}.{}", std::process::id()));
    let write = || -> std::io::Result<()> {
        let mut file = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o700)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&draft)?;
        file.write_all(bytes)?;
        file.set_permissions(std::fs::Permissions::from_mode(RIGHTS))?;
        file.sync_all()?;
        std::fs::rename(&draft, &path)
    };
    write().map_err(|e| io("write the helper to the state directory", e))?;
    match keep(&path, bytes)? {
        Some(kept) => Ok((path, kept)),
        None => Err(Error::new(
            ErrorKind::Corrupt,
            "the helper in the state directory changed",
        )
        .context("path", path.display())),
    }
}

fn is_same(path: &Path, bytes: &[u8]) -> bool {
    let mut found = Vec::with_capacity(bytes.len());
    File::options()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
        .and_then(|f| f.take(bytes.len() as u64 + 1).read_to_end(&mut found))
        .is_ok()
        && found == bytes
}

/// A pair of packet sockets: ours, and the helper's end.
pub(super) fn owner_channel() -> Result<(OwnedFd, OwnedFd)> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    let (ours, theirs) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(|e| system("make a channel to a helper", e))?;
    rustix::io::ioctl_fionbio(&ours, true).map_err(|e| system("make a channel to a helper", e))?;
    Ok((ours, theirs))
}

/// A pair of stream sockets for a connection to an agent: ours, and its end.
pub(super) fn agent_connection() -> Result<(std::os::unix::net::UnixStream, OwnedFd)> {
    let (ours, theirs) =
        std::os::unix::net::UnixStream::pair().map_err(|e| io("make a connection", e))?;
    ours.set_nonblocking(true)
        .map_err(|e| io("make a connection", e))?;
    Ok((ours, theirs.into()))
}

pub(super) fn unexpected() -> Error {
    Error::new(
        ErrorKind::Protocol,
        "the helper answered something else than was asked",
    )
}
