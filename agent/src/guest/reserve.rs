//! Memory that is kept for a moment in which the sandbox has none left. What
//! fills it may be files in memory, which no end of a process gives back; a
//! worker that removes them then needs room for itself.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::sys::Kept;

/// Bytes that one worker needs, several times over.
const ROOM: u64 = 1024 * 1024;
/// With less than this much memory nothing is kept: it is the commands'.
const LEAST: u64 = 16 * ROOM;
/// Free memory below which nothing is taken back.
const PLENTY: u64 = 4 * ROOM;

/// Where a cgroup tells its limit and its use, in versions 2 and 1.
const PLACES: [[&str; 2]; 2] = [
    ["memory.max", "memory.current"],
    [
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
    ],
];

/// Given back before a worker starts in a full sandbox, and taken again when
/// there is plenty.
#[derive(Debug)]
pub(super) struct Reserve {
    limit: u64,
    usage: File,
    kept: Kept,
    holds: bool,
}

impl Reserve {
    /// None where the cgroups below `root` tell no limit, or a small one.
    pub(super) fn of(root: &Path) -> Option<Self> {
        let (limit, usage) = PLACES.iter().find_map(|[limit, usage]| {
            let limit = std::fs::read_to_string(root.join(limit)).ok()?;
            Some((
                limit.trim().parse().ok()?,
                File::open(root.join(usage)).ok()?,
            ))
        })?;
        // No limit is a number near the largest one in version 1.
        if !(LEAST..1 << 60).contains(&limit) {
            return None;
        }
        let mut reserve = Self {
            limit,
            usage,
            kept: Kept::new(usize::try_from(ROOM).ok()?).ok()?,
            holds: false,
        };
        reserve.adjust();
        Some(reserve)
    }

    /// To be called before a process is made that must not fail for want of memory.
    pub(super) fn adjust(&mut self) {
        let mut text = [0; 24];
        let read = self.usage.read_at(&mut text, 0).unwrap_or(0);
        let Some(usage) = number(&text[..read]) else {
            return;
        };
        let free = self.limit.saturating_sub(usage);
        if self.holds && free < ROOM {
            self.kept.give_back();
            self.holds = false;
        } else if !self.holds && free >= PLENTY {
            self.kept.fill();
            self.holds = true;
        }
    }
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cgroup(limit: &str, usage: u64) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("memory.max"), limit).unwrap();
        set(&dir, usage);
        dir
    }

    fn set(dir: &tempfile::TempDir, usage: u64) {
        std::fs::write(dir.path().join("memory.current"), format!("{usage}\n")).unwrap();
    }

    #[test]
    fn it_is_given_back_when_memory_is_full_and_taken_when_there_is_plenty() {
        let dir = cgroup("67108864\n", 0);
        let mut reserve = Reserve::of(dir.path()).unwrap();
        let mut holds_at = |free: u64| {
            set(&dir, (64 << 20) - free);
            reserve.adjust();
            reserve.holds
        };
        assert!(holds_at(64 << 20));
        assert!(holds_at(ROOM), "it was given up too early");
        assert!(!holds_at(ROOM - 1), "it was kept from a worker");
        assert!(!holds_at(PLENTY - 1), "it was taken from commands");
        assert!(holds_at(PLENTY));
    }

    #[test]
    fn without_a_limit_or_with_a_small_one_nothing_is_kept() {
        for limit in ["max\n", "9223372036854771712\n", "8388608\n", ""] {
            assert!(Reserve::of(cgroup(limit, 0).path()).is_none(), "{limit}");
        }
        assert!(Reserve::of(Path::new("/nonexistent")).is_none());
    }

    #[test]
    fn version_1_is_read_too() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("memory")).unwrap();
        for (name, text) in [("limit", "67108864\n"), ("usage", "4096\n")] {
            let name = format!("memory/memory.{name}_in_bytes");
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        assert!(Reserve::of(dir.path()).unwrap().holds);
    }
}
