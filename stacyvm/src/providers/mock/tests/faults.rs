use std::time::Duration;

use super::super::{Fault, FaultPlan, LogEntry, Mock, When};
use super::{bench_on, code};
use crate::error::ErrorKind;
use crate::provider::OperationKind;
use crate::sandbox::exec::{ExecSpec, ExitStatus};
use crate::sandbox::files::WriteMode;

fn plan(operation: OperationKind, when: When, fault: Fault) -> Mock {
    let plan = FaultPlan::seed(1).rule(operation, when, fault);
    Mock::builder().faults(plan).build()
}

#[tokio::test]
async fn the_same_seed_gives_the_same_log() {
    async fn log(seed: u64) -> Vec<LogEntry> {
        let plan = FaultPlan::seed(seed)
            .rule(
                OperationKind::Exec,
                When::Chance(0.4),
                Fault::FailBefore(ErrorKind::Unavailable),
            )
            .rule(
                OperationKind::WriteFile,
                When::Chance(0.4),
                Fault::FailAfter(ErrorKind::Unavailable),
            );
        let bench = bench_on(Mock::builder().faults(plan).build()).await;
        for _ in 0..40 {
            let _ = bench.run(&ExecSpec::new(["true"])).await;
            let _ = bench.write("/tmp/a", WriteMode::Replace, "x").await;
        }
        bench.mock.log()
    }
    let first = log(7).await;
    assert_eq!(first, log(7).await);
    assert_ne!(first, log(8).await);
    assert!(
        first
            .iter()
            .any(|e| e.faults == ["fail_before"] && e.outcome == "unavailable")
    );
    assert!(
        first
            .iter()
            .any(|e| e.faults.is_empty() && e.outcome == "ok")
    );
}

#[tokio::test]
async fn a_failure_comes_before_or_after_the_effect() {
    for (fault, there) in [
        (Fault::FailBefore(ErrorKind::Unavailable), false),
        (Fault::FailAfter(ErrorKind::Unavailable), true),
    ] {
        let bench = bench_on(plan(OperationKind::WriteFile, When::Nth(1), fault)).await;
        let failed = bench.write("/tmp/a", WriteMode::Replace, "x").await;
        assert_eq!(failed.unwrap_err().kind(), ErrorKind::Unavailable);
        assert_eq!(bench.stat("/tmp/a").await.is_ok(), there);
        bench
            .write("/tmp/a", WriteMode::Replace, "y")
            .await
            .unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_delay_runs_on_tokios_clock_and_the_deadline_bounds_it() {
    let fault = Fault::Delay(Duration::from_mins(1));
    let mut bench = bench_on(plan(OperationKind::Exec, When::Always, fault)).await;
    let before = tokio::time::Instant::now();
    bench.shell("true").await;
    assert_eq!(before.elapsed(), Duration::from_mins(1));
    let soon = std::time::Instant::now() + Duration::from_secs(5);
    bench.cx = bench.cx.clone().with_deadline(soon);
    let late = bench.start(&ExecSpec::new(["true"])).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Timeout);
}

#[tokio::test]
async fn lies_are_told_only_where_the_plan_says() {
    let lie = |fault| plan(OperationKind::Exec, When::Nth(1), fault);
    let spec = ExecSpec::shell("echo out; echo err >&2; exit 5");

    let bench = bench_on(lie(Fault::WrongExit { code: 0 })).await;
    assert_eq!(bench.run(&spec).await.unwrap().status, code(0));
    assert_eq!(bench.shell("exit 5").await.status, code(5));

    let bench = bench_on(lie(Fault::SwapStreams)).await;
    let ran = bench.run(&spec).await.unwrap();
    assert_eq!((ran.out.as_str(), ran.err.as_str()), ("err\n", "out\n"));

    let bench = bench_on(lie(Fault::Truncate { bytes: 5 })).await;
    let ran = bench.run(&spec).await.unwrap();
    assert_eq!((ran.out.as_str(), ran.err.as_str()), ("out\n", "e"));
    assert_eq!(ran.status, code(5));
}

#[tokio::test]
async fn a_lost_connection_takes_a_foreground_command_with_it() {
    let fault = Fault::LoseConnection { after_bytes: 3 };
    let bench = bench_on(plan(OperationKind::Exec, When::Nth(1), fault)).await;
    let ran = bench.shell("echo hello; sleep 1000000").await;
    assert_eq!(ran.out, "hel");
    assert_eq!(ran.status, Some(ExitStatus::SandboxGone));
    assert_eq!(bench.processes().await, [""; 0]);
    assert_eq!(bench.shell("echo hello").await.out, "hello\n");

    let fault = Fault::LoseConnection { after_bytes: 2 };
    let bench = bench_on(plan(OperationKind::ReadFile, When::Nth(1), fault)).await;
    bench
        .write("/tmp/a", WriteMode::Replace, "hello")
        .await
        .unwrap();
    let lost = bench.read(None, "/tmp/a").await.unwrap_err();
    assert_eq!(lost.kind(), ErrorKind::SandboxGone);
    assert_eq!(bench.read(None, "/tmp/a").await.unwrap(), "hello");
}
