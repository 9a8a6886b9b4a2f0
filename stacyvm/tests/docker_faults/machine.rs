//! An engine of a test's own, which may be killed and filled up.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::time::Duration;

use bollard::Docker;
use rustix::process::{Pid, Signal};

/// How a private engine is started.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Options {
    pub(super) live_restore: bool,
    /// The size of a memory file system for its data.
    pub(super) data_mib: Option<u32>,
}

/// A private engine. It ends with this value, and with this process.
pub(super) struct Machine {
    pub(super) host: String,
    name: String,
    directory: PathBuf,
    /// The first process of the engine's namespaces.
    pub(super) init: u32,
    _holds: ChildStdin,
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/docker-host.sh")
}

impl Machine {
    /// Starts an engine; `None`, and a word about it, where there can be none.
    pub(super) fn start(name: &str, options: Options) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            println!("not run: an engine of the test's own needs root");
            return None;
        }
        if std::env::var_os("STACYVM_TEST_DOCKER_HOST").is_none() {
            println!("not run: no docker engine");
            return None;
        }
        let mut command = Command::new(script());
        command
            .arg("start")
            .env("STACYVM_DOCKER_PRIVATE", name)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        if options.live_restore {
            command.env("STACYVM_DOCKER_LIVE_RESTORE", "true");
        }
        if let Some(mib) = options.data_mib {
            command.env("STACYVM_DOCKER_DATA_MIB", mib.to_string());
        }
        let mut child = command.spawn().unwrap();
        let holds = child.stdin.take().unwrap();
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let host = text.trim().strip_prefix("DOCKER_HOST=");
        let host = host
            .unwrap_or_else(|| panic!("no engine could be started: {text}"))
            .to_owned();
        let socket = Path::new(host.strip_prefix("unix://").unwrap());
        let directory = socket.parent().unwrap().to_owned();
        let outer = fs::read_to_string(directory.join("pid")).unwrap();
        let outer = outer.split_whitespace().next().unwrap().parse().unwrap();
        let init = below(outer)[0].pid;
        Some(Self {
            host,
            name: name.to_owned(),
            directory,
            init,
            _holds: holds,
        })
    }

    pub(super) fn socket(&self) -> &str {
        self.host.strip_prefix("unix://").unwrap()
    }

    pub(super) async fn docker(&self) -> Docker {
        let docker =
            Docker::connect_with_socket(self.socket(), 30, bollard::API_DEFAULT_VERSION).unwrap();
        docker.negotiate_version().await.unwrap()
    }

    /// All processes of the engine's namespaces but its own.
    pub(super) fn processes(&self) -> Vec<Process> {
        let own = ["dockerd", "containerd", "bash", "cat", "sleep"];
        let direct: Vec<u32> = children(self.init);
        let mut all = below(self.init);
        all.retain(|p| {
            !(direct.contains(&p.pid) && own.contains(&p.title.as_str())
                || p.title == "containerd"
                || p.title == "cat" && p.arguments == "cat")
        });
        all
    }

    pub(super) fn engine(&self) -> Option<u32> {
        let direct = children(self.init);
        let all = below(self.init);
        let mut engines = all
            .iter()
            .filter(|p| direct.contains(&p.pid) && p.title == "dockerd");
        engines.next().map(|p| p.pid)
    }

    /// Kills the engine, which stays down.
    pub(super) fn kill(&self) {
        fs::write(self.directory.join("down"), "").unwrap();
        signal(self.engine().expect("an engine runs"), Signal::KILL);
        while self.engine().is_some() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Lets a killed engine come again, and waits for it.
    pub(super) async fn again(&self) {
        fs::remove_file(self.directory.join("down")).unwrap();
        for _ in 0..600 {
            let docker =
                Docker::connect_with_socket(self.socket(), 5, bollard::API_DEFAULT_VERSION);
            if let Ok(docker) = docker
                && docker.ping().await.is_ok()
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the engine does not come again");
    }

    /// A path that the engine sees.
    pub(super) fn inside(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.init))
    }

    pub(super) fn data(&self) -> PathBuf {
        let data = self.directory.join("data");
        self.inside(data.to_str().unwrap())
    }

    /// The name of the cgroup that all containers are below.
    pub(super) fn cgroup(&self) -> String {
        let name = self.directory.file_name().unwrap();
        name.to_str().unwrap().to_owned()
    }

    /// The number on the host of a process of the engine's namespace.
    pub(super) fn outside(&self, inside: u32) -> Option<u32> {
        let all = below(self.init).into_iter();
        let mut found = all.filter(|p| {
            let status = fs::read_to_string(format!("/proc/{}/status", p.pid));
            let status = status.unwrap_or_default();
            let line = status.lines().find(|line| line.starts_with("NSpid:"));
            // Its numbers: on the host, in the engine's namespace, in the container's.
            let mut numbers = line.into_iter().flat_map(str::split_whitespace).skip(1);
            let depth = depth(self.init);
            numbers.nth(depth).is_some_and(|n| n == inside.to_string())
        });
        found.next().map(|p| p.pid)
    }
}

/// How many process namespaces there are from here to that of a process.
fn depth(init: u32) -> usize {
    let status = fs::read_to_string(format!("/proc/{init}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("NSpid:"));
    line.unwrap().split_whitespace().count() - 2
}

impl Drop for Machine {
    fn drop(&mut self) {
        let mut command = Command::new(script());
        command
            .arg("stop")
            .env("STACYVM_DOCKER_PRIVATE", &self.name)
            .stdin(Stdio::null());
        let stopped = command.status();
        if !std::thread::panicking() {
            assert!(stopped.unwrap().success(), "the engine cannot be stopped");
        }
    }
}

/// A process, as the host sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: u32,
    pub(super) title: String,
    pub(super) arguments: String,
}

fn parents() -> BTreeMap<u32, u32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (_, rest) = stat.rsplit_once(") ")?;
        let parent = rest.split_whitespace().nth(1)?.parse().ok()?;
        Some((pid, parent))
    })
    .collect()
}

fn children(pid: u32) -> Vec<u32> {
    let all = parents().into_iter();
    all.filter(|(_, parent)| *parent == pid)
        .map(|(child, _)| child)
        .collect()
}

/// All processes below one.
fn below(root: u32) -> Vec<Process> {
    let parents = parents();
    let is_below = |pid: &u32| {
        let mut at = parents.get(pid).copied();
        while let Some(pid) = at.filter(|pid| *pid != root) {
            at = parents.get(&pid).copied();
        }
        at == Some(root)
    };
    let pids = parents.keys().copied().filter(is_below);
    let read = |pid: u32, name: &str| {
        let text = fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).replace('\0', " ");
        text.trim().to_owned()
    };
    pids.map(|pid| Process {
        pid,
        title: read(pid, "comm"),
        arguments: read(pid, "cmdline"),
    })
    .collect()
}

pub(super) fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}
