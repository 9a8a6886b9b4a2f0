//! The helper, and in the sandbox that it makes a stand-in for the agent: it
//! runs shell commands with the agent's own rights, so that a test sees from
//! inside what the helper made.

use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, ExitCode};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags};
use stacyvm_agent::protocol::control::ControlMessage;
use stacyvm_agent::protocol::message::{decode, encode};

mod sys {
    #![allow(unsafe_code, reason = "an inherited descriptor has no safe owner")]

    use std::os::fd::{FromRawFd, OwnedFd};

    pub(super) fn control() -> OwnedFd {
        // SAFETY: the helper placed this descriptor and nothing else owns it.
        unsafe { OwnedFd::from_raw_fd(3) }
    }
}

fn main() -> ExitCode {
    let name = std::env::args_os().next().unwrap_or_default();
    if name == "stacyvm-helper" {
        return stacyvm_agent::helper::main();
    }
    let control = sys::control();
    while let Some((message, fd)) = receive(&control) {
        match message {
            ControlMessage::Config { .. } => {
                let ready = encode(&ControlMessage::Ready {});
                if rustix::net::send(&control, &ready, SendFlags::empty()).is_err() {
                    break;
                }
            }
            ControlMessage::Connection {} => {
                if let Some(fd) = fd {
                    let control = control.try_clone();
                    std::thread::spawn(move || serve(fd.into(), control.as_ref().ok()));
                }
            }
            _ => break,
        }
    }
    ExitCode::FAILURE
}

fn receive(control: &OwnedFd) -> Option<(ControlMessage, Option<OwnedFd>)> {
    let mut bytes = vec![0; 192 * 1024];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [IoSliceMut::new(&mut bytes)];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let count = rustix::net::recvmsg(control, &mut slices, &mut ancillary, flags)
        .ok()?
        .bytes;
    let fd = ancillary
        .drain()
        .filter_map(|part| match part {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        })
        .flatten()
        .next();
    Some((
        decode(bytes.get(..count).filter(|b| !b.is_empty())?).ok()?,
        fd,
    ))
}

fn serve(mut stream: UnixStream, control: Option<&OwnedFd>) -> Option<()> {
    loop {
        let mut length = [0; 4];
        stream.read_exact(&mut length).ok()?;
        let mut command = vec![0; u32::from_le_bytes(length) as usize];
        stream.read_exact(&mut command).ok()?;
        let command = String::from_utf8(command).ok()?;
        if command == "@die" {
            #[expect(clippy::exit, reason = "the end of an init is what is tested")]
            std::process::exit(7);
        }
        if let Some(text) = command.strip_prefix("@control ") {
            let bytes: Vec<u8> = match text {
                "end" => encode(&ControlMessage::EndSandbox {
                    reason: "asked".into(),
                }),
                "later" => encode(&ControlMessage::Deadline { in_ms: None }),
                "sooner" => encode(&ControlMessage::Deadline { in_ms: Some(300) }),
                other => other.as_bytes().to_vec(),
            };
            rustix::net::send(control?, &bytes, SendFlags::empty()).ok()?;
        }
        let output = Command::new("/bin/sh").arg("-c").arg(&command).output();
        let text = match output {
            Ok(output) => format!(
                "{}{}[{}]",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr),
                output
                    .status
                    .code()
                    .map_or_else(|| format!("{}", output.status), |c| c.to_string())
            ),
            Err(error) => format!("[{error}]"),
        };
        let length = u32::try_from(text.len()).ok()?;
        stream.write_all(&length.to_le_bytes()).ok()?;
        stream.write_all(text.as_bytes()).ok()?;
    }
}
