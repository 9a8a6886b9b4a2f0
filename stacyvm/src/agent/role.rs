//! Which frames a stream may carry, and when.

use stacyvm_agent::protocol::Kind;

/// What a stream was opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// One answer of this kind.
    Reply(Kind),
    /// One answer of this kind, after data of the host.
    Upload(Kind),
    /// A command, started or followed.
    Exec {
        /// Whether the host may send standard input.
        stdin: bool,
        /// Whether it has a terminal, so that there is no standard error.
        tty: bool,
    },
    /// What is kept of a command's output.
    Log,
    /// Some files, then done.
    Listing,
    /// A file's entry, then its bytes, then done.
    Read,
    /// Bytes, then done.
    Export,
    /// Done once armed, then events.
    Watch,
    /// Done once connected, then bytes both ways.
    Dial,
    /// The port, then connections.
    Listen,
    /// A connection to a listener; bytes both ways.
    Accepted,
}

/// How far the agent's side of a stream has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing came yet.
    Head,
    /// The first answer came.
    Body,
    /// The agent sends no more data; the host may.
    Ended,
}

/// What a frame does to its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The stream goes on.
    Go(Phase),
    /// It was the last frame.
    Last,
}

#[expect(clippy::match_same_arms, reason = "one line for each role and phase")]
impl Role {
    /// Whether the host may send data, so that the agent may give credit.
    pub(super) fn sends(self) -> bool {
        match self {
            Self::Upload(_) | Self::Dial | Self::Accepted => true,
            Self::Exec { stdin, .. } => stdin,
            Self::Reply(_)
            | Self::Log
            | Self::Listing
            | Self::Read
            | Self::Export
            | Self::Watch
            | Self::Listen => false,
        }
    }

    /// Whether it carries bytes both ways and closes when both sides ended.
    pub(super) fn is_connection(self) -> bool {
        matches!(self, Self::Dial | Self::Accepted)
    }

    /// Whether the agent opened it.
    pub(super) fn first_phase(self) -> Phase {
        match self {
            Self::Accepted => Phase::Body,
            _ => Phase::Head,
        }
    }

    /// What a frame of this kind does; `None` is a violation. Credit is
    /// not asked about here.
    pub(super) fn step(self, phase: Phase, kind: Kind) -> Option<Step> {
        use Phase::{Body, Ended, Head};
        use Step::{Go, Last};
        if kind == Kind::Failure {
            return Some(Last);
        }
        let step = match (self, phase, kind) {
            (Self::Reply(answer) | Self::Upload(answer), Head, kind) if kind == answer => Last,
            (Self::Exec { .. }, Head, Kind::Started) => Go(Body),
            (Self::Exec { .. }, Body, Kind::Data | Kind::Lost) => Go(Body),
            (Self::Exec { tty: false, .. }, Body, Kind::DataErr) => Go(Body),
            (Self::Exec { .. }, Body, Kind::Exited) => Last,
            (Self::Log, Head, Kind::Started) => Go(Body),
            (Self::Log, Body, Kind::Data | Kind::DataErr | Kind::Lost) => Go(Body),
            (Self::Log, Body, Kind::Exited | Kind::Done) => Last,
            (Self::Listing, Head | Body, Kind::Entries) => Go(Body),
            (Self::Read, Head, Kind::Entry) => Go(Body),
            (Self::Read, Body, Kind::Data) => Go(Body),
            (Self::Export, Head | Body, Kind::Data | Kind::LeftOut) => Go(Body),
            (Self::Watch | Self::Dial, Head, Kind::Done) => Go(Body),
            (Self::Watch, Body, Kind::WatchEvent) => Go(Body),
            (Self::Dial | Self::Accepted, Body, Kind::Data) => Go(Body),
            (Self::Dial | Self::Accepted, Body, Kind::End) => Go(Ended),
            (Self::Listen, Head, Kind::Listening) => Go(Body),
            (Self::Listing | Self::Export, Head | Body, Kind::Done)
            | (Self::Read | Self::Watch | Self::Listen, Body, Kind::Done)
            | (Self::Dial | Self::Accepted, Body | Ended, Kind::Done) => Last,
            _ => return None,
        };
        Some(step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_comes_before_the_first_answer_or_from_the_host_side() {
        let roles = [
            Role::Reply(Kind::Done),
            Role::Upload(Kind::Entry),
            Role::Exec {
                stdin: true,
                tty: false,
            },
            Role::Log,
            Role::Listing,
            Role::Read,
            Role::Export,
            Role::Watch,
            Role::Dial,
            Role::Listen,
            Role::Accepted,
        ];
        for role in roles {
            for kind in Kind::ALL {
                let host_only = (*kind as u8) < 64 || matches!(kind, Kind::Cancel | Kind::Detach);
                for phase in [Phase::Head, Phase::Body, Phase::Ended] {
                    if host_only {
                        assert_eq!(role.step(phase, *kind), None, "{role:?} {phase:?} {kind:?}");
                    }
                }
            }
            assert_eq!(
                role.step(role.first_phase(), Kind::Failure),
                Some(Step::Last)
            );
        }
        let exec = Role::Exec {
            stdin: false,
            tty: true,
        };
        assert_eq!(exec.step(Phase::Head, Kind::Data), None);
        assert_eq!(exec.step(Phase::Head, Kind::Exited), None);
        assert_eq!(exec.step(Phase::Body, Kind::Started), None);
        assert_eq!(exec.step(Phase::Body, Kind::DataErr), None);
    }
}
