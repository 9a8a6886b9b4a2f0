//! A writable disk of a fixed size: a sparse file with a file system of its
//! own behind a loop device, which frees itself when the last mount is gone.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags};

use super::fault::{Result, Tried};
use super::mounts::{self, NODEV, NOSUID};
use super::state::State;
use super::sys;
use crate::helper_protocol::{Failed, FailedKind};

/// The file in the sandbox's directory.
const IMAGE: &str = "disk.img";
const TOOLS: [&str; 3] = ["/usr/sbin/mke2fs", "/sbin/mke2fs", "/usr/bin/mke2fs"];

fn unsupported(message: &str) -> Failed {
    Failed::new(FailedKind::Unsupported, message)
}

/// Makes the disk and gives its mount, not yet in any place, and its device's number.
pub(crate) fn make(state: &mut State, bytes: u64) -> Result<(OwnedFd, u32)> {
    let tool = TOOLS
        .into_iter()
        .find(|tool| fs::metadata(tool).is_ok())
        .ok_or_else(|| unsupported("limit the disk: this host has no mke2fs"))?;
    let control = rustix::fs::openat(
        CWD,
        "/dev/loop-control",
        OFlags::RDWR | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(|_| unsupported("limit the disk: this host lets us use no loop device"))?;
    let image = rustix::fs::openat(
        &state.directory,
        IMAGE,
        OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::RUSR | Mode::WUSR,
    )
    .tried("make the disk's file")?;
    rustix::fs::ftruncate(&image, bytes).tried("size the disk's file")?;
    let status = Command::new(tool)
        // No journal: nothing of it survives the sandbox.
        .args(["-q", "-F", "-t", "ext4", "-m", "0", "-O"])
        .arg("^has_journal,^resize_inode")
        .args(["-E", "lazy_itable_init=1,nodiscard"])
        .arg(format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            image.as_raw_fd()
        ))
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .tried("run mke2fs")?;
    if !status.success() {
        return Err(Failed::new(
            FailedKind::Internal,
            format!("mke2fs failed: {status}"),
        ));
    }
    let (device, number) = attach(state, &control, &image)?;
    let mount = mounts::make(
        "ext4",
        &[("source", &format!("/dev/loop{number}"))],
        NOSUID | NODEV,
    );
    // The mount holds the device from here on; without one it frees itself now.
    drop(device);
    Ok((mount?, number))
}

fn attach(state: &mut State, control: &OwnedFd, image: &OwnedFd) -> Result<(OwnedFd, u32)> {
    // Another program may take the free device between question and answer.
    for _ in 0..64 {
        let number = sys::loop_free(control.as_fd()).tried("ask for a loop device")?;
        let path = format!("/dev/loop{number}");
        state.record("loop", &[path.clone().into()])?;
        let device = rustix::fs::openat(CWD, path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .tried(format!("open /dev/loop{number}"))?;
        match sys::loop_configure(device.as_fd(), image.as_fd()) {
            Ok(()) => return Ok((device, number)),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
            Err(error) => return Err(error).tried(format!("set /dev/loop{number} up")),
        }
    }
    Err(unsupported(
        "limit the disk: every loop device was taken away",
    ))
}

/// Waits until a device is free of our file again; at most five seconds.
pub(crate) fn wait_free(number: u32) -> Option<String> {
    let path = format!("/sys/block/loop{number}/loop/backing_file");
    for _ in 0..1000 {
        match fs::read_to_string(&path) {
            Ok(file) if file.contains(IMAGE) => sys::pause(Duration::from_millis(5)),
            _ => return None,
        }
    }
    Some(format!("loop device {number}"))
}
