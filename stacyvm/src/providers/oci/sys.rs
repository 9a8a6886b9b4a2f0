//! The calls of this provider that the compiler cannot check.
#![allow(
    unsafe_code,
    reason = "tokio leaves to its caller that a descriptor stays open, and no crate wraps project quotas"
)]

use std::os::fd::{AsRawFd as _, BorrowedFd};

use rustix::io::Errno;
use rustix::ioctl::{Getter, Opcode, Setter, ioctl, opcode};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a borrowed descriptor with the runtime of the caller. Nobody is woken
/// for what is not of interest.
pub(super) fn register(
    descriptor: BorrowedFd<'_>,
    interest: Interest,
) -> std::io::Result<AsyncFd<BorrowedFd<'_>>> {
    // SAFETY: a `BorrowedFd` refers to an open descriptor, and its lifetime,
    // which the result carries, ends before that descriptor is closed.
    let registered = unsafe { AsyncFd::register_with_interest(descriptor, interest) };
    registered.map_err(std::io::Error::from)
}

/// Attributes of a file: `struct fsxattr` of `linux/fs.h`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Attributes {
    /// `FS_XFLAG_*`.
    pub(super) flags: u32,
    extent_size: u32,
    extents: u32,
    /// The project whose quota it counts towards.
    pub(super) project: u32,
    copied_extent_size: u32,
    pad: [u8; 8],
}

const GET_ATTRIBUTES: Opcode = opcode::read::<Attributes>(b'X', 31);
const SET_ATTRIBUTES: Opcode = opcode::write::<Attributes>(b'X', 32);

/// The attributes of a file that is open for reading.
pub(super) fn attributes(file: BorrowedFd<'_>) -> Result<Attributes, Errno> {
    // SAFETY: `FS_IOC_FSGETXATTR` writes one `struct fsxattr`, which any bytes are.
    unsafe { ioctl(file, Getter::<GET_ATTRIBUTES, Attributes>::new()) }
}

/// Sets the attributes of a file that is open for reading.
pub(super) fn set_attributes(file: BorrowedFd<'_>, to: Attributes) -> Result<(), Errno> {
    // SAFETY: `FS_IOC_FSSETXATTR` reads one `struct fsxattr` and keeps nothing of it.
    unsafe { ioctl(file, Setter::<SET_ATTRIBUTES, Attributes>::new(to)) }
}

/// Commands of `quotactl`, with the kind of quota, projects, in the low byte.
const GET_LIMIT: u32 = (0x80_0007 << 8) | 2;
const SET_LIMIT: u32 = (0x80_0008 << 8) | 2;
const GET_STATE: u32 = (0x5808 << 8) | 2;
/// That the limits of blocks are what is set.
const OF_BLOCKS: u32 = 1;

/// The quota of a project: `struct if_dqblk` of `linux/quota.h`. Blocks are of 1 KiB.
#[repr(C)]
#[derive(Default)]
struct Quota {
    most_blocks: u64,
    soft_blocks: u64,
    bytes: u64,
    most_files: u64,
    soft_files: u64,
    files: u64,
    times: [u64; 2],
    valid: u32,
}

/// Calls `quotactl_fd`, of Linux 5.14.
///
/// # Safety
///
/// The command writes no more than one `T`, which any bytes are.
unsafe fn quotactl<T>(
    file: BorrowedFd<'_>,
    command: u32,
    id: u32,
    data: &mut T,
) -> Result<(), Errno> {
    // SAFETY: the descriptor is open and `data` is one `T`, which is enough as
    // the caller says. The kernel keeps no pointer.
    let result = unsafe {
        libc::syscall(
            libc::SYS_quotactl_fd,
            file.as_raw_fd(),
            command,
            id,
            std::ptr::from_mut(data),
        )
    };
    if result < 0 {
        let error = std::io::Error::last_os_error();
        return Err(Errno::from_io_error(&error).unwrap_or(Errno::IO));
    }
    Ok(())
}

/// What of project quotas a file system has on: `FS_QUOTA_*` of `linux/dqblk_xfs.h`,
/// which ext4 answers too. Needs no rights.
pub(super) fn quota_state(file: BorrowedFd<'_>) -> Result<u16, Errno> {
    // More than `struct fs_quota_statv`; the version is its first byte, the flags
    // are its third and fourth.
    let mut state = [0_u16; 256];
    state[0] = u16::from_ne_bytes([1, 0]);
    // SAFETY: `Q_XGETQSTATV` of this version writes 160 bytes.
    unsafe { quotactl(file, GET_STATE, 0, &mut state) }?;
    Ok(state[1])
}

/// The most that a project may hold on a file system, in KiB; 0 is no limit.
pub(super) fn project_limit(file: BorrowedFd<'_>, project: u32) -> Result<u64, Errno> {
    let mut quota = Quota::default();
    // SAFETY: `Q_GETQUOTA` writes one `struct if_dqblk`.
    unsafe { quotactl(file, GET_LIMIT, project, &mut quota) }?;
    Ok(quota.most_blocks)
}

/// Sets [`project_limit`].
pub(super) fn set_project_limit(file: BorrowedFd<'_>, project: u32, kib: u64) -> Result<(), Errno> {
    let mut quota = Quota {
        most_blocks: kib,
        valid: OF_BLOCKS,
        ..Quota::default()
    };
    // SAFETY: `Q_SETQUOTA` reads one `struct if_dqblk` and writes nothing.
    unsafe { quotactl(file, SET_LIMIT, project, &mut quota) }
}
