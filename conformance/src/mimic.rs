//! The front end for `cargo test` and nextest.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use tokio::runtime::{Handle, Runtime};

use crate::case::Case;
use crate::harness::{Deviation, Harness};
use crate::host::{as_host, is_host};
use crate::report::Outcome;
use crate::runner::{Options, judge, names_no_case};
use crate::suites::CASES;

/// Runs every case on this harness's provider, as `cargo test` runs tests. What
/// [`provider_main!`](macro@crate::provider_main) calls.
///
/// # Behavior
///
/// - What is `not run` or deviates is told as ignored, never as passed, and how much
///   it was in a line after the run.
/// - A run in which nothing passed or was declined fails; so does a run of all cases
///   in which nothing passed. A case that was asked for by its whole name with
///   `--exact`, as nextest does, says `not run: ` and the fact, and does not fail.
/// - A provider that cannot be opened fails each case, unless [`Harness::absent`] says
///   what this machine lacks.
pub fn provider_main(harness: impl Harness) -> ExitCode {
    provider_main_without(harness, &[])
}

/// The same without these suites, which are run elsewhere, or cases, by their ids: what
/// [`provider_main!`](macro@crate::provider_main) calls with `without`.
pub fn provider_main_without(harness: impl Harness, without: &[&str]) -> ExitCode {
    let harness: Arc<dyn Harness> = Arc::new(harness);
    if is_host() {
        return host(harness);
    }
    let deviations = harness.deviations().to_vec();
    let absent = harness.absent();
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
    main(trials.collect(), &deviations, absent.as_deref())
}

/// What this process does for a case of another one.
fn host(harness: Arc<dyn Harness>) -> ExitCode {
    match Runtime::new() {
        Ok(runtime) => runtime
            .block_on(as_host(harness))
            .unwrap_or(ExitCode::FAILURE),
        Err(error) => failed(&format!("the runtime could not be started: {error}")),
    }
}

/// Runs a case: what came of it, and why it did not pass.
type Judge = Box<dyn FnOnce(&Handle) -> (Outcome, String) + Send>;

/// A case, and what judges it on a runtime.
pub(crate) struct OneTrial {
    id: &'static str,
    judge: Judge,
}

pub(crate) fn trial<F>(id: &'static str, judged: impl FnOnce() -> F + Send + 'static) -> OneTrial
where
    F: Future<Output = (Outcome, String)>,
{
    let judge = Box::new(move |runtime: &Handle| runtime.block_on(judged()));
    OneTrial { id, judge }
}

/// What the arguments of the process select of these.
pub(crate) fn main(
    trials: Vec<OneTrial>,
    deviations: &[Deviation],
    absent: Option<&str>,
) -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Most of a case is waiting.
    let jobs = Options::default().jobs;
    arguments.test_threads = arguments.test_threads.or(Some(jobs));
    let runtime = match Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&format!("the runtime could not be started: {error}")),
    };
    for deviation in deviations {
        if !trials.iter().any(|one| one.id == deviation.case) {
            return failed(&names_no_case(deviation.case));
        }
    }
    let by_name = arguments.exact && arguments.filter.is_some();
    let tally = Arc::new(Mutex::new(Tally::default()));
    let trials = trials.into_iter().map(|OneTrial { id, judge }| {
        let (runtime, tally) = (runtime.handle().clone(), Arc::clone(&tally));
        let absent = absent.map(str::to_owned);
        Trial::ignorable_test(id, move || {
            let (outcome, evidence) = match absent {
                Some(fact) => (Outcome::NotRun, fact),
                None => judge(&runtime),
            };
            let why = match outcome {
                Outcome::Deviates => format!("it deviates: {evidence}"),
                _ => evidence,
            };
            let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
            tally.count(outcome, &why);
            match outcome {
                Outcome::Passed | Outcome::Declined => Ok(Completion::Completed),
                Outcome::Failed => Err(Failed::from(why)),
                Outcome::NotRun | Outcome::Deviates => {
                    if by_name {
                        say(&format!("not run: {why}"));
                    }
                    Ok(Completion::ignored_with(why))
                }
            }
        })
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    // What a harness blocked is not waited for.
    runtime.shutdown_background();
    if arguments.list {
        return conclusion.exit_code();
    }
    let tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
    if !by_name {
        say(&tally.to_string());
    }
    let is_whole = arguments.filter.is_none() && arguments.skip.is_empty();
    if conclusion.num_failed > 0 {
        return conclusion.exit_code();
    }
    match tally.nothing_proved(is_whole) {
        Some(_) if absent.is_some() || (by_name && tally.ran > 0) => ExitCode::SUCCESS,
        Some(why) => failed(why),
        None => conclusion.exit_code(),
    }
}

/// What came of the cases so far.
#[derive(Default)]
struct Tally {
    ran: usize,
    counts: BTreeMap<Outcome, usize>,
    /// Why cases were not run, each once.
    facts: BTreeSet<String>,
}

impl Tally {
    fn count(&mut self, outcome: Outcome, why: &str) {
        self.ran += 1;
        *self.counts.entry(outcome).or_default() += 1;
        if outcome == Outcome::NotRun {
            self.facts.insert(why.to_owned());
        }
    }

    fn of(&self, outcome: Outcome) -> usize {
        self.counts.get(&outcome).copied().unwrap_or(0)
    }

    /// Why a run that did not fail proves nothing, if so.
    fn nothing_proved(&self, is_whole: bool) -> Option<&'static str> {
        let (passed, declined) = (self.of(Outcome::Passed), self.of(Outcome::Declined));
        if self.ran == 0 {
            Some("no case was run, expected at least one; change the filter")
        } else if passed + declined == 0 {
            Some("no case passed or was declined: a run that proves nothing is no success")
        } else if is_whole && passed == 0 {
            Some("of all cases none passed: what declines everything is no provider")
        } else {
            None
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// How many facts are told.
        const FIRST: usize = 3;
        use Outcome::{Declined, Deviates, Failed, NotRun, Passed};
        for outcome in [Passed, Declined, Deviates, Failed] {
            write!(f, "{} {}, ", self.of(outcome), outcome.name())?;
        }
        write!(f, "{} not run", self.of(NotRun))?;
        let first: Vec<&str> = self.facts.iter().take(FIRST).map(String::as_str).collect();
        if !first.is_empty() {
            let more = self.facts.len() - first.len();
            write!(f, " ({}", first.join("; "))?;
            if more > 0 {
                write!(f, "; and {more} facts more")?;
            }
            f.write_str(")")?;
        }
        Ok(())
    }
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
