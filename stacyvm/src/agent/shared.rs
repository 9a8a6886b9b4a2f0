//! What the task of a connection and its users share.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use stacyvm_agent::protocol::message::{self, Accepted};
use stacyvm_agent::protocol::{AGENT_STREAM, Kind, MAX_PAYLOAD};
use tokio::sync::watch;

use super::error::Closed;
use super::outbox::{self, Outbox, Request};
use super::role::Role;
use super::stream::{Item, Payload, SendError, Stream};
use crate::error::{Error, ErrorKind, Result};

/// The most streams that the host has open at once.
const HOST_STREAMS: usize = 768;
/// The most streams that the agent may have open at once.
const AGENT_STREAMS: usize = 256;
/// Streams that closed without a last frame and are still known by number, so
/// that frames under way are not taken for violations.
const FORGOTTEN: usize = 1024;

/// The state of one connection.
///
/// Locks are taken in the order table, stream, outbox; no lock is held while
/// a waker of a user runs.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) generation: u32,
    table: Mutex<Table>,
    pub(super) out: Mutex<Outbox>,
    pub(super) driver: AtomicWaker,
    released: AtomicBool,
    closed: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Table {
    streams: HashMap<u32, Arc<Stream>>,
    host_streams: usize,
    next: u32,
    forgotten: VecDeque<u32>,
    closed: Option<Closed>,
}

/// How a stream is given up by its reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GiveUp {
    Cancel,
    Detach,
}

impl Shared {
    pub(super) fn new(generation: u32) -> Self {
        Self {
            generation,
            table: Mutex::new(Table {
                next: 1,
                ..Table::default()
            }),
            out: Mutex::default(),
            driver: AtomicWaker::new(),
            released: AtomicBool::new(false),
            closed: watch::Sender::new(false),
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a stream with a request.
    fn open(&self, kind: Kind, role: Role, payload: Vec<u8>) -> Result<Arc<Stream>> {
        if payload.len() > MAX_PAYLOAD as usize {
            return Err(Error::invalid(
                "request",
                format!("{} bytes", payload.len()),
                "at most 1 MiB of arguments, variables and paths",
                "pass large data as standard input or as a file",
            ));
        }
        if kind.introduced() > self.generation {
            return Err(Error::unsupported(format!(
                "the agent inside speaks generation {}, this needs {}",
                self.generation,
                kind.introduced()
            )));
        }
        let mut table = self.table();
        if let Some(closed) = &table.closed {
            return Err(closed.error());
        }
        if table.host_streams >= HOST_STREAMS {
            return Err(Error::new(
                ErrorKind::ResourceExhausted,
                format!("{HOST_STREAMS} calls to this sandbox are open already"),
            ));
        }
        let id = table.next;
        if id >= AGENT_STREAM {
            drop(table);
            self.close(Closed::unavailable(
                "the connection has used all its stream numbers",
            ));
            return Err(Closed::unavailable("the connection must be made anew").error());
        }
        table.next += 1;
        table.host_streams += 1;
        let stream = Arc::new(Stream::new(id, role));
        table.streams.insert(id, stream.clone());
        self.outbox().requests.push_back(Request {
            stream: id,
            kind,
            payload: payload.into(),
        });
        drop(table);
        self.driver.wake();
        Ok(stream)
    }

    /// Ends the connection for everybody. The first cause stands.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "a cause is made to be given away"
    )]
    pub(super) fn close(&self, closed: Closed) {
        let streams = {
            let mut table = self.table();
            if table.closed.is_some() {
                return;
            }
            table.closed = Some(closed.clone());
            table.host_streams = 0;
            std::mem::take(&mut table.streams)
        };
        self.outbox().clear();
        for stream in streams.into_values() {
            stream.close(&closed);
        }
        self.closed.send_replace(true);
        self.driver.wake();
    }

    pub(super) fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }

    pub(super) fn closed_cause(&self) -> Option<Closed> {
        self.table().closed.clone()
    }

    pub(super) async fn wait_closed(&self) {
        // The sender is part of `self`, so it is never gone.
        let _ = self.closed.subscribe().wait_for(|closed| *closed).await;
    }

    /// Whether every user is gone.
    pub(super) fn is_released(&self) -> bool {
        self.released.load(Ordering::Acquire)
    }

    /// Queues credit for the peer.
    pub(super) fn queue_credit(&self, stream: &Arc<Stream>) {
        self.outbox().credits.push_back(stream.clone());
        self.driver.wake();
    }

    /// Puts a stream in the line of those that have something to send.
    fn enter_line(&self, stream: &Arc<Stream>) {
        self.outbox().line.push_back(stream.clone());
        self.driver.wake();
    }

    /// Takes one frame of the agent in. An error ends the connection.
    pub(super) fn receive(&self, id: u32, kind: Kind, payload: Payload<'_>) -> Result<(), Closed> {
        if id == 0 {
            return self.receive_control(kind, &payload);
        }
        if kind == Kind::Accepted {
            return self.receive_accepted(id, &payload);
        }
        let stream = {
            let table = self.table();
            match table.streams.get(&id) {
                Some(stream) => stream.clone(),
                None if table.closed.is_some() || table.forgotten.contains(&id) => return Ok(()),
                None => {
                    return Err(Closed::protocol(format!(
                        "the agent sent {} on stream {id}, which is not open",
                        kind.name()
                    )));
                }
            }
        };
        if kind == Kind::Credit {
            let credit: message::Credit = decode(payload.as_slice())?;
            return stream
                .receive_credit(credit.bytes)
                .map_err(Closed::protocol);
        }
        let received = stream.receive(kind, payload).map_err(Closed::protocol)?;
        if received.last {
            self.remove(id);
        } else if received.credit {
            self.queue_credit(&stream);
        } else if kind == Kind::End {
            self.settle(&stream);
        }
        Ok(())
    }

    fn receive_control(&self, kind: Kind, payload: &Payload<'_>) -> Result<(), Closed> {
        let payload = payload.as_slice();
        match kind {
            Kind::Pong if payload.len() <= 64 => Ok(()),
            Kind::Ping if payload.len() <= 64 => {
                self.outbox().pong = Some(payload.to_vec());
                Ok(())
            }
            // The agent refuses the connection, or gives it up, and says why.
            Kind::Failure => {
                let error = super::error::failure(payload)?;
                Err(Closed::unavailable(format!(
                    "the agent ended the connection: {}",
                    error.message()
                )))
            }
            _ => Err(Closed::protocol(format!(
                "the agent sent {} on the connection itself",
                kind.name()
            ))),
        }
    }

    fn receive_accepted(&self, id: u32, payload: &Payload<'_>) -> Result<(), Closed> {
        let accepted: Accepted = decode(payload.as_slice())?;
        if id & AGENT_STREAM == 0 {
            return Err(Closed::protocol(format!(
                "the agent opened stream {id}, a number of the host's"
            )));
        }
        let mut table = self.table();
        if table.closed.is_some() {
            return Ok(());
        }
        let listener = table.streams.get(&accepted.listener).cloned();
        let Some(listener) = listener.filter(|stream| stream.is_listening()) else {
            return Err(Closed::protocol(format!(
                "the agent accepted a connection for stream {}, which does not listen",
                accepted.listener
            )));
        };
        if table.streams.len() - table.host_streams >= AGENT_STREAMS {
            return Err(Closed::protocol(format!(
                "the agent opened more than {AGENT_STREAMS} streams"
            )));
        }
        let stream = Arc::new(Stream::new(id, Role::Accepted));
        table.forgotten.retain(|old| *old != id);
        if table.streams.insert(id, stream.clone()).is_some() {
            return Err(Closed::protocol(format!(
                "the agent opened stream {id} twice"
            )));
        }
        drop(table);
        if let Err(refused) = listener.receive_accepted(stream) {
            self.give_up(&refused, GiveUp::Cancel);
        }
        Ok(())
    }

    fn remove(&self, id: u32) {
        let mut table = self.table();
        if table.streams.remove(&id).is_some() && id & AGENT_STREAM == 0 {
            table.host_streams -= 1;
        }
    }

    /// Removes a stream of which no last frame comes.
    fn forget(&self, id: u32) {
        self.remove(id);
        let mut table = self.table();
        if table.forgotten.len() >= FORGOTTEN {
            table.forgotten.pop_front();
        }
        table.forgotten.push_back(id);
    }

    /// Closes a connection to a port once both sides ended.
    pub(super) fn settle(&self, stream: &Stream) {
        if stream.both_ended() {
            self.forget(stream.id);
        }
    }

    /// The reader of a stream is gone. Never waits.
    fn give_up(&self, stream: &Arc<Stream>, how: GiveUp) {
        {
            let table = self.table();
            if !table.streams.contains_key(&stream.id) {
                return;
            }
        }
        fault_point!("exec.given-up");
        // A connection whose end was queued still delivers what was written.
        let lingers = stream.role.is_connection() && stream.has_ended();
        let (untaken, credit) = stream.discard(lingers);
        let mut out = self.outbox();
        if out.withdraw(stream.id) {
            drop(out);
            self.remove(stream.id);
            return;
        }
        if !lingers {
            let kind = match how {
                GiveUp::Cancel => Kind::Cancel,
                GiveUp::Detach => Kind::Detach,
            };
            out.control.push_back(outbox::frame(stream.id, kind, &[]));
        }
        if credit {
            out.credits.push_back(stream.clone());
        }
        drop(out);
        if how == GiveUp::Detach {
            self.forget(stream.id);
        }
        for other in untaken {
            self.give_up(&other, GiveUp::Cancel);
        }
        self.driver.wake();
    }
}

/// Reads a small message of the agent.
pub(super) fn decode<'b, T: minicbor::Decode<'b, ()>>(payload: &'b [u8]) -> Result<T, Closed> {
    message::decode(payload)
        .map_err(|e| Closed::protocol(format!("the agent sent an unreadable message: {e}")))
}

/// Keeps a connection alive: clients and open streams hold it. When the last
/// is gone, what is queued is sent and the connection closes.
#[derive(Debug)]
pub(super) struct Owner(pub(super) Arc<Shared>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.released.store(true, Ordering::Release);
        self.0.driver.wake();
    }
}

/// An open stream and its reader. Dropping it before the last frame gives it up.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) owner: Arc<Owner>,
    pub(super) stream: Arc<Stream>,
    on_drop: GiveUp,
}

impl Open {
    /// Opens a stream with a request.
    pub(super) fn new(
        owner: &Arc<Owner>,
        kind: Kind,
        role: Role,
        payload: Vec<u8>,
    ) -> Result<Self> {
        let stream = owner.0.open(kind, role, payload)?;
        Ok(Self::of(owner.clone(), stream))
    }

    /// Takes a stream that the agent opened.
    pub(super) fn of(owner: Arc<Owner>, stream: Arc<Stream>) -> Self {
        Self {
            owner,
            stream,
            on_drop: GiveUp::Cancel,
        }
    }

    /// Leaves what the stream follows alone when it is dropped.
    pub(super) fn detach_on_drop(&mut self) {
        self.on_drop = GiveUp::Detach;
    }

    /// What arrived next; an error is the end of the connection.
    pub(super) fn poll_item(&self, cx: &mut Context<'_>) -> Poll<Result<Item, Closed>> {
        match self.stream.poll_item(cx) {
            Poll::Ready((item, credit)) => {
                if credit {
                    self.owner.0.queue_credit(&self.stream);
                }
                Poll::Ready(item)
            }
            Poll::Pending => Poll::Pending,
        }
    }

    pub(super) async fn next(&self) -> Result<Item, Closed> {
        std::future::poll_fn(|cx| self.poll_item(cx)).await
    }

    /// The next item, which must be a message. A failure is its error.
    pub(super) async fn message(&self) -> Result<(Kind, Bytes)> {
        let item = self.next().await.map_err(|closed| closed.error())?;
        match item {
            Item::Message(Kind::Failure, payload) => Err(self.failure(&payload)),
            Item::Message(kind, payload) => Ok((kind, payload)),
            Item::Data(..) | Item::Accepted(_) | Item::Overflow => {
                Err(self.violation("the agent sent data before its answer"))
            }
        }
    }

    /// The next message, decoded.
    pub(super) async fn read<T: for<'b> minicbor::Decode<'b, ()>>(&self) -> Result<T> {
        let (_, payload) = self.message().await?;
        self.decode(&payload)
    }

    pub(super) fn decode<T: for<'b> minicbor::Decode<'b, ()>>(&self, payload: &[u8]) -> Result<T> {
        decode(payload).map_err(|closed| self.close(closed))
    }

    pub(super) fn failure(&self, payload: &[u8]) -> Error {
        super::error::failure(payload).unwrap_or_else(|closed| self.close(closed))
    }

    /// Ends the connection over what the agent sent.
    pub(super) fn violation(&self, what: impl Into<String>) -> Error {
        self.close(Closed::protocol(what))
    }

    pub(super) fn close(&self, closed: Closed) -> Error {
        let error = closed.error();
        self.owner.0.close(closed);
        error
    }

    /// The sending half, for a user besides the reader.
    pub(super) fn feed(&self) -> Feed {
        Feed {
            owner: self.owner.clone(),
            stream: self.stream.clone(),
        }
    }

    /// See [`Feed::send`].
    pub(super) async fn send(&self, data: Bytes) -> Result<(), SendError> {
        self.feed().send(data).await
    }

    /// See [`Feed::end`].
    pub(super) fn end(&self) -> Result<(), SendError> {
        self.feed().end()
    }

    pub(super) fn poll_send(
        &self,
        cx: &mut Context<'_>,
        length: usize,
        take: impl FnOnce(usize) -> Bytes,
    ) -> Poll<Result<usize, SendError>> {
        poll_send(&self.owner.0, &self.stream, cx, length, take)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.owner.0.give_up(&self.stream, self.on_drop);
    }
}

/// The sending half of a stream. Dropping it ends nothing.
#[derive(Debug)]
pub(super) struct Feed {
    owner: Arc<Owner>,
    stream: Arc<Stream>,
}

impl Feed {
    /// Queues all of `data`, waiting while the agent does not take it.
    /// Dropping the future leaves a part queued.
    pub(super) async fn send(&self, mut data: Bytes) -> Result<(), SendError> {
        while !data.is_empty() {
            let length = data.len();
            std::future::poll_fn(|cx| {
                poll_send(&self.owner.0, &self.stream, cx, length, |count| {
                    data.split_to(count)
                })
            })
            .await?;
        }
        Ok(())
    }

    /// Ends the host's side of the data. Never waits; ending twice is success.
    pub(super) fn end(&self) -> Result<(), SendError> {
        if self.stream.end()? {
            self.owner.0.enter_line(&self.stream);
        }
        Ok(())
    }
}

fn poll_send(
    shared: &Shared,
    stream: &Arc<Stream>,
    cx: &mut Context<'_>,
    length: usize,
    take: impl FnOnce(usize) -> Bytes,
) -> Poll<Result<usize, SendError>> {
    stream.poll_send(cx, length, take).map_ok(|(count, enter)| {
        if enter {
            shared.enter_line(stream);
        }
        count
    })
}
