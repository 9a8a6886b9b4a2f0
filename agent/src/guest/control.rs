//! Packets between the agent and its helper.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, recvmsg, send};

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
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut flags = RecvFlags::CMSG_CLOEXEC;
    if !wait {
        flags |= RecvFlags::DONTWAIT;
    }
    let received = match recvmsg(
        control,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut ancillary,
        flags,
    ) {
        Ok(received) => received.bytes,
        Err(Errno::AGAIN | Errno::INTR) if !wait => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut fds = Vec::new();
    for part in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = part {
            fds.extend(rights);
        }
    }
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
