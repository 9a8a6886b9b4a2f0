//! A write whose data its caller has piece by piece.
//!
//! A write takes a stream of data and waits until it is done. Where pieces come by calls,
//! as in the bindings, this stands between.

use std::fmt;
use std::future::Future;

use bytes::Bytes;
use futures_util::stream;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;

use super::files::ByteStream;
use crate::error::{Error, ErrorKind, Result};

/// Pieces that wait for the sandbox.
const PIECES: usize = 4;

/// A write that is under way and is done once it is [finished](Self::finish).
///
/// One that is dropped is given up: its stream ends with an error, or the write is dropped.
pub struct Writing<T>(Mutex<Option<Parts<T>>>);

struct Parts<T> {
    /// `None` finishes.
    pieces: mpsc::Sender<Option<Bytes>>,
    /// One task, which ends with this.
    written: JoinSet<Result<T>>,
}

impl<T> fmt::Debug for Writing<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writing").finish_non_exhaustive()
    }
}

impl<T: Send + 'static> Writing<T> {
    /// Begins a write, which is given the stream of its data. Within a tokio runtime.
    pub fn begin<F>(write: impl FnOnce(ByteStream) -> F) -> Self
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let (pieces, come) = mpsc::channel(PIECES);
        let mut written = JoinSet::new();
        written.spawn(write(until_finished(come)));
        Self(Mutex::new(Some(Parts { pieces, written })))
    }

    /// Sends a piece; waits while the sandbox is behind. False once no more is taken:
    /// [`finish`](Self::finish) says why.
    ///
    /// # Cancellation
    ///
    /// The piece is not sent.
    pub async fn send(&self, piece: impl Into<Bytes>) -> bool {
        match self.0.lock().await.as_ref() {
            Some(parts) => parts.pieces.send(Some(piece.into())).await.is_ok(),
            None => false,
        }
    }

    /// Has the write do what is done with all of its data, and waits for it.
    ///
    /// # Errors
    ///
    /// Those of the write; `conflict` where it is finished or given up already.
    ///
    /// # Cancellation
    ///
    /// The write is dropped.
    pub async fn finish(&self) -> Result<T> {
        let Some(mut parts) = self.0.lock().await.take() else {
            return Err(Error::new(
                ErrorKind::Conflict,
                "what was written piece by piece is finished already",
            ));
        };
        // One that takes no more has failed, and says why.
        let _ = parts.pieces.send(None).await;
        match parts.written.join_next().await {
            Some(Ok(done)) => done,
            Some(Err(died)) => {
                Err(Error::new(ErrorKind::Internal, "the task that writes died").source(died))
            }
            None => Err(Error::new(
                ErrorKind::Internal,
                "there is no task that writes",
            )),
        }
    }

    /// Gives the write up: it is dropped, also where it waits for its turn. One that is over
    /// is success.
    pub async fn abandon(&self) {
        let parts = self.0.lock().await.take();
        if let Some(mut parts) = parts {
            parts.written.shutdown().await;
        }
    }
}

/// The pieces up to the `None` that finishes them. Where none comes the writer is gone.
fn until_finished(come: mpsc::Receiver<Option<Bytes>>) -> ByteStream {
    let next = async |come: Option<mpsc::Receiver<Option<Bytes>>>| {
        let mut come = come?;
        match come.recv().await {
            Some(Some(piece)) => Some((Ok(piece), Some(come))),
            Some(None) => None,
            None => {
                let error = Error::new(ErrorKind::Cancelled, "the writer gave up");
                Some((Err(error), None))
            }
        }
    };
    Box::pin(stream::unfold(Some(come), next))
}

#[cfg(test)]
mod tests {
    use futures_util::TryStreamExt as _;

    use super::*;

    async fn whole(data: ByteStream) -> Result<Vec<u8>> {
        let pieces: Vec<Bytes> = data.try_collect().await?;
        Ok(pieces.concat())
    }

    #[tokio::test]
    async fn what_was_sent_is_written_once_it_is_finished() {
        let writing = Writing::begin(whole);
        for piece in ["a", "", "bc"] {
            assert!(writing.send(piece).await);
        }
        assert_eq!(writing.finish().await.unwrap(), b"abc");
        assert!(!writing.send("d").await);
        assert_eq!(
            writing.finish().await.unwrap_err().kind(),
            ErrorKind::Conflict
        );
        writing.abandon().await;
    }

    #[tokio::test]
    async fn a_write_that_is_given_up_is_dropped_even_where_it_waits_for_its_turn() {
        let (tell, mut told) = tokio::sync::oneshot::channel::<()>();
        let writing = Writing::<()>::begin(async move |_| {
            let _tell = tell;
            std::future::pending().await
        });
        assert!(writing.send("a").await);
        writing.abandon().await;
        told.try_recv().unwrap_err();
        let error = writing.finish().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
    }

    #[tokio::test]
    async fn a_failure_ends_the_sending_and_is_told_at_its_end() {
        let full = || Error::new(ErrorKind::NoSpace, "the disk is full");
        let writing = Writing::<()>::begin(async move |data| {
            drop(data);
            Err(full())
        });
        while writing.send("a").await {
            tokio::task::yield_now().await;
        }
        assert_eq!(
            writing.finish().await.unwrap_err().kind(),
            ErrorKind::NoSpace
        );
    }

    #[tokio::test]
    async fn what_is_dropped_writes_nothing() {
        let (tell, told) = tokio::sync::oneshot::channel::<()>();
        let writing = Writing::begin(async move |data| {
            let data = whole(data).await?;
            let _ = tell.send(());
            Ok(data)
        });
        assert!(writing.send("a").await);
        drop(writing);
        told.await.unwrap_err();
    }
}
