//! What is asked of a provider, and what came of it.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use serde::{Deserialize, Serialize};
use stacyvm::provider::Capabilities;

use crate::fixture::Fixture;

/// How much it means when a case fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// A provider that fails it does not fulfil the contract.
    Must,
    /// A provider that fails it is worse than it could be.
    Should,
}

/// What a provider must claim before a case can be run on it.
#[derive(Clone, Copy)]
pub struct Need {
    /// The capability in snake case.
    pub name: &'static str,
    /// Whether these capabilities claim it.
    pub met: fn(&Capabilities) -> bool,
}

impl fmt::Debug for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// Why a case did not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The provider did something else than the contract says.
    Broken(String),
    /// It could not be tried: the fact that is missing.
    NotRun(String),
}

impl Failure {
    /// The provider did something else: what was expected and what was seen.
    pub fn broken(text: impl Into<String>) -> Self {
        Self::Broken(text.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broken(text) => f.write_str(text),
            Self::NotRun(fact) => write!(f, "not run: {fact}"),
        }
    }
}

impl From<stacyvm::Error> for Failure {
    fn from(error: stacyvm::Error) -> Self {
        Self::Broken(error.to_string())
    }
}

/// What a case gives.
pub type Checked<T = ()> = Result<T, Failure>;

/// A case under way.
pub type Running<'a> = Pin<Box<dyn Future<Output = Checked> + Send + 'a>>;

/// The function of a case.
pub type CaseFn = for<'a> fn(&'a Fixture) -> Running<'a>;

/// One thing that is asked of every provider.
#[derive(Clone, Copy)]
pub struct Case {
    /// Its id, `suite.name`, for ever.
    pub id: &'static str,
    /// How much it means when it fails.
    pub level: Level,
    /// The numbers of the promises in `docs/specification.md` that it pins.
    pub promises: &'static str,
    /// What a provider must claim.
    pub needs: &'static [Need],
    /// Whether no other case may run in this process meanwhile, as it measures the
    /// process itself.
    pub alone: bool,
    /// Tries it.
    pub run: CaseFn,
    /// Tried instead where a need is not claimed: the provider must refuse with
    /// `unsupported` and do nothing.
    pub declined: Option<CaseFn>,
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Case")
            .field("id", &self.id)
            .field("level", &self.level)
            .field("needs", &self.needs)
            .finish_non_exhaustive()
    }
}

impl Case {
    /// The suite that it is part of.
    pub fn suite(&self) -> &'static str {
        self.id.split('.').next().unwrap_or_default()
    }

    /// The capabilities that it needs and that are not claimed.
    pub fn unmet(&self, claims: &Capabilities) -> Vec<&'static str> {
        let unmet = self.needs.iter().filter(|need| !(need.met)(claims));
        unmet.map(|need| need.name).collect()
    }
}

/// Fails the case unless this holds.
#[macro_export]
macro_rules! ensure {
    ($holds:expr, $($text:tt)+) => {
        if !$holds {
            return Err($crate::Failure::broken(format!($($text)+)));
        }
    };
}

/// Fails the case unless both are equal.
#[macro_export]
macro_rules! ensure_eq {
    ($seen:expr, $expected:expr, $($what:tt)+) => {{
        let (seen, expected) = (&$seen, &$expected);
        if seen != expected {
            let what = format!($($what)+);
            return Err($crate::Failure::broken(format!("{what}: {seen:?}, expected {expected:?}")));
        }
    }};
}
