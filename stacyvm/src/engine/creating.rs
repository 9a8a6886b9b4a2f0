//! A create whose pull is watched.

use std::fmt;
use std::future::{Future, IntoFuture as _};
use std::pin::Pin;

use tokio::sync::watch;

use super::create::Create;
use crate::error::{Error, ErrorKind, Result};
use crate::provider::PullProgress;
use crate::sandbox::handle::Sandbox;

/// What happens next in a create, from [`Creating::next`].
#[derive(Debug)]
pub enum CreateStep {
    /// The pull of its image got further.
    Pulling(PullProgress),
    /// The sandbox, in which a command can run. Nothing comes after it.
    Made(Sandbox),
}

/// A create whose pull is watched, from [`Create::watched`]. Dropping it gives the
/// create up.
pub struct Creating {
    /// None once it has ended.
    made: Option<Pin<Box<dyn Future<Output = Result<Sandbox>> + Send>>>,
    progress: watch::Receiver<PullProgress>,
}

impl fmt::Debug for Creating {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Creating")
            .field("progress", &*self.progress.borrow())
            .finish_non_exhaustive()
    }
}

impl Create {
    /// The same create, step by step, for one who wants to be told of a pull where
    /// it waits instead of in a call of [`on_pull`](Self::on_pull), which this
    /// replaces. Nothing is made before the first [`Creating::next`].
    pub fn watched(self) -> Creating {
        let (told, progress) = watch::channel(PullProgress::default());
        let create = self.on_pull(move |now| {
            // Threads that tell at once overtake each other.
            told.send_if_modified(|last| {
                let further = now.done > last.done || now.total > last.total;
                last.done = last.done.max(now.done);
                last.total = last.total.max(now.total);
                further
            });
        });
        Creating {
            made: Some(create.into_future()),
            progress,
        }
    }
}

impl Creating {
    /// Waits for what happens next. Of what a pull did since the last call the
    /// newest is told; it never goes back.
    ///
    /// # Errors
    ///
    /// Those of [`Engine::create`](super::Engine::create); `conflict` once it has
    /// ended.
    ///
    /// # Cancellation
    ///
    /// Nothing is lost: the next call goes on.
    pub async fn next(&mut self) -> Result<CreateStep> {
        let Some(made) = self.made.as_mut() else {
            return Err(Error::new(
                ErrorKind::Conflict,
                "this create has ended, expected one that is under way; begin another one",
            )
            .operation("create"));
        };
        let made = tokio::select! {
            biased;
            Ok(()) = self.progress.changed() => {
                return Ok(CreateStep::Pulling(*self.progress.borrow_and_update()));
            }
            made = made => made,
        };
        self.made = None;
        made.map(CreateStep::Made)
    }
}
