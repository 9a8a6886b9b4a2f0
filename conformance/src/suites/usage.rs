//! What a sandbox uses: the numbers move as they should.

use std::time::Duration;

use stacyvm::sandbox::state::Usage;
use stacyvm::{Sandbox, SignalScope};

use super::cases;
use super::common::{GONE, holds_soon, until};
use crate::case::{Case, Checked, Failure, Level};
use crate::ensure;
use crate::fixture::{Fixture, refused};

pub(super) const CASES: &[Case] = cases! {
    Must "usage.processes_are_counted" [] needs(USAGE, BACKGROUND) => processes;
    Must "usage.memory_rises_and_falls" [] needs(USAGE) => memory;
    Must "usage.the_peak_of_memory_stays" [] needs(USAGE) => peak;
    Must "usage.processor_time_rises_with_work" [] needs(USAGE) => cpu;
    Must "usage.bytes_on_the_disk_rise_and_fall" [] needs(USAGE, FILES) => disk;
    Must "usage.is_of_one_sandbox" [] needs(USAGE, BACKGROUND) => of_one;
    Must "usage.of_what_ended_is_refused" ["N1.1"] needs(USAGE) => of_the_ended;
};

fn told<T>(number: Option<T>, what: &str) -> Checked<T> {
    number.ok_or_else(|| Failure::NotRun(format!("the provider leaves {what} out of its usage")))
}

async fn of<T>(sandbox: &Sandbox, what: &str, number: fn(&Usage) -> Option<T>) -> Checked<T> {
    told(number(&sandbox.usage().await?), what)
}

async fn count(sandbox: &Sandbox) -> Checked<u32> {
    of(sandbox, "processes", |usage| usage.processes).await
}

async fn three_more(sandbox: &Sandbox) -> Checked<stacyvm::ExecId> {
    let line = "sleep 60 & sleep 60 & sleep 60 & echo up; wait";
    let mut process = sandbox.shell(line).background().start().await?;
    until(&mut process, "up").await?;
    Ok(process.detach()?)
}

async fn processes(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let before = count(&sandbox).await?;
    let exec = three_more(&sandbox).await?;
    holds_soon!(
        "four processes more are counted",
        count(&sandbox).await? >= before + 4
    );
    sandbox.signal(&exec, 9, SignalScope::Tree).await?;
    holds_soon!(
        "as many processes as before are counted",
        count(&sandbox).await? <= before
    );
    Ok(())
}

/// Takes 60 MB and keeps them until it is killed.
const HOLD: &str = "(head -c 60000000 /dev/zero; sleep 60) | tail > /dev/null";
const HELD: u64 = 50_000_000;

async fn bytes(sandbox: &Sandbox) -> Checked<u64> {
    of(sandbox, "bytes of memory", |usage| usage.memory_bytes).await
}

async fn memory(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    // Nothing where commands are counted alone, and none runs.
    let before = bytes(&sandbox).await?;
    let mut process = sandbox.shell(HOLD).start().await?;
    holds_soon!(
        "60 MB more are counted",
        bytes(&sandbox).await? >= before + HELD
    );
    process.kill().await?;
    process.wait().await?;
    holds_soon!(
        "they are counted no more",
        bytes(&sandbox).await? < before + HELD
    );
    Ok(())
}

async fn peak(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let peak = async || {
        of(&sandbox, "the peak of memory", |usage| {
            usage.memory_peak_bytes
        })
        .await
    };
    let before = peak().await?;
    let mut process = sandbox.shell(HOLD).start().await?;
    holds_soon!("the peak rises by 60 MB", peak().await? >= before + HELD);
    let highest = peak().await?;
    process.kill().await?;
    process.wait().await?;
    let after = peak().await?;
    ensure!(after >= highest, "the peak fell from {highest} to {after}");
    Ok(())
}

async fn cpu(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let used = async || of(&sandbox, "processor time", |usage| usage.cpu_us).await;
    let before = used().await?;
    let line = "while :; do :; done";
    let exec = sandbox.shell(line).timeout(Duration::from_secs(1));
    exec.output().await?;
    let after = used().await?;
    // On a busy host a second of running is less of working.
    ensure!(
        after >= before + 100_000,
        "after a second of work {after} us are counted, {before} before"
    );
    ensure!(
        after <= before + 20_000_000,
        "after a second of work {after} us are counted, {before} before"
    );
    ensure!(used().await? >= after, "processor time fell");
    Ok(())
}

async fn disk(f: &Fixture) -> Checked {
    const SIZE: u64 = 8 << 20;
    let sandbox = f.sandbox().await?;
    let used = async || of(&sandbox, "bytes on the disk", |usage| usage.disk_bytes).await;
    let before = used().await?;
    sandbox
        .files()
        .write(f.path("a"), vec![7_u8; 8 << 20])
        .await?;
    holds_soon!("8 MiB more are counted", used().await? >= before + SIZE);
    sandbox.files().remove(f.path("a")).await?;
    holds_soon!("they are counted no more", used().await? < before + SIZE);
    Ok(())
}

async fn of_one(f: &Fixture) -> Checked {
    let (one, two) = (f.sandbox().await?, f.sandbox().await?);
    let (first, second) = (count(&one).await?, count(&two).await?);
    three_more(&one).await?;
    holds_soon!(
        "four processes more are counted",
        count(&one).await? >= first + 4
    );
    let after = count(&two).await?;
    ensure!(
        after <= second,
        "{after} processes are counted in a sandbox after another started four, {second} before"
    );
    Ok(())
}

async fn of_the_ended(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    sandbox.kill().await?;
    let usage = f.provider().usage(f.context(), sandbox.id()).await;
    refused(usage, &GONE, "usage of one that ended")?;
    Ok(())
}
