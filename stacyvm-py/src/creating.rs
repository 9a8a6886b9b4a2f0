//! A create whose pull is watched.

use std::sync::Arc;

use pyo3::prelude::*;
use serde::{Deserialize, Serialize};
use stacyvm::provider::PullProgress;
use stacyvm::sandbox::shared::Closable;
use stacyvm::{CreateStep, Error, ErrorKind};

use crate::convert::Nothing;
use crate::engine::Opener;
use crate::forked::OfProcess;
use crate::pending::Call;
use crate::sandbox::Sandbox;

/// How far the pull of an image is.
#[pyclass(module = "stacyvm", frozen, get_all, eq)]
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct PullInfo {
    /// Bytes that came.
    done: u64,
    /// Bytes of all that was begun so far; it grows meanwhile.
    total: u64,
}

impl From<PullProgress> for PullInfo {
    fn from(progress: PullProgress) -> Self {
        Self {
            done: progress.done,
            total: progress.total,
        }
    }
}

#[pymethods]
impl PullInfo {
    fn __repr__(&self) -> String {
        format!("PullInfo(done={}, total={})", self.done, self.total)
    }
}

/// A create that tells of its pull.
#[pyclass(module = "stacyvm._native", frozen)]
pub(crate) struct Creating {
    opener: Arc<Opener>,
    creating: Arc<OfProcess<Closable<stacyvm::Creating>>>,
}

impl Creating {
    pub(crate) fn of(opener: Arc<Opener>, creating: stacyvm::Creating) -> Self {
        Self {
            opener,
            creating: Arc::new(OfProcess::new(Closable::new(creating))),
        }
    }
}

#[pymethods]
impl Creating {
    /// What happens next: how far the pull is, or the sandbox.
    fn next_event(&self) -> Call<(Option<PullInfo>, Option<Sandbox>)> {
        let (opener, creating) = (Arc::clone(&self.opener), Arc::clone(&self.creating));
        let work = async move {
            let creating = creating.get().ok_or_else(|| {
                Error::new(
                    ErrorKind::Conflict,
                    "this create was begun by the process that forked this one",
                )
            })?;
            let step = creating.with(|creating| Box::pin(creating.next())).await;
            let given_up = || Err(Error::new(ErrorKind::Cancelled, "it was given up"));
            Ok(match step.unwrap_or_else(given_up)? {
                CreateStep::Pulling(progress) => (Some(progress.into()), None),
                CreateStep::Made(sandbox) => (None, Some(Sandbox::of(opener, sandbox))),
            })
        };
        Call::of_made(work, |(_, made): &(_, Option<Sandbox>)| {
            made.as_ref().map(Sandbox::undo)
        })
    }

    /// Gives it up, and takes down what was begun.
    fn give_up(&self) -> Call<Nothing> {
        let creating = Arc::clone(&self.creating);
        Call::new(async move {
            if let Some(creating) = creating.get() {
                creating.close().await;
            }
            Ok(())
        })
    }
}
