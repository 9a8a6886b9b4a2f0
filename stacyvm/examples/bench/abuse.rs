//! What hostile commands do to the neighbours and to the host.

use std::time::{Duration, Instant};

use stacyvm::sandbox::exec::ExecEvent;

use crate::crowd::{bounded, commands};
use crate::measures::{Outcome, engine, fill, spec, text};
use crate::stats::{Samples, print_bound, print_ratio, print_samples};
use crate::{Plan, memory};

/// What a sandbox is full of when it is ended, and the shell line for it.
const ABUSES: [(&str, &str); 4] = [
    (
        "fork bomb",
        "exec perl -MPOSIX -e '$SIG{TERM} = $SIG{HUP} = \"IGNORE\"; while (1) { my $p = fork; POSIX::setsid() if defined $p && $p == 0 }'",
    ),
    (
        "double-forked daemons",
        "for i in $(seq 60); do setsid sh -c 'setsid sleep 300 & exit' & done; exec sleep 300",
    ),
    (
        "SIGTERM ignored",
        "trap '' TERM HUP INT; for i in $(seq 60); do sh -c 'while :; do sleep 300; done' & done; wait",
    ),
    (
        "D state (parents of vfork)",
        "for i in $(seq 20); do perl -e 'syscall(34) if syscall(58) == 0' & done; exec sleep 300",
    ),
];

pub(crate) async fn abuse(plan: &Plan) -> Outcome {
    let engine = engine().await?;
    let neighbours = fill(&engine, 1).await?;
    let neighbour = &neighbours[0];
    let count = plan.block * 40;
    for (name, line) in ABUSES {
        let (mut quiet, mut beside) = (Samples::default(), Samples::default());
        let mut longest = Duration::ZERO;
        for _ in 0..plan.blocks / 2 {
            commands(neighbour, count, &mut quiet).await?;
            let sandbox = engine.create(bounded()).await.map_err(text)?;
            let wild = sandbox.shell(line).start().await.map_err(text)?;
            tokio::time::sleep(Duration::from_millis(500)).await;
            if name.starts_with("D state") {
                let waiting = memory::in_state('D', "perl");
                println!("note   {waiting} processes in state D");
            }
            commands(neighbour, count, &mut beside).await?;
            let start = Instant::now();
            sandbox.kill().await.map_err(text)?;
            longest = longest.max(start.elapsed());
            drop(wild);
        }
        print_samples("exec beside nothing", "stacyvm", &quiet);
        print_samples(&format!("exec beside {name}"), "stacyvm", &beside);
        let (beside, quiet) = (beside.quantile(0.99), quiet.quantile(0.99));
        print_ratio(
            &format!("exec beside {name}"),
            "beside nothing, p99",
            beside,
            quiet,
            Some(3.0),
        );
        print_bound(
            &format!("destroy of {name}, longest"),
            longest.as_secs_f64(),
            "s",
            5.0,
            false,
        );
    }
    for sandbox in neighbours {
        sandbox.kill().await.map_err(text)?;
    }
    // A minute where it is not to be quick.
    let time = Duration::from_secs(if plan.blocks > 4 { 60 } else { 10 });
    for slow in [false, true] {
        flood(&engine, slow, time).await?;
    }
    engine.close().await.map_err(text)
}

/// `yes` on both streams, with a slow reader or none.
async fn flood(engine: &stacyvm::Engine, slow: bool, time: Duration) -> Outcome {
    let sandbox = engine.create(spec()).await.map_err(text)?;
    let before = memory::own_resident_kib();
    let mut most = before;
    let started = sandbox.shell("yes & exec yes >&2").start().await;
    let mut process = started.map_err(text)?;
    let (begin, mut bytes) = (Instant::now(), 0);
    while begin.elapsed() < time {
        tokio::time::sleep(Duration::from_millis(100)).await;
        if slow
            && let Some(ExecEvent::Stdout(chunk) | ExecEvent::Stderr(chunk)) =
                process.next_event().await.map_err(text)?
        {
            bytes += chunk.len();
        }
        most = most.max(memory::own_resident_kib());
    }
    drop(process);
    sandbox.kill().await.map_err(text)?;
    let reader = if slow { "slow" } else { "absent" };
    println!(
        "note   the {reader} reader took {bytes} bytes in {} s",
        time.as_secs()
    );
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let grown = (most - before) as f64 / 1024.0;
    print_bound(
        &format!("host memory, yes, {reader} reader"),
        grown,
        "MiB",
        16.0,
        false,
    );
    Ok(())
}
