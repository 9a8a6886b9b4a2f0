//! What `/proc` says about the processes of the sandbox.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read as _;
use std::time::{Duration, Instant};

use minicbor::bytes::ByteVec;

use crate::protocol::message::{Process, UsageReport};

/// Bytes of an argument vector that are reported.
const MAX_ARGV: u64 = 4096;
/// Processes in one report, so that it fits a frame.
const MAX_LISTED: usize = 2048;
/// Bytes of all argument vectors in one report.
const MAX_LISTED_BYTES: usize = 512 * 1024;

/// How long a report reads argument vectors. The kernel makes a reader wait
/// while a process forks, and a crowd of those that do would hold it up.
const ARGV_PATIENCE: Duration = Duration::from_millis(500);

/// One line of `/proc/PID/stat`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) pid: i32,
    pub(super) parent: i32,
    pub(super) group: i32,
    pub(super) state: u8,
    pub(super) name: Vec<u8>,
    threads: u64,
    ticks: u64,
    ticks_of_children: u64,
    resident_pages: u64,
}

impl Stat {
    /// Of a process whose first thread has ended, others may run.
    fn lives(&self) -> bool {
        self.threads > 1 || (self.state != b'Z' && self.state != b'X')
    }
}

fn parse(line: &[u8]) -> Option<Stat> {
    // The name stands in brackets and may hold anything, brackets included.
    let open = line.iter().position(|byte| *byte == b'(')?;
    let close = line.iter().rposition(|byte| *byte == b')')?;
    let text = |bytes: &[u8]| std::str::from_utf8(bytes).ok().map(str::to_owned);
    let rest = text(line.get(close + 1..)?)?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<i64>().ok();
    let count = |at: usize| u64::try_from(number(at)?).ok();
    Some(Stat {
        pid: text(&line[..open])?.trim().parse().ok()?,
        parent: i32::try_from(number(1)?).ok()?,
        group: i32::try_from(number(2)?).ok()?,
        state: *fields.first()?.as_bytes().first()?,
        name: line.get(open + 1..close)?.to_vec(),
        threads: count(17)?,
        ticks: count(11)? + count(12)?,
        ticks_of_children: count(13)? + count(14)?,
        resident_pages: count(21).unwrap_or(0),
    })
}

fn stat(pid: i32) -> Option<Stat> {
    parse(&fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// Every process that can be seen.
pub(super) fn scan() -> Vec<Stat> {
    let mut found: Vec<Stat> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let name = entry.ok()?.file_name();
            stat(name.to_str()?.parse().ok()?)
        })
        .collect();
    found.sort_unstable_by_key(|stat| stat.pid);
    found
}

/// Those that live and descend from `ancestor`: by the kernel's lists of children, so that
/// it takes no longer where others have many, else by a look at all. What forks or dies
/// meanwhile may be missing.
pub(super) fn living_below(ancestor: i32) -> Vec<Stat> {
    let found = listed_below(ancestor);
    if found.is_empty() {
        // Not every kernel has the lists.
        let all = scan();
        return descendants(&all, ancestor).into_iter().cloned().collect();
    }
    found
}

fn listed_below(ancestor: i32) -> Vec<Stat> {
    let mut found = Vec::new();
    let mut seen = BTreeSet::from([ancestor]);
    let mut next = vec![ancestor];
    while let Some(parent) = next.pop() {
        for child in children(parent) {
            // One whose parent died is the ancestor's child; another's has its number.
            let stat = stat(child).filter(|stat| [parent, ancestor].contains(&stat.parent));
            if let Some(stat) = stat
                && seen.insert(child)
            {
                next.push(child);
                if stat.lives() {
                    found.push(stat);
                }
            }
        }
    }
    found
}

/// The children of a process, of each of its threads.
fn children(parent: i32) -> Vec<i32> {
    let threads = fs::read_dir(format!("/proc/{parent}/task"));
    let lists = threads.into_iter().flatten().flatten();
    let lists = lists.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let mut found = Vec::new();
    for list in lists {
        found.extend(
            list.split_ascii_whitespace()
                .filter_map(|pid| pid.parse::<i32>().ok()),
        );
    }
    found
}

/// Those of `all` that live and descend from `ancestor`.
pub(super) fn descendants(all: &[Stat], ancestor: i32) -> Vec<&Stat> {
    let mut children: BTreeMap<i32, Vec<&Stat>> = BTreeMap::new();
    for stat in all {
        children.entry(stat.parent).or_default().push(stat);
    }
    let mut found = Vec::new();
    let mut seen = BTreeSet::from([ancestor]);
    let mut next = vec![ancestor];
    while let Some(pid) = next.pop() {
        for child in children.get(&pid).into_iter().flatten() {
            if seen.insert(child.pid) {
                next.push(child.pid);
                if child.lives() {
                    found.push(*child);
                }
            }
        }
    }
    found
}

/// What stands for an argument vector that cannot be had.
fn by_name(stat: &Stat) -> Vec<ByteVec> {
    vec![ByteVec::from([b"[", stat.name.as_slice(), b"]"].concat())]
}

fn argv(stat: &Stat) -> Vec<ByteVec> {
    let mut bytes = Vec::new();
    if let Ok(file) = fs::File::open(format!("/proc/{}/cmdline", stat.pid)) {
        let _ = file.take(MAX_ARGV).read_to_end(&mut bytes);
    }
    if bytes.last() == Some(&0) {
        bytes.pop();
    }
    if bytes.is_empty() {
        return by_name(stat);
    }
    bytes
        .split(|byte| *byte == 0)
        .map(|part| ByteVec::from(part.to_vec()))
        .collect()
}

/// The processes for a report: all below `agent` but its own, which are
/// `supervisors` (each with the id of its command) and `workers`.
fn guests(
    all: &[Stat],
    agent: i32,
    supervisors: &BTreeMap<i32, String>,
    workers: &BTreeSet<i32>,
) -> Vec<(Stat, Option<String>)> {
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let mut owner: BTreeMap<i32, &String> = BTreeMap::new();
    for (supervisor, exec) in supervisors {
        for stat in descendants(all, *supervisor) {
            owner.insert(stat.pid, exec);
        }
    }
    let below: BTreeSet<i32> = descendants(all, agent)
        .iter()
        .map(|stat| stat.pid)
        .collect();
    all.iter()
        .filter(|stat| stat.pid != agent && stat.pid != own)
        .filter(|stat| !supervisors.contains_key(&stat.pid) && !workers.contains(&stat.pid))
        // The child of a supervisor that waits is no command yet.
        .filter(|stat| !workers.contains(&stat.parent))
        // As PID 1 everything is the sandbox's, joined processes included.
        .filter(|stat| agent == 1 || below.contains(&stat.pid))
        .map(|stat| {
            (
                stat.clone(),
                owner.get(&stat.pid).map(|exec| (*exec).clone()),
            )
        })
        .collect()
}

fn micros(ticks: u64) -> u64 {
    let each = rustix::param::clock_ticks_per_second().max(1);
    ticks.saturating_mul(1_000_000) / each
}

fn bytes(pages: u64) -> u64 {
    pages.saturating_mul(rustix::param::page_size() as u64)
}

/// The processes of the sandbox.
pub(super) fn list(
    agent: i32,
    supervisors: &BTreeMap<i32, String>,
    workers: &BTreeSet<i32>,
) -> Vec<Process> {
    use std::os::unix::fs::MetadataExt as _;
    let mut size = 0;
    let by = Instant::now() + ARGV_PATIENCE;
    guests(&scan(), agent, supervisors, workers)
        .into_iter()
        .take(MAX_LISTED)
        .map(|(stat, exec)| {
            let mut argv = if Instant::now() < by {
                argv(&stat)
            } else {
                by_name(&stat)
            };
            size += argv.iter().map(|part| part.len() + 4).sum::<usize>();
            if size > MAX_LISTED_BYTES {
                argv = by_name(&stat);
            }
            Process {
                pid: stat.pid.unsigned_abs(),
                parent: stat.parent.unsigned_abs(),
                uid: fs::metadata(format!("/proc/{}", stat.pid)).map_or(0, |meta| meta.uid()),
                state: char::from(stat.state).to_string(),
                argv,
                resident_bytes: bytes(stat.resident_pages),
                cpu_us: micros(stat.ticks),
                exec,
            }
        })
        .collect()
}

/// What the sandbox uses.
pub(super) fn usage(
    agent: i32,
    supervisors: &BTreeMap<i32, String>,
    workers: &BTreeSet<i32>,
) -> UsageReport {
    let all = scan();
    let guests = guests(&all, agent, supervisors, workers);
    let own: u64 = all
        .iter()
        .filter(|stat| stat.pid == agent || supervisors.contains_key(&stat.pid))
        .map(|stat| stat.ticks_of_children)
        .sum();
    let mut report = UsageReport {
        processes: u32::try_from(guests.len()).unwrap_or(u32::MAX),
        resident_bytes: guests
            .iter()
            .map(|(stat, _)| bytes(stat.resident_pages))
            .sum(),
        cpu_us: micros(
            own + guests
                .iter()
                .map(|(stat, _)| stat.ticks + stat.ticks_of_children)
                .sum::<u64>(),
        ),
        ..UsageReport::default()
    };
    if let Ok(disk) = rustix::fs::statvfs("/") {
        report.disk_total_bytes = disk.f_blocks.saturating_mul(disk.f_frsize);
        report.disk_used_bytes = disk
            .f_blocks
            .saturating_sub(disk.f_bfree)
            .saturating_mul(disk.f_frsize);
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_and_spaces_does_not_shift_the_fields() {
        let line = b"7 (a) R (b) S 3 7 7 0 -1 4194560 1 2 3 4 10 20 30 40 20 0 1 0 5 100 9 1\n";
        let stat = parse(line).expect("it parses");
        assert_eq!((stat.pid, stat.parent, stat.group), (7, 3, 7));
        assert_eq!(stat.name, b"a) R (b");
        assert_eq!(stat.threads, 1);
        assert_eq!((stat.ticks, stat.ticks_of_children), (30, 70));
        assert_eq!(stat.resident_pages, 9);
    }

    #[test]
    fn descendants_are_found_through_zombies_and_loops_end() {
        let stat = |pid, parent, state| Stat {
            pid,
            parent,
            group: pid,
            state,
            name: Vec::new(),
            threads: 1,
            ticks: 0,
            ticks_of_children: 0,
            resident_pages: 0,
        };
        let all = [
            stat(2, 1, b'S'),
            stat(3, 2, b'Z'),
            stat(4, 3, b'R'),
            stat(9, 1, b'R'),
            stat(2, 4, b'R'),
        ];
        let pids: Vec<i32> = descendants(&all, 2).iter().map(|stat| stat.pid).collect();
        assert_eq!(pids, [4]);
    }

    #[test]
    fn the_kernels_lists_of_children_say_what_a_look_at_all_says() {
        let line = "sleep 60 & (sleep 60 & sleep 60 & wait) & echo; wait";
        let mut child = std::process::Command::new("sh")
            .args(["-c", line])
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let own = i32::try_from(child.id()).unwrap();
        let pids = |mut all: Vec<Stat>| {
            all.sort_unstable_by_key(|stat| stat.pid);
            all.into_iter().map(|stat| stat.pid).collect::<Vec<_>>()
        };
        let mut listed = Vec::new();
        // Its shell, and three that sleep.
        while listed.len() < 4 {
            listed = pids(listed_below(own));
        }
        let all = scan();
        let looked = pids(descendants(&all, own).into_iter().cloned().collect());
        for pid in &looked {
            let _ = crate::guest::sys::kill(*pid, libc::SIGKILL);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(listed, looked);
    }
}
