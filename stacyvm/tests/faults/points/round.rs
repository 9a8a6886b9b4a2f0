//! One round: a host process, its end at a point, and what the next start finds.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use stacyvm::engine::{Engine, Filter};
use stacyvm::sandbox::spec::Lifetime;
use stacyvm::sandbox::state::Phase;
use stacyvm::{Sandbox, SandboxSpec, faults};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};

use super::super::common::residue::Watch;
use super::super::common::{eventually, soon};
use super::super::{open, signal, works};
use super::decoys::Decoys;
use super::host::{DEED, OUTCOME, POINT, STATE};

/// Who is ended, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    /// The host, which kills itself at the point.
    Host,
    /// The helper, which stops at the point and is killed there.
    Helper,
    /// The first process inside, in the same way.
    Agent,
    /// Nobody: the process of the point stops there while the disk is filled.
    Disk,
}

/// A state directory, another engine beside it, and the decoys.
pub(super) struct Scene {
    _place: tempfile::TempDir,
    state: PathBuf,
    /// What fills the disk, where the state directory has one of its own.
    filler: Option<PathBuf>,
    watch: Watch,
    /// Files of ranges of users that nobody held at the beginning.
    ranges: BTreeSet<String>,
    decoys: Decoys,
    _other: Engine,
    neighbours: Vec<Sandbox>,
    /// A command of a neighbour that goes on all the time.
    ticking: stacyvm::ExecId,
}

impl Scene {
    pub(super) async fn set(with_small_disk: bool) -> Self {
        let place = tempfile::tempdir().unwrap();
        let mut state = place.path().join("state");
        let mut filler = None;
        if with_small_disk {
            let disk = place.path().join("disk");
            std::fs::create_dir(&disk).unwrap();
            let options = "mode=0700,size=8m";
            let mut mount = Command::new("mount");
            mount
                .args(["-t", "tmpfs", "-o", options, "none"])
                .arg(&disk);
            assert!(mount.status().await.unwrap().success());
            state = disk.join("state");
            filler = Some(disk.join("filler"));
        }
        // It makes what the decoys hide among.
        drop(open(&state).await);
        let decoys = Decoys::around(place.path(), &state);
        assert!(decoys.count() >= 20, "only {} decoys", decoys.count());
        let other = open(&place.path().join("other")).await;
        let mut neighbours = Vec::new();
        for lifetime in [Lifetime::Attached, Lifetime::Detached] {
            // A test that fails leaves the detached one until then.
            let ttl = Duration::from_mins(20);
            let spec = SandboxSpec::host().lifetime(lifetime).ttl(ttl);
            neighbours.push(other.create(spec).await.unwrap());
        }
        let ticking = neighbours[0].shell("while sleep 1; do echo tick; done");
        let ticking = ticking.background().start().await.unwrap();
        let ticking = ticking.detach().unwrap();
        Self {
            watch: Watch::begin(&state),
            ranges: free_ranges(),
            state,
            filler,
            decoys,
            _other: other,
            neighbours,
            ticking,
            _place: place,
        }
    }

    /// Has a host do the deed and ends `who` at the point; how the deed went
    /// where its host lived on.
    async fn act(&self, deed: &str, point: &str, who: Who) -> String {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["points::host::entry", "--exact", "--nocapture"])
            .env(STATE, &self.state)
            .env(DEED, deed)
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        let inside = point.starts_with("helper.") || point.starts_with("agent.");
        let variable = if inside { faults::VARIABLE } else { POINT };
        let how = match who {
            Who::Helper | Who::Disk => "=stop",
            Who::Host | Who::Agent => "",
        };
        command.env(variable, format!("{point}{how}"));
        let mut host = command.spawn().unwrap();
        let pid = host.id().unwrap();
        match who {
            Who::Host => {
                let said = outcome(&mut host).await;
                let status = host.wait().await.unwrap();
                let killed = std::os::unix::process::ExitStatusExt::signal(&status);
                assert_eq!(killed, Some(9), "{deed}: it never was at {point}: {said:?}");
                return String::new();
            }
            Who::Helper => {
                let look = || stopped_child(pid);
                signal(found(point, look).await, Signal::KILL);
                return killed_again(&mut host, look).await;
            }
            Who::Agent => {
                let look = || held_grandchild(pid);
                signal(found(point, look).await, Signal::KILL);
                return killed_again(&mut host, look).await;
            }
            Who::Disk => {
                let stopped = found(point, || {
                    if inside {
                        stopped_child(pid)
                    } else {
                        Some(pid).filter(|pid| state_of(*pid) == Some('T'))
                    }
                });
                let stopped = stopped.await;
                super::super::disk::fill(self.filler.as_ref().unwrap(), 0);
                signal(stopped, Signal::CONT);
            }
        }
        let said = outcome(&mut host).await;
        std::fs::remove_file(self.filler.as_ref().unwrap()).unwrap();
        said.expect("the host ended without a word")
    }

    /// A round; how many sandboxes the next start found, and what is wrong.
    pub(super) async fn round(&self, deed: &str, point: &str, who: Who) -> (usize, Vec<String>) {
        let at = format!("{deed}: {who:?} at {point}");
        let said = soon(self.act(deed, point, who)).await;
        let mut wrong = Vec::new();
        if who == Who::Disk && !["done", "no_space"].contains(&said.as_str()) {
            wrong.push(format!("{at}: a full disk was told as {said}"));
        }
        let engine = open(&self.state).await;
        // Somebody may not have heard yet that another one is gone.
        let mut found = Vec::new();
        eventually(&format!("what was half done is done: {at}"), async || {
            let done = engine.reconcile().await.unwrap();
            assert!(done.postponed.is_empty(), "{at}: {done:?}");
            found = engine.list(Filter::default()).await.unwrap();
            let others = self.watch.directories();
            found.iter().all(|s| s.phase == Phase::Running) && others == found.len()
        })
        .await;
        let count = found.len();
        if count > 1 {
            wrong.push(format!("{at}: {count} sandboxes"));
        }
        for info in found {
            let sandbox = engine.get(info.id).await.unwrap();
            works(&sandbox).await;
            sandbox.kill().await.unwrap();
        }
        drop(engine);
        for what in self.watch.left_for_ten_seconds().await {
            wrong.push(format!("{at}: left: {what}"));
        }
        for what in self.decoys.touched() {
            wrong.push(format!("{at}: touched: {what}"));
        }
        for neighbour in &self.neighbours {
            works(neighbour).await;
        }
        (count, wrong)
    }

    /// Waits until no range of users is left of those that came since and that
    /// nobody holds. Any engine of the machine takes such ones away.
    async fn no_range_left(&self) {
        let mut left = free_ranges();
        left.retain(|name| !self.ranges.contains(name));
        eventually(&format!("no range is left: {left:?}"), async || {
            open(&self.state).await.reconcile().await.unwrap();
            left.retain(|name| free_ranges().contains(name));
            left.is_empty()
        })
        .await;
    }

    /// Ends the neighbours, who must have lived all the time.
    pub(super) async fn close(self) {
        self.no_range_left().await;
        let execs = self.neighbours[0].execs().await.unwrap();
        let ticks = execs
            .iter()
            .any(|e| e.exec == self.ticking && e.exited.is_none());
        assert!(ticks, "a neighbour's command ended: {execs:?}");
        for neighbour in &self.neighbours {
            neighbour.kill().await.unwrap();
        }
        if let Some(filler) = &self.filler {
            let disk = filler.parent().unwrap();
            let mut umount = Command::new("umount");
            let _ = umount.arg("--lazy").arg(disk).status().await;
        }
    }
}

/// What a host says in the end; `None` where it dies before.
async fn outcome(host: &mut Child) -> Option<String> {
    let stdout: ChildStdout = host.stdout.take().unwrap();
    let mut lines = BufReader::new(stdout).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if let Some((_, said)) = line.split_once(OUTCOME) {
            return Some(said.to_owned());
        }
    }
    None
}

/// What a host says in the end whose creates, which it repeats, are killed at
/// the same point each.
async fn killed_again(host: &mut Child, look: impl Fn() -> Option<u32>) -> String {
    let said = outcome(host);
    tokio::pin!(said);
    loop {
        tokio::select! {
            said = &mut said => return said.expect("the host ended without a word"),
            () = tokio::time::sleep(Duration::from_millis(10)) => {}
        }
        if let Some(pid) = look() {
            // The one that was killed is seen until it is taken away.
            let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
            let killed = rustix::process::kill_process(pid, Signal::KILL);
            assert!(matches!(killed, Ok(()) | Err(rustix::io::Errno::SRCH)));
        }
    }
}

/// Waits until a process is at a point.
async fn found(point: &str, look: impl Fn() -> Option<u32>) -> u32 {
    let mut seen = None;
    eventually(&format!("a process is at {point}"), async || {
        seen = look();
        seen.is_some()
    })
    .await;
    seen.unwrap()
}

/// The files of ranges of users whose lock nobody holds.
fn free_ranges() -> BTreeSet<String> {
    let entries = std::fs::read_dir("/run/stacyvm").into_iter().flatten();
    let free = entries.flatten().filter(|entry| {
        let file = std::fs::File::open(entry.path());
        file.is_ok_and(|file| file.try_lock_shared().is_ok())
    });
    let names = free.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| !name.contains("decoy")).collect()
}

fn state_of(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.chars().next()
}

fn title_of(pid: u32) -> String {
    let title = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    title.trim().to_owned()
}

/// The children of all threads of a process.
fn children(pid: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"));
    let lists = tasks.into_iter().flatten().flatten();
    lists
        .filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|list| {
            let pids = list.split_whitespace().map(|pid| pid.parse().unwrap());
            pids.collect::<Vec<u32>>()
        })
        .collect()
}

fn stopped_child(host: u32) -> Option<u32> {
    let stopped = |pid: &u32| state_of(*pid) == Some('T');
    children(host).into_iter().find(stopped)
}

fn held_grandchild(host: u32) -> Option<u32> {
    let below = children(host).into_iter().flat_map(children);
    below.into_iter().find(|pid| title_of(*pid) == faults::HELD)
}

/// What was found at each point.
#[derive(Default)]
pub(super) struct Table {
    rows: BTreeMap<(String, String), Row>,
    pub(super) wrong: Vec<String>,
}

#[derive(Default)]
struct Row {
    rounds: usize,
    /// How often the next start found no sandbox, and one.
    found: [usize; 2],
    wrong: usize,
}

impl Table {
    pub(super) fn note(&mut self, deed: &str, point: &str, (count, wrong): (usize, Vec<String>)) {
        let row = self.rows.entry((deed.to_owned(), point.to_owned()));
        let row = row.or_default();
        row.rounds += 1;
        row.found[count.min(1)] += 1;
        row.wrong += wrong.len();
        self.wrong.extend(wrong);
    }

    pub(super) fn print(&self, title: &str) {
        println!("{title:<34} {:<16} rounds  found 0  found 1  wrong", "deed");
        for ((deed, point), row) in &self.rows {
            let [none, one] = row.found;
            println!(
                "  {point:<32} {deed:<16} {:>6} {none:>8} {one:>8} {:>6}",
                row.rounds, row.wrong
            );
        }
        let rounds: usize = self.rows.values().map(|row| row.rounds).sum();
        println!(
            "{title}: {} points, {rounds} rounds, {} wrong",
            self.rows.len(),
            self.wrong.len()
        );
    }
}
