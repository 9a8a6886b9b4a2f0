//! Several processes, and processes that die. A child is this test program again: its
//! role and its place come by its arguments.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};
use std::sync::Arc;

use stacyvm::id::InstanceId;
use stacyvm::sandbox::state::Phase;
use stacyvm::store::{
    JournalStep, OwnerLock, ResourceState, SandboxFilter, SandboxUpdate, StateDir,
};
use stacyvm::{Result, SandboxId, SandboxSpec};

use super::common::{Any, cx, made, record, resource, to};
use super::{StoreFixture, StoreHarness, differ, holds, same};
use crate::case::{Checked, Failure};

const WRITES: usize = 200;

/// The first argument of a child; its role and its place follow.
const CHILD: &str = "--as-child-of-a-case";

/// What this process should do as a child, and where; none where it is the front end.
pub(super) fn role() -> Option<(String, PathBuf)> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next()? != CHILD {
        return None;
    }
    let role = arguments.next()?.into_string().ok()?;
    Some((role, arguments.next()?.into()))
}

/// The work of a child.
pub(super) fn child(harness: &Arc<dyn StoreHarness>, role: &str, place: &Path) -> ExitCode {
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return ended(&error.to_string()),
    };
    let worked = runtime.block_on(async {
        match role {
            "write" => write(harness, place, WRITES).await,
            "write_on" => write(harness, place, usize::MAX).await,
            "own" => own(place).await,
            other => Err(Failure::broken(format!("there is no role {other}"))),
        }
    });
    match worked {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => ended(&failure.to_string()),
    }
}

#[expect(clippy::print_stderr, reason = "a child tells its parent's user")]
fn ended(why: &str) -> ExitCode {
    eprintln!("error: {why}");
    ExitCode::FAILURE
}

/// Tells the parent, and ends with it.
fn tell(words: &str) -> Checked {
    let mut out = std::io::stdout().lock();
    let told = writeln!(out, "told {words}").and_then(|()| out.flush());
    told.map_err(|error| Failure::broken(format!("nobody listens: {error}")))
}

/// Creates as an engine does, and tells each id once it was acknowledged.
async fn write(harness: &Arc<dyn StoreHarness>, place: &Path, times: usize) -> Checked {
    let store = harness.open(place).await?;
    for _ in 0..times {
        let begun = made(&store, &record(&*store, &cx())).await?;
        let id = begun.id;
        tell(&format!("begun {id}"))?;
        let held = resource("cgroup", &format!("stacyvm/{id}"), ResourceState::Made);
        let update = SandboxUpdate {
            step: Some((JournalStep::Created, String::new())),
            resources: vec![held],
            ..to(Phase::Running, 2_000)
        };
        store.update_sandbox(&cx(), &id, 1, &update).await?;
        tell(&format!("made {id}"))?;
    }
    Ok(())
}

async fn own(place: &Path) -> Checked {
    let state = StateDir::open(place)?;
    let lock = OwnerLock::acquire(&state, &InstanceId::random())?;
    tell(lock.name())?;
    std::future::pending().await
}

/// A child that does not outlive its case, however that ends.
struct Running {
    process: Child,
    out: BufReader<ChildStdout>,
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

impl Running {
    fn start(role: &str, place: &Path) -> Checked<Self> {
        let failed = |error| Failure::NotRun(format!("no child could be started: {error}"));
        let program = std::env::current_exe().map_err(failed)?;
        let mut command = Command::new(program);
        command.args([CHILD, role]).arg(place);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = command.spawn().map_err(failed)?;
        let out = process.stdout.take();
        let out = out.ok_or_else(|| Failure::broken("the child has no output"))?;
        let out = BufReader::new(out);
        Ok(Self { process, out })
    }

    /// The next words that it tells.
    fn next(&mut self) -> Checked<String> {
        let mut line = String::new();
        let read = self.out.read_line(&mut line);
        match line
            .strip_prefix("told ")
            .and_then(|l| l.strip_suffix('\n'))
        {
            Some(words) => Ok(words.to_owned()),
            None => Err(Failure::broken(format!(
                "the child told {line:?} ({read:?}), expected more words"
            ))),
        }
    }

    /// All that it still tells, to its end; a line that is cut is left out.
    fn rest(&mut self) -> Vec<String> {
        let mut text = String::new();
        // What cannot be read was not told.
        drop(self.out.read_to_string(&mut text));
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let words = whole.lines().filter_map(|line| line.strip_prefix("told "));
        words.map(ToOwned::to_owned).collect()
    }

    fn kill(&mut self) {
        // Waiting tells whether it is gone.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// Work that waits for children, away from the runtime's own threads.
async fn waits<T: Send + 'static>(
    work: impl FnOnce() -> Checked<T> + Send + 'static,
) -> Checked<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Failure::broken(error.to_string()))?
}

async fn all(store: &Any) -> Result<Vec<stacyvm::store::SandboxRecord>> {
    let (filter, mut after, mut found) = (SandboxFilter::default(), None, Vec::new());
    loop {
        let page = store
            .list_sandboxes(&cx(), &filter, after.as_ref(), 500)
            .await?;
        found.extend(page.items);
        after = page.next;
        if after.is_none() {
            return Ok(found);
        }
    }
}

pub(super) async fn a_store_opened_again_is_the_same(f: &StoreFixture) -> Checked {
    let first = f.open().await?;
    made(&first, &record(&*first, &cx())).await?;
    let second = f.open().await?;
    same!(
        all(&second).await?.len(),
        1,
        "what another has open and wrote"
    );
    first.close().await?;
    made(&second, &record(&*second, &cx())).await?;
    second.close().await?;
    let third = f.open().await?;
    same!(all(&third).await?.len(), 2);
    same!(third.meta().instance(), first.meta().instance());
    let spec = SandboxSpec::host();
    let digest = |store: &Any| store.meta().digest("oci", "", &spec);
    same!(digest(&third), digest(&first));
    let other = f.open_other("another").await?;
    differ!(other.meta().instance(), first.meta().instance());
    Ok(())
}

pub(super) async fn four_processes_write_and_nothing_is_lost(f: &StoreFixture) -> Checked {
    let place = f.place();
    let mut made = waits(move || {
        // They make the store at the same time, too.
        let children: Checked<Vec<_>> = (0..4).map(|_| Running::start("write", &place)).collect();
        let told = children?.into_iter().flat_map(|mut child| child.rest());
        let made = told.filter_map(|words| words.strip_prefix("made ").map(ToOwned::to_owned));
        Ok(made.collect::<Vec<String>>())
    })
    .await?;
    made.sort();
    same!(made.len(), 4 * WRITES, "what was acknowledged");
    let found = all(&f.open().await?).await?;
    let found: Vec<&str> = found.iter().map(|one| one.id.as_str()).collect();
    holds!(found == made, "what is there is not what was acknowledged");
    Ok(())
}

pub(super) async fn what_was_acknowledged_survives_a_kill(f: &StoreFixture) -> Checked {
    let mut acknowledged = Vec::new();
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    for _ in 0..20 {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let place = f.place();
        let told = waits(move || {
            let mut child = Running::start("write_on", &place)?;
            let heard: Checked<Vec<String>> = (0..=seed % 40).map(|_| child.next()).collect();
            let mut heard = heard?;
            // Another instant within a write each time.
            for _ in 0..(seed >> 32) % 20_000 {
                std::hint::spin_loop();
            }
            child.kill();
            heard.extend(child.rest());
            Ok(heard)
        });
        acknowledged.extend(told.await?);
        let store = f.open().await?;
        is_whole(&store, &acknowledged).await?;
        store.close().await?;
    }
    Ok(())
}

/// What was acknowledged is there, and of each change all or nothing.
async fn is_whole(store: &Any, acknowledged: &[String]) -> Checked {
    for words in acknowledged {
        let (step, id) = words.split_once(' ').unwrap_or(("", words));
        let record = store.get_sandbox(&cx(), &SandboxId::new(id)?).await?;
        holds!(
            step == "begun" || record.phase == Phase::Running,
            "{words} was acknowledged, and the phase is {:?}",
            record.phase
        );
    }
    for record in all(store).await? {
        let journal = store.journal(&cx(), &record.id, 0, 9).await?.items;
        let ledger = store.list_resources(&cx(), &record.id, None, 9).await?;
        let parts = (journal.len(), ledger.items.len());
        let expected = if record.version == 1 { (1, 0) } else { (2, 1) };
        same!(
            parts,
            expected,
            "entries of journal and ledger of {record:?}"
        );
    }
    Ok(())
}

pub(super) async fn a_killed_owner_is_dead(f: &StoreFixture) -> Checked {
    f.open().await?.close().await?;
    let place = f.place();
    waits(move || {
        let state = StateDir::open(&place)?;
        let mut child = Running::start("own", &place)?;
        let name = child.next()?;
        same!(
            OwnerLock::is_alive(&state, &name)?,
            true,
            "whether it lives"
        );
        child.kill();
        same!(
            OwnerLock::is_alive(&state, &name)?,
            false,
            "whether it lives after its kill"
        );
        Ok(())
    })
    .await
}
