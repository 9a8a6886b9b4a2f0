//! The peers: programs that a user would start instead.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Why a peer cannot be measured here.
pub(crate) type Blocked = String;

/// Runs a command to its end and takes the time; an exit code other than 0 is an error.
pub(crate) fn time(command: &mut Command) -> Result<Duration, Blocked> {
    let start = Instant::now();
    let status = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .map_err(|e| format!("{}: {e}", command.get_program().to_string_lossy()))?;
    let taken = start.elapsed();
    if status.success() {
        Ok(taken)
    } else {
        Err(format!(
            "{} ended with {status}",
            command.get_program().to_string_lossy()
        ))
    }
}

/// A root directory with a static busybox, and an OCI bundle around it.
#[derive(Debug)]
pub(crate) struct Bundle {
    directory: tempfile::TempDir,
}

impl Bundle {
    pub(crate) fn make() -> Result<Self, Blocked> {
        let io = |e: std::io::Error| format!("bundle: {e}");
        let directory = tempfile::tempdir().map_err(io)?;
        let bin = directory.path().join("rootfs/bin");
        std::fs::create_dir_all(&bin).map_err(io)?;
        std::fs::copy("/bin/busybox", bin.join("busybox"))
            .map_err(|e| format!("/bin/busybox: {e}"))?;
        for name in ["sh", "true", "sleep", "dd", "cat"] {
            std::os::unix::fs::symlink("busybox", bin.join(name)).map_err(io)?;
        }
        time(
            Command::new("runc")
                .arg("spec")
                .current_dir(directory.path()),
        )?;
        let bundle = Self { directory };
        bundle.set_command("[\"/bin/true\"]")?;
        Ok(bundle)
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Rewrites the command of the bundle, without a terminal.
    pub(crate) fn set_command(&self, argv: &str) -> Result<(), Blocked> {
        let file = self.path().join("config.json");
        let text = std::fs::read_to_string(&file).map_err(|e| format!("config.json: {e}"))?;
        let mut config: serde_json::Value =
            serde_json::from_str(&text).map_err(|e| e.to_string())?;
        config["process"]["terminal"] = false.into();
        config["process"]["args"] = serde_json::from_str(argv).map_err(|e| e.to_string())?;
        config["root"]["readonly"] = false.into();
        config["linux"]["resources"] = serde_json::json!({
            "memory": { "limit": 512 << 20 }, "pids": { "limit": 1024 }
        });
        std::fs::write(&file, config.to_string()).map_err(|e| format!("config.json: {e}"))
    }
}

/// `runc run` or `crun run` of the bundle's command, to its end.
pub(crate) fn oci_run(runtime: &str, bundle: &Bundle, name: &str) -> Result<Duration, Blocked> {
    time(
        Command::new(runtime)
            .args(["run", "--bundle"])
            .arg(bundle.path())
            .arg(name),
    )
}

pub(crate) fn bwrap() -> Result<Duration, Blocked> {
    time(Command::new("bwrap").args(["--unshare-all", "--ro-bind", "/", "/", "--", "/bin/true"]))
}

pub(crate) fn docker_run(image: &str) -> Result<Duration, Blocked> {
    time(Command::new("docker").args(["run", "--rm", "--network", "none", image, "true"]))
}
