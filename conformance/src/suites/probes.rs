//! The escape probes, one case each: what a hostile command tries must stay silent,
//! where the same attempt fires in a deliberately weak place.

use std::time::Duration;

use stacyvm::certify::{self, Check, CheckLevel, HostControl, Subject, Verdict, probes};
use stacyvm::sandbox::spec::Privileges;

use super::needs;
use crate::case::{Case, Checked, Failure, Level, Need};
use crate::fixture::Fixture;

/// How long one probe may take, so that its sandboxes are ended within the case.
const PATIENCE: Duration = Duration::from_secs(45);

/// A case for each probe.
pub(super) fn cases() -> Vec<Case> {
    let all = probes::all();
    all.iter().map(|check| case(check.as_ref())).collect()
}

fn case(check: &dyn Check) -> Case {
    let mut needs = vec![needs::ISOLATION];
    needs.extend(check.needs().iter().map(|need| of(*need)));
    Case {
        // There is one list of cases for the life of the process.
        id: Box::leak(format!("probes.{}", check.id()).into_boxed_str()),
        level: Level::Must,
        promises: "S2.1 S2.14",
        needs: Vec::leak(needs),
        // They are judged by what this process keeps of a flood.
        alone: check.family() == "output",
        run: |fixture| Box::pin(probe(fixture)),
        declined: None,
    }
}

macro_rules! enforced {
    ($need:ident, $($variant:ident),+) => {
        match $need {
            $(certify::Need::$variant => |claims| certify::Need::$variant.met(claims),)+
        }
    };
}

fn of(need: certify::Need) -> Need {
    Need {
        name: need.name(),
        met: enforced!(
            need,
            Users,
            LinuxKernel,
            RootMapped,
            MemoryLimit,
            CpuLimit,
            PidsLimit,
            OpenFilesLimit,
            DiskLimit
        ),
    }
}

/// Tries the probe that the case is named for.
async fn probe(f: &Fixture) -> Checked {
    let id = f.case().strip_prefix("probes.").unwrap_or_default();
    let mut checks = probes::all();
    checks.retain(|check| check.id() == id);
    let Some(check) = checks.first() else {
        return Err(Failure::broken(format!("there is no probe {id}")));
    };
    let name = Some(f.provider_name());
    let mut subject = Subject::open_for(f.engine(), name, f.spec(), &checks).await?;
    let judged = tokio::time::timeout(PATIENCE, judge(&mut subject, check.as_ref())).await;
    let closed = subject.close().await;
    judged.map_err(|_| Failure::broken(format!("not within {} s", PATIENCE.as_secs())))??;
    Ok(closed?)
}

async fn judge(subject: &mut Subject, check: &dyn Check) -> Checked {
    use certify::Control as _;
    let control = HostControl::open(subject.facts()).await;
    let control =
        control.map_err(|error| Failure::NotRun(format!("a weak place on this host: {error}")))?;
    subject.tell(control.facts());
    let granted =
        check.level() == CheckLevel::Inside && subject.privileges() == Privileges::NamespacedRoot;
    match check.run(&*subject).await {
        Verdict::Fired { .. } if granted => Ok(()),
        Verdict::Fired { evidence } => Err(Failure::broken(format!(
            "{} succeeded ({}): {evidence}",
            check.tries(),
            check.level().name()
        ))),
        Verdict::NotRun { reason } => Err(Failure::NotRun(reason)),
        Verdict::Silent => match control.run(check).await {
            Verdict::Fired { .. } => Ok(()),
            weak => Err(Failure::NotRun(format!(
                "its control on this host is {}: a silence proves nothing; {}",
                weak.name(),
                weak.detail()
            ))),
        },
    }
}
