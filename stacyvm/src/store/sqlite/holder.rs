//! Who is in the way when the store is busy.

use std::fs;
use std::path::Path;

use super::open;

/// What the error of a busy store says about it.
pub(super) struct Holder {
    pub(super) found: String,
    pub(super) remedy: String,
}

/// The process of this user or another that holds a lock on one of the store's
/// files, one that stands still before others. Nothing where it cannot be
/// seen: from another pid namespace, or on a system without `/proc/locks`.
pub(super) fn of(file: &Path) -> Option<Holder> {
    let files = [
        file.to_path_buf(),
        open::index_of(file),
        open::lock_of(file),
    ];
    let held: Vec<String> = files.iter().filter_map(|file| identity(file)).collect();
    // Opened and closed by path, these files would lose this process's locks.
    let locks = fs::read_to_string("/proc/locks").ok()?;
    let mut found: Vec<_> = locks
        .lines()
        .filter_map(|line| exclusive(line, &held))
        .filter(|pid| *pid != std::process::id())
        .filter_map(Process::look)
        .collect();
    found.sort_by_key(|process| !process.stands_still);
    let process = found.into_iter().next()?;
    let (pid, name) = (process.pid, process.name.escape_debug());
    Some(if process.stands_still {
        Holder {
            found: format!("process {pid} ({name}), which was stopped in the middle of a write"),
            remedy: format!(
                "let process {pid} go on (`kill -CONT {pid}`, or `fg` in its shell) or end it"
            ),
        }
    } else {
        Holder {
            found: format!("process {pid} ({name})"),
            remedy: format!("try again; look at what process {pid} does if it stays so"),
        }
    })
}

/// How `/proc/locks` names a file.
#[cfg(unix)]
fn identity(file: &Path) -> Option<String> {
    use std::os::unix::fs::MetadataExt as _;
    let meta = fs::symlink_metadata(file).ok()?;
    let (major, minor) = (rustix::fs::major(meta.dev()), rustix::fs::minor(meta.dev()));
    Some(format!("{major:02x}:{minor:02x}:{}", meta.ino()))
}

#[cfg(not(unix))]
fn identity(_: &Path) -> Option<String> {
    None
}

/// The process that a line says holds one of these files against others:
/// `4: POSIX  ADVISORY  WRITE 711 fe:00:9043972 120 120`.
fn exclusive(line: &str, files: &[String]) -> Option<u32> {
    let words: Vec<_> = line.split_whitespace().collect();
    match words[..] {
        [_, _, _, "WRITE", pid, file, ..] if files.iter().any(|f| f == file) => pid.parse().ok(),
        _ => None,
    }
}

struct Process {
    pid: u32,
    name: String,
    stands_still: bool,
}

impl Process {
    fn look(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name is in parentheses and may hold any.
        let (start, rest) = stat.rsplit_once(") ")?;
        let (_, name) = start.split_once('(')?;
        Some(Self {
            pid,
            name: name.to_owned(),
            stands_still: rest.starts_with(['T', 't']),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_who_holds_a_file_against_others() {
        let files = ["fe:00:42".to_owned()];
        let pid = |line| exclusive(line, &files);
        assert_eq!(
            pid("1: POSIX  ADVISORY  WRITE 711 fe:00:42 120 120"),
            Some(711)
        );
        assert_eq!(
            pid("2: FLOCK  ADVISORY  WRITE 712 fe:00:42 0 EOF"),
            Some(712)
        );
        assert_eq!(pid("3: POSIX  ADVISORY  READ 711 fe:00:42 124 124"), None);
        assert_eq!(pid("4: POSIX  ADVISORY  WRITE 711 fe:00:43 120 120"), None);
        // One that waits itself.
        assert_eq!(pid("4: -> FLOCK  ADVISORY  WRITE 711 fe:00:42 0 EOF"), None);
        assert_eq!(pid("4:"), None);
    }
}
