//! Who the users of a sandbox are outside: the maps of its user namespace.

use std::fs;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::process::{Child, Command, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::fault::{Result, Tried};
use super::sys;
use crate::helper_protocol::{Delegated, Failed, FailedKind, NOBODY, RANGE, SINGLE_USER, Users};
use crate::packet;

/// Seconds that a program which maps ids may take.
const PATIENCE: i64 = 10;
/// The most of what a program said that is passed on.
const MOST_SAID: usize = 200;

impl Users {
    /// Whether a whole range is mapped, with root in it.
    pub(crate) fn are_many(&self) -> bool {
        !matches!(self, Self::Single)
    }

    /// The first of a private range.
    pub(crate) fn private(&self) -> Option<u32> {
        match self {
            Self::Private { first } => Some(*first),
            Self::Delegated(_) | Self::Single => None,
        }
    }

    /// Refuses numbers that leave no range.
    pub(crate) fn check(&self) -> Result<()> {
        let firsts = match self {
            Self::Private { first } => [*first, *first],
            Self::Delegated(range) => [range.first_uid, range.first_gid],
            Self::Single => return Ok(()),
        };
        for first in firsts {
            if first < RANGE || first.checked_add(RANGE).is_none() {
                return Err(Failed::new(
                    FailedKind::Invalid,
                    format!("the first id {first} leaves no range of {RANGE}"),
                ));
            }
        }
        Ok(())
    }

    /// How it is told to people.
    pub(crate) fn in_words(&self) -> String {
        match self {
            Self::Private { first } => format!("{first}+{RANGE}"),
            Self::Delegated(range) => {
                let own = match range.own {
                    Some(inside) => format!(", this user is {inside} inside"),
                    None => String::new(),
                };
                format!(
                    "{}+{RANGE}, shared by this user's sandboxes{own}",
                    range.first_uid
                )
            }
            Self::Single => format!("this user alone, as {SINGLE_USER} inside"),
        }
    }

    /// Those of leftovers: beside a delegated range the helper's own user has a
    /// place too, as rights over a file take both of its owners.
    pub(crate) fn of_leftovers(self) -> Self {
        match self {
            Self::Delegated(range) => Self::Delegated(Delegated {
                own: Some(RANGE),
                ..range
            }),
            other => other,
        }
    }

    /// Maps users and groups of the namespace of a process.
    pub(crate) fn map(&self, pid: i32) -> Result<()> {
        match self {
            Self::Private { first } => write_map(pid, &private_map(*first)),
            Self::Delegated(range) => range.map(pid),
            Self::Single => {
                let uid = rustix::process::geteuid().as_raw();
                let gid = rustix::process::getegid().as_raw();
                write_file(pid, "setgroups", "deny")?;
                write_file(pid, "uid_map", &format!("{SINGLE_USER} {uid} 1\n"))?;
                write_file(pid, "gid_map", &format!("{SINGLE_USER} {gid} 1\n"))
            }
        }
    }
}

impl Delegated {
    /// Only these two programs may map what is not the helper's own.
    fn map(&self, pid: i32) -> Result<()> {
        let uid = rustix::process::geteuid().as_raw();
        let gid = rustix::process::getegid().as_raw();
        let users = start(&self.newuidmap, pid, &self.parts(self.first_uid, uid));
        let groups = start(&self.newgidmap, pid, &self.parts(self.first_gid, gid));
        // Both are waited for, whatever the first one did.
        let users = users.and_then(|child| finish(child, &self.newuidmap));
        let groups = groups.and_then(|child| finish(child, &self.newgidmap));
        users.and(groups)
    }

    /// Inside, outside, count. An own id takes the place of one of the range; as
    /// root it comes before the range, as every other tool has it, and past its end
    /// beside it.
    fn parts(&self, first: u32, own_outside: u32) -> Vec<[u32; 3]> {
        let Some(own) = self.own else {
            return vec![[0, first, RANGE]];
        };
        match own {
            0 => vec![[0, own_outside, 1], [1, first, RANGE - 1]],
            RANGE.. => vec![[0, first, RANGE], [RANGE, own_outside, 1]],
            _ => vec![
                [0, first, own],
                [own, own_outside, 1],
                [own + 1, first + own + 1, RANGE - own - 1],
            ],
        }
    }
}

fn start(program: &str, pid: i32, parts: &[[u32; 3]]) -> Result<Child> {
    Command::new(program)
        .arg(pid.to_string())
        .args(parts.iter().flatten().map(u32::to_string))
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .tried(format!("start {program}"))
}

/// Waits for one of them, but not for ever: what it asks for accounts may hang.
fn finish(mut child: Child, program: &str) -> Result<()> {
    let number = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    if let Some(Ok(pidfd)) = number.map(|pid| pidfd_open(pid, PidfdFlags::empty())) {
        let limit = Timespec {
            tv_sec: PATIENCE,
            tv_nsec: 0,
        };
        let mut ended = [PollFd::new(&pidfd, PollFlags::IN)];
        if matches!(poll(&mut ended, Some(&limit)), Ok(0)) {
            // It may end at this moment.
            let _ = child.kill();
            let _ = child.wait();
            return Err(Failed::new(
                FailedKind::Internal,
                format!("{program} did not end within {PATIENCE} s"),
            ));
        }
    }
    let output = child.wait_with_output().tried(format!("hear {program}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said: String = said.trim().chars().take(MOST_SAID).collect();
    Err(Failed::new(
        FailedKind::Internal,
        format!("{program} maps no range of ids: {}", said.escape_debug()),
    ))
}

/// The user namespace of a process.
pub(crate) fn namespace_of(pid: i32) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, format!("/proc/{pid}/ns/user"), flags, Mode::empty())
        .tried("open the user namespace")
}

/// A user namespace that `map` maps, given a process in it: it keeps no process
/// and ends with its descriptor.
pub(crate) fn namespace(map: impl FnOnce(i32) -> Result<()>) -> Result<OwnedFd> {
    let (ours, theirs) = packet::pair().tried("make a channel")?;
    let flags = u64::from(libc::CLONE_NEWUSER.unsigned_abs());
    let (pid, pidfd) = match sys::clone_into(flags, None).tried("make a user namespace")? {
        sys::Clone::Child => {
            sys::close_all_but(&mut [theirs.as_raw_fd()]);
            // Until the helper closes its end, or dies.
            let _ = rustix::io::read(&theirs, &mut [0; 1]);
            sys::exit_now(0)
        }
        sys::Clone::Parent { pid, pidfd } => (pid, pidfd),
    };
    drop(theirs);
    let found = map(pid).and_then(|()| namespace_of(pid));
    drop(ours);
    super::state::wait_for_end(&pidfd);
    found
}

/// A user namespace with this map for users and groups.
pub(crate) fn namespace_with(map: &str) -> Result<OwnedFd> {
    namespace(|pid| write_map(pid, map))
}

/// Maps users and groups in the same way.
fn write_map(pid: i32, map: &str) -> Result<()> {
    write_file(pid, "uid_map", map)?;
    write_file(pid, "gid_map", map)
}

fn write_file(pid: i32, file: &str, text: &str) -> Result<()> {
    fs::write(format!("/proc/{pid}/{file}"), text).tried(format!("write {file}"))
}

/// The ids of a sandbox: all of its own range.
pub(crate) fn private_map(first: u32) -> String {
    format!("0 {first} {RANGE}\n")
}

/// A user namespace with the ids of a sandbox, in which no file is `reserved`'s:
/// whoever executes a set-id one of that user would become it.
pub(crate) fn namespace_without(first: u32, reserved: u32) -> Result<OwnedFd> {
    namespace(|pid| {
        write_file(pid, "uid_map", &map_without(first, reserved))?;
        write_file(pid, "gid_map", &private_map(first))
    })
}

fn map_without(first: u32, reserved: u32) -> String {
    let next = reserved + 1;
    format!(
        "0 {first} {reserved}\n{next} {} {}\n",
        first + next,
        RANGE - next,
    )
}

/// As [`map_of_host`], for a sandbox whose root becomes whom it likes: of the
/// host's users there is the default one alone.
pub(crate) fn map_of_one(first: u32) -> String {
    let own = first + SINGLE_USER;
    format!("0 0 1\n{SINGLE_USER} {own} 1\n{NOBODY} {first} 1\n")
}

/// From the ids on a disk that is the host's to those of a sandbox: each its
/// own, but root inside is nobody there. What is root's there belongs to the
/// host's root, whom nobody inside is: its mode says what they may do, where an
/// owner without any place in the map would keep all of them out.
pub(crate) fn map_of_host(first: u32) -> String {
    let last = RANGE - 1;
    format!(
        "0 0 1\n1 {} {}\n{NOBODY} {first} 1\n{last} {} 1\n",
        first + 1,
        NOBODY - 1,
        first + last,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(own: Option<u32>) -> Delegated {
        Delegated {
            first_uid: 100_000,
            first_gid: 200_000,
            own,
            newuidmap: "/usr/bin/newuidmap".into(),
            newgidmap: "/usr/bin/newgidmap".into(),
        }
    }

    #[test]
    fn an_own_id_takes_the_place_of_one_of_the_range() {
        assert_eq!(range(None).parts(100_000, 501), [[0, 100_000, 65_536]]);
        assert_eq!(
            range(Some(1000)).parts(100_000, 501),
            [[0, 100_000, 1000], [1000, 501, 1], [1001, 101_001, 64_535]]
        );
        assert_eq!(
            range(Some(0)).parts(100_000, 501),
            [[0, 501, 1], [1, 100_000, 65_535]]
        );
        assert_eq!(
            range(Some(RANGE)).parts(100_000, 501),
            [[0, 100_000, 65_536], [65_536, 501, 1]]
        );
    }

    #[test]
    fn a_range_of_the_hosts_own_ids_is_refused() {
        for users in [
            Users::Private { first: 1000 },
            Users::Private { first: u32::MAX },
            Users::Delegated(Delegated {
                first_gid: 0,
                ..range(None)
            }),
        ] {
            assert_eq!(users.check().unwrap_err().kind, FailedKind::Invalid);
        }
        Users::Delegated(range(None)).check().unwrap();
        Users::Single.check().unwrap();
    }

    #[test]
    fn a_reserved_user_has_no_files() {
        assert_eq!(
            map_without(100_000, 65_000),
            "0 100000 65000\n65001 165001 535\n"
        );
        assert_eq!(
            map_of_one(100_000),
            "0 0 1\n1000 101000 1\n65534 100000 1\n"
        );
    }

    #[test]
    fn a_program_that_fails_is_quoted() {
        let child = Command::new("sh")
            .args(["-c", "echo 'no\u{1b}[31m right' >&2; exit 1"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let failed = finish(child, "newuidmap").unwrap_err();
        assert!(failed.message.contains(r"no\u{1b}[31m right"), "{failed:?}");
    }
}
