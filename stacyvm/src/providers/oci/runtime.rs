//! The binary of an OCI runtime: found, asked for its version, judged.

use std::io::Read as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use super::error::io;
use crate::error::{Error, ErrorKind, Result};
use crate::mountinfo;
use crate::provider::{Finding, ProbeReport};

/// Where a runtime is looked for by its name. Not the caller's `PATH`: what is
/// found here is run as root.
const DIRECTORIES: [&str; 6] = [
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
];
/// The names that may be given without a path.
const NAMES: [&str; 4] = ["runc", "crun", "youki", "runsc"];
/// gVisor, as it calls itself.
const GVISOR: &str = "runsc";
/// How gVisor is told of descriptors for the sandbox.
const PASS_FD: &str = "-pass-fd";
/// Looks at a runtime that prints its version, 10 ms apart.
const LOOKS: u32 = 1000;
/// Where a host with cgroups of both versions has the second.
const UNIFIED: &str = "/sys/fs/cgroup/unified";

/// A runtime that can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Runtime {
    /// What it calls itself, as a rule.
    pub(super) name: String,
    pub(super) path: PathBuf,
    pub(super) version: String,
}

impl Runtime {
    /// Finds a runtime by its name, or by the absolute path of its binary.
    pub(super) async fn find(asked: &str) -> Result<Self> {
        let path = locate(asked)?;
        check_owner(&path)?;
        let first_line = version_of(&path).await?;
        let (name, version) = parse(&path, &first_line);
        if name == GVISOR
            && !output_of(&path, &["help", "run"])
                .await?
                .1
                .contains(PASS_FD)
        {
            return Err(Error::unsupported(format!(
                "this runsc (gVisor) hands no descriptors over to its sandboxes, expected one whose `run` knows {PASS_FD}"
            ))
            .context("runtime", path.display())
            .context("version", version)
            .context(
                "remedy",
                "install gVisor of 2024 or newer, or use a provider of kind docker with runtime runsc",
            ));
        }
        Ok(Self {
            name,
            path,
            version,
        })
    }

    /// Whether its sandboxes have a kernel of their own.
    pub(super) fn has_own_kernel(&self) -> bool {
        self.name == GVISOR
    }

    /// Whether it makes nothing on this host as it is now.
    fn refuses(&self) -> bool {
        self.name == "crun" && has_both_versions()
    }

    /// Fails where it would, before anything is made.
    pub(super) fn check(&self) -> Result<()> {
        if !self.refuses() {
            return Ok(());
        }
        Err(Error::unsupported(
            "crun refuses a host that has cgroups of version 2 besides version 1",
        )
        .context("runtime", self.path.display())
        .context("found", UNIFIED)
        .context(
            "remedy",
            "unmount it, boot with cgroups of version 2 alone, or use runc",
        ))
    }

    /// Adds what is known of it on this host.
    pub(super) fn probe(&self, report: &mut ProbeReport) {
        let refuses = self.refuses();
        report.findings.push(Finding {
            subject: "runtime".to_owned(),
            fine: !refuses,
            seen: format!(
                "{} {} at {}{}",
                self.name,
                self.version,
                self.path.display(),
                if refuses {
                    ", which refuses a host that has cgroups of version 2 besides version 1"
                } else {
                    ""
                }
            ),
            remedy: if refuses {
                format!("unmount {UNIFIED}, boot with cgroups of version 2 alone, or use runc")
            } else {
                String::new()
            },
        });
        report.usable &= !refuses;
    }
}

fn locate(asked: &str) -> Result<PathBuf> {
    if asked.starts_with('/') {
        return Ok(asked.into());
    }
    if !NAMES.contains(&asked) {
        return Err(Error::invalid(
            "runtime",
            asked,
            "stacyvm (the embedded provider's own), runc, crun, youki, runsc, or the absolute path of a runtime's binary",
            "correct it, or use a Docker provider for the runtimes of its engine",
        ));
    }
    DIRECTORIES
        .iter()
        .map(|directory| Path::new(directory).join(asked))
        .find(|path| path.is_file())
        .ok_or_else(|| {
            let remedy = if asked == GVISOR {
                "install gVisor (https://gvisor.dev/docs/user_guide/install), give the absolute path of its binary, or leave the runtime out"
            } else {
                "install it, give the absolute path of its binary, or leave the runtime out"
            };
            Error::unsupported(format!("this host has no {asked}"))
                .context("looked_in", DIRECTORIES.join(", "))
                .context("remedy", remedy)
        })
}

/// It runs as this user, so nobody else may be able to exchange it.
fn check_owner(path: &Path) -> Result<()> {
    let found = std::fs::metadata(path).map_err(|e| {
        Error::invalid(
            "runtime",
            path.display(),
            "the binary of a runtime",
            "correct the path",
        )
        .source(e)
    })?;
    let own = found.uid() == 0 || found.uid() == rustix::process::geteuid().as_raw();
    if found.is_file() && found.mode() & 0o111 != 0 && own && found.mode() & 0o022 == 0 {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::PermissionDenied,
        "the runtime is not an executable file that only root or this user can write",
    )
    .context("runtime", path.display())
    .context("mode", format!("{:o}", found.mode() & 0o7777)))
}

/// The first line that it prints when asked for its version.
async fn version_of(path: &Path) -> Result<String> {
    let (status, text) = output_of(path, &["--version"]).await?;
    let line = text.lines().next().unwrap_or_default().trim();
    if status.is_some_and(|status| !status.success()) || line.is_empty() {
        let told = status.map_or_else(|| "unknown".to_owned(), |status| status.to_string());
        return Err(Error::unsupported("the runtime does not tell its version")
            .context("runtime", path.display())
            .context("status", told));
    }
    Ok(line.chars().take(200).collect())
}

/// How it ends and what it prints, which must fit into a pipe.
async fn output_of(path: &Path, arguments: &[&str]) -> Result<(Option<ExitStatus>, String)> {
    let mut child = Command::new(path)
        .args(arguments)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| io("run the runtime", e).context("runtime", path.display()))?;
    let mut ended = false;
    for _ in 0..LOOKS {
        ended = !matches!(child.try_wait(), Ok(None));
        if ended {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    if !ended {
        // It may have ended by itself just now.
        let _ = child.kill();
    }
    // Not there where this process ignores SIGCHLD: the kernel keeps no status.
    let status = child.wait().ok();
    // What it wrote fits into the pipe, as it ended with nobody reading.
    let mut bytes = Vec::new();
    if let Some(mut output) = child.stdout.take() {
        output
            .read_to_end(&mut bytes)
            .map_err(|e| io("run the runtime", e))?;
    }
    Ok((status, String::from_utf8_lossy(&bytes).into_owned()))
}

/// `runc version 1.1.5`, `youki version: 0.7.0`, `runsc version release-...`.
fn parse(path: &Path, line: &str) -> (String, String) {
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    let mut words = line.split_whitespace();
    let first = words.next().unwrap_or_default();
    let name = if NAMES.contains(&first) {
        first.to_owned()
    } else {
        file.escape_debug().to_string()
    };
    let version = words.last().unwrap_or(first);
    (name, version.escape_debug().to_string())
}

fn has_both_versions() -> bool {
    let mounts = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    let mut mounts = mountinfo::parse(&mounts).into_iter();
    mounts.any(|mount| mount.kind == "cgroup2" && mount.point == Path::new(UNIFIED))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn versions_are_read_as_runtimes_print_them() {
        let read = |path: &str, line: &str| parse(Path::new(path), line);
        let own = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(
            read("/x/runc", "runc version 1.1.5+ds1"),
            own("runc", "1.1.5+ds1")
        );
        assert_eq!(read("/x/y", "youki version: 0.7.0"), own("youki", "0.7.0"));
        // Another name does not hide what it is.
        assert_eq!(read("/x/runc", "runsc version release-2").0, "runsc");
        assert_eq!(read("/x/mine", "7\u{1b}"), own("mine", "7\\u{1b}"));
    }

    #[tokio::test]
    async fn what_cannot_serve_is_refused_with_its_reason() {
        let kind = async |asked: &str| Runtime::find(asked).await.unwrap_err().kind();
        assert_eq!(kind("kata").await, ErrorKind::InvalidArgument);
        assert_eq!(kind("../runc").await, ErrorKind::InvalidArgument);
        assert_eq!(kind("/nowhere/runc").await, ErrorKind::InvalidArgument);
        let directory = tempfile::tempdir().unwrap();
        let script = |name: &str, text: &str, mode: u32| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            path.to_string_lossy().into_owned()
        };
        let gvisor = script("a", "#!/bin/sh\necho runsc version release-1\n", 0o755);
        assert_eq!(kind(&gvisor).await, ErrorKind::Unsupported);
        let silent = script("b", "#!/bin/sh\nexit 1\n", 0o755);
        assert_eq!(kind(&silent).await, ErrorKind::Unsupported);
        let open = script("c", "#!/bin/sh\necho runc version 1\n", 0o777);
        assert_eq!(kind(&open).await, ErrorKind::PermissionDenied);
        let fine = script("d", "#!/bin/sh\necho runc version 1\n", 0o755);
        let found = Runtime::find(&fine).await.unwrap();
        assert_eq!((found.name.as_str(), found.version.as_str()), ("runc", "1"));
    }
}
