//! Connections, listeners and the like that several tasks use, and one closes.
//!
//! A connection is read and written by `&mut`. Where reader, writer and the one who
//! closes it are apart, as in the bindings, this is what they share.

use std::fmt;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::sync::{Mutex, watch};

use super::exec::BoxStream;
use crate::error::{Error, ErrorKind, Result};
use crate::provider::{Connection, PortListener};

/// What [`SharedConnection::recv`] gives at once at most.
const PIECE: usize = 64 * 1024;

/// A value that one task at a time works with until any of them closes it.
pub struct Closable<T> {
    value: Mutex<Option<T>>,
    closed: watch::Sender<bool>,
}

impl<T> fmt::Debug for Closable<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Closable")
            .field("closed", &*self.closed.borrow())
            .finish_non_exhaustive()
    }
}

impl<T> Closable<T> {
    /// An open one.
    pub fn new(value: T) -> Self {
        Self {
            value: Mutex::new(Some(value)),
            closed: watch::Sender::new(false),
        }
    }

    /// Does some work with the value, after whoever works with it now; `None` once
    /// it is closed, and where it is closed before the work ends.
    ///
    /// # Cancellation
    ///
    /// That of the work, which a close drops in the middle too.
    pub async fn with<R>(
        &self,
        work: impl for<'a> FnOnce(&'a mut T) -> BoxFuture<'a, R>,
    ) -> Option<R> {
        let mut closing = self.closed.subscribe();
        let done = async {
            let mut value = self.value.lock().await;
            Some(work(value.as_mut()?).await)
        };
        tokio::select! {
            biased;
            _ = closing.wait_for(|closed| *closed) => None,
            done = done => done,
        }
    }

    /// Closes it and gives the value; what somebody does with it is dropped. `None`
    /// for a closed one.
    pub async fn take(&self) -> Option<T> {
        self.closed.send_replace(true);
        self.value.lock().await.take()
    }

    /// Drops the value, and what somebody does with it. A closed one is success.
    pub async fn close(&self) {
        drop(self.take().await);
    }
}

/// A connection to or from a port inside that tasks share: one reads, one writes.
#[derive(Debug)]
pub struct SharedConnection {
    reads: Closable<ReadHalf<Connection>>,
    writes: Closable<WriteHalf<Connection>>,
}

impl From<Connection> for SharedConnection {
    fn from(connection: Connection) -> Self {
        let (reads, writes) = tokio::io::split(connection);
        Self {
            reads: Closable::new(reads),
            writes: Closable::new(writes),
        }
    }
}

impl SharedConnection {
    /// Waits for bytes of the other side, `limit` of them and 64 KiB at most; none
    /// once it sends no more.
    ///
    /// # Errors
    ///
    /// `invalid_argument` for a `limit` of 0; `conflict` once the connection is closed
    /// here, or was reset there; `sandbox_gone` and what else broke it.
    ///
    /// # Cancellation
    ///
    /// Nothing is lost: the next call gives it.
    pub async fn recv(&self, limit: usize) -> Result<Bytes> {
        if limit == 0 {
            return Err(Error::invalid(
                "limit",
                limit,
                "1 or more",
                "give the number of bytes that are wanted at most",
            ));
        }
        let read = self.reads.with(|reads| {
            Box::pin(async move {
                let most = limit.min(PIECE);
                let mut piece = BytesMut::with_capacity(most).limit(most);
                reads.read_buf(&mut piece).await?;
                Ok(piece.into_inner().freeze())
            })
        });
        read.await.ok_or_else(closed)?.map_err(broken)
    }

    /// Sends all of these bytes; waits while the other side does not read.
    ///
    /// # Errors
    ///
    /// `conflict` after [`send_eof`](Self::send_eof), once the connection is closed
    /// here or there; `sandbox_gone` and what else broke it.
    ///
    /// # Cancellation
    ///
    /// A part of them may have been sent.
    pub async fn send(&self, data: Bytes) -> Result<()> {
        let sent = self.writes.with(|writes| {
            Box::pin(async move {
                writes.write_all(&data).await?;
                writes.flush().await
            })
        });
        sent.await.ok_or_else(closed)?.map_err(broken)
    }

    /// Tells the other side that no more comes; it may send on.
    ///
    /// # Errors
    ///
    /// `conflict` once the connection is closed, and what broke it.
    pub async fn send_eof(&self) -> Result<()> {
        let ended = self.writes.with(|writes| Box::pin(writes.shutdown()));
        ended.await.ok_or_else(closed)?.map_err(broken)
    }

    /// Gives the connection to one who has it alone; it is closed for all others.
    ///
    /// # Errors
    ///
    /// `conflict` once the connection is closed.
    pub async fn take(&self) -> Result<Connection> {
        let (reads, writes) = (self.reads.take().await, self.writes.take().await);
        let (reads, writes) = (reads.ok_or_else(closed)?, writes.ok_or_else(closed)?);
        Ok(reads.unsplit(writes))
    }

    /// Closes it, also where somebody waits to read or to write. A closed one is success.
    pub async fn close(&self) {
        self.writes.close().await;
        self.reads.close().await;
    }
}

fn closed() -> Error {
    Error::new(
        ErrorKind::Conflict,
        "the connection is closed, expected an open one; dial again",
    )
}

/// What broke a connection: the error of the library that is in it, if one is.
fn broken(error: std::io::Error) -> Error {
    let told = error.to_string();
    if let Some(inner) = error.into_inner()
        && let Ok(error) = inner.downcast::<Error>()
    {
        return *error;
    }
    Error::new(ErrorKind::Conflict, told)
}

/// A port inside that is listened on, by tasks that share it.
#[derive(Debug)]
pub struct SharedListener {
    port: u16,
    incoming: Closable<BoxStream<Result<Connection>>>,
}

impl From<PortListener> for SharedListener {
    fn from(listener: PortListener) -> Self {
        Self {
            port: listener.port,
            incoming: Closable::new(listener.incoming),
        }
    }
}

impl SharedListener {
    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Waits for the next connection that a program inside makes; `None` once the
    /// port is closed.
    ///
    /// # Errors
    ///
    /// `sandbox_gone`, `unavailable`.
    ///
    /// # Cancellation
    ///
    /// No connection is lost: the next call gives it.
    pub async fn accept(&self) -> Result<Option<Connection>> {
        let accepted = self.incoming.with(|incoming| Box::pin(incoming.next()));
        accepted.await.flatten().transpose()
    }

    /// Closes the port, also where somebody waits for a connection. Connections that
    /// were made go on.
    pub async fn close(&self) {
        self.incoming.close().await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;

    fn pair() -> (Arc<SharedConnection>, tokio::io::DuplexStream) {
        let (ours, theirs) = tokio::io::duplex(1024);
        let ours: Connection = Box::new(ours);
        (Arc::new(ours.into()), theirs)
    }

    async fn soon<T>(work: impl Future<Output = T>) -> T {
        let limit = Duration::from_secs(20);
        tokio::time::timeout(limit, work).await.expect("an end")
    }

    #[tokio::test]
    async fn one_sends_while_another_receives() {
        let (ours, mut theirs) = pair();
        let waits = Arc::clone(&ours);
        let waits = tokio::spawn(async move { waits.recv(3).await });
        tokio::task::yield_now().await;
        // Longer than what is on its way at once.
        let sends = Arc::clone(&ours);
        let sent = tokio::spawn(async move { sends.send(vec![b'x'; 4096].into()).await });
        let mut came = vec![0; 4096];
        theirs.read_exact(&mut came).await.unwrap();
        sent.await.unwrap().unwrap();
        theirs.write_all(b"abcd").await.unwrap();
        assert_eq!(soon(waits).await.unwrap().unwrap(), "abc");
        assert_eq!(ours.recv(100).await.unwrap(), "d");
        ours.send_eof().await.unwrap();
        assert_eq!(theirs.read(&mut came).await.unwrap(), 0);
        drop(theirs);
        assert_eq!(ours.recv(100).await.unwrap(), "");
        assert_eq!(
            ours.recv(0).await.unwrap_err().kind(),
            ErrorKind::InvalidArgument
        );
    }

    #[tokio::test]
    async fn a_close_ends_those_who_wait() {
        let (ours, mut theirs) = pair();
        let (reads, writes) = (Arc::clone(&ours), Arc::clone(&ours));
        let reads = tokio::spawn(async move { reads.recv(1).await });
        let writes = tokio::spawn(async move { writes.send(vec![0; 4096].into()).await });
        tokio::task::yield_now().await;
        soon(ours.close()).await;
        for error in [
            soon(reads).await.unwrap().unwrap_err(),
            soon(writes).await.unwrap().unwrap_err(),
            ours.recv(1).await.unwrap_err(),
            ours.send_eof().await.unwrap_err(),
            ours.take().await.err().unwrap(),
        ] {
            assert_eq!(error.kind(), ErrorKind::Conflict);
        }
        let mut rest = Vec::new();
        soon(theirs.read_to_end(&mut rest)).await.unwrap();
        ours.close().await;
    }

    #[tokio::test]
    async fn the_error_of_the_library_within_is_told() {
        let gone = Error::new(ErrorKind::SandboxGone, "the sandbox ended");
        let within = std::io::Error::new(std::io::ErrorKind::ConnectionReset, gone);
        assert_eq!(broken(within).kind(), ErrorKind::SandboxGone);
        let (ours, theirs) = pair();
        drop(theirs);
        assert_eq!(
            ours.send("x".into()).await.unwrap_err().kind(),
            ErrorKind::Conflict
        );
    }

    #[tokio::test]
    async fn what_is_taken_is_closed_for_others() {
        let (ours, mut theirs) = pair();
        let mut taken = ours.take().await.unwrap();
        assert_eq!(ours.recv(1).await.unwrap_err().kind(), ErrorKind::Conflict);
        taken.write_all(b"on").await.unwrap();
        let mut came = [0; 2];
        theirs.read_exact(&mut came).await.unwrap();
        assert_eq!(&came, b"on");
    }

    #[tokio::test]
    async fn a_listener_that_is_closed_accepts_nobody() {
        let (sender, come) = tokio::sync::mpsc::channel::<Result<Connection>>(1);
        let incoming =
            futures_util::stream::unfold(come, async |mut come| Some((come.recv().await?, come)));
        let listener = Arc::new(SharedListener::from(PortListener {
            port: 80,
            incoming: Box::pin(incoming),
        }));
        let made: Connection = Box::new(tokio::io::duplex(8).0);
        assert!(sender.send(Ok(made)).await.is_ok());
        assert!(listener.accept().await.unwrap().is_some());
        let waits = Arc::clone(&listener);
        let waits = tokio::spawn(async move { waits.accept().await });
        tokio::task::yield_now().await;
        soon(listener.close()).await;
        assert!(soon(waits).await.unwrap().unwrap().is_none());
        assert!(sender.is_closed(), "the port is still listened on");
        assert!(listener.accept().await.unwrap().is_none());
    }
}
