//! A helper's own socket: what any process of the host asks a sandbox's helper.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use stacyvm_agent::helper_protocol::{
    FromHelper, MAX_PACKET, MonitorRequest, REQUEST_AGENT, REQUEST_MONITOR, SOCKET_NAME,
};
use stacyvm_agent::protocol::message::{decode, encode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::directory::is_held;
use super::error::{failed, helper_gone, io, system};
use super::processes;
use super::program::unexpected;
use crate::error::{Error, ErrorKind, Result};

/// How long an answer is waited for before it is looked whether the helper runs.
const PATIENCE: Duration = Duration::from_secs(1);

/// Connects to the helper of the sandbox in this directory; `None` where no
/// helper listens any more.
async fn connect(directory: &OwnedFd) -> Result<Option<UnixStream>> {
    // Through the descriptor: the path of a socket may have 107 bytes only,
    // and the directory cannot be exchanged on the way.
    let path = format!(
        "/proc/self/fd/{}/{SOCKET_NAME}",
        directory.as_fd().as_raw_fd()
    );
    match UnixStream::connect(path).await {
        Ok(stream) => Ok(Some(stream)),
        Err(error) => match error.kind() {
            // A reset comes from a helper that ended before it accepted.
            std::io::ErrorKind::NotFound
            | std::io::ErrorKind::ConnectionRefused
            | std::io::ErrorKind::ConnectionReset => Ok(None),
            _ => Err(io("reach the sandbox's helper", error)),
        },
    }
}

/// How long a helper that does not listen may hold its directory before it is
/// told that nobody reaches it: mostly it is about to end.
const ENDING: Duration = Duration::from_secs(2);
const BETWEEN_LOOKS: Duration = Duration::from_millis(10);

/// Why nothing listens for the sandbox in this directory: its helper has gone,
/// or lives and cannot be reached.
pub(super) async fn unreached(directory: &OwnedFd) -> Error {
    let until = tokio::time::Instant::now() + ENDING;
    while matches!(is_held(directory), Ok(None)) {
        if tokio::time::Instant::now() >= until {
            return Error::new(
                ErrorKind::Unavailable,
                format!(
                    "the sandbox's helper lives, but nobody reaches it, expected its socket {SOCKET_NAME}: it was removed, or the sandbox takes long to end"
                ),
            )
            .context("remedy", "end the sandbox (kill), which needs no socket");
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
    helper_gone()
}

/// Whether a connection to the agent failed because the helper, which had taken
/// it, was ending.
pub(super) async fn has_ended(directory: &OwnedFd, error: &Error) -> bool {
    let mut looks = 20;
    while error.kind() == ErrorKind::Unavailable && looks > 0 {
        match is_held(directory) {
            Ok(None) => tokio::time::sleep(BETWEEN_LOOKS).await,
            Ok(Some(_)) => return true,
            Err(error) => return error.kind() == ErrorKind::NotFound,
        }
        looks -= 1;
    }
    false
}

fn stopped(pid: u32) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        format!("the sandbox's helper, process {pid}, is stopped, expected one that runs"),
    )
    .context(
        "remedy",
        format!("kill -CONT {pid}, or end the sandbox: that lets it go on"),
    )
}

/// A connection to the agent inside.
pub(super) async fn agent(directory: &OwnedFd) -> Result<UnixStream> {
    let Some(mut stream) = connect(directory).await? else {
        return Err(unreached(directory).await);
    };
    stream
        .write_all(&REQUEST_AGENT)
        .await
        .map_err(|_| helper_gone())?;
    Ok(stream)
}

/// Asks the helper. `None` where no helper listens any more. One that somebody
/// has stopped is let go on where it is to end, and else told.
pub(super) async fn ask(
    directory: &OwnedFd,
    request: MonitorRequest,
) -> Result<Option<FromHelper>> {
    let asked = ask_and_stay(directory, request).await?;
    Ok(asked.map(|(reply, _)| reply))
}

/// The same, and gives the connection.
pub(super) async fn ask_and_stay(
    directory: &OwnedFd,
    request: MonitorRequest,
) -> Result<Option<(FromHelper, UnixStream)>> {
    let Some(mut stream) = connect(directory).await? else {
        return Ok(None);
    };
    let body = encode(&request);
    let mut bytes = REQUEST_MONITOR.to_vec();
    // Requests are a few bytes long.
    bytes.extend_from_slice(&u32::try_from(body.len()).unwrap_or_default().to_le_bytes());
    bytes.extend_from_slice(&body);
    let helper = stream.peer_cred().ok().and_then(|peer| peer.pid());
    let answer = async move {
        stream.write_all(&bytes).await?;
        fault_point!("monitor.asked");
        let length = stream.read_u32_le().await? as usize;
        let mut body = vec![0; length.min(MAX_PACKET)];
        stream.read_exact(&mut body).await?;
        std::io::Result::Ok((length, body, stream))
    };
    tokio::pin!(answer);
    let answered = loop {
        tokio::select! {
            biased;
            answered = &mut answer => break answered,
            () = tokio::time::sleep(PATIENCE) => {}
        }
        if let Some(pid) = helper.and_then(|pid| u32::try_from(pid).ok())
            && let Some(process) = processes::stopped(pid)
        {
            if !matches!(request, MonitorRequest::Destroy) {
                return Err(stopped(pid));
            }
            processes::go_on(&process).map_err(|e| system("let the helper go on", e))?;
        }
    };
    // A helper that ends while it is asked is one that does not listen any more.
    let Ok((length, body, stream)) = answered else {
        return Ok(None);
    };
    if length > MAX_PACKET {
        return Err(unexpected());
    }
    match decode(&body).map_err(|_| unexpected())? {
        FromHelper::Failed(report) => Err(failed(&report)),
        reply => Ok(Some((reply, stream))),
    }
}
