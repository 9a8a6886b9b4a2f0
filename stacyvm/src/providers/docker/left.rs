//! What belongs to a sandbox beside its container, and whether it is left.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use bollard::models::ContainerSummary;

use super::create::{INSTANCE, SANDBOX, TENANT};
use crate::id::{InstanceId, SandboxId, TenantId};
use crate::provider::Leftover;
use crate::units::parse_time;

/// How long something may wait for its container.
const BEGINNING: Duration = Duration::from_mins(2);

/// What is left is judged by.
pub(super) struct Left<'a> {
    pub(super) containers: &'a [ContainerSummary],
    pub(super) now: SystemTime,
}

impl Left<'_> {
    /// Something of stacyvm: what has all of its labels, with sensible values.
    pub(super) fn judge(
        &self,
        kind: &str,
        name: String,
        labels: &HashMap<String, String>,
        made: Option<&str>,
    ) -> Option<Leftover> {
        TenantId::new(labels.get(TENANT)?.as_str()).ok()?;
        let sandbox = SandboxId::new(labels.get(SANDBOX)?.as_str()).ok()?;
        let instance = InstanceId::new(labels.get(INSTANCE)?.as_str()).ok()?;
        let is = |container: &ContainerSummary, key: &str, value: &str| {
            let labels = container.labels.as_ref();
            labels.and_then(|l| l.get(key)).is_some_and(|l| l == value)
        };
        let used = self.containers.iter().any(|container| {
            is(container, SANDBOX, sandbox.as_str()) && is(container, INSTANCE, instance.as_str())
        });
        // Somebody may be about to make its container.
        let begins = || {
            let made = made.and_then(time_with_zone);
            let age = |at| self.now.duration_since(at);
            made.is_none_or(|at| age(at).map_or(true, |age| age < BEGINNING))
        };
        let lives = used || begins();
        Some(Leftover {
            id: format!("{kind}:{name}"),
            kind: kind.to_owned(),
            remedy: if lives {
                "none: it goes with its sandbox".to_owned()
            } else {
                "remove it by its id".to_owned()
            },
            name,
            instance: Some(instance),
            state_dir: None,
            sandbox: Some(sandbox),
            owner_lives: lives,
            evidence: "it has the labels of instance, tenant and sandbox".to_owned(),
        })
    }
}

/// A time as engines tell it of networks: in the zone of their host.
fn time_with_zone(text: &str) -> Option<SystemTime> {
    let Some((local, zone)) = text
        .len()
        .checked_sub(6)
        .and_then(|at| text.split_at_checked(at))
    else {
        return parse_time(text);
    };
    let Some(east) = zone.strip_prefix('+').or(zone.strip_prefix('-')) else {
        return parse_time(text);
    };
    let (hours, minutes) = east.split_once(':')?;
    let minutes = hours.parse::<u64>().ok()? * 60 + minutes.parse::<u64>().ok()?;
    let (at, offset) = (
        parse_time(&format!("{local}Z"))?,
        Duration::from_mins(minutes),
    );
    if zone.starts_with('+') {
        at.checked_sub(offset)
    } else {
        at.checked_add(offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_any_zone_are_read() {
        let at = time_with_zone("2000-03-01T00:00:00Z").unwrap();
        for same in [
            "2000-03-01T01:30:00+01:30",
            "2000-02-29T19:00:00.000000000-05:00",
            "2000-03-01T00:00:00+00:00",
        ] {
            assert_eq!(time_with_zone(same), Some(at), "{same}");
        }
        for bad in ["", "x", "2000-03-01T00:00:00", "2000-03-01T00:00:00+xx:00"] {
            assert_eq!(time_with_zone(bad), None, "{bad}");
        }
    }
}
