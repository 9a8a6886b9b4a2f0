//! Whatever a case or a harness does, the run goes on, says what it was, and leaves
//! nothing.

mod common;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{DECLINED, FAILS, HANGS, NO_TWIN, Opens, OverMock, PANICS, PASSES, UNTRIED, reported};
use futures_util::FutureExt as _;
use stacyvm::context::Context;
use stacyvm::id::TenantId;
use stacyvm::provider::Provider;
use stacyvm::providers::mock::Mock;
use stacyvm::{Engine, ErrorKind, Filter, Result, SandboxId, SandboxSpec};
use stacyvm_conformance::mutants::Lie;
use stacyvm_conformance::{
    CASES, Case, CaseReport, Deviation, Failure, Harness, Options, Outcome, Report, Selection,
    Subject,
};

fn one<'a>(report: &'a Report, id: &str) -> &'a CaseReport {
    let found = report.cases.iter().find(|case| case.id == id);
    found.unwrap_or_else(|| panic!("{id} is not in {report:?}"))
}

fn is(report: &Report, case: &Case, outcome: Outcome, evidence: &str) {
    let seen = one(report, case.id);
    assert_eq!(seen.outcome, outcome, "{seen:?}");
    assert!(seen.evidence.contains(evidence), "{seen:?}");
}

async fn left(provider: &Arc<dyn Provider>) -> Vec<SandboxId> {
    let context = Context::new(TenantId::default());
    let all = provider.list(&context, None, 100).await.expect("a list");
    all.into_iter().map(|one| one.id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_end_of_a_case_is_named_and_the_run_goes_on() {
    let harness = OverMock::new();
    let provider = Arc::clone(&harness.provider);
    let cases = [PANICS, HANGS, FAILS, DECLINED, NO_TWIN, UNTRIED, PASSES];
    let report = reported(harness, &cases).await;
    let ids: Vec<&str> = report.cases.iter().map(|case| case.id.as_str()).collect();
    assert_eq!(ids, cases.map(|case| case.id), "in the order of the suite");
    is(
        &report,
        &PANICS,
        Outcome::Failed,
        "it panicked: at the disco",
    );
    is(&report, &HANGS, Outcome::Failed, "did not end within 3 s");
    is(&report, &FAILS, Outcome::Failed, "says");
    is(&report, &DECLINED, Outcome::Declined, "teleport");
    is(
        &report,
        &NO_TWIN,
        Outcome::NotRun,
        "does not claim teleport",
    );
    is(&report, &UNTRIED, Outcome::NotRun, "a second host");
    is(&report, &PASSES, Outcome::Passed, "");
    assert!(!report.fulfils());
    assert_eq!(left(&provider).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_case_leaves_fails_it() {
    let report = reported(OverMock::lying(Lie::DestroysNothing), &[PASSES]).await;
    is(&report, &PASSES, Outcome::Failed, "residue: sandbox");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deviation_that_passes_fails_the_run() {
    const DECLARED: [Deviation; 3] = [
        Deviation {
            case: "t.passes",
            reason: "it did once",
        },
        Deviation {
            case: "t.fails",
            reason: "it does",
        },
        Deviation {
            case: "t.declined",
            reason: "it did once",
        },
    ];
    let harness = OverMock {
        deviations: &DECLARED,
        ..OverMock::new()
    };
    let report = reported(harness, &[PASSES, FAILS, DECLINED]).await;
    is(&report, &PASSES, Outcome::Failed, "remove the declaration");
    is(&report, &FAILS, Outcome::Deviates, "it does: ");
    is(
        &report,
        &DECLINED,
        Outcome::Failed,
        "remove the declaration",
    );
    assert!(!report.fulfils());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_harness_that_does_not_open_is_told_and_runs_nothing() {
    for (opens, outcome, evidence) in [
        (Opens::Fails, Outcome::Failed, "no daemon answers"),
        (Opens::Panics, Outcome::Failed, "the harness is broken"),
        (Opens::Unsupported, Outcome::Failed, "no such kernel"),
        (Opens::Absent, Outcome::NotRun, "no such machine"),
    ] {
        let harness = OverMock {
            opens,
            ..OverMock::new()
        };
        let report = reported(harness, &[PASSES, FAILS]).await;
        is(&report, &PASSES, outcome, evidence);
        is(&report, &FAILS, outcome, evidence);
        assert_eq!(report.subject.provider, None);
        assert!(!report.fulfils(), "{opens:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_of_nothing_and_one_that_proved_nothing_fulfil_nothing() {
    assert!(!reported(OverMock::new(), &[]).await.fulfils());
    assert!(!reported(OverMock::new(), &[UNTRIED]).await.fulfils());
    let declined = reported(OverMock::new(), &[DECLINED]).await;
    assert!(!declined.fulfils());
    assert!(
        reported(OverMock::new(), &[PASSES, DECLINED])
            .await
            .fulfils()
    );
}

#[test]
fn a_selection_of_nothing_and_an_unknown_suite_are_refused_by_name() {
    let of = |suites: &[&str], patterns: &[&str]| {
        let texts = |all: &[&str]| all.iter().map(|&one| one.to_owned()).collect();
        let selection = Selection {
            suites: texts(suites),
            patterns: texts(patterns),
        };
        selection.of(&CASES).map(|selected| selected.len())
    };
    for (suites, patterns, field, value) in [
        (&["exec", "nosuch"][..], &[][..], "suite", "nosuch"),
        (&[], &["nosuch.*"], "case", "nosuch.*"),
        (&["exec"], &["kill.*"], "case", "kill.*"),
    ] {
        let error = of(suites, patterns).expect_err("a refusal");
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert_eq!(error.fact("field"), Some(field));
        assert_eq!(error.fact("value"), Some(value));
        assert!(error.fact("remedy").is_some(), "{error:?}");
    }
    assert_eq!(of(&[], &[]).expect("all"), CASES.len());
    let some = of(&["exec"], &["*.argv*", "*.env*"]).expect("some");
    assert!((2..20).contains(&some), "{some}");
}

/// The paths that the case was given.
static PATHS: Mutex<Vec<String>> = Mutex::new(Vec::new());
const ITS_PATH: Case = common::case("t.its_path", |f| {
    Box::pin(async move {
        let path = f.path("a");
        PATHS
            .lock()
            .expect("no test panics with it")
            .push(path.clone());
        Err(Failure::broken(path))
    })
});

#[tokio::test(flavor = "multi_thread")]
async fn paths_are_of_one_run_of_a_case_and_told_alike() {
    for _ in 0..2 {
        let report = reported(OverMock::new(), &[ITS_PATH]).await;
        is(&report, &ITS_PATH, Outcome::Failed, "/tmp/case-a");
    }
    let paths = PATHS.lock().expect("no test panics with it").clone();
    assert!(paths.len() == 2 && paths[0] != paths[1], "{paths:?}");
}

/// A provider that is not the default one of its engine.
struct Second;

#[async_trait::async_trait]
impl Harness for Second {
    fn name(&self) -> &'static str {
        "second"
    }

    async fn open(&self) -> Result<Subject> {
        let engine = Engine::builder()
            .provider("first", Arc::new(Mock::default()))
            .provider("second", Arc::new(Mock::default()))
            .default_provider("first")
            .reconcile_every(Duration::ZERO)
            .build()
            .await?;
        let spec = SandboxSpec::image("scratch");
        let subject = Subject::of_engine(engine.clone(), "second", spec).await?;
        Ok(subject.keep(Touched(engine)))
    }
}

/// Looks, when a case is over, whether it touched another provider.
struct Touched(Engine);

/// What was made by another provider than the one under test.
static OTHERS: Mutex<Vec<String>> = Mutex::new(Vec::new());

impl Drop for Touched {
    fn drop(&mut self) {
        let filter = Filter {
            all: true,
            ..Filter::default()
        };
        // Records are in memory: nothing is waited for.
        let listed = self.0.list(filter).now_or_never();
        let made = listed.expect("a list at once").expect("a list");
        let others = made.into_iter().filter(|one| one.provider != "second");
        let mut touched = OTHERS.lock().expect("a list");
        touched.extend(others.map(|one| format!("{one:?}")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cases_try_the_provider_under_test_alone() {
    let suites = ["lifecycle", "labels", "concurrency", "errors", "honesty"];
    let selection = Selection {
        suites: suites.map(str::to_owned).into(),
        patterns: Vec::new(),
    };
    let cases = selection.of(&CASES).expect("cases");
    let harness: Arc<dyn Harness> = Arc::new(Second);
    let report = stacyvm_conformance::run(&harness, &cases, &Options::default()).await;
    let failed: Vec<&CaseReport> = report
        .cases
        .iter()
        .filter(|case| case.outcome == Outcome::Failed)
        .collect();
    assert!(failed.is_empty(), "{failed:?}");
    let touched = OTHERS.lock().expect("a list").clone();
    assert_eq!(touched, Vec::<String>::new());
}
