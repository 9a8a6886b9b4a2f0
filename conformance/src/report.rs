//! What a run says: for people, as JSON, and as JUnit.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use stacyvm::provider::{Capabilities, ProviderInfo};
use tokio::runtime::Handle;

use crate::case::{Case, Level};
use crate::harness::Harness;
use crate::stage::bounded;

/// The version of the report's form.
pub const SCHEMA: u32 = 1;

/// What came of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The provider did as the contract says.
    Passed,
    /// The provider does not claim what the case needs, and refused it as the
    /// contract says.
    Declined,
    /// It could not be tried.
    NotRun,
    /// It failed, and is declared to.
    Deviates,
    /// The provider did something else than the contract says.
    Failed,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Self; 5] = [
        Self::Passed,
        Self::Declined,
        Self::NotRun,
        Self::Deviates,
        Self::Failed,
    ];

    /// The outcome in snake case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Declined => "declined",
            Self::NotRun => "not_run",
            Self::Deviates => "deviates",
            Self::Failed => "failed",
        }
    }
}

/// One case of a report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CaseReport {
    /// Its id.
    pub id: String,
    /// How much it means when it fails.
    pub level: Level,
    /// The numbers of the promises that it pins.
    pub promises: Vec<String>,
    /// What came of it.
    pub outcome: Outcome,
    /// Why it did not pass: what was seen, the fact that is missing, the
    /// capabilities that are not claimed, the reason of a deviation. Escaped.
    pub evidence: String,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
}

impl CaseReport {
    pub(crate) fn new(case: &Case, outcome: Outcome, evidence: &str, took: Duration) -> Self {
        Self {
            id: case.id.to_owned(),
            level: case.level,
            promises: case.promises.split_whitespace().map(Into::into).collect(),
            outcome,
            evidence: evidence.escape_debug().to_string(),
            duration_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

/// What was tried.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SubjectReport {
    /// The harness.
    pub harness: String,
    /// The provider and its runtime; none where it could not be opened or does not tell.
    pub provider: Option<ProviderInfo>,
    /// What it claims.
    pub capabilities: Capabilities,
}

impl SubjectReport {
    /// What a harness that panics or hangs tells is left out. On the clock.
    pub(crate) async fn of(runtime: &Handle, harness: &Arc<dyn Harness>, limit: Duration) -> Self {
        let named = {
            let harness = Arc::clone(harness);
            async move { harness.name().to_owned() }
        };
        let named = bounded(runtime, "its name", limit, named).await;
        let opening = {
            let harness = Arc::clone(harness);
            async move {
                if harness.absent().is_some() {
                    return None;
                }
                let subject = harness.open().await.ok()?;
                let provider = subject.provider();
                let told = catch_unwind(AssertUnwindSafe(|| provider.info()));
                let claims = catch_unwind(AssertUnwindSafe(|| subject.capabilities()));
                Some((told.ok(), claims.unwrap_or_default()))
            }
        };
        let opened = bounded(runtime, "opening the provider", limit, opening).await;
        let (provider, capabilities) = opened.ok().flatten().unwrap_or_default();
        Self {
            harness: named.unwrap_or_else(|why| format!("nameless ({why})")),
            provider,
            capabilities,
        }
    }

    pub(crate) fn unknown() -> Self {
        Self {
            harness: "nameless".to_owned(),
            provider: None,
            capabilities: Capabilities::default(),
        }
    }
}

/// What came of a run. Two runs of the same differ in the durations alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The version of this form.
    pub schema: u32,
    /// The version of the suite.
    pub suite: String,
    /// What was tried.
    pub subject: SubjectReport,
    /// How many cases came to each outcome.
    pub summary: BTreeMap<String, usize>,
    /// The cases, in the order of the suite.
    pub cases: Vec<CaseReport>,
}

impl Report {
    pub(crate) fn new(subject: SubjectReport, cases: Vec<CaseReport>) -> Self {
        let count = |outcome| cases.iter().filter(|c| c.outcome == outcome).count();
        let counted = Outcome::ALL.map(|outcome| (outcome.name().to_owned(), count(outcome)));
        Self {
            schema: SCHEMA,
            suite: env!("CARGO_PKG_VERSION").to_owned(),
            subject,
            summary: counted.into_iter().collect(),
            cases,
        }
    }

    /// How many cases came to this.
    pub fn count(&self, outcome: Outcome) -> usize {
        self.summary.get(outcome.name()).copied().unwrap_or(0)
    }

    /// Whether the provider fulfils what was tried: no case of level `must` failed,
    /// and at least one passed.
    pub fn fulfils(&self) -> bool {
        let broken = |c: &CaseReport| c.outcome == Outcome::Failed && c.level == Level::Must;
        self.count(Outcome::Passed) > 0 && !self.cases.iter().any(broken)
    }

    /// The report as JSON.
    pub fn to_json(&self) -> String {
        // Text, numbers and maps with text keys: this cannot fail.
        let mut text = serde_json::to_string_pretty(self).expect("a report is JSON");
        text.push('\n');
        text
    }

    /// The report as JUnit.
    pub fn to_junit(&self) -> String {
        let seconds = |ms: u64| format!("{}.{:03}", ms / 1000, ms % 1000);
        let failed = self.count(Outcome::Failed);
        let skipped = self.count(Outcome::NotRun) + self.count(Outcome::Deviates);
        let mut text = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"{}\" tests=\"{}\" failures=\"{failed}\" errors=\"0\" skipped=\"{skipped}\">\n",
            escaped(&format!("conformance of {}", self.subject.harness)),
            self.cases.len(),
        );
        for case in &self.cases {
            let (suite, name) = case.id.split_once('.').unwrap_or(("", &case.id));
            let inner = match case.outcome {
                Outcome::Passed | Outcome::Declined => String::new(),
                Outcome::Failed => format!("<failure message=\"{}\"/>", escaped(&case.evidence)),
                Outcome::NotRun | Outcome::Deviates => {
                    format!("<skipped message=\"{}\"/>", escaped(&case.evidence))
                }
            };
            // Writing to a text cannot fail.
            let _ = writeln!(
                text,
                "  <testcase classname=\"{}\" name=\"{}\" time=\"{}\">{inner}</testcase>",
                escaped(suite),
                escaped(name),
                seconds(case.duration_ms),
            );
        }
        text.push_str("</testsuite>\n");
        text
    }
}

fn escaped(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            // Others than these two are escaped before or are characters of XML.
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('?'),
            c => out.push(c),
        }
    }
    out
}
