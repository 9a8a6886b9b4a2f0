//! Runs checks on a subject and in a control, and says what that proves.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::{Check, CheckLevel, Control, Subject, Verdict};
use crate::sandbox::spec::Privileges;

/// One check, judged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judged {
    /// The check.
    pub id: String,
    /// What it belongs to.
    pub family: String,
    /// How much it means when it fires.
    pub level: CheckLevel,
    /// What it saw in the subject.
    pub subject: Verdict,
    /// What it saw in the weak place.
    pub control: Verdict,
    /// Whether it was silent in the subject and fired in the weak place.
    pub proved: bool,
}

/// How many of a list went how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Silent, with a control that fired.
    pub proved: usize,
    /// Fired in the subject, though it should not.
    pub fired: usize,
    /// Fired in a subject that has the right on purpose: at [`CheckLevel::Inside`],
    /// with `privileges: namespaced_root`.
    #[serde(default)]
    pub granted: usize,
    /// Silent, and the control did not fire: nothing is proved.
    pub unproved: usize,
    /// Could not be tried in the subject.
    pub not_run: usize,
}

/// What was seen. Sorted by id; two runs on the same host differ in nothing but
/// `started`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// When the run began.
    pub started: SystemTime,
    /// The provider, as configured.
    pub provider: String,
    /// The runtime below it.
    pub runtime: String,
    /// The release of this host's kernel.
    pub kernel: String,
    /// What the weak place was.
    pub control: String,
    /// The checks.
    pub checks: Vec<Judged>,
    /// How many went how.
    pub summary: Summary,
}

/// Runs each check on the subject and in the control, one after the other.
///
/// # Behavior
///
/// - Every check has a row, also one that could not be run.
/// - Nothing is left in the control; the subject stays until it is closed.
///
/// # Cancellation
///
/// What runs in a sandbox is killed, what runs in the control ends by itself.
pub async fn judge(subject: &Subject, control: &dyn Control, checks: &[Box<dyn Check>]) -> Report {
    let started = SystemTime::now();
    let mut judged = Vec::with_capacity(checks.len());
    for check in checks {
        judged.push(one(subject, control, check.as_ref()).await);
    }
    judged.sort_by(|a: &Judged, b| a.id.cmp(&b.id));
    let summary = summary(&judged, subject.privileges());
    Report {
        started,
        provider: subject.provider().to_owned(),
        runtime: subject.runtime().to_owned(),
        kernel: kernel(),
        control: control.name().to_owned(),
        checks: judged,
        summary,
    }
}

async fn one(subject: &Subject, control: &dyn Control, check: &dyn Check) -> Judged {
    let unmet = check
        .needs()
        .iter()
        .find(|need| !need.met(subject.claims()));
    let (seen, weak) = if let Some(need) = unmet {
        let reason = format!("{} is not claimed here", need.name());
        (
            Verdict::not_run(reason),
            Verdict::not_run("the subject does not claim it"),
        )
    } else {
        (check.run(subject).await, control.run(check).await)
    };
    tracing::debug!(
        check = check.id(),
        subject = seen.name(),
        control = weak.name(),
        "judged"
    );
    Judged {
        id: check.id().to_owned(),
        family: check.family().to_owned(),
        level: check.level(),
        proved: proves(&seen, &weak),
        subject: seen,
        control: weak,
    }
}

/// A silence proves something when the same attempt was heard elsewhere.
fn proves(subject: &Verdict, control: &Verdict) -> bool {
    matches!((subject, control), (Verdict::Silent, Verdict::Fired { .. }))
}

fn summary(checks: &[Judged], privileges: Privileges) -> Summary {
    let mut summary = Summary::default();
    let is_root = privileges == Privileges::NamespacedRoot;
    for check in checks {
        let count = match &check.subject {
            Verdict::Fired { .. } if is_root && check.level == CheckLevel::Inside => {
                &mut summary.granted
            }
            Verdict::Fired { .. } => &mut summary.fired,
            Verdict::NotRun { .. } => &mut summary.not_run,
            Verdict::Silent if check.proved => &mut summary.proved,
            Verdict::Silent => &mut summary.unproved,
        };
        *count += 1;
    }
    summary
}

fn kernel() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    release.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silence_without_a_control_that_fired_proves_nothing() {
        let fired = Verdict::Fired {
            evidence: "x".into(),
        };
        let not_run = Verdict::not_run("y");
        assert!(proves(&Verdict::Silent, &fired));
        for (subject, control) in [
            (Verdict::Silent, Verdict::Silent),
            (Verdict::Silent, not_run.clone()),
            (fired.clone(), fired.clone()),
            (not_run, fired),
        ] {
            assert!(!proves(&subject, &control), "{subject:?} {control:?}");
        }
    }

    #[test]
    fn rights_inside_are_granted_to_those_alone_who_asked_for_them() {
        let check = |level| Judged {
            id: "a.b".into(),
            family: "a".into(),
            level,
            subject: Verdict::Fired {
                evidence: "x".into(),
            },
            control: Verdict::not_run("y"),
            proved: false,
        };
        let checks = [
            CheckLevel::Inside,
            CheckLevel::Isolation,
            CheckLevel::Hardening,
        ]
        .map(check);
        let count = |privileges| {
            let summary = summary(&checks, privileges);
            (summary.fired, summary.granted)
        };
        assert_eq!(count(Privileges::None), (3, 0));
        assert_eq!(count(Privileges::NamespacedRoot), (2, 1));
    }
}
