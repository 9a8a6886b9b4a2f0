//! Ports inside, over a connection.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures_core::Stream;
use stacyvm_agent::protocol::Kind;
use stacyvm_agent::protocol::message::{self, Listening, PortRequest};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::client::AgentClient;
use super::role::Role;
use super::shared::Open;
use super::stream::{Item, SendError};
use crate::error::{Error, Result};
use crate::provider::{Connection, PortListener, check_dialled};

impl AgentClient {
    /// Connects to a TCP port inside. Shutting the connection down ends what
    /// the other side reads; dropping it closes both ways.
    pub async fn dial(&self, port: u16) -> Result<Connection> {
        check_dialled(port)?;
        let request = message::encode(&PortRequest { port });
        let open = self.open(Kind::Dial, Role::Dial, request)?;
        open.message().await?;
        Ok(Box::new(PortStream::new(open)))
    }

    /// Listens on a TCP port inside; 0 lets the agent choose. At most 128
    /// connections wait to be taken; more are refused.
    pub async fn listen(&self, port: u16) -> Result<PortListener> {
        let request = message::encode(&PortRequest { port });
        let open = self.open(Kind::Listen, Role::Listen, request)?;
        let listening: Listening = open.read().await?;
        if listening.port == 0 || (port != 0 && listening.port != port) {
            return Err(open.violation("the agent listens on another port than it was asked to"));
        }
        Ok(PortListener {
            port: listening.port,
            incoming: Box::pin(Incoming { open: Some(open) }),
        })
    }
}

struct Incoming {
    open: Option<Open>,
}

impl Stream for Incoming {
    type Item = Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let Some(open) = &this.open else {
            return Poll::Ready(None);
        };
        let end = match ready!(open.poll_item(cx)) {
            Ok(Item::Accepted(stream)) => {
                let open = Open::of(Arc::clone(&open.owner), stream);
                let connection: Connection = Box::new(PortStream::new(open));
                return Poll::Ready(Some(Ok(connection)));
            }
            Ok(Item::Message(Kind::Failure, payload)) => Some(open.failure(&payload)),
            Ok(Item::Message(Kind::Done, _)) => None,
            Ok(_) => Some(open.violation("the agent sent no connection")),
            Err(closed) => Some(closed.error()),
        };
        this.open = None;
        Poll::Ready(end.map(Err))
    }
}

/// A connection to or from a port inside.
struct PortStream {
    open: Open,
    unread: Bytes,
    ended: bool,
}

impl PortStream {
    fn new(open: Open) -> Self {
        Self {
            open,
            unread: Bytes::new(),
            ended: false,
        }
    }
}

fn broken(error: Error) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}

fn refused(error: SendError) -> io::Error {
    match error {
        SendError::AfterEnd => {
            io::Error::new(io::ErrorKind::BrokenPipe, "the connection was shut down")
        }
        SendError::StreamEnded => io::Error::new(
            io::ErrorKind::ConnectionReset,
            "the program inside closed the connection",
        ),
        SendError::Closed(closed) => broken(closed.error()),
    }
}

impl AsyncRead for PortStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.unread.is_empty() && !this.ended {
            match ready!(this.open.poll_item(cx)) {
                Ok(Item::Data(_, bytes)) => this.unread = bytes,
                Ok(Item::Message(Kind::End | Kind::Done, _)) => this.ended = true,
                Ok(Item::Message(Kind::Failure, payload)) => {
                    this.ended = true;
                    return Poll::Ready(Err(broken(this.open.failure(&payload))));
                }
                Ok(_) => {
                    let error = this
                        .open
                        .violation("the agent sent no data of a connection");
                    return Poll::Ready(Err(broken(error)));
                }
                Err(closed) => return Poll::Ready(Err(broken(closed.error()))),
            }
        }
        let count = this.unread.len().min(buffer.remaining());
        buffer.put_slice(&this.unread[..count]);
        this.unread.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for PortStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.open
            .poll_send(cx, data.len(), |count| {
                Bytes::copy_from_slice(&data[..count])
            })
            .map_err(refused)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.open
            .stream
            .poll_flush(cx)
            .map_err(|closed| broken(closed.error()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.open.end() {
            Ok(()) | Err(SendError::AfterEnd | SendError::StreamEnded) => {}
            Err(SendError::Closed(closed)) => return Poll::Ready(Err(broken(closed.error()))),
        }
        self.poll_flush(cx)
    }
}
