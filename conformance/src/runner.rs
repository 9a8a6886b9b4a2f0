//! Runs cases, each in bounded time, and says what came of each.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use stacyvm::{Error, ErrorKind};
use tokio::sync::{RwLock, Semaphore};

use crate::case::{Case, Checked, Failure};
use crate::fixture::Fixture;
use crate::harness::{Deviation, Harness};
use crate::report::{CaseReport, Outcome, Report, SubjectReport};

/// How long opening the provider, and taking away what a case left, may take.
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
///   it made is taken away all the same.
/// - A case that leaves something fails.
pub async fn run(harness: &Arc<dyn Harness>, cases: &[&Case], options: &Options) -> Report {
    let places = Arc::new(Semaphore::new(options.jobs.max(1)));
    let mut running = Vec::new();
    for case in cases {
        let (harness, case, deadline) = (Arc::clone(harness), **case, options.deadline);
        let places = Arc::clone(&places);
        running.push(tokio::spawn(async move {
            // It is never closed.
            let _place = places.acquire_owned().await;
            judge(&harness, &case, deadline).await
        }));
    }
    let mut reports = Vec::new();
    for (task, case) in running.into_iter().zip(cases) {
        let done = task.await;
        reports.push(done.unwrap_or_else(|error| {
            CaseReport::new(case, Outcome::Failed, &panic_text(error), Duration::ZERO)
        }));
    }
    Report::new(SubjectReport::of(harness).await, reports)
}

/// Runs one case and what belongs to it.
pub async fn judge(harness: &Arc<dyn Harness>, case: &Case, deadline: Duration) -> CaseReport {
    let (_shared, _alone) = if case.alone {
        (None, Some(TURN.write().await))
    } else {
        (Some(TURN.read().await), None)
    };
    let begun = Instant::now();
    let (outcome, text) = match try_case(harness, case, deadline).await {
        Ok(None) => (Outcome::Passed, String::new()),
        Ok(Some(unmet)) => (Outcome::Declined, unmet),
        Err(Failure::Broken(text)) => (Outcome::Failed, text),
        Err(Failure::NotRun(fact)) => (Outcome::NotRun, fact),
    };
    let (outcome, text) = deviated(harness.deviations(), case.id, outcome, text);
    CaseReport::new(case, outcome, &text, begun.elapsed())
}

/// What an outcome means where the case is declared to deviate.
pub(crate) fn deviated(
    declared: &[Deviation],
    case: &str,
    outcome: Outcome,
    text: String,
) -> (Outcome, String) {
    let Some(Deviation { reason, .. }) = declared.iter().find(|one| one.case == case) else {
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

/// Runs a case or its twin; gives what is not claimed where it was the twin.
async fn try_case(
    harness: &Arc<dyn Harness>,
    case: &Case,
    deadline: Duration,
) -> Checked<Option<String>> {
    let opening = {
        let harness = Arc::clone(harness);
        tokio::spawn(async move { harness.open().await })
    };
    let subject = bounded("opening the provider", AROUND, opening).await?;
    let subject = subject.map_err(|error| match error.kind() {
        ErrorKind::Unsupported => Failure::NotRun(error.to_string()),
        _ => Failure::broken(format!("the provider could not be opened: {error}")),
    })?;
    let unmet = case.unmet(&subject.capabilities());
    let (work, declines) = match (unmet.is_empty(), case.declined) {
        (true, _) => (case.run, false),
        (false, Some(declined)) => (declined, true),
        (false, None) => {
            let fact = format!("the provider does not claim {}", unmet.join(", "));
            return Err(Failure::NotRun(fact));
        }
    };
    let fixture = Arc::new(Fixture::new(Arc::clone(harness), case.id, subject));
    let running = {
        let fixture = Arc::clone(&fixture);
        tokio::spawn(async move { work(&fixture).await })
    };
    let done = bounded("the case", deadline, running).await;
    let ending = {
        let fixture = Arc::clone(&fixture);
        tokio::spawn(async move { fixture.end().await })
    };
    let ended = bounded("taking away what the case left", AROUND, ending).await;
    let whole = done.flatten().and(ended.flatten());
    whole.map_err(|failure| match failure {
        Failure::Broken(text) => Failure::Broken(fixture.without_ids(&text)),
        Failure::NotRun(fact) => Failure::NotRun(fixture.without_ids(&fact)),
    })?;
    Ok(declines.then(|| unmet.join(", ")))
}

/// Waits for a task, at most so long; then it is given up.
pub(crate) async fn bounded<T>(
    what: &str,
    limit: Duration,
    mut task: tokio::task::JoinHandle<T>,
) -> Checked<T> {
    if let Ok(done) = tokio::time::timeout(limit, &mut task).await {
        return done.map_err(|error| Failure::broken(format!("{what}: {}", panic_text(error))));
    }
    task.abort();
    let seconds = limit.as_secs_f64();
    Err(Failure::broken(format!(
        "{what} did not end within {seconds} s"
    )))
}

fn panic_text(error: tokio::task::JoinError) -> String {
    let mut text = "it panicked".to_owned();
    if let Ok(panic) = error.try_into_panic() {
        let said = panic.downcast_ref::<&str>().map(ToString::to_string);
        let said = said.or_else(|| panic.downcast_ref::<String>().cloned());
        if let Some(said) = said {
            // Writing to a text cannot fail.
            let _ = write!(text, ": {said}");
        }
    }
    text
}

/// Writes a file through a new one beside it, so that no half of it is there.
///
/// # Errors
///
/// Those of the file system.
pub fn write_file(path: &Path, text: &str) -> std::io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    std::fs::write(&beside, text)?;
    std::fs::rename(&beside, path)
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
