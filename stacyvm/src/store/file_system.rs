//! Which file systems can hold state: those of one host.

use std::path::Path;

use crate::error::{Error, ErrorKind, Result};

/// Refuses a directory on a network file system. Locks there may not hold
/// between hosts, and a store that several hosts map into memory is damaged.
///
/// # Errors
///
/// `unsupported`, naming the directory, its file system and the remedy.
pub(super) fn check(directory: &Path) -> Result<()> {
    match sys::network(directory) {
        Some(kind) => Err(refused(directory, &kind)),
        None => Ok(()),
    }
}

fn refused(directory: &Path, kind: &str) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        format!(
            "the state directory {} is on {kind}, expected a file system of this host alone: locks do not hold there",
            directory.display()
        ),
    )
    .context("field", "state_dir")
    .context("value", directory.display())
    .context("file_system", kind)
    .context("expected", "a local file system, such as ext4, xfs, btrfs, overlay or tmpfs")
    .context(
        "remedy",
        "choose a local directory with --state-dir or STACYVM_STATE_DIR",
    )
}

/// The network file systems by the number that `statfs` gives, as in
/// `linux/magic.h` and the sources of those that are not there.
#[cfg(any(target_os = "linux", test))]
const NETWORK: [(u32, &str); 16] = [
    (0x0000_6969, "NFS"),
    (0x0000_517B, "SMB"),
    (0xFF53_4D42, "CIFS"),
    (0xFE53_4D42, "SMB"),
    (0x0102_1997, "9p"),
    (0x00C3_6400, "Ceph"),
    (0x5346_414F, "AFS"),
    (0x6B41_4653, "AFS"),
    (0x7375_7245, "Coda"),
    (0x0000_564C, "NCP"),
    (0x0BD0_0BD0, "Lustre"),
    (0x0116_1970, "GFS2"),
    (0x7461_636F, "OCFS2"),
    (0x1983_0326, "BeeGFS"),
    (0x4750_4653, "GPFS"),
    (0x2003_0528, "OrangeFS"),
];

/// Servers of user space (`fuse.NAME`) that speak to other hosts.
#[cfg(any(target_os = "linux", test))]
const FUSE_NETWORK: [&str; 16] = [
    "sshfs",
    "glusterfs",
    "ceph",
    "ceph-fuse",
    "s3fs",
    "rclone",
    "gcsfuse",
    "goofys",
    "mount-s3",
    "juicefs",
    "davfs",
    "davfs2",
    "curlftpfs",
    "smbnetfs",
    "moosefs",
    "hdfs",
];

/// The number of every file system of user space.
#[cfg(any(target_os = "linux", test))]
const FUSE: u32 = 0x6573_5546;

/// The name of a network file system. `mounted` gives the type that
/// `mountinfo` has for it, where the number alone does not tell.
#[cfg(any(target_os = "linux", test))]
fn judge(number: u32, mounted: impl FnOnce() -> Option<String>) -> Option<String> {
    if number == FUSE {
        let kind = mounted()?;
        let name = kind.strip_prefix("fuse.")?;
        return FUSE_NETWORK.contains(&name).then_some(kind);
    }
    let known = NETWORK.iter().find(|(known, _)| *known == number);
    known.map(|(_, name)| (*name).to_owned())
}

#[cfg(target_os = "linux")]
mod sys {
    use std::os::unix::fs::MetadataExt as _;
    use std::path::Path;

    /// The network file system that a directory is on. What cannot be asked is
    /// judged by what fails next.
    pub(super) fn network(directory: &Path) -> Option<String> {
        let found = rustix::fs::statfs(directory).ok()?;
        // The word is wider than the number on some architectures.
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "32 bits"
        )]
        let number = found.f_type as u32;
        super::judge(number, || mounted(directory))
    }

    /// The type of the mount that a directory is on.
    fn mounted(directory: &Path) -> Option<String> {
        let device = std::fs::metadata(directory).ok()?.dev();
        let device = format!(
            "{}:{}",
            rustix::fs::major(device),
            rustix::fs::minor(device)
        );
        let mounts = std::fs::read("/proc/self/mountinfo").ok()?;
        let mut mounts = crate::mountinfo::parse(&mounts).into_iter();
        let found = mounts.find(|mount| mount.device == device)?;
        Some(found.kind)
    }
}

#[cfg(not(target_os = "linux"))]
mod sys {
    /// Only Linux tells it by a number that means the same everywhere.
    pub(super) fn network(_: &std::path::Path) -> Option<String> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // On no machine so far could NFS, SMB, 9p or Ceph be mounted: that their
    // numbers are these is taken from the kernel's sources, not seen.
    #[test]
    fn network_file_systems_are_told_by_their_numbers() {
        let none = || -> Option<String> { panic!("the number tells") };
        for (number, name) in [
            (0x6969, "NFS"),
            (0xFF53_4D42, "CIFS"),
            (0xFE53_4D42, "SMB"),
            (0x0102_1997, "9p"),
            (0x00C3_6400, "Ceph"),
        ] {
            assert_eq!(judge(number, none).as_deref(), Some(name));
        }
        // ext4, xfs, btrfs, overlay, tmpfs, ramfs, f2fs, zfs, bcachefs, ecryptfs.
        for number in [
            0xEF53,
            0x5846_5342,
            0x9123_683E,
            0x794C_7630,
            0x0102_1994,
            0x8584_58F6,
            0xF2F5_2010,
            0x2FC1_2FC1,
            0xCA45_1A4E,
            0xF15F,
        ] {
            assert_eq!(judge(number, none), None, "{number:x}");
        }
    }

    #[test]
    fn user_space_file_systems_are_told_by_their_names() {
        for (kind, refused) in [
            (Some("fuse.sshfs"), true),
            (Some("fuse.glusterfs"), true),
            (Some("fuse.mergerfs"), false),
            (Some("fuse.sshfs2"), false),
            (Some("virtiofs"), false),
            (Some("fuse"), false),
            (None, false),
        ] {
            let found = judge(FUSE, || kind.map(str::to_owned));
            assert_eq!(found.is_some(), refused, "{kind:?}");
        }
    }

    #[test]
    fn a_refusal_names_directory_file_system_and_remedy() {
        let error = refused(Path::new("/net/home/x/stacyvm"), "NFS");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        let text = error.to_string();
        assert!(text.contains("/net/home/x/stacyvm is on NFS"), "{text}");
        let remedy = error.fact("remedy").unwrap();
        assert!(remedy.contains("--state-dir") && remedy.contains("STACYVM_STATE_DIR"));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_this_host_has_is_asked() {
        // A directory of memory, of the disk of this test, and of the kernel.
        for directory in ["/dev/shm", "/proc", env!("CARGO_MANIFEST_DIR")] {
            check(Path::new(directory)).unwrap();
        }
        assert!(rustix::fs::statfs("/proc").unwrap().f_type == 0x9FA0);
    }
}
