//! The short way to an agent. Where the engine is this host's own and shares its files
//! with this process, the directory in which the agent listens is one of this host's,
//! which is mounted there; then a connection is one of this kernel's, without the
//! engine, its shim and a bridge in between.
//!
//! It is a way and nothing else: both sides prove the key as over a bridge, and where
//! it leads nowhere a bridge is opened. The directory is root's on the host and, once
//! the agent listens, belongs inside to a user that no command is.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use bollard::models::{
    ContainerCreateBody, Mount, MountBindOptions, MountBindOptionsPropagationEnum, MountType,
};
use rustix::fs::{FileType, Mode, OFlags};
use tokio::net::UnixStream;

use super::create::{SOCKET, SOCKET_DIRECTORY};
use super::facts::Facts;
use super::life::Life;
use crate::error::Result;
use crate::id::SandboxId;
use crate::provider::Isolation;

/// Whether the short way is taken for new sandboxes.
#[derive(Debug)]
pub(super) struct Direct(AtomicBool);

impl Direct {
    pub(super) fn new(facts: &Facts, wanted: bool) -> Self {
        // Another user could not enter the agent's directory.
        let root = rustix::process::geteuid().is_root();
        Self(AtomicBool::new(wanted && root && facts.may_share_files()))
    }

    pub(super) fn is_on(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// The engine does not see this process's files after all.
    fn turn_off(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

impl Facts {
    /// Whether what lies at a path of this process is what the engine mounts from that
    /// path, as far as the engine tells, and a socket in it leads from one to the other.
    fn may_share_files(&self) -> bool {
        let plain = [self.isolation, self.claim] == [Isolation::Namespaces; 2];
        let same_files = self.local && self.same_kernel && plain;
        // The directory is root's.
        same_files && !self.user_namespace && !self.selinux && !self.one_user
    }
}

impl Life {
    /// Has the agent's directory mounted from one of this host's, which is made.
    pub(super) fn share_directory(
        &self,
        id: &SandboxId,
        body: &mut ContainerCreateBody,
    ) -> Result<()> {
        if !self.direct.is_on() {
            return Ok(());
        }
        let directory = self.tickets.channel(id);
        let made = DirBuilder::new().mode(0o700).create(&directory);
        made.map_err(|e| super::ticket::at(&directory, e))?;
        fault_point!("docker.direct.made");
        let host = body.host_config.get_or_insert_default();
        if let Some(in_memory) = &mut host.tmpfs {
            in_memory.remove(SOCKET_DIRECTORY);
        }
        host.mounts.get_or_insert_default().push(Mount {
            typ: Some(MountType::BIND),
            source: Some(directory.display().to_string()),
            target: Some(SOCKET_DIRECTORY.to_owned()),
            read_only: Some(false),
            bind_options: Some(MountBindOptions {
                propagation: Some(MountBindOptionsPropagationEnum::RPRIVATE),
                ..MountBindOptions::default()
            }),
            ..Mount::default()
        });
        Ok(())
    }

    /// Whether a create failed since the engine has no such directory. It is not asked
    /// for again then.
    pub(super) fn cannot_share(&self, id: &SandboxId, failed: &bollard::errors::Error) -> bool {
        let directory = self.tickets.channel(id).display().to_string();
        let unknown = self.direct.is_on() && failed.to_string().contains(&directory);
        if unknown {
            self.direct.turn_off();
        }
        unknown
    }

    /// A connection to the agent's own socket, if there is one here.
    pub(super) async fn short_way(&self, id: &SandboxId) -> Option<UnixStream> {
        if !self.config.direct {
            return None;
        }
        connect(&self.tickets.channel(id)).await.ok()
    }

    /// The agent answered by another way. Where its socket is not here, the engine has
    /// mounted another directory.
    pub(super) fn answered_otherwise(&self, id: &SandboxId) {
        let directory = self.tickets.channel(id);
        if directory.exists() && fs::symlink_metadata(socket(&directory)).is_err() {
            self.direct.turn_off();
        }
    }
}

fn socket(directory: &Path) -> std::path::PathBuf {
    let name = SOCKET.rsplit('/').next().unwrap_or_default();
    directory.join(name)
}

/// Connects to the socket in a directory. What lies there is the sandbox's: a link to
/// another socket of the host is not followed.
async fn connect(directory: &Path) -> io::Result<UnixStream> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = rustix::fs::open(socket(directory), flags, Mode::empty())?;
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode);
    if kind != FileType::Socket {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // By its descriptor, and so short enough for an address, too.
    UnixStream::connect(format!("/proc/self/fd/{}", found.as_raw_fd())).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[tokio::test]
    async fn a_link_to_another_socket_is_not_followed() {
        let host = tempfile::tempdir().unwrap();
        let of_host = UnixListener::bind(host.path().join("docker.sock")).unwrap();
        of_host.set_nonblocking(true).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let at = socket(directory.path());
        std::os::unix::fs::symlink(host.path().join("docker.sock"), &at).unwrap();
        connect(directory.path()).await.unwrap_err();
        assert!(of_host.accept().is_err());
        fs::remove_file(&at).unwrap();
        fs::write(&at, b"").unwrap();
        connect(directory.path()).await.unwrap_err();
        fs::remove_file(&at).unwrap();
        let _listener = UnixListener::bind(&at).unwrap();
        connect(directory.path()).await.unwrap();
    }

    #[test]
    fn another_host_another_kernel_and_mapped_users_have_no_short_way() {
        let near = Facts {
            local: true,
            same_kernel: true,
            isolation: Isolation::Namespaces,
            claim: Isolation::Namespaces,
            ..Facts::default()
        };
        assert!(near.may_share_files());
        let not: [fn(&mut Facts); 7] = [
            |facts| facts.local = false,
            |facts| facts.same_kernel = false,
            |facts| facts.isolation = Isolation::UserKernel,
            |facts| facts.claim = Isolation::VirtualMachine,
            |facts| facts.user_namespace = true,
            |facts| facts.selinux = true,
            |facts| facts.one_user = true,
        ];
        for change in not {
            let mut facts = near.clone();
            change(&mut facts);
            assert!(!facts.may_share_files(), "{facts:?}");
        }
    }
}
