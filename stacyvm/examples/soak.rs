//! Creates, uses and ends sandboxes for a long time, and prints whether the
//! process grows by it. `scripts/soak.sh` calls this.
//!
//! ```sh
//! scripts/soak.sh [MINUTES]
//! ```
#![expect(clippy::print_stdout, reason = "what it prints is its result")]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use stacyvm::sandbox::spec::Lifetime;
use stacyvm::{Engine, SandboxSpec};

/// The most MiB an hour that the memory may grow.
const SLOPE: f64 = 1.0;
/// The most descriptors and threads that may be more in the end: what waits for
/// the next create, and threads that are still idle.
const FLAT: usize = 8;

fn status(name: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let value = text.lines().find_map(|line| line.strip_prefix(name));
    let number = value.and_then(|value| value.split_whitespace().next()?.parse().ok());
    number.unwrap_or(0)
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

fn threads() -> usize {
    usize::try_from(status("Threads:")).unwrap_or(usize::MAX)
}

/// The slope of a line through points, by least squares.
fn slope(points: &[(f64, f64)]) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "far below its limit")]
    let count = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|p| p.0), mean(|p| p.1));
    let above: f64 = points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum();
    let below: f64 = points.iter().map(|p| (p.0 - x).powi(2)).sum();
    above / below
}

/// One life.
async fn life(engine: &Engine, turn: u64) -> stacyvm::Result<()> {
    let lifetime = if turn.is_multiple_of(2) {
        Lifetime::Attached
    } else {
        Lifetime::Detached
    };
    let sandbox = engine
        .create(SandboxSpec::host().lifetime(lifetime))
        .await?;
    let output = sandbox.exec(["echo", "hi"]).output().await?;
    assert_eq!(output.stdout, b"hi\n");
    if turn.is_multiple_of(10) {
        sandbox
            .files()
            .write("/workspace/a", vec![1; 100_000])
            .await?;
        sandbox.files().read("/workspace/a").await?;
        let left = sandbox.exec(["sleep", "300"]).background().start().await?;
        drop(left);
    }
    sandbox.kill().await.map(drop)
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> stacyvm::Result<ExitCode> {
    let minutes = std::env::args().nth(1).and_then(|text| text.parse().ok());
    let whole = Duration::from_secs_f64(minutes.unwrap_or(60.0) * 60.0);
    let warm = whole.mul_f64(0.2).min(Duration::from_mins(5));
    let engine = Engine::open_default().await?;
    let begin = Instant::now();
    let (mut turns, mut points, mut next) = (0, Vec::new(), warm);
    let mut start = None;
    while begin.elapsed() < whole {
        life(&engine, turns).await?;
        turns += 1;
        let now = begin.elapsed();
        if now < next {
            continue;
        }
        start.get_or_insert_with(|| (descriptors(), threads()));
        next = now + Duration::from_secs(1);
        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
        let mib = status("VmRSS:") as f64 / 1024.0;
        points.push((now.as_secs_f64() / 3600.0, mib));
        if points.len() % 60 == 1 {
            let (open, threads) = (descriptors(), threads());
            println!(
                "{:>5} s {turns:>8} lives  {mib:>8.2} MiB  {open} descriptors  {threads} threads",
                now.as_secs()
            );
        }
    }
    engine.reconcile().await?;
    let end = (descriptors(), threads());
    let start = start.unwrap_or(end);
    let slope = slope(&points);
    let (first, last) = (points.first(), points.last());
    let mib = |point: Option<&(f64, f64)>| point.map_or(0.0, |p| p.1);
    println!(
        "{turns} lives in {} s, {} s of them to warm up",
        begin.elapsed().as_secs(),
        warm.as_secs()
    );
    println!(
        "memory       {:.2} MiB, then {:.2} MiB",
        mib(first),
        mib(last)
    );
    println!("descriptors  {}, then {}", start.0, end.0);
    println!("threads      {}, then {}", start.1, end.1);
    let verdict = |met: bool| if met { "met" } else { "MISSED" };
    let flat = end.0 <= start.0 + FLAT && end.1 <= start.1 + FLAT;
    println!(
        "slope        {slope:.3} MiB an hour  bar <= {SLOPE}: {}",
        verdict(slope <= SLOPE)
    );
    println!(
        "flat         descriptors and threads within {FLAT}: {}",
        verdict(flat)
    );
    engine.close().await?;
    Ok(if flat && slope <= SLOPE {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
