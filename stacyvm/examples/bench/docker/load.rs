//! Many sandboxes: made at once, and alive at once.

use std::time::{Duration, Instant};

use super::raw::Raw;
use super::{SLEEP, Subject, beside, succeeds};
use crate::measures::{Outcome, empty, text};
use crate::peers::Blocked;
use crate::stats::{Samples, print_bound, print_ratio, print_samples};
use crate::{Plan, memory};

/// How many are alive.
const LIVE: usize = 100;

/// Creates by several callers, without commands.
pub(super) async fn at_once(subject: &Subject<'_>, plan: &Plan) -> Outcome {
    for callers in [1, 2, 4, 8] {
        let measure = format!("create, {callers} at once");
        let each = (plan.block * 2 / callers).max(2);
        let [mut ours, mut theirs] = [(); 2].map(|()| Samples::default());
        let [mut own_rate, mut raw_rate] = [(); 2].map(|()| Samples::default());
        for _ in 0..2 {
            let start = Instant::now();
            let makers = (0..callers).map(|_| make(subject, each));
            let made = futures_util::future::try_join_all(makers).await?;
            own_rate.push(start.elapsed());
            for (live, times) in made {
                for time in times {
                    ours.push(time);
                }
                empty(live).await?;
            }
            let start = Instant::now();
            let makers = (0..callers).map(|_| {
                let raw = subject.raw();
                let (image, runtime) = (subject.image.to_owned(), subject.runtime);
                tokio::task::spawn_blocking(move || make_raw(raw?, &image, runtime, each))
            });
            let made = futures_util::future::try_join_all(makers)
                .await
                .map_err(text)?;
            raw_rate.push(start.elapsed());
            let mut raw = subject.raw()?;
            for made in made {
                for (id, time) in made? {
                    theirs.push(time);
                    raw.remove(&id)?;
                }
            }
        }
        print_samples(&measure, "stacyvm", &ours);
        beside(&measure, &ours, "raw API", &theirs, None);
        // So many in that time; a rate of 0.95 is a time of 1 / 0.95.
        let (all, bar) = (format!("{measure}, all of them"), 1.0 / 0.95);
        print_ratio(&all, "raw API", own_rate.p50(), raw_rate.p50(), Some(bar));
        if callers == 8 {
            let (own, raw) = (ours.quantile(0.95), theirs.quantile(0.95));
            print_ratio(&format!("{measure}, p95"), "raw API", own, raw, Some(1.2));
        }
    }
    Ok(())
}

async fn make(
    subject: &Subject<'_>,
    count: usize,
) -> Result<(Vec<stacyvm::Sandbox>, Vec<Duration>), String> {
    let (mut live, mut times) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let start = Instant::now();
        live.push(subject.sandbox().await?);
        times.push(start.elapsed());
    }
    Ok((live, times))
}

fn make_raw(
    mut raw: Raw,
    image: &str,
    runtime: &str,
    count: usize,
) -> Result<Vec<(String, Duration)>, Blocked> {
    (0..count)
        .map(|_| {
            let start = Instant::now();
            let id = raw.start(image, runtime, &SLEEP)?;
            Ok((id, start.elapsed()))
        })
        .collect()
}

/// What each of many costs the host's process, and its commands.
pub(super) async fn live(subject: &Subject<'_>) -> Outcome {
    let mut live = vec![subject.sandbox().await?];
    succeeds(&live[0]).await?;
    let alone = commands(&live).await?;
    let before = memory::own_resident_kib();
    while live.len() < LIVE {
        let sandbox = subject.sandbox().await?;
        succeeds(&sandbox).await?;
        live.push(sandbox);
    }
    let grown = memory::own_resident_kib().saturating_sub(before);
    let beside_others = commands(&live).await?;
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    print_bound(
        "host process, a sandbox of 100",
        grown as f64 / (LIVE - 1) as f64,
        "KiB",
        64.0,
        false,
    );
    print_samples("exec true, 1 live", "stacyvm", &alone);
    print_samples("exec true, 100 live", "stacyvm", &beside_others);
    print_ratio(
        "exec true, 100 live, p99",
        "1 live",
        beside_others.quantile(0.99),
        alone.quantile(0.99),
        Some(2.0),
    );
    empty(live).await
}

async fn commands(live: &[stacyvm::Sandbox]) -> Result<Samples, String> {
    let mut samples = Samples::default();
    for sandbox in live.iter().cycle().take(400) {
        let start = Instant::now();
        succeeds(sandbox).await?;
        samples.push(start.elapsed());
    }
    Ok(samples)
}
