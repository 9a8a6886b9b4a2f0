//! The mark of a cgroup: which helper made it.
//!
//! A ledger can be lost with its directory. The mark is an extended attribute
//! of the cgroup itself, so that it is found without one, and only whoever may
//! write to the cgroup can set it.

use std::fmt;
use std::path::Path;

use rustix::fs::XattrFlags;

/// Its name.
const NAME: &str = "user.stacyvm.helper";
/// Its longest value: three numbers.
const LONGEST: usize = 64;

/// A process, told apart from all that have its number later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The number of its namespace of processes.
    namespace: u64,
    pid: u32,
    /// When it began, in ticks since the machine did.
    started: u64,
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.namespace, self.pid, self.started)
    }
}

impl Mark {
    /// That of this process; none where `/proc` does not tell it.
    pub fn own() -> Option<Self> {
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        Some(Self {
            namespace: own_namespace()?,
            pid: u32::try_from(pid).ok()?,
            started: started(pid.unsigned_abs())?,
        })
    }

    /// Sets it. Not every kernel can (Linux 5.7), and nothing depends on it.
    pub fn set(&self, cgroup: &Path) {
        let text = self.to_string();
        let _ = rustix::fs::setxattr(cgroup, NAME, text.as_bytes(), XattrFlags::empty());
    }

    /// That of a cgroup; none where no helper made it.
    pub fn of(cgroup: &Path) -> Option<Self> {
        let mut value = [0_u8; LONGEST];
        let length = rustix::fs::getxattr(cgroup, NAME, &mut value[..]).ok()?;
        let text = std::str::from_utf8(value.get(..length)?).ok()?;
        let mut parts = text.split(' ');
        let mark = Self {
            namespace: parts.next()?.parse().ok()?,
            pid: parts.next()?.parse().ok()?,
            started: parts.next()?.parse().ok()?,
        };
        parts.next().is_none().then_some(mark)
    }

    /// The number of the helper.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether the helper is dead. False where that cannot be told: its number
    /// is of another namespace of processes.
    pub fn is_dead(&self) -> bool {
        own_namespace() == Some(self.namespace) && started(self.pid) != Some(self.started)
    }
}

fn own_namespace() -> Option<u64> {
    Some(rustix::fs::stat("/proc/self/ns/pid").ok()?.st_ino)
}

fn started(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Behind the name, which may hold anything; the 22nd field of all.
    let rest = stat.rsplit_once(") ")?.1;
    // A zombie has no helper's work left to do.
    if rest.starts_with('Z') {
        return None;
    }
    rest.split(' ').nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_tells_a_process_from_the_next_one_of_its_number() {
        let own = Mark::own().unwrap();
        assert!(!own.is_dead());
        let started = own.started + 1;
        assert!(Mark { started, ..own }.is_dead());
        let elsewhere = Mark {
            namespace: own.namespace + 1,
            started,
            ..own
        };
        assert!(!elsewhere.is_dead(), "nobody can tell");
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(Mark::of(file.path()), None);
        own.set(file.path());
        // A file system without such attributes has no mark.
        let read = Mark::of(file.path());
        assert!(read.is_none() || read == Some(own));
    }
}
