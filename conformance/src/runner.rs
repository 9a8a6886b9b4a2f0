//! Runs cases, each in bounded time, and says what came of each.

use std::sync::Arc;
use std::time::{Duration, Instant};

use stacyvm::{Error, ErrorKind};
use tokio::runtime::Handle;
use tokio::sync::{RwLock, Semaphore};

use crate::case::{Case, CaseFn, Checked, Failure};
use crate::fixture::Fixture;
use crate::harness::{Deviation, Harness};
use crate::report::{CaseReport, Outcome, Report, SubjectReport};
use crate::stage::{bounded, clock};
use crate::suites::CASES;

/// How long taking away what a case left may take; opening the provider too, and no
/// longer than a case.
const AROUND: Duration = Duration::from_secs(30);

/// Held by each case that runs in this process; by one that runs alone, for itself.
static TURN: RwLock<()> = RwLock::const_new(());

/// How cases are run.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long one case may take.
    pub deadline: Duration,
    /// How many run at once.
    pub jobs: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            deadline: Duration::from_mins(1),
            jobs: 4,
        }
    }
}

/// Which cases are run.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Those of these suites; of all if none.
    pub suites: Vec<String>,
    /// Those whose ids fit one of these patterns, in which `*` stands for any
    /// text; all if none.
    pub patterns: Vec<String>,
}

impl Selection {
    /// The cases of a list that are selected, in its order.
    ///
    /// # Errors
    ///
    /// `invalid_argument` for a suite that there is not, and where nothing is
    /// selected: a run of no case proves nothing.
    pub fn of<'a>(&self, cases: &'a [Case]) -> stacyvm::Result<Vec<&'a Case>> {
        for suite in &self.suites {
            if !cases.iter().any(|case| case.suite() == suite) {
                let mut names: Vec<&str> = cases.iter().map(Case::suite).collect();
                names.dedup();
                return Err(Error::invalid(
                    "suite",
                    suite,
                    &format!("one of {}", names.join(", ")),
                    "name a suite of the list",
                ));
            }
        }
        let fits = |case: &&Case| {
            let suites = &self.suites;
            let patterns = &self.patterns;
            (suites.is_empty() || suites.iter().any(|suite| suite == case.suite()))
                && (patterns.is_empty() || patterns.iter().any(|p| matches(p, case.id)))
        };
        let selected: Vec<&Case> = cases.iter().filter(fits).collect();
        if selected.is_empty() {
            return Err(Error::invalid(
                "case",
                self.patterns.join(", "),
                "a pattern that fits at least one case",
                "see the ids with `stacyvm conformance list`",
            ));
        }
        Ok(selected)
    }
}

/// Whether a text fits a pattern in which `*` stands for any text.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(mut text) = text.strip_prefix(head) else {
        return false;
    };
    let (middle, tail) = rest.rsplit_once('*').unwrap_or(("", rest));
    // Of a piece in the middle the first place is as good as any later one.
    for piece in middle.split('*') {
        match text.find(piece) {
            Some(at) => text = &text[at + piece.len()..],
            None => return false,
        }
    }
    text.ends_with(tail)
}

/// Runs these cases and tells what came of each, in their order.
///
/// # Behavior
///
/// - A case that panics or does not end in time fails, and the run goes on. What
///   it made is taken away all the same. Deadlines hold for a harness and a provider
///   that block their threads too, as long as the runtime of the caller has a thread
///   left for others.
/// - A case that leaves something fails.
/// - Where the harness declares a deviation of a case that there is not, nothing is
///   run and every case fails.
pub async fn run(harness: &Arc<dyn Harness>, cases: &[&Case], options: &Options) -> Report {
    let runtime = Handle::current();
    let known: Vec<&'static str> = cases.iter().map(|case| case.id).collect();
    let refusal = {
        let (runtime, harness) = (runtime.clone(), Arc::clone(harness));
        let work = async move { undeclarable(&*harness, &known) };
        let limit = options.deadline.min(AROUND);
        let asked = async move { bounded(&runtime, "its deviations", limit, work).await };
        match clock().spawn(asked).await {
            Ok(asked) => asked.unwrap_or_else(Some),
            Err(error) => Some(error.to_string()),
        }
    };
    let places = Arc::new(Semaphore::new(options.jobs.max(1)));
    let mut running = Vec::new();
    for case in cases {
        let (harness, case, deadline) = (Arc::clone(harness), **case, options.deadline);
        let (places, runtime, refusal) = (Arc::clone(&places), runtime.clone(), refusal.clone());
        running.push(clock().spawn(async move {
            if let Some(refusal) = refusal {
                return CaseReport::new(&case, Outcome::Failed, &refusal, Duration::ZERO);
            }
            // It is never closed.
            let _place = places.acquire_owned().await;
            judged(&runtime, &harness, &case, deadline).await
        }));
    }
    let mut reports = Vec::new();
    for (task, case) in running.into_iter().zip(cases) {
        reports.push(task.await.unwrap_or_else(|error| broken(case, &error)));
    }
    let subject = {
        let (harness, runtime) = (Arc::clone(harness), runtime.clone());
        let limit = options.deadline.min(AROUND);
        clock().spawn(async move { SubjectReport::of(&runtime, &harness, limit).await })
    };
    let subject = subject.await.unwrap_or_else(|_| SubjectReport::unknown());
    Report::new(subject, reports)
}

/// A case of which this runner lost hold.
fn broken(case: &Case, error: &tokio::task::JoinError) -> CaseReport {
    CaseReport::new(case, Outcome::Failed, &error.to_string(), Duration::ZERO)
}

/// Why these declarations cannot be meant, if so: one names neither a case of the suite
/// nor one that is run.
fn undeclarable(harness: &dyn Harness, known: &[&str]) -> Option<String> {
    let mut declared = harness.deviations().iter().map(|one| one.case);
    let names = |id: &str| known.contains(&id) || CASES.iter().any(|case| case.id == id);
    declared.find(|id| !names(id)).map(names_no_case)
}

/// What is said of a deviation that names no case.
pub(crate) fn names_no_case(id: &str) -> String {
    format!("the deviation `{id}` names no case; correct `Harness::deviations`")
}

/// Runs one case and what belongs to it.
pub async fn judge(harness: &Arc<dyn Harness>, case: &Case, deadline: Duration) -> CaseReport {
    let judging = {
        let (runtime, harness, case) = (Handle::current(), Arc::clone(harness), *case);
        clock().spawn(async move { judged(&runtime, &harness, &case, deadline).await })
    };
    judging.await.unwrap_or_else(|error| broken(case, &error))
}

async fn judged(
    runtime: &Handle,
    harness: &Arc<dyn Harness>,
    case: &Case,
    deadline: Duration,
) -> CaseReport {
    let (_shared, _alone) = if case.alone {
        (None, Some(TURN.write().await))
    } else {
        (Some(TURN.read().await), None)
    };
    let begun = Instant::now();
    let (outcome, text) = try_case(runtime, harness, case, deadline).await;
    CaseReport::new(case, outcome, &text, begun.elapsed())
}

/// What an outcome means where the case is declared to deviate.
pub(crate) fn deviated(
    declared: Option<&Deviation>,
    outcome: Outcome,
    text: String,
) -> (Outcome, String) {
    let Some(Deviation { reason, .. }) = declared else {
        return (outcome, text);
    };
    match outcome {
        Outcome::Failed => (Outcome::Deviates, format!("{reason}: {text}")),
        Outcome::Passed | Outcome::Declined => (
            Outcome::Failed,
            format!("it is declared to deviate ({reason}), and does not: remove the declaration"),
        ),
        other => (other, text),
    }
}

/// A case that can be tried.
struct Opened {
    fixture: Arc<Fixture>,
    work: CaseFn,
    /// What is not claimed: the work is the twin.
    unmet: Vec<&'static str>,
    declared: Option<Deviation>,
}

/// Opens the provider for a case; or tells what comes of the case without it.
async fn open(harness: Arc<dyn Harness>, case: Case) -> Result<Opened, (Outcome, String)> {
    if let Some(fact) = harness.absent() {
        return Err((Outcome::NotRun, fact));
    }
    let mut declared = harness.deviations().iter();
    let declared = declared.find(|one| one.case == case.id).copied();
    let subject = harness.open().await.map_err(|error| {
        let hint = match error.kind() {
            ErrorKind::Unsupported => "; what a machine lacks is told by `Harness::absent`",
            _ => "",
        };
        let text = format!("the provider could not be opened: {error}{hint}");
        (Outcome::Failed, text)
    })?;
    let unmet = case.unmet(&subject.capabilities());
    let work = match (unmet.is_empty(), case.declined) {
        (true, _) => case.run,
        (false, Some(declined)) => declined,
        (false, None) => {
            let fact = format!("the provider does not claim {}", unmet.join(", "));
            return Err((Outcome::NotRun, fact));
        }
    };
    Ok(Opened {
        fixture: Arc::new(Fixture::open(harness, case.id, subject).await),
        work,
        unmet,
        declared,
    })
}

/// Runs a case or its twin, and looks for what it left.
async fn try_case(
    runtime: &Handle,
    harness: &Arc<dyn Harness>,
    case: &Case,
    deadline: Duration,
) -> (Outcome, String) {
    let opening = open(Arc::clone(harness), *case);
    let limit = deadline.min(AROUND);
    let opened = match bounded(runtime, "opening the provider", limit, opening).await {
        Ok(Ok(opened)) => opened,
        Ok(Err(end)) => return end,
        Err(stuck) => return (Outcome::Failed, stuck),
    };
    let Opened { fixture, work, .. } = opened;
    let names = fixture.names();
    // Whatever it holds is dropped on threads of the harness, the last one here.
    let running = {
        let fixture = Arc::clone(&fixture);
        async move { work(&fixture).await }
    };
    let done = bounded(runtime, "the case", deadline, running).await;
    let ending = async move { fixture.end().await };
    let ended = bounded(runtime, "taking away what the case left", AROUND, ending).await;
    let (outcome, text) = verdict(done, ended, opened.declared.as_ref(), &opened.unmet);
    (outcome, names.without_ids(&text))
}

/// What came of a case that ended so and left so. What panicked, hung or left something
/// has failed, whatever the case itself told and whatever is declared.
fn verdict(
    done: Result<Checked, String>,
    ended: Result<Checked, String>,
    declared: Option<&Deviation>,
    unmet: &[&str],
) -> (Outcome, String) {
    let left = match ended {
        Ok(Ok(())) => None,
        Ok(Err(failure)) => Some(failure.to_string()),
        Err(stuck) => Some(stuck),
    };
    let is_stuck = done.is_err();
    let (outcome, text) = match done {
        Ok(Ok(())) if unmet.is_empty() => (Outcome::Passed, String::new()),
        Ok(Ok(())) => (Outcome::Declined, unmet.join(", ")),
        Ok(Err(Failure::NotRun(fact))) => (Outcome::NotRun, fact),
        Ok(Err(Failure::Broken(text))) | Err(text) => (Outcome::Failed, text),
    };
    match (left, outcome) {
        (Some(left), Outcome::Failed) => (Outcome::Failed, format!("{text}; {left}")),
        (Some(left), Outcome::NotRun) => {
            let text = format!("{left}; the case itself was not run: {text}");
            (Outcome::Failed, text)
        }
        (Some(left), _) => (Outcome::Failed, left),
        (None, _) if is_stuck => (outcome, text),
        (None, _) => deviated(declared, outcome, text),
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, text, fits) in [
            ("exec.*", "exec.argv", true),
            ("*", "", true),
            ("*.argv", "exec.argv", true),
            ("e*c.a*v", "exec.argv", true),
            ("exec", "exec.argv", false),
            ("*.arg", "exec.argv", false),
            ("a*a", "a", false),
            ("*a*b*", "xaxbx", true),
            ("*a*b", "xbxa", false),
            ("**", "é", true),
        ] {
            assert_eq!(matches(pattern, text), fits, "{pattern} {text}");
        }
    }
}
