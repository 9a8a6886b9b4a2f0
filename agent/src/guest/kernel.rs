//! Which kernel this is: what tells a kernel of the sandbox's own from the host's.

use std::io::Read as _;

use crate::protocol::message::Kernel;

/// Bytes of one file that are told.
const MOST: u64 = 512;
/// A file that gVisor's kernel alone has.
const OF_GVISOR: &str = "/proc/sentry-meminfo";

/// Reads what the kernel says of itself. These files are the kernel's, whatever
/// the image holds; no namespace of a container changes what they say.
pub(super) fn seen() -> Kernel {
    Kernel {
        version: line("/proc/version"),
        boot_id: line("/proc/sys/kernel/random/boot_id"),
        gvisor: is_gvisor(),
    }
}

pub(super) fn is_gvisor() -> bool {
    std::fs::symlink_metadata(OF_GVISOR).is_ok()
}

/// The first line of a file; none of it where it cannot be read.
fn line(path: &str) -> String {
    let mut bytes = Vec::new();
    if let Ok(file) = std::fs::File::open(path) {
        let _ = file.take(MOST).read_to_end(&mut bytes);
    }
    let text = String::from_utf8_lossy(&bytes);
    text.lines().next().unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_tells_its_version_and_its_boot() {
        let kernel = seen();
        assert!(kernel.version.starts_with("Linux version "), "{kernel:?}");
        assert_eq!(kernel.boot_id.len(), 36, "{kernel:?}");
        assert_eq!(kernel.boot_id, seen().boot_id);
        assert_eq!(line("/proc/absent"), "");
    }
}
