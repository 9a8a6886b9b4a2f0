//! The front end for `cargo test` and nextest.

use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Failed, Trial};
use tokio::runtime::Runtime;

use crate::case::Case;
use crate::harness::{Deviation, Harness};
use crate::report::Outcome;
use crate::runner::{Options, judge};
use crate::suites::CASES;

/// Runs every case on this harness's provider, as `cargo test` runs tests. What
/// [`provider_main!`](macro@crate::provider_main) calls.
pub fn provider_main(harness: impl Harness) -> ExitCode {
    provider_main_without(harness, &[])
}

/// The same without these suites, which are run elsewhere, or cases, by their ids: what
/// [`provider_main!`](macro@crate::provider_main) calls with `without`.
pub fn provider_main_without(harness: impl Harness, without: &[&str]) -> ExitCode {
    let harness: Arc<dyn Harness> = Arc::new(harness);
    let deviations = harness.deviations().to_vec();
    let deadline = Options::default().deadline;
    let left_out = |case: &Case| without.contains(&case.suite()) || without.contains(&case.id);
    let cases = CASES.iter().filter(|case| !left_out(case));
    let trials = cases.map(|case| {
        let harness = Arc::clone(&harness);
        let judged = move || async move {
            let report = judge(&harness, case, deadline).await;
            (report.outcome, report.evidence)
        };
        trial(case.id, judged)
    });
    main(trials.collect(), &deviations)
}

/// Runs a case: what came of it, and why it did not pass.
type Judge = Box<dyn FnOnce(&Runtime) -> (Outcome, String) + Send>;

/// A case, and what judges it on a runtime.
pub(crate) struct OneTrial {
    id: &'static str,
    judge: Judge,
}

pub(crate) fn trial<F>(id: &'static str, judged: impl FnOnce() -> F + Send + 'static) -> OneTrial
where
    F: Future<Output = (Outcome, String)>,
{
    let judge = Box::new(move |runtime: &Runtime| runtime.block_on(judged()));
    OneTrial { id, judge }
}

/// What the arguments of the process select of these.
pub(crate) fn main(trials: Vec<OneTrial>, deviations: &[Deviation]) -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Most of a case is waiting.
    let jobs = Options::default().jobs;
    arguments.test_threads = arguments.test_threads.or(Some(jobs));
    let runtime = match Runtime::new() {
        Ok(runtime) => Arc::new(runtime),
        Err(error) => return failed(&format!("the runtime could not be started: {error}")),
    };
    for deviation in deviations {
        if !trials.iter().any(|one| one.id == deviation.case) {
            return failed(&format!(
                "the deviation `{}` names no case; see the ids with `--list`",
                deviation.case
            ));
        }
    }
    let trials = trials.into_iter().map(|OneTrial { id, judge }| {
        let runtime = Arc::clone(&runtime);
        Trial::test(id, move || {
            let (outcome, evidence) = judge(&runtime);
            match outcome {
                Outcome::Passed | Outcome::Declined => Ok(()),
                Outcome::Failed => Err(Failed::from(evidence)),
                Outcome::NotRun => {
                    say(&format!("not run: {evidence}"));
                    Ok(())
                }
                Outcome::Deviates => {
                    say(&format!("not run: it deviates: {evidence}"));
                    Ok(())
                }
            }
        })
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    if !arguments.list && conclusion.num_passed + conclusion.num_failed == 0 {
        return failed("no case was run, expected at least one; change the filter");
    }
    conclusion.exit_code()
}

#[expect(clippy::print_stderr, reason = "this is the front end")]
fn say(text: &str) {
    eprintln!("{text}");
}

fn failed(text: &str) -> ExitCode {
    say(&format!("error: {text}"));
    ExitCode::FAILURE
}

/// The `main` of a test target with `harness = false` that runs every case on the
/// provider of this harness.
///
/// ```no_run
/// use std::sync::Arc;
/// use stacyvm::{Result, SandboxSpec, providers::mock::Mock};
/// use stacyvm_conformance::{Harness, Subject};
///
/// struct Mine;
///
/// #[async_trait::async_trait]
/// impl Harness for Mine {
///     fn name(&self) -> &str {
///         "mine"
///     }
///
///     async fn open(&self) -> Result<Subject> {
///         Subject::new(Arc::new(Mock::default()), SandboxSpec::image("scratch")).await
///     }
/// }
///
/// stacyvm_conformance::provider_main!(Mine);
/// ```
///
/// `provider_main!(Mine, without: ["probes"])` leaves out suites that another target
/// runs, as those of a provider behind this one.
#[macro_export]
macro_rules! provider_main {
    ($harness:expr) => {
        $crate::provider_main!($harness, without: []);
    };
    ($harness:expr, without: [$($suite:literal),*]) => {
        fn main() -> std::process::ExitCode {
            $crate::provider_main_without($harness, &[$($suite),*])
        }
    };
}
