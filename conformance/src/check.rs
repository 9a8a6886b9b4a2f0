//! Cases as checks of certificates.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use stacyvm::certify::{Check, CheckLevel, Control, Need, Place, Verdict};

use crate::case::{Case, Level};
use crate::harness::Harness;
use crate::mutants::{Lie, Lying};
use crate::report::{CaseReport, Outcome};
use crate::runner::{Options, judge};
use crate::suites::CASES;

/// A case, as a check of the provider that a harness opens.
///
/// # Behavior
///
/// - The place in which a check is run is not used: a case makes sandboxes of its
///   own. The harness has to open the combination that is certified.
/// - What passes, or is declined as the contract says, is silent; what fails fires, a
///   declared deviation too. What is not run proves nothing.
/// - Capabilities are looked at by the case: it has no needs as a check.
#[derive(Clone)]
pub struct CaseCheck {
    case: Case,
    harness: Arc<dyn Harness>,
    means: String,
}

impl fmt::Debug for CaseCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CaseCheck")
            .field("case", &self.case)
            .field("harness", &self.harness.name())
            .finish_non_exhaustive()
    }
}

impl CaseCheck {
    /// A case on the provider of this harness.
    pub fn new(case: &Case, harness: Arc<dyn Harness>) -> Self {
        let level = match case.level {
            Level::Must => "does not keep the contract",
            Level::Should => "is worse than it could be",
        };
        let promises: Vec<&str> = case.promises.split_whitespace().collect();
        let means = match promises.as_slice() {
            [] => format!("the provider {level}"),
            some => format!("the provider {level}: {}", some.join(", ")),
        };
        Self {
            case: *case,
            harness,
            means,
        }
    }

    /// Every case on the provider of this harness.
    pub fn all(harness: &Arc<dyn Harness>) -> Vec<Box<dyn Check>> {
        let all = CASES
            .iter()
            .map(|case| Self::new(case, Arc::clone(harness)));
        all.map(|check| Box::new(check) as Box<dyn Check>).collect()
    }
}

#[async_trait]
impl Check for CaseCheck {
    fn id(&self) -> &str {
        self.case.id
    }

    fn level(&self) -> CheckLevel {
        CheckLevel::Hardening
    }

    fn needs(&self) -> &[Need] {
        &[]
    }

    fn tries(&self) -> &str {
        self.case.id
    }

    fn means(&self) -> &str {
        &self.means
    }

    async fn run(&self, _: &dyn Place) -> Verdict {
        verdict(judge(&self.harness, &self.case, Options::default().deadline).await)
    }
}

fn verdict(report: CaseReport) -> Verdict {
    let text = report.evidence;
    match report.outcome {
        Outcome::Passed | Outcome::Declined => Verdict::Silent,
        Outcome::Failed | Outcome::Deviates => Verdict::Fired { evidence: text },
        Outcome::NotRun => Verdict::NotRun { reason: text },
    }
}

/// Runs cases over a provider that lies: there a case that can find the lie out
/// fires, and so proves that it can.
pub struct LiarControl {
    lying: Arc<dyn Harness>,
    name: String,
}

impl fmt::Debug for LiarControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiarControl")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl LiarControl {
    /// A liar around the provider of this harness.
    pub fn new(inner: Arc<dyn Harness>, lie: Lie) -> Self {
        Self {
            name: format!("{}, where {}", inner.name(), lie.text()),
            lying: Arc::new(Lying::new(inner, Some(lie))),
        }
    }
}

#[async_trait]
impl Control for LiarControl {
    fn name(&self) -> &str {
        &self.name
    }

    async fn run(&self, check: &dyn Check) -> Verdict {
        match CASES.iter().find(|case| case.id == check.id()) {
            Some(case) => verdict(judge(&self.lying, case, Options::default().deadline).await),
            None => Verdict::NotRun {
                reason: "it is no case of the suite".to_owned(),
            },
        }
    }
}
