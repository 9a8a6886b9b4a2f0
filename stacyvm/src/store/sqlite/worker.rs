//! A thread that owns a connection.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::super::rules;
use super::forks::{self, Open, Place};
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};

/// How many calls wait for one connection before callers wait to be queued.
const QUEUE: usize = 256;

type Job = Box<dyn FnOnce(Result<&mut Connection>) + Send>;

/// Runs work on one connection, one piece after the other.
#[derive(Debug)]
pub(super) struct Worker {
    queue: Mutex<Option<mpsc::Sender<Job>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Worker {
    /// Starts the thread. `again` opens the connection anew after a fork; `kept` is
    /// dropped after the connection.
    pub(super) fn start(
        name: &str,
        file: &Path,
        open: Open,
        again: impl Fn() -> Result<Open> + Send + 'static,
        kept: impl Send + 'static,
    ) -> Result<Self> {
        let (sender, mut receiver) = mpsc::channel::<Job>(QUEUE);
        let place: Place = Arc::new(Mutex::new(Some(open)));
        {
            let _no_fork = forks::no_fork();
            forks::register(&place);
        }
        let run = move || {
            while let Some(job) = receiver.blocking_recv() {
                let _no_fork = forks::no_fork();
                let mut open = place.lock().unwrap_or_else(PoisonError::into_inner);
                let there = match open.take() {
                    Some(there) => Ok(there),
                    None => again(),
                };
                match there {
                    Ok(there) => job(Ok(&mut open.insert(there).connection)),
                    Err(error) => job(Err(error)),
                }
            }
            let no_fork = forks::no_fork();
            drop(place);
            drop(no_fork);
            drop(kept);
        };
        let thread = Builder::new()
            .name(name.to_owned())
            .spawn(run)
            .map_err(|e| no_thread(file, e))?;
        Ok(Self {
            queue: Mutex::new(Some(sender)),
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Runs a piece of work. Work whose caller is gone is not begun.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        cx: &Context,
        work: impl FnOnce(&mut Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let queue = self
            .queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
            .ok_or_else(rules::closed)?;
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            if !reply.is_closed() {
                // The caller may have gone in the meantime; the work is done.
                let _ = reply.send(connection.and_then(work));
            }
        });
        cx.bound(async {
            queue.send(job).await.map_err(|_| rules::closed())?;
            drop(queue);
            answer.await.map_err(|_| failed())?
        })
        .await
    }

    /// Takes no more work, waits for what is queued, and closes the connection.
    pub(super) async fn close(&self) {
        self.queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            // Its panic, if there was one, was reported to the call that met it.
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}

/// Runs one piece of work in a thread of its own.
pub(super) async fn once<T: Send + 'static>(
    name: &str,
    file: &Path,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let (reply, answer) = oneshot::channel();
    let run = move || {
        // The caller may have gone in the meantime.
        let _ = reply.send(work());
    };
    Builder::new()
        .name(name.to_owned())
        .spawn(run)
        .map_err(|e| no_thread(file, e))?;
    answer.await.map_err(|_| failed())?
}

fn no_thread(file: &Path, error: std::io::Error) -> Error {
    Error::new(
        ErrorKind::ResourceExhausted,
        format!("cannot start a thread for the store {}", file.display()),
    )
    .context("file", file.display())
    .context(
        "remedy",
        "end some processes of this user, or raise how many it may have (ulimit -u, pids.max)",
    )
    .source(error)
}

/// Work that panicked: its connection is gone with its thread.
fn failed() -> Error {
    Error::new(
        ErrorKind::Internal,
        "the thread of the store failed, expected an answer",
    )
}
