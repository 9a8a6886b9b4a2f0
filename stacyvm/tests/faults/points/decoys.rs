//! Things that look like ours and are somebody else's.

use std::fs;
use std::net::Shutdown;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::super::common::residue::lives;

type Check = Box<dyn Fn() -> bool>;

/// Near misses of every kind. Dropping it takes them away.
pub(super) struct Decoys {
    checks: Vec<(String, Check)>,
    processes: Vec<Child>,
    cgroups: Vec<PathBuf>,
    mounts: Vec<PathBuf>,
    interface: Option<String>,
    loop_device: Option<String>,
    files: Vec<PathBuf>,
    place: PathBuf,
}

impl Decoys {
    /// Puts decoys around a state directory in `place`, which is the decoys' own.
    pub(super) fn around(place: &Path, state: &Path) -> Self {
        let mut decoys = Self {
            checks: Vec::new(),
            processes: Vec::new(),
            cgroups: Vec::new(),
            mounts: Vec::new(),
            interface: None,
            loop_device: None,
            files: Vec::new(),
            place: place.join("decoys"),
        };
        fs::create_dir(&decoys.place).unwrap();
        decoys.processes();
        decoys.cgroups();
        decoys.files(place, state);
        decoys.sockets(place);
        decoys.mounts(place);
        decoys.devices();
        decoys
    }

    pub(super) fn count(&self) -> usize {
        self.checks.len()
    }

    /// The decoys that are not any more what they were.
    pub(super) fn touched(&self) -> Vec<String> {
        let touched = self.checks.iter().filter(|(_, check)| !check());
        touched.map(|(name, _)| name.clone()).collect()
    }

    fn add(&mut self, name: impl Into<String>, check: impl Fn() -> bool + 'static) {
        self.checks.push((name.into(), Box::new(check)));
    }

    fn start(&mut self, program: &Path, argument_0: &str) -> u32 {
        let child = Command::new(program)
            .arg0(argument_0)
            .arg("3600")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let pid = child.id();
        self.processes.push(child);
        pid
    }

    /// By the name of the program, by the first argument, by the environment.
    fn processes(&mut self) {
        for title in [
            "stacyvm-helper",
            "stacyvm-agent",
            "stacyvm-held",
            "stacyvm",
            "stacyvm-helper2",
        ] {
            let program = self.place.join(title);
            fs::copy("/bin/sleep", &program).unwrap();
            let pid = self.start(&program, title);
            self.add(format!("process {title}"), move || lives(pid));
        }
        let pid = self.start(Path::new("/bin/sleep"), "stacyvm-agent");
        self.add("a process that calls itself stacyvm-agent", move || {
            lives(pid)
        });
    }

    /// Each holds a process: others take empty ones for something left.
    fn cgroups(&mut self) {
        let roots =
            ["pids", "memory", "freezer"].map(|kind| Path::new("/sys/fs/cgroup").join(kind));
        let root = roots.iter().find(|root| root.exists());
        let root = root.map_or(Path::new("/sys/fs/cgroup"), PathBuf::as_path);
        let own = std::process::id();
        for name in [
            format!("stacyvm-{own}"),
            format!("stacyvm.slice-{own}"),
            format!("stacyvm/decoy-{own}"),
            format!("stacyvm/parked-decoy-{own}"),
        ] {
            let path = root.join(&name);
            fs::create_dir_all(&path).unwrap();
            let pid = self.start(Path::new("/bin/sleep"), "sleep");
            fs::write(path.join("cgroup.procs"), pid.to_string()).unwrap();
            self.cgroups.push(path.clone());
            self.add(format!("cgroup {name}"), move || {
                let inside = fs::read_to_string(path.join("cgroup.procs"));
                inside.is_ok_and(|text| text.trim() == pid.to_string()) && lives(pid)
            });
        }
    }

    /// Beside the state directory, in it, and in the machine's own directory.
    fn files(&mut self, place: &Path, state: &Path) {
        let own = std::process::id();
        let beside = |name: &str| place.join(name);
        let all = [
            beside("state.lock"),
            beside("state-old/sandboxes/s-0123456789/ledger"),
            beside("state2/owners/i-0-i-0.lock"),
            beside("sandboxes/parked-0123456789/lock"),
            state.join("store.db.backup"),
            state.join("sandboxes.old/s-0123456789/helper.sock"),
            state.join("owners/mine"),
            std::env::temp_dir().join(format!("stacyvm-decoy-{own}")),
            PathBuf::from(format!("/run/stacyvm/range-decoy-{own}")),
        ];
        for path in all {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "not yours\n").unwrap();
            self.files.push(path.clone());
            self.add(format!("file {}", path.display()), move || {
                fs::read_to_string(&path).is_ok_and(|text| text == "not yours\n")
            });
        }
    }

    fn sockets(&mut self, place: &Path) {
        let path = place.join("helper.sock");
        let listener = UnixListener::bind(&path).unwrap();
        self.add("socket helper.sock", move || {
            let _kept = &listener;
            UnixStream::connect(&path).is_ok_and(|s| s.shutdown(Shutdown::Both).is_ok())
        });
        let name = format!("stacyvm-helper-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let listener = UnixListener::bind_addr(&address).unwrap();
        self.add("an abstract socket", move || {
            let _kept = &listener;
            UnixStream::connect_addr(&address).is_ok()
        });
    }

    /// In this mount namespace, and in that of a process alone.
    fn mounts(&mut self, place: &Path) {
        let at = place.join("stacyvm-mount");
        fs::create_dir(&at).unwrap();
        let mut mount = Command::new("mount");
        let made = mount.args(["-t", "tmpfs", "stacyvm"]).arg(&at).status();
        assert!(made.unwrap().success());
        fs::write(at.join("kept"), "").unwrap();
        self.mounts.push(at.clone());
        self.add("a mount", move || at.join("kept").exists());

        let line = "mount -t tmpfs stacyvm /mnt && touch /mnt/kept && exec sleep 3600";
        let child = Command::new("unshare")
            .args(["--mount", "sh", "-c", line])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let process = Path::new("/proc").join(child.id().to_string());
        let kept = process.join("root").join("mnt/kept");
        self.processes.push(child);
        // Until it is there it cannot be missed.
        for _ in 0..1000 {
            if kept.exists() {
                break;
            }
            std::thread::yield_now();
            let _ = Command::new("sleep").arg("0.01").status();
        }
        self.add("a mount of another namespace", move || kept.exists());
    }

    /// What this machine can make of an interface and a loop device.
    fn devices(&mut self) {
        let name = format!("svmx{}", std::process::id() % 100_000);
        let mut add = Command::new("ip");
        add.args(["link", "add", &name, "type", "dummy"]);
        if add
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|s| s.success())
        {
            let path = Path::new("/sys/class/net").join(&name);
            self.interface = Some(name);
            self.add("an interface", move || path.exists());
        }
        let file = self.place.join("disk.img");
        fs::write(&file, vec![0; 1 << 20]).unwrap();
        let mut attach = Command::new("losetup");
        attach.args(["--find", "--show"]).arg(&file);
        let Ok(made) = attach.stderr(Stdio::null()).output() else {
            return;
        };
        let device = String::from_utf8_lossy(&made.stdout).trim().to_owned();
        if made.status.success() {
            let backing = format!(
                "/sys/block/{}/loop/backing_file",
                device.trim_start_matches("/dev/")
            );
            self.loop_device = Some(device);
            self.add("a loop device", move || {
                fs::read_to_string(&backing).is_ok_and(|text| text.contains("decoys"))
            });
        }
    }
}

impl Drop for Decoys {
    fn drop(&mut self) {
        self.checks.clear();
        for child in &mut self.processes {
            let _ = child.kill();
            let _ = child.wait();
        }
        for path in &self.cgroups {
            let _ = fs::remove_dir(path);
        }
        for path in &self.mounts {
            let _ = Command::new("umount").arg(path).status();
        }
        if let Some(name) = &self.interface {
            let _ = Command::new("ip").args(["link", "del", name]).status();
        }
        if let Some(device) = &self.loop_device {
            let _ = Command::new("losetup").args(["--detach", device]).status();
        }
        for path in &self.files {
            let _ = fs::remove_file(path);
        }
    }
}
