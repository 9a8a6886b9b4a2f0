//! What processes take.

use std::path::Path;

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn field(text: &str, name: &str) -> u64 {
    text.lines()
        .find_map(|line| {
            line.strip_prefix(name)?
                .trim()
                .strip_suffix("kB")?
                .trim()
                .parse()
                .ok()
        })
        .unwrap_or(0)
}

pub(crate) fn load_average() -> String {
    read("/proc/loadavg")
        .split_whitespace()
        .take(3)
        .collect::<Vec<_>>()
        .join(" ")
}

/// Resident KiB of this process.
pub(crate) fn own_resident_kib() -> u64 {
    field(&read("/proc/self/status"), "VmRSS:")
}

/// Proportional KiB of a process.
pub(crate) fn proportional_kib(pid: u32) -> u64 {
    field(&read(format!("/proc/{pid}/smaps_rollup")), "Pss:")
}

/// The processes whose title or command line begins with this.
pub(crate) fn processes(title: &str) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| {
            let line = read(format!("/proc/{pid}/cmdline"));
            let first = line.split('\0').next().unwrap_or_default();
            first
                .rsplit('/')
                .next()
                .is_some_and(|name| name.starts_with(title))
        })
        .collect()
}

/// How many processes of this title are in this state.
pub(crate) fn in_state(state: char, title: &str) -> usize {
    let is = |pid: &&u32| {
        let stat = read(format!("/proc/{pid}/stat"));
        let rest = stat.rsplit_once(") ").map(|(_, rest)| rest.to_owned());
        rest.is_some_and(|rest| rest.starts_with(state))
    };
    processes(title).iter().filter(is).count()
}
