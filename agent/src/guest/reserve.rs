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

/// Where a cgroup tells its limit, its use and what that is made of, in versions 2 and 1.
const PLACES: [[&str; 3]; 2] = [
    ["memory.max", "memory.current", "memory.stat"],
    [
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        "memory/memory.stat",
    ],
];
/// What the kernel keeps of files for speed, and gives up where memory is short.
const CACHE: [&str; 2] = ["inactive_file", "active_file"];
/// More than there is to read of what the use is made of.
const STAT: usize = 4096;

/// Given back before a worker starts in a full sandbox, and taken again when
/// there is plenty.
#[derive(Debug)]
pub(super) struct Reserve {
    limit: u64,
    usage: File,
    stat: File,
    kept: Kept,
    holds: bool,
}

impl Reserve {
    /// None where the cgroups below `root` tell no limit, or a small one.
    pub(super) fn of(root: &Path) -> Option<Self> {
        let (limit, usage, stat) = PLACES.iter().find_map(|[limit, usage, stat]| {
            let limit = std::fs::read_to_string(root.join(limit)).ok()?;
            let open = |name: &str| File::open(root.join(name)).ok();
            Some((limit.trim().parse().ok()?, open(usage)?, open(stat)?))
        })?;
        // No limit is a number near the largest one in version 1.
        if !(LEAST..1 << 60).contains(&limit) {
            return None;
        }
        let mut reserve = Self {
            limit,
            usage,
            stat,
            kept: Kept::new(usize::try_from(ROOM).ok()?).ok()?,
            holds: false,
        };
        reserve.adjust();
        Some(reserve)
    }

    /// To be called before a process is made that must not fail for want of memory.
    pub(super) fn adjust(&mut self) {
        let Some(free) = self.free() else { return };
        if self.holds && free < ROOM {
            self.kept.give_back();
            self.holds = false;
        } else if !self.holds && free >= PLENTY {
            self.kept.fill();
            self.holds = true;
        }
    }

    /// Whether there is memory for what can be done without.
    pub(super) fn has_plenty(&self) -> bool {
        self.has(PLENTY)
    }

    /// Whether there is memory for a command beside what is kept.
    pub(super) fn has_room(&self) -> bool {
        self.has(ROOM)
    }

    fn has(&self, bytes: u64) -> bool {
        self.free()
            .is_none_or(|free| free >= bytes || free.saturating_add(self.cache()) >= bytes)
    }

    fn free(&self) -> Option<u64> {
        let mut text = [0; 24];
        let read = self.usage.read_at(&mut text, 0).unwrap_or(0);
        number(&text[..read]).map(|usage| self.limit.saturating_sub(usage))
    }

    fn cache(&self) -> u64 {
        let mut text = [0; STAT];
        let read = self.stat.read_at(&mut text, 0).unwrap_or(0);
        let lines = text[..read].split(|byte| *byte == b'\n');
        let values = lines.filter_map(|line| {
            let (name, value) = std::str::from_utf8(line).ok()?.split_once(' ')?;
            CACHE
                .contains(&name)
                .then(|| value.parse::<u64>().ok())
                .flatten()
        });
        values.fold(0, u64::saturating_add)
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
        std::fs::write(dir.path().join("memory.stat"), "anon 9\nfile 9\n").unwrap();
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
    fn what_the_kernel_gives_up_is_room_and_other_files_are_none() {
        let dir = cgroup("67108864\n", 0);
        let reserve = Reserve::of(dir.path()).unwrap();
        let has = |free: u64, stat: String| {
            set(&dir, (64 << 20) - free);
            std::fs::write(dir.path().join("memory.stat"), stat).unwrap();
            (reserve.has_room(), reserve.has_plenty())
        };
        let files = |bytes: u64| format!("file {}\nshmem {}\n", 64 << 20, bytes);
        assert_eq!(has(PLENTY, files(0)), (true, true));
        assert_eq!(has(ROOM, files(PLENTY)), (true, false));
        assert_eq!(has(ROOM - 1, files(PLENTY)), (false, false));
        let cache = |one: u64, other: u64| format!("inactive_file {one}\nactive_file {other}\n");
        assert_eq!(has(0, cache(ROOM / 2, ROOM / 2)), (true, false));
        assert_eq!(has(0, cache(0, ROOM - 1)), (false, false));
        assert_eq!(has(PLENTY / 2, cache(PLENTY / 4, PLENTY / 4)), (true, true));
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
        std::fs::write(dir.path().join("memory/memory.stat"), "rss 4096\n").unwrap();
        assert!(Reserve::of(dir.path()).unwrap().holds);
    }
}
