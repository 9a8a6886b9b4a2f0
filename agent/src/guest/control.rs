//! Packets between the agent and its helper.

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::{RecvFlags, SendFlags, send};

use crate::packet;
use crate::protocol::control::{ControlMessage, MAX_CONTROL};
use crate::protocol::message;

/// Receives one packet and its descriptors. `None` where none waits.
///
/// # Errors
///
/// The helper is gone or sends what it cannot.
pub(super) fn receive(
    control: &OwnedFd,
    wait: bool,
) -> io::Result<Option<(ControlMessage, Vec<OwnedFd>)>> {
    let mut bytes = vec![0; if wait { MAX_CONTROL } else { 4096 }];
    let flags = if wait {
        RecvFlags::empty()
    } else {
        RecvFlags::DONTWAIT
    };
    let (received, fds) = match packet::receive_bytes(control, &mut bytes, flags) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
        received => received?,
    };
    if received == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let decoded = message::decode(&bytes[..received])
        .map_err(|_| io::Error::other("a control message does not decode"))?;
    Ok(Some((decoded, fds)))
}

/// Sends one packet; false where the helper does not take it now. One that is
/// gone is noticed by the next receive.
pub(super) fn tell(control: &OwnedFd, say: &ControlMessage) -> bool {
    send(
        control,
        &message::encode(say),
        SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
    )
    .is_ok()
}
