//! The first frames of a connection.

use bytes::{Buf, BytesMut};
use stacyvm_agent::protocol::message::{self, Hello, Welcome};
use stacyvm_agent::protocol::{GENERATION, HEADER_BYTES, Header, Kind, OLDEST_GENERATION};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::error::{Closed, failure};
use super::key::{KEY_BYTES, SandboxKey, random_bytes};
use super::outbox;
use super::shared::decode;
use crate::error::{Error, ErrorKind, Result};

/// The most bytes of a frame before the agent has proved itself.
const LONGEST: u32 = 4096;

/// What a handshake agreed on.
#[derive(Debug)]
pub(super) struct Agreed {
    pub(super) generation: u32,
    pub(super) can_switch_user: bool,
    pub(super) kernel: Option<message::Kernel>,
    /// Bytes that were read beyond the handshake.
    pub(super) rest: BytesMut,
}

/// Greets the agent and checks its answers.
pub(super) async fn greet<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    key: Option<&SandboxKey>,
) -> Result<Agreed> {
    let mut buffer = BytesMut::with_capacity(1024);
    let mut own = Hello {
        oldest: OLDEST_GENERATION,
        newest: GENERATION,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        nonce: Vec::new(),
        proof: Vec::new(),
    };
    if key.is_none() {
        // Nothing in it depends on the agent's, so it need not wait for it.
        send(stream, &own).await?;
    }
    let theirs: Hello = read(stream, &mut buffer, Kind::Hello).await?;
    let generation = agree(&theirs)?;
    if let Some(key) = key {
        if theirs.nonce.len() != KEY_BYTES {
            return Err(unproved("the agent did not ask for a proof of the key"));
        }
        own.nonce = random_bytes()?.to_vec();
        own.proof = key.host_proof(&theirs.nonce, &own.nonce);
        send(stream, &own).await?;
    }
    let welcome: Welcome = read(stream, &mut buffer, Kind::Welcome).await?;
    if let Some(key) = key
        && !key.agent_proved(&welcome.proof, &own.nonce, &theirs.nonce)
    {
        return Err(unproved("the agent could not prove that it holds the key"));
    }
    if welcome.generation != generation {
        return Err(Closed::protocol(format!(
            "the agent chose generation {}, expected {generation}",
            welcome.generation
        ))
        .error());
    }
    Ok(Agreed {
        generation,
        can_switch_user: welcome.can_switch_user,
        kernel: welcome.kernel,
        rest: buffer,
    })
}

fn unproved(message: &str) -> Error {
    Error::new(ErrorKind::Unauthenticated, message)
}

fn agree(theirs: &Hello) -> Result<u32> {
    let generation = theirs.newest.min(GENERATION);
    if theirs.oldest > theirs.newest || generation < theirs.oldest.max(OLDEST_GENERATION) {
        return Err(Error::new(
            ErrorKind::Incompatible,
            format!(
                "the agent speaks generations {} to {}, this build {OLDEST_GENERATION} to {GENERATION}",
                theirs.oldest, theirs.newest
            ),
        )
        .context("agent_version", &theirs.version));
    }
    Ok(generation)
}

async fn send<S: AsyncWrite + Unpin>(stream: &mut S, hello: &Hello) -> Result<()> {
    let frame = outbox::frame(0, Kind::Hello, &message::encode(hello));
    let sent = async {
        stream.write_all(&frame).await?;
        stream.flush().await
    };
    sent.await.map_err(|e| ended().source(e))
}

async fn read<S: AsyncRead + Unpin, T: for<'b> minicbor::Decode<'b, ()>>(
    stream: &mut S,
    buffer: &mut BytesMut,
    expected: Kind,
) -> Result<T> {
    fill(stream, buffer, HEADER_BYTES).await?;
    let mut head = [0; HEADER_BYTES];
    buffer.copy_to_slice(&mut head);
    let header = Header::decode(&head)
        .map_err(|e| Closed::protocol(format!("the agent sent a {e}")).error())?;
    if header.stream != 0 || header.length > LONGEST {
        return Err(Closed::protocol("the agent did not begin with a handshake").error());
    }
    fill(stream, buffer, header.length as usize).await?;
    let payload = buffer.split_to(header.length as usize);
    if header.kind == Kind::Failure {
        let error = failure(&payload).map_err(|closed| closed.error())?;
        let kind = match error.kind() {
            ErrorKind::PermissionDenied => ErrorKind::Unauthenticated,
            ErrorKind::Unsupported => ErrorKind::Incompatible,
            _ => ErrorKind::Unavailable,
        };
        return Err(Error::new(
            kind,
            format!("the agent refused the connection: {}", error.message()),
        ));
    }
    if header.kind != expected {
        return Err(Closed::protocol(format!(
            "the agent sent {} in the handshake, expected {}",
            header.kind.name(),
            expected.name()
        ))
        .error());
    }
    decode(&payload).map_err(|closed| closed.error())
}

async fn fill<S: AsyncRead + Unpin>(
    stream: &mut S,
    buffer: &mut BytesMut,
    wanted: usize,
) -> Result<()> {
    while buffer.len() < wanted {
        if buffer.capacity() < wanted {
            buffer.reserve(wanted - buffer.len());
        }
        let read = stream.read_buf(buffer).await;
        if read.map_err(|e| ended().source(e))? == 0 {
            return Err(ended());
        }
    }
    Ok(())
}

fn ended() -> Error {
    Closed::unavailable("the connection ended before the agent greeted").error()
}
