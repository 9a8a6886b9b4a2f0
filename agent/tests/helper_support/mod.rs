//! A small blocking host for helpers.

use std::ffi::OsStr;
use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use stacyvm_agent::helper_protocol::*;
use stacyvm_agent::protocol::message::{AgentConfig, decode, encode};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Whether this user may make sandboxes with ids of their own.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A directory of sandboxes, and the helpers in it.
pub(crate) struct Host {
    pub(crate) path: PathBuf,
    directory: OwnedFd,
}

impl Host {
    pub(crate) fn new() -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = PathBuf::from(format!(
            "/var/tmp/svm-helper-{}-{number}",
            std::process::id()
        ));
        Self::at(path)
    }

    /// In a directory of a test.
    pub(crate) fn within(parent: &Path) -> Self {
        Self::at(parent.join("sandboxes"))
    }

    fn at(path: PathBuf) -> Self {
        std::fs::create_dir(&path).unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(&path, flags, Mode::empty()).unwrap();
        Self { path, directory }
    }

    /// A name that no other test uses: cgroups are one space.
    #[allow(clippy::unused_self, reason = "one id belongs to one host")]
    pub(crate) fn id(&self) -> String {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        format!("test-{}-{number}", std::process::id())
    }

    pub(crate) fn park(&self, name: &str) -> Helper {
        let helper = Helper::start();
        let park = Park {
            generation: GENERATION,
            name: name.into(),
            users: if is_root() {
                Users::Private { first: 900_000 }
            } else {
                Users::Single
            },
            bundle: false,
            program: false,
        };
        helper.send(&ToHelper::Park(park), &[self.directory.as_fd()]);
        assert_eq!(helper.receive(), Some(FromHelper::Parked));
        helper
    }

    /// Starts a sandbox of a launch that the caller may change.
    pub(crate) fn launch(&self, change: impl FnOnce(&mut Launch, &mut Vec<OwnedFd>)) -> Sandbox {
        self.try_launch(change)
            .unwrap_or_else(|failed| panic!("{failed:?}"))
    }

    pub(crate) fn try_launch(
        &self,
        change: impl FnOnce(&mut Launch, &mut Vec<OwnedFd>),
    ) -> Result<Sandbox, Failed> {
        let id = self.id();
        let helper = self.park(&format!("parked-{id}"));
        let mut launch = plain(&id);
        let mut fds = Vec::new();
        change(&mut launch, &mut fds);
        let (ours, theirs) = UnixStream::pair().unwrap();
        launch.connection = true;
        fds.push(theirs.into());
        let id = launch.id.clone();
        let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        helper.send(&ToHelper::Launch(Box::new(launch)), &borrowed);
        drop(borrowed);
        drop(fds);
        match helper.receive() {
            Some(FromHelper::Started(report)) => Ok(Sandbox {
                dir: self.path.join(&id),
                id,
                helper,
                stream: ours,
                report,
            }),
            Some(FromHelper::Failed(failed)) => Err(failed),
            other => panic!("{other:?}"),
        }
    }

    /// The names in the directory.
    pub(crate) fn names(&self) -> Vec<String> {
        std::fs::read_dir(&self.path)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Helpers that a test has killed leave these to others.
        let own = (0..NEXT.load(Ordering::Relaxed))
            .map(|number| format!("test-{}-{number}", std::process::id()));
        for path in own.flat_map(|id| cgroups(&id)) {
            for _ in 0..300 {
                let _ = std::fs::remove_dir(path.join("commands"));
                if std::fs::remove_dir(&path).is_ok() {
                    break;
                }
                let pause = rustix::event::Timespec {
                    tv_sec: 0,
                    tv_nsec: 10_000_000,
                };
                let _ = rustix::event::poll(&mut [], Some(&pause));
            }
        }
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// A directory that is a mount which shares what is mounted in it.
pub(crate) struct SharedMount {
    pub(crate) path: PathBuf,
}

impl SharedMount {
    pub(crate) fn new() -> Self {
        use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};
        let path = PathBuf::from(format!("/var/tmp/svm-shared-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        mount_bind(&path, &path).unwrap();
        let shared = Self { path };
        mount_change(&shared.path, MountPropagationFlags::SHARED).unwrap();
        shared
    }
}

impl Drop for SharedMount {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.path, rustix::mount::UnmountFlags::DETACH);
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

pub(crate) fn plain(id: &str) -> Launch {
    Launch {
        id: id.into(),
        record: b"record".to_vec().into(),
        root: Root::Host,
        read_only_root: false,
        mounts: Vec::new(),
        limits: Limits::default(),
        hostname: "probe".into(),
        resolv_conf: "nameserver 192.0.2.1\n".into(),
        ends_in_ms: None,
        agent: AgentConfig {
            user: "user".into(),
            workdir: b"/workspace".to_vec().into(),
            env: Vec::new(),
            key: Vec::new(),
            deadline_ms: None,
            ring_bytes: 1 << 20,
            max_execs: 16,
            open_files: None,
            supervisor_uid: 65000,
            can_switch_user: true,
            idle_ms: None,
            spare_supervisors: Some(3),
            waits: None,
            namespaced_root: None,
            places: None,
            socket: None,
        },
        connection: false,
        bundle: None,
        volume_locks: 0,
        waits: false,
        layers: Layers::default(),
    }
}

/// The owner's end of a helper.
pub(crate) struct Helper {
    pub(crate) child: Child,
    pub(crate) owner: OwnedFd,
}

impl Helper {
    pub(crate) fn start() -> Self {
        let (ours, theirs) = rustix::net::socketpair(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::SEQPACKET,
            rustix::net::SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        let child = Command::new(probe_agent())
            .arg0("stacyvm-helper")
            .stdin(Stdio::from(theirs))
            .env_clear()
            .spawn()
            .unwrap();
        Self { child, owner: ours }
    }

    pub(crate) fn send(&self, message: &ToHelper, fds: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(ancillary.push(SendAncillaryMessage::ScmRights(fds)));
        }
        let bytes = encode(message);
        let slices = [IoSlice::new(&bytes)];
        rustix::net::sendmsg(&self.owner, &slices, &mut ancillary, SendFlags::NOSIGNAL).unwrap();
    }

    pub(crate) fn receive(&self) -> Option<FromHelper> {
        let mut bytes = vec![0; MAX_PACKET];
        let flags = rustix::net::RecvFlags::empty();
        let (count, _) = rustix::net::recv(&self.owner, &mut bytes[..], flags).ok()?;
        (count > 0).then(|| decode(&bytes[..count]).unwrap())
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A sandbox that runs.
pub(crate) struct Sandbox {
    pub(crate) id: String,
    pub(crate) dir: PathBuf,
    pub(crate) helper: Helper,
    pub(crate) stream: UnixStream,
    pub(crate) report: Report,
}

impl Sandbox {
    /// Runs a shell command with the agent's rights; its output, then `[code]`.
    pub(crate) fn sh(&mut self, command: &str) -> String {
        say(&mut self.stream, command);
        hear(&mut self.stream).expect("the sandbox ended")
    }

    pub(crate) fn ask(&self, request: MonitorRequest) -> Option<FromHelper> {
        self.helper.send(&ToHelper::Monitor(request), &[]);
        self.helper.receive()
    }

    /// A connection to the helper's socket, of this kind.
    pub(crate) fn connect(&self, kind: [u8; 8]) -> UnixStream {
        let mut stream = UnixStream::connect(self.dir.join(SOCKET_NAME)).unwrap();
        stream.write_all(&kind).unwrap();
        stream
    }

    /// Destroys it and gives the end that is reported.
    pub(crate) fn destroy(mut self) -> Ended {
        let Some(FromHelper::Ended(ended)) = self.ask(MonitorRequest::Destroy) else {
            panic!("no end");
        };
        self.helper.child.wait().unwrap();
        ended
    }
}

pub(crate) fn say(stream: &mut UnixStream, command: &str) {
    let length = u32::try_from(command.len()).unwrap();
    stream.write_all(&length.to_le_bytes()).unwrap();
    stream.write_all(command.as_bytes()).unwrap();
}

pub(crate) fn hear(stream: &mut UnixStream) -> Option<String> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).ok()?;
    let mut text = vec![0; u32::from_le_bytes(length) as usize];
    stream.read_exact(&mut text).ok()?;
    Some(String::from_utf8_lossy(&text).into_owned())
}

/// Asks over the helper's socket, as any host process does.
pub(crate) fn monitor(stream: &mut UnixStream, request: MonitorRequest) -> Option<FromHelper> {
    let body = encode(&request);
    stream
        .write_all(&u32::try_from(body.len()).unwrap().to_le_bytes())
        .unwrap();
    stream.write_all(&body).unwrap();
    let mut length = [0; 4];
    stream.read_exact(&mut length).ok()?;
    let mut body = vec![0; u32::from_le_bytes(length) as usize];
    stream.read_exact(&mut body).ok()?;
    Some(decode(&body).unwrap())
}

fn probe_agent() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let profile = test.parent().and_then(Path::parent).unwrap();
    let path = profile.join("examples/probe_agent");
    assert!(
        path.exists(),
        "build the example probe_agent first: {}",
        path.display()
    );
    path
}

/// Waits, within bounds, for something to become true.
pub(crate) fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is() {
        assert!(start.elapsed() < Duration::from_secs(20), "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The cgroup directories of a name. Those of version 2 keep the one that they
/// were parked under.
pub(crate) fn cgroups(name: &str) -> Vec<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let names = [name.to_owned(), format!("parked-{name}")];
    mounts
        .lines()
        .filter(|line| line.contains(" - cgroup"))
        .filter_map(|line| line.split(' ').nth(4))
        .flat_map(|mount| {
            names
                .each_ref()
                .map(|name| Path::new(mount).join("stacyvm").join(name))
        })
        .filter(|path| path.exists())
        .collect()
}

/// The processes that this directory of sandboxes is the state of: those with
/// an id of the tests' range and the helpers of `id`.
pub(crate) fn exists(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// Mounts and loop devices of the host that name this path.
pub(crate) fn traces(path: &Path) -> Vec<String> {
    let name = path.file_name().and_then(OsStr::to_str).unwrap();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mut found: Vec<String> = mounts
        .lines()
        .filter(|l| l.contains(name))
        .map(str::to_owned)
        .collect();
    for entry in std::fs::read_dir("/sys/block").unwrap().flatten() {
        let file = entry.path().join("loop/backing_file");
        if std::fs::read_to_string(file).is_ok_and(|f| f.contains(name)) {
            found.push(entry.path().display().to_string());
        }
    }
    found
}
