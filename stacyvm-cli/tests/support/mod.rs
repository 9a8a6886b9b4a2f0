//! What the tests of the command line share.
#![allow(
    dead_code,
    clippy::print_stderr,
    reason = "no file uses all of it, and a test that cannot run says why"
)]

use std::process::{Command, Output, Stdio};

/// A state directory, and the command line on it. Ends what it made.
pub(crate) struct Cli {
    pub(crate) state: tempfile::TempDir,
}

pub(crate) fn cli() -> Cli {
    Cli {
        state: tempfile::tempdir().unwrap(),
    }
}

impl Cli {
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stacyvm"));
        command
            .env_remove("STACYVM_CONFIG")
            .env_remove("DOCKER_HOST")
            .env("STACYVM_STATE_DIR", self.state.path())
            .env("XDG_CONFIG_HOME", self.state.path().join("config"))
            .stdin(Stdio::null());
        command
    }

    /// What the embedded provider can do for this user.
    fn can(&self) -> serde_json::Value {
        let output = self.run(&["providers", "--json"]);
        let all: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let all = all.as_array().unwrap();
        all.iter().find(|one| one["name"] == "oci").unwrap()["capabilities"].clone()
    }

    /// Whether memory can be limited.
    pub(crate) fn limits_memory(&self) -> bool {
        self.can()["memory_limit"] == "enforced"
    }

    /// Whether there are more users inside than one.
    pub(crate) fn has_users(&self) -> bool {
        self.can()["users"] == "many"
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command().args(arguments).output().unwrap()
    }

    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", shown(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn code(&self, arguments: &[&str]) -> i32 {
        self.run(arguments).status.code().unwrap()
    }

    pub(crate) fn create(&self, arguments: &[&str]) -> String {
        self.ok(&[&["create", "--ttl", "120s"], arguments].concat())
            .trim()
            .to_owned()
    }

    pub(crate) fn sandboxes(&self) -> Vec<String> {
        self.ok(&["ls", "--quiet"])
            .lines()
            .map(str::to_owned)
            .collect()
    }
}

impl Drop for Cli {
    fn drop(&mut self) {
        let _ = self.run(&["kill", "--all"]);
        // Without root layers have owners that this user cannot remove by itself.
        let images = self.state.path().join("images/mapped");
        if std::fs::read_dir(images).is_ok_and(|mut entries| entries.next().is_some()) {
            let listed = self.run(&["image", "ls", "--json"]).stdout;
            let listed: Vec<serde_json::Value> =
                serde_json::from_slice(&listed).unwrap_or_default();
            for image in &listed {
                let _ = self.run(&["image", "rm", image["digest"].as_str().unwrap_or_default()]);
            }
            let _ = self.run(&["image", "prune"]);
        }
    }
}

pub(crate) fn shown(output: &Output) -> String {
    format!(
        "{} out {:?} err {:?}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// The source of an image made in this directory: one static program, and the
/// file `/which`. `None`, and why, where this host has no such program.
pub(crate) fn tiny_root(work: &std::path::Path) -> Option<String> {
    let at = |name: &str| work.join(name).to_str().unwrap().to_owned();
    // The smallest root: one static program.
    let is_static = |path: &&str| {
        let loader = std::process::Command::new("ldd").arg(path).output();
        std::path::Path::new(path).exists() && loader.is_ok_and(|output| !output.status.success())
    };
    let busybox = ["/bin/busybox", "/usr/bin/busybox"]
        .into_iter()
        .find(is_static);
    let Some(busybox) = busybox else {
        eprintln!("not run: no static busybox");
        return None;
    };
    std::fs::create_dir_all(work.join("root/bin")).unwrap();
    std::fs::copy(busybox, work.join("root/bin/busybox")).unwrap();
    std::os::unix::fs::symlink("busybox", work.join("root/bin/cat")).unwrap();
    std::fs::write(work.join("root/which"), "this image\n").unwrap();
    let tar = std::process::Command::new("tar")
        .args(["-C", &at("root"), "-cf", &at("root.tar"), "."])
        .status();
    assert!(tar.unwrap().success());
    Some(format!("rootfs-archive:{}", at("root.tar")))
}
