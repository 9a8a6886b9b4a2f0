//! One helper process, from the side of the host that started it.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::Child;
use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recvmsg,
    sendmsg,
};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use stacyvm_agent::helper_protocol::{
    FromHelper, GENERATION, GiveAway, MAX_PACKET, Park, Remove, ToHelper, Users,
};
use stacyvm_agent::protocol::message::{decode, encode};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::error::{failed, helper_gone, not_placed, system};
use super::identities::Identity;
use super::manager::Words;
use super::program::{Program, owner_channel, unexpected};
use super::sys;
#[cfg(feature = "image")]
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};

/// The most descriptors that travel with one packet.
const MAX_DESCRIPTORS: usize = 128;

/// A helper. Dropping it closes the owner channel, which ends the sandbox
/// unless it was detached.
#[derive(Debug)]
pub(super) struct Helper {
    /// The name of its directory until its launch.
    name: String,
    channel: OwnedFd,
    /// Taken when it is dropped.
    child: Option<Child>,
    users: Users,
    /// What is said before the helper itself says something.
    words: Mutex<Option<Words>>,
}

/// Helpers that nobody watches any more and that have not ended yet. They
/// belong to the process: whoever works next takes the status of those that
/// ended, and none stays a zombie.
static UNWATCHED: Mutex<Vec<Child>> = Mutex::new(Vec::new());

/// Takes the exit status of unwatched helpers that ended.
pub(super) fn reap_unwatched() {
    let mut unwatched = UNWATCHED.lock().unwrap_or_else(PoisonError::into_inner);
    unwatched.retain_mut(|child| !has_ended(child));
}

/// Takes the exit status of a helper that ended; true once it did.
pub(super) fn has_ended(child: &mut Child) -> bool {
    // An error means that somebody else reaped it, or that the kernel did, as
    // where this process ignores SIGCHLD.
    !matches!(child.try_wait(), Ok(None))
}

impl Drop for Helper {
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            let mut unwatched = UNWATCHED.lock().unwrap_or_else(PoisonError::into_inner);
            unwatched.push(child);
        }
    }
}

impl Helper {
    /// Starts a helper and tells it to get ready. Does not wait for it. A
    /// private range of users is the helper's from here on.
    pub(super) fn start(
        program: &Program,
        sandboxes: BorrowedFd<'_>,
        name: &str,
        identity: &Identity,
        bundle: bool,
    ) -> Result<Self> {
        let (channel, theirs) = owner_channel()?;
        let (child, words) = program.start(theirs)?;
        fault_point!("create.helper");
        let helper = Self {
            name: name.to_owned(),
            channel,
            child: Some(child),
            users: identity.users.clone(),
            words: Mutex::new(words),
        };
        let park = Park {
            generation: GENERATION,
            name: name.to_owned(),
            users: identity.users.clone(),
            bundle,
            program: program.agent(&identity.users).is_some(),
        };
        let descriptors: Vec<_> = [sandboxes]
            .into_iter()
            .chain(identity.lock())
            .chain(program.agent(&identity.users))
            .collect();
        // The channel is empty, so this does not block.
        send_now(
            helper.channel.as_fd(),
            &encode(&ToHelper::Park(park)),
            &descriptors,
        )
        .map_err(|e| helper.unheard(e))?;
        fault_point!("create.park-sent");
        Ok(helper)
    }

    /// Has a helper remove what lies in the directory of sandboxes under this
    /// name, files of these users included, and waits for it.
    pub(super) async fn remove(
        program: &Program,
        sandboxes: BorrowedFd<'_>,
        name: &str,
        users: Users,
    ) -> Result<()> {
        let remove = ToHelper::Remove(Remove {
            generation: GENERATION,
            name: name.to_owned(),
            users: users.clone(),
        });
        Self::ask_one(program, &remove, sandboxes, users).await
    }

    /// Has a helper give a file of this user to somebody of this range who is
    /// nobody where this user is inside, and waits for it.
    pub(super) async fn give_away(
        program: &Program,
        file: BorrowedFd<'_>,
        users: Users,
    ) -> Result<()> {
        let give = ToHelper::GiveAway(GiveAway {
            generation: GENERATION,
            users: users.clone(),
        });
        Self::ask_one(program, &give, file, users).await
    }

    /// As [`remove`](Self::remove) and the like, for who blocks: until the answer,
    /// or until the context ends, and the helper with it.
    #[cfg(feature = "image")]
    pub(super) fn ask_blocking(
        program: &Program,
        cx: &Context,
        question: &ToHelper,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<()> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        /// How long one look at the context lasts.
        const LOOK: Timespec = Timespec {
            tv_sec: 0,
            tv_nsec: 25_000_000,
        };
        let (channel, theirs) = owner_channel()?;
        let mut child = program.start_here(theirs)?;
        let ask = || {
            // The channel is empty, so this does not block.
            send_now(channel.as_fd(), &encode(question), descriptors)
                .map_err(|e| system("speak to a helper", e))?;
            let mut buffer = vec![0; MAX_PACKET];
            loop {
                match poll(&mut [PollFd::new(&channel, PollFlags::IN)], Some(&LOOK)) {
                    Ok(0) | Err(Errno::INTR) => cx.check()?,
                    Ok(_) => break,
                    Err(errno) => return Err(system("wait for a helper", errno)),
                }
            }
            match receive_now(channel.as_fd(), &mut buffer) {
                Ok(0) | Err(Errno::CONNRESET) => Err(Error::new(
                    ErrorKind::Unavailable,
                    "the helper that works on files of the range of ids went away; try again",
                )),
                Ok(count) => decode(&buffer[..count]).map_err(|_| unexpected()),
                Err(errno) => Err(system("hear a helper", errno)),
            }
        };
        let answer = ask();
        if answer.is_err() {
            // It may have ended already.
            let _ = child.kill();
        }
        // An error means that its end was taken already, as where this process
        // ignores SIGCHLD; the answer counts.
        let _ = child.wait();
        match answer? {
            FromHelper::Done => Ok(()),
            FromHelper::Failed(report) => Err(failed(&report)),
            _ => Err(unexpected()),
        }
    }

    /// One question to a helper that makes no sandbox, with its answer.
    async fn ask_one(
        program: &Program,
        question: &ToHelper,
        descriptor: BorrowedFd<'_>,
        users: Users,
    ) -> Result<()> {
        let (channel, theirs) = owner_channel()?;
        let child = program.start_here(theirs)?;
        let mut helper = Self {
            name: String::new(),
            channel,
            child: Some(child),
            users,
            words: Mutex::new(None),
        };
        helper.send(question, &[descriptor]).await?;
        let answer = helper.receive().await?;
        // It ends after its answer; whoever works next waits for one that is slow.
        for _ in 0..1000 {
            if helper.reap() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        match answer {
            FromHelper::Done => Ok(()),
            FromHelper::Failed(report) => Err(failed(&report)),
            _ => Err(unexpected()),
        }
    }

    /// Who its sandbox's users are.
    pub(super) fn users(&self) -> &Users {
        &self.users
    }

    /// Sends a packet.
    pub(super) async fn send(
        &self,
        message: &ToHelper,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<()> {
        let bytes = encode(message);
        if bytes.len() > MAX_PACKET {
            return Err(Error::invalid(
                "spec",
                format!("{} bytes", bytes.len()),
                &format!("at most {MAX_PACKET} bytes with its environment"),
                "hand large values over in files",
            ));
        }
        if descriptors.len() > MAX_DESCRIPTORS {
            return Err(Error::invalid(
                "mounts",
                descriptors.len(),
                "at most 126 host directories, where a volume counts as two",
                "mount a common parent",
            ));
        }
        // There is room mostly, and then nothing is waited for.
        match send_now(self.channel.as_fd(), &bytes, descriptors) {
            Err(Errno::AGAIN) => {}
            sent => return sent.map_err(|errno| self.unheard(errno)),
        }
        let ready = self.ready(Interest::WRITABLE)?;
        loop {
            let mut guard = ready
                .writable()
                .await
                .map_err(|e| super::error::io("speak to a helper", e))?;
            match send_now(self.channel.as_fd(), &bytes, descriptors) {
                Ok(()) => return Ok(()),
                Err(Errno::AGAIN) => guard.clear_ready(),
                Err(errno) => return Err(self.unheard(errno)),
            }
        }
    }

    /// Waits for the next packet.
    pub(super) async fn receive(&self) -> Result<FromHelper> {
        let ready = self.ready(Interest::READABLE)?;
        let mut buffer = vec![0; MAX_PACKET];
        // One that ended before it read everything resets the channel; what it
        // said comes after that.
        let mut reset = false;
        loop {
            let mut guard = ready
                .readable()
                .await
                .map_err(|e| super::error::io("hear a helper", e))?;
            match receive_now(self.channel.as_fd(), &mut buffer) {
                Err(Errno::CONNRESET) if !reset => reset = true,
                Ok(0) | Err(Errno::CONNRESET) => return Err(self.gone()),
                Ok(count) => {
                    // It is there: what was said before no longer matters.
                    self.take_words();
                    return decode(&buffer[..count]).map_err(|_| unexpected());
                }
                Err(Errno::AGAIN) => guard.clear_ready(),
                Err(errno) => return Err(system("hear a helper", errno)),
            }
        }
    }

    fn take_words(&self) -> Option<Words> {
        let mut words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        words.take()
    }

    /// The error of a helper that went away. Where there never was one, it says why.
    fn gone(&self) -> Error {
        let words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        match words.as_ref().map(Words::read) {
            Some(said) if !said.is_empty() => not_placed(&said),
            _ => helper_gone(),
        }
    }

    /// The error of a packet that could not be sent.
    fn unheard(&self, errno: Errno) -> Error {
        match errno {
            Errno::PIPE | Errno::CONNRESET => self.gone(),
            _ => system("speak to a helper", errno),
        }
    }

    /// Why a helper that cannot be spoken to ended, where it said so.
    pub(super) async fn last_word(&self, otherwise: Error) -> Error {
        loop {
            match self.receive().await {
                Ok(FromHelper::Parked) => {}
                Ok(FromHelper::Failed(report)) => return failed(&report),
                Err(error) if error.kind() == ErrorKind::Unavailable => return error,
                Ok(_) | Err(_) => return otherwise,
            }
        }
    }

    /// A descriptor that is readable once the process ended; none where the
    /// kernel has no such thing.
    pub(super) fn end(&self) -> Option<OwnedFd> {
        let pid = Pid::from_raw(i32::try_from(self.child.as_ref()?.id()).ok()?)?;
        pidfd_open(pid, PidfdFlags::empty()).ok()
    }

    /// Takes the exit status if it ended; true once it did.
    pub(super) fn reap(&mut self) -> bool {
        self.child.as_mut().is_none_or(has_ended)
    }

    /// Waits until the helper is ready for a launch.
    pub(super) async fn parked(&self) -> Result<()> {
        match self.receive().await? {
            FromHelper::Parked => Ok(()),
            FromHelper::Failed(report) => Err(failed(&report)),
            _ => Err(unexpected()),
        }
    }

    /// Closes the owner channel and gives what is left to wait for: the name
    /// under which it parked, and its process.
    pub(super) fn give_up(mut self) -> (String, Option<Child>) {
        (std::mem::take(&mut self.name), self.child.take())
    }

    /// A registration with the runtime of this call: helpers outlive runtimes.
    fn ready(&self, interest: Interest) -> Result<AsyncFd<BorrowedFd<'_>>> {
        sys::register(self.channel.as_fd(), interest)
            .map_err(|e| super::error::io("wait for a helper", e))
    }
}

fn send_now(
    channel: BorrowedFd<'_>,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(Errno::TOOBIG);
    }
    sendmsg(
        channel,
        &[std::io::IoSlice::new(bytes)],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )
    .map(drop)
}

fn receive_now(channel: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<usize, Errno> {
    let mut none = RecvAncillaryBuffer::default();
    let mut slices = [std::io::IoSliceMut::new(buffer)];
    recvmsg(channel, &mut slices, &mut none, RecvFlags::CMSG_CLOEXEC).map(|received| received.bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    use super::super::identities::Identities;
    use super::super::manager::Manager;
    use super::*;

    /// A program whose helpers this script is to place.
    fn placed_by(directory: &Path, script: &str) -> Program {
        let path = directory.join("systemd-run");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut program = Program::prepare(None, directory).unwrap();
        program.start_by(Some(&Manager::of(path)));
        program
    }

    fn identity() -> Identity {
        Identities::Single(String::new()).take(0, None).unwrap()
    }

    /// How a helper ends that this script does not place, found before or after
    /// it was told what to do.
    async fn not_placed_by(script: &str, first: &str) -> Error {
        let home = tempfile::tempdir().unwrap();
        let directory = std::fs::File::open(home.path()).unwrap();
        let program = placed_by(home.path(), &format!("{first}{script}"));
        let started = Helper::start(&program, directory.as_fd(), "one", &identity(), false);
        let helper = match started {
            Ok(helper) => helper,
            Err(error) => return error,
        };
        let error = helper.parked().await.unwrap_err();
        // Also where the launch finds that nobody hears it.
        let last = helper.last_word(helper_gone()).await;
        assert_eq!(last.kind(), error.kind());
        error
    }

    #[tokio::test]
    async fn what_systemd_run_says_is_in_the_error() {
        for first in ["", "sleep 0.1; "] {
            let script = "echo 'Failed to connect to bus: gone' >&2; exit 1";
            let error = not_placed_by(script, first).await;
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
            let said = error.fact("systemd_run");
            assert_eq!(said, Some("Failed to connect to bus: gone"), "{error:?}");
            // One that says nothing is as before.
            let error = not_placed_by("exit 1", first).await;
            assert_eq!(error.kind(), ErrorKind::SandboxGone, "{error:?}");
        }
    }

    #[tokio::test]
    async fn what_removes_leftovers_needs_no_place() {
        let home = tempfile::tempdir().unwrap();
        let mark = home.path().join("asked");
        let program = placed_by(home.path(), &format!("touch {}; exit 1", mark.display()));
        let sandboxes = home.path().join("sandboxes");
        std::fs::create_dir_all(sandboxes.join("one/deep")).unwrap();
        let directory = std::fs::File::open(&sandboxes).unwrap();
        let removed = Helper::remove(&program, directory.as_fd(), "one", Users::Single).await;
        assert!(!mark.exists());
        match removed {
            Ok(()) => assert!(!sandboxes.join("one").exists()),
            // A host without user namespaces.
            Err(error) => assert_ne!(error.kind(), ErrorKind::SandboxGone, "{error:?}"),
        }
    }
}
