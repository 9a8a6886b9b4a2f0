//! Decides where a sandbox stands.

use crate::error::{Error, ErrorKind};
use crate::sandbox::state::{Observed, ObservedState, Phase};

/// What a provider said when it was asked.
#[derive(Debug)]
pub(super) enum Seen {
    /// It is there.
    There(Observed),
    /// It is not, or it ended.
    Gone,
    /// The provider could not tell.
    Unknown(Error),
}

impl Seen {
    /// Reads the answer of [`Provider::inspect`](crate::provider::Provider::inspect).
    pub(super) fn from_answer(answer: Result<Observed, Error>) -> Self {
        match answer {
            Ok(observed) if observed.state == ObservedState::Ended => Self::Gone,
            Ok(observed) => Self::There(observed),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::SandboxGone) => {
                Self::Gone
            }
            Err(error) => Self::Unknown(error),
        }
    }
}

/// Decides the phase from the record and from what the provider sees.
///
/// The record says what was intended and is all there is while a sandbox is
/// made; once it runs, the provider knows better.
pub(super) fn decide(recorded: Phase, seen: &Seen) -> Phase {
    match (recorded, seen) {
        (Phase::Ended | Phase::Failed | Phase::Creating, _) | (_, Seen::Unknown(_)) => recorded,
        (Phase::Running | Phase::Paused | Phase::Destroying, Seen::Gone) => Phase::Ended,
        (Phase::Destroying, Seen::There(_)) => Phase::Destroying,
        (Phase::Running | Phase::Paused, Seen::There(observed)) => match observed.state {
            ObservedState::Running => Phase::Running,
            ObservedState::Paused => Phase::Paused,
            ObservedState::Ended => Phase::Ended,
        },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::id::SandboxId;

    fn there(state: ObservedState) -> Seen {
        Seen::from_answer(Ok(Observed {
            id: SandboxId::random(),
            tenant: None,
            state,
            created: None,
            ends: None,
            idle_ends: None,
            host_pid: None,
            effective: BTreeMap::new(),
        }))
    }

    fn failed(kind: ErrorKind) -> Seen {
        Seen::from_answer(Err(Error::new(kind, "x")))
    }

    #[test]
    fn a_provider_that_cannot_tell_changes_nothing() {
        for phase in Phase::ALL {
            assert_eq!(decide(*phase, &failed(ErrorKind::Unavailable)), *phase);
        }
    }

    #[test]
    fn what_is_gone_ended_unless_it_is_being_made() {
        for kind in [ErrorKind::NotFound, ErrorKind::SandboxGone] {
            for phase in [Phase::Running, Phase::Paused, Phase::Destroying] {
                assert_eq!(decide(phase, &failed(kind)), Phase::Ended);
            }
            assert_eq!(decide(Phase::Creating, &failed(kind)), Phase::Creating);
            assert_eq!(decide(Phase::Failed, &failed(kind)), Phase::Failed);
        }
        assert_eq!(
            decide(Phase::Running, &there(ObservedState::Ended)),
            Phase::Ended
        );
    }

    #[test]
    fn what_runs_or_stands_still_is_what_the_provider_sees() {
        use ObservedState::{Paused, Running};
        assert_eq!(decide(Phase::Running, &there(Paused)), Phase::Paused);
        assert_eq!(decide(Phase::Paused, &there(Running)), Phase::Running);
        assert_eq!(
            decide(Phase::Destroying, &there(Running)),
            Phase::Destroying
        );
        assert_eq!(decide(Phase::Ended, &there(Running)), Phase::Ended);
    }
}
