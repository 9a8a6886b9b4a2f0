//! Ports: connections in memory between the host and scripted servers.

use std::sync::Arc;

use tokio::io::DuplexStream;
use tokio::sync::mpsc;

use super::sandbox::Sandbox;
use crate::error::{Error, ErrorKind, Result};
use crate::provider::{Connection, PortListener, check_dialled};

/// Bytes on their way in each direction.
const PIPE: usize = 64 * 1024;
/// Connections that wait to be accepted.
const BACKLOG: usize = 64;

/// Somebody who listens.
#[derive(Debug)]
pub(super) struct Server {
    /// The process; none for the host.
    pub(super) owner: Option<u32>,
    number: u64,
    backlog: mpsc::Sender<DuplexStream>,
}

/// Listens on a port; 0 chooses one.
pub(super) fn open(
    sandbox: &Sandbox,
    owner: Option<u32>,
    port: u16,
) -> Result<(u16, u64, mpsc::Receiver<DuplexStream>)> {
    let mut state = sandbox.alive()?;
    let port = if port == 0 {
        (32768..=60999)
            .find(|port| !state.ports.contains_key(port))
            .ok_or_else(|| Error::new(ErrorKind::ResourceExhausted, "every port is taken"))?
    } else {
        port
    };
    if state.ports.contains_key(&port) {
        return Err(Error::new(
            ErrorKind::AlreadyExists,
            format!("port {port} of the sandbox is listened on already"),
        )
        .context("port", port));
    }
    let (sender, receiver) = mpsc::channel(BACKLOG);
    let number = state.number();
    state.ports.insert(
        port,
        Server {
            owner,
            number,
            backlog: sender,
        },
    );
    Ok((port, number, receiver))
}

/// Connects to a port.
pub(super) fn dial(sandbox: &Sandbox, port: u16) -> Result<DuplexStream> {
    check_dialled(port)?;
    let state = sandbox.alive()?;
    let refused = || {
        Error::new(
            ErrorKind::NotFound,
            format!("nothing listens on port {port} of the sandbox"),
        )
        .context("port", port)
    };
    let server = state.ports.get(&port).ok_or_else(refused)?;
    let (ours, theirs) = tokio::io::duplex(PIPE);
    match server.backlog.try_send(theirs) {
        Ok(()) => Ok(ours),
        Err(mpsc::error::TrySendError::Closed(_)) => Err(refused()),
        Err(mpsc::error::TrySendError::Full(_)) => Err(Error::new(
            ErrorKind::ResourceExhausted,
            format!("too many connections wait on port {port} of the sandbox"),
        )),
    }
}

struct Listening {
    sandbox: Arc<Sandbox>,
    port: u16,
    number: u64,
    backlog: mpsc::Receiver<DuplexStream>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.sandbox.change(|state| {
            if state
                .ports
                .get(&self.port)
                .is_some_and(|s| s.number == self.number)
            {
                state.ports.remove(&self.port);
            }
        });
    }
}

/// Listens for the host.
pub(super) fn listen(sandbox: &Arc<Sandbox>, port: u16) -> Result<PortListener> {
    let (port, number, backlog) = open(sandbox, None, port)?;
    let listening = Listening {
        sandbox: Arc::clone(sandbox),
        port,
        number,
        backlog,
    };
    let incoming = futures_util::stream::unfold(listening, |mut listening| async move {
        let stream = listening.backlog.recv().await?;
        Some((Ok(Box::new(stream) as Connection), listening))
    });
    Ok(PortListener {
        port,
        incoming: Box::pin(incoming),
    })
}
