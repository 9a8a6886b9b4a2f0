//! Putting the helper where AppArmor can give it rights.

use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::error::io;
use super::obstacle::{LIBEXEC, RESTRICTED};
use crate::error::{Error, ErrorKind, Result};

const PROFILE: &str = "/etc/apparmor.d/stacyvm-helper";
/// As distributions ship for programs that make user namespaces: no other rule.
const PROFILE_TEXT: &str = "\
# Lets the helper of stacyvm make user namespaces on hosts that restrict them.
abi <abi/4.0>,
include <tunables/global>

profile stacyvm-helper /usr/{,local/}libexec/stacyvm/stacyvm-helper flags=(unconfined) {
  userns,

  include if exists <local/stacyvm-helper>
}
";

/// Installs the helper's program below `root`, for all users of the machine,
/// and gives the files that were written.
///
/// Where AppArmor restricts user namespaces, or `root` is not `/`, its profile is
/// installed too, and loaded where `root` is `/`. What is there already is
/// replaced. Each version of stacyvm uses an installed helper of its own
/// version alone, so this is repeated after an upgrade.
///
/// # Errors
///
/// `permission_denied` for who may not write there; `unavailable` where the
/// profile was installed and could not be loaded; `unsupported` in a build
/// without the helper.
pub fn install_helper(root: &Path) -> Result<Vec<PathBuf>> {
    if stacyvm_agent::AGENT.is_empty() {
        return Err(Error::unsupported(
            "this build of stacyvm carries no helper for this system; build it on Linux",
        ));
    }
    let below = |path: &str| root.join(path.trim_start_matches('/'));
    let program = below(LIBEXEC[0]);
    write(&program, stacyvm_agent::AGENT, 0o755)?;
    let mut written = vec![program];
    let here = root == Path::new("/");
    if !here || Path::new(RESTRICTED).exists() {
        let profile = below(PROFILE);
        write(&profile, PROFILE_TEXT.as_bytes(), 0o644)?;
        written.push(profile);
    }
    if here && written.len() > 1 {
        let loaded = Command::new("/usr/sbin/apparmor_parser")
            .args(["--replace", "--write-cache", PROFILE])
            .env_clear()
            .status();
        if !loaded.is_ok_and(|status| status.success()) {
            return Err(Error::new(
                ErrorKind::Unavailable,
                "the profile is installed, and /usr/sbin/apparmor_parser does not load it",
            )
            .context("path", PROFILE)
            .context("remedy", "load it with `apparmor_parser -r`, or reboot"));
        }
    }
    Ok(written)
}

/// A whole file or none, and no link is written through.
fn write(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let about = |error: std::io::Error| {
        let denied = error.kind() == std::io::ErrorKind::PermissionDenied;
        let remedy = if denied {
            "run it as root"
        } else {
            "name a directory that can be written"
        };
        io("install the helper", error)
            .context("path", path.display())
            .context("remedy", remedy)
    };
    let parent = path.parent().unwrap_or(path);
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(parent)
        .map_err(about)?;
    let draft = path.with_extension(format!("new-{}", std::process::id()));
    let write = || {
        let mut file = std::fs::File::options()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&draft)?;
        file.write_all(content)?;
        // Whatever the umask is.
        file.set_permissions(std::fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        std::fs::rename(&draft, path)
    };
    write().map_err(|error| {
        // The first error is the one to report.
        let _ = std::fs::remove_file(&draft);
        about(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_installed_is_whole_and_replaces_what_was_there() {
        if stacyvm_agent::AGENT.is_empty() {
            println!("not run: this build carries no agent");
            return;
        }
        let root = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            let written = install_helper(root.path()).unwrap();
            assert_eq!(written.len(), 2);
            assert_eq!(std::fs::read(&written[0]).unwrap(), stacyvm_agent::AGENT);
            let mode = std::fs::metadata(&written[0]).unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, 0o755);
            assert!(
                std::fs::read_to_string(&written[1])
                    .unwrap()
                    .contains("userns,")
            );
            let names = std::fs::read_dir(written[0].parent().unwrap()).unwrap();
            assert_eq!(names.count(), 1, "no draft is left");
        }
    }
}
