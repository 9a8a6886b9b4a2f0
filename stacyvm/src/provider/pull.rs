//! Bringing an image to where creates find it.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::sandbox::spec::Source;

/// When a create pulls its image from the registry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pull {
    /// Never: an image that is not here is `not_found`.
    Never,
    /// Where no image of this name is here. One that is here is used without
    /// any network, whatever the registry has under its name now.
    #[default]
    Missing,
    /// Each time, so that a tag is what the registry says now. What is here
    /// already is not transferred again.
    Always,
}

impl Pull {
    const ALL: [(Self, &str); 3] = [
        (Self::Never, "never"),
        (Self::Missing, "missing"),
        (Self::Always, "always"),
    ];
}

impl fmt::Display for Pull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = Self::ALL.iter().find(|(one, _)| one == self);
        f.write_str(found.map_or("", |(_, text)| text))
    }
}

impl FromStr for Pull {
    type Err = Error;

    /// # Errors
    ///
    /// `invalid_argument` for another word.
    fn from_str(text: &str) -> Result<Self> {
        let found = Self::ALL.iter().find(|(_, one)| *one == text);
        found.map(|(one, _)| *one).ok_or_else(|| {
            Error::invalid(
                "pull",
                text,
                "missing, never or always",
                "leave it out for what is configured",
            )
        })
    }
}

/// How far a pull is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PullProgress {
    /// Bytes that came.
    pub done: u64,
    /// Bytes of all that was begun so far; it grows while blobs are begun.
    pub total: u64,
}

/// Is told how far a pull is, from several threads at once. It must not block.
pub type PullObserver = Arc<dyn Fn(PullProgress) + Send + Sync>;

/// An image to bring.
#[derive(Clone)]
pub struct PullRequest {
    /// What a sandbox is to be made from, as its spec has it.
    pub source: Source,
    /// When it is pulled.
    pub when: Pull,
    /// Who is told how far it is.
    pub observer: Option<PullObserver>,
}

impl fmt::Debug for PullRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PullRequest")
            .field("source", &self.source)
            .field("when", &self.when)
            .finish_non_exhaustive()
    }
}
