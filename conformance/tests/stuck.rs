//! What blocks its thread, panics where nothing may, or leaves something, is told as
//! what it is.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Opens, OverMock, PASSES, case, reported};
use stacyvm::context::Context;
use stacyvm::provider::{Capabilities, Leftover, Provider, ProviderInfo, Reach};
use stacyvm::sandbox::state::Observed;
use stacyvm::{Error, ErrorKind, Result, SandboxId, SandboxSpec};
use stacyvm_conformance::mutants::Lie;
use stacyvm_conformance::{
    Case, CaseReport, Deviation, Failure, Harness, Level, Options, Outcome, Report, Subject, run,
};

fn of<'a>(report: &'a Report, case: &Case) -> &'a CaseReport {
    let found = report.cases.iter().find(|one| one.id == case.id);
    found.unwrap_or_else(|| panic!("{} is not in {report:?}", case.id))
}

/// Blocks the threads that call it until the test has ended.
struct Blocks {
    ended: Arc<AtomicBool>,
    /// In a task of its own, so that a thread of the runtime is blocked.
    in_tasks: bool,
}

#[expect(clippy::disallowed_methods, reason = "a thread is blocked")]
fn block(ended: &AtomicBool) {
    while !ended.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[async_trait::async_trait]
impl Harness for Blocks {
    fn name(&self) -> &'static str {
        "blocks"
    }

    async fn open(&self) -> Result<Subject> {
        let ended = Arc::clone(&self.ended);
        if self.in_tasks {
            let blocked = tokio::spawn(async move { block(&ended) });
            blocked.await.expect("a task that ends");
        } else {
            block(&ended);
        }
        Err(Error::new(ErrorKind::Unavailable, "it was blocked"))
    }
}

#[test]
fn deadlines_hold_where_threads_are_blocked() {
    const OTHER: Case = case("t.other", PASSES.run);
    const THIRD: Case = case("t.third", PASSES.run);
    for in_tasks in [false, true] {
        let ended = Arc::new(AtomicBool::new(false));
        let harness: Arc<dyn Harness> = Arc::new(Blocks {
            ended: Arc::clone(&ended),
            in_tasks,
        });
        let options = Options {
            deadline: Duration::from_millis(300),
            jobs: 3,
        };
        let (told, report) = std::sync::mpsc::channel();
        let running = std::thread::spawn(move || {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            let runtime = builder.worker_threads(2).enable_all().build();
            let runtime = runtime.expect("a runtime");
            let report = runtime.block_on(run(&harness, &[&PASSES, &OTHER, &THIRD], &options));
            told.send(report).expect("somebody who listens");
        });
        let report = report.recv_timeout(Duration::from_mins(1));
        ended.store(true, Ordering::Relaxed);
        let report = report.expect("a report although threads are blocked");
        running.join().expect("a run that ends");
        for case in [&PASSES, &OTHER, &THIRD] {
            let seen = of(&report, case);
            assert_eq!(seen.outcome, Outcome::Failed);
            let text = "opening the provider did not end within 0.3 s";
            assert_eq!(seen.evidence, text);
        }
        assert_eq!(report.subject.harness, "blocks");
    }
}

/// What panics, or leaves something of no known sandbox at each destroy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Name,
    Info,
    Claims,
    Leaves,
}

#[derive(Clone)]
struct Faulty {
    fault: Fault,
    left: Arc<Mutex<Vec<Leftover>>>,
}

impl std::fmt::Debug for Faulty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Faulty")
    }
}

fn gone() -> Error {
    Error::new(ErrorKind::NotFound, "it is not there")
}

#[async_trait::async_trait]
impl Provider for Faulty {
    fn info(&self) -> ProviderInfo {
        assert_ne!(self.fault, Fault::Info, "no information");
        ProviderInfo::new("faulty", "none")
    }

    fn capabilities(&self) -> Capabilities {
        assert_ne!(self.fault, Fault::Claims, "no claims");
        Capabilities::default()
    }

    async fn inspect(&self, _: &Context, _: &SandboxId) -> Result<Observed> {
        Err(gone())
    }

    async fn list(&self, _: &Context, _: Option<&SandboxId>, _: u32) -> Result<Vec<Observed>> {
        Ok(Vec::new())
    }

    async fn destroy(&self, _: &Context, id: &SandboxId) -> Result<()> {
        let mut left = self.left.lock().expect("a list");
        left.push(Leftover {
            id: format!("process-{id}"),
            kind: "process".to_owned(),
            name: "1".to_owned(),
            instance: None,
            state_dir: None,
            sandbox: None,
            owner_lives: false,
            evidence: "its title".to_owned(),
            remedy: "end it".to_owned(),
        });
        Ok(())
    }

    async fn leftovers(&self, _: &Context, _: Reach) -> Result<Vec<Leftover>> {
        Ok(self.left.lock().expect("a list").clone())
    }

    stacyvm::unsupported! {
        probe, pull, create, origin, claim, set_deadline, set_lifetime, pause, resume, exec, attach,
        read_log, list_execs, signal_exec, file, read_file, write_file, watch, export_tar,
        import_tar, dial, listen, endpoint, processes, usage, snapshot, delete_snapshot,
        remove_leftover, disk_use, tidy,
    }
}

#[async_trait::async_trait]
impl Harness for Faulty {
    fn name(&self) -> &'static str {
        assert_ne!(self.fault, Fault::Name, "no name");
        "faulty"
    }

    async fn open(&self) -> Result<Subject> {
        Subject::new(Arc::new(self.clone()), SandboxSpec::image("scratch")).await
    }
}

const NOTHING: Case = case("t.nothing", |_| Box::pin(async { Ok(()) }));
const DESTROYS: Case = case("t.destroys", |f| {
    Box::pin(async move { Ok(f.provider().destroy(f.context(), &f.mint()).await?) })
});

async fn over(fault: Fault, cases: &[&Case]) -> Report {
    let harness: Arc<dyn Harness> = Arc::new(Faulty {
        fault,
        left: Arc::default(),
    });
    let options = Options {
        jobs: 1,
        ..Options::default()
    };
    run(&harness, cases, &options).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_where_somebody_is_named_loses_no_report() {
    let report = over(Fault::Name, &[&NOTHING]).await;
    assert_eq!(of(&report, &NOTHING).outcome, Outcome::Passed);
    assert!(report.subject.harness.contains("no name"), "{report:?}");
    let report = over(Fault::Claims, &[&NOTHING]).await;
    let seen = of(&report, &NOTHING);
    assert_eq!(seen.outcome, Outcome::Failed);
    assert!(seen.evidence.contains("no claims"), "{seen:?}");
    assert_eq!(report.subject.harness, "faulty");
    let report = over(Fault::Info, &[&NOTHING]).await;
    assert_eq!(report.cases.len(), 1);
    assert_eq!(report.subject.provider, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_of_no_known_sandbox_is_residue_of_the_case() {
    let report = over(Fault::Leaves, &[&NOTHING, &DESTROYS]).await;
    assert_eq!(of(&report, &NOTHING).outcome, Outcome::Passed);
    let seen = of(&report, &DESTROYS);
    assert_eq!(seen.outcome, Outcome::Failed);
    assert!(seen.evidence.contains("residue"), "{seen:?}");
    assert!(seen.evidence.contains("process-sandbox-1"), "{seen:?}");
}

const LEAVES_UNTRIED: Case = case("t.leaves_untried", |f| {
    Box::pin(async move {
        f.sandbox().await?;
        Err(Failure::NotRun("a second host".to_owned()))
    })
});

/// The harness, which declares that it deviates in these cases.
fn declared(harness: OverMock, cases: &[Case]) -> OverMock {
    let all = cases.iter().map(|case| Deviation {
        case: case.id,
        reason: "of another thing",
    });
    OverMock {
        deviations: Vec::leak(all.collect()),
        ..harness
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_hides_what_is_left_and_no_declaration_a_panic_or_a_hang() {
    let lying = OverMock::lying(Lie::DestroysNothing);
    let report = reported(lying, &[LEAVES_UNTRIED]).await;
    let seen = of(&report, &LEAVES_UNTRIED);
    assert_eq!(seen.outcome, Outcome::Failed);
    assert!(seen.evidence.contains("residue: sandbox"), "{seen:?}");
    assert!(seen.evidence.contains("a second host"), "{seen:?}");
    let cases = [PASSES, common::FAILS];
    let lying = declared(OverMock::lying(Lie::DestroysNothing), &cases);
    let report = reported(lying, &cases).await;
    for case in &cases {
        let seen = of(&report, case);
        assert_eq!(seen.outcome, Outcome::Failed, "{seen:?}");
        assert!(seen.evidence.contains("residue: sandbox"), "{seen:?}");
    }
    let cases = [common::PANICS, common::HANGS, common::FAILS];
    let report = reported(declared(OverMock::new(), &cases), &cases).await;
    let outcomes = cases.map(|case| of(&report, &case).outcome);
    assert_eq!(
        outcomes,
        [Outcome::Failed, Outcome::Failed, Outcome::Deviates]
    );
    let harness = OverMock {
        opens: Opens::Fails,
        ..declared(OverMock::new(), &[PASSES])
    };
    let report = reported(harness, &[PASSES]).await;
    assert_eq!(of(&report, &PASSES).outcome, Outcome::Failed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deviation_of_no_case_fails_the_run() {
    const DECLARED: [Deviation; 2] = [
        Deviation {
            case: "exec.code_is_told_as_it_was",
            reason: "not selected, which is fine",
        },
        Deviation {
            case: "exec.no_such_case",
            reason: "it was there once",
        },
    ];
    let harness = OverMock {
        deviations: &DECLARED,
        ..OverMock::new()
    };
    let report = reported(harness, &[PASSES]).await;
    let seen = of(&report, &PASSES);
    assert_eq!((seen.outcome, seen.level), (Outcome::Failed, Level::Must));
    assert!(seen.evidence.contains("exec.no_such_case"), "{seen:?}");
    assert!(!report.fulfils());
}
