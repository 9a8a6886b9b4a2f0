//! The filter of system calls: what is not allowed is refused.
//!
//! A search tree over the call's number, so that a call costs about nine
//! comparisons. Refusals are errors, not signals: programs try and go on.

use crate::confinement::system_calls::{
    AF_NETLINK, ALLOWED, CLONE_NEW, FAMILIES, MAKES_FILE, NETLINK_ROUTE, NEWEST, PERSONALITIES,
    SET_ID, SET_MODE, SET_SIGNAL, SET_USER, TERMINAL_REQUESTS,
};
use crate::filter::{
    ALLOW, AT_MACHINE, AT_NUMBER, AUDIT_AARCH64, AUDIT_X86_64, EPERM, ERRNO, IF_AT_LEAST, IF_BITS,
    IF_EQUAL, JUMP, LOAD, RETURN, X32, argument, branch, step,
};

/// A machine, with what the kernel calls it in a filter's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Machine {
    #[cfg_attr(not(any(test, target_arch = "x86_64")), allow(dead_code))]
    X86_64,
    #[cfg_attr(not(any(test, target_arch = "aarch64")), allow(dead_code))]
    Aarch64,
}

impl Machine {
    fn audit(self) -> u32 {
        match self {
            Self::X86_64 => AUDIT_X86_64,
            Self::Aarch64 => AUDIT_AARCH64,
        }
    }

    fn number(self, row: &(&str, i32, i32)) -> Option<u32> {
        let number = match self {
            Self::X86_64 => row.1,
            Self::Aarch64 => row.2,
        };
        u32::try_from(number).ok()
    }
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Allow,
    Refuse,
    Absent,
    Clone,
    Socket,
    Personality,
    Ioctl,
    Fcntl,
    /// The caller itself alone, as process 0.
    Own,
}

const ENOSYS: u32 = ERRNO | 0x26;
const EAFNOSUPPORT: u32 = ERRNO | 0x61;

/// The machine that this program was built for.
#[cfg(target_arch = "x86_64")]
const MACHINE: Machine = Machine::X86_64;
#[cfg(target_arch = "aarch64")]
const MACHINE: Machine = Machine::Aarch64;

/// The filter of this machine.
pub(crate) fn program() -> Vec<libc::sock_filter> {
    build(MACHINE)
}

/// A filter beside it, for a sandbox whose root may become other users: nobody
/// becomes `user`, and no file becomes that user's, with whose set-id bit somebody
/// would. What another machine's calls would be the first one refuses.
pub(crate) fn reserved(user: u32) -> Vec<libc::sock_filter> {
    build_reserved(MACHINE, user)
}

fn build_reserved(machine: Machine, user: u32) -> Vec<libc::sock_filter> {
    judging(
        machine,
        SET_USER.map(|(name, arguments)| {
            let mut body = Vec::new();
            for index in arguments {
                body.push(step(LOAD, argument(*index)));
                body.push(branch(IF_EQUAL, user, 0, 1));
                body.push(step(RETURN, EPERM));
            }
            body.push(step(RETURN, ALLOW));
            (name, body)
        }),
    )
}

/// A filter beside it, for a sandbox that writes to what is the host's: no file
/// gets a set-id bit. What another machine's calls would be the first one refuses.
pub(crate) fn no_set_id() -> Vec<libc::sock_filter> {
    build_no_set_id(MACHINE)
}

fn build_no_set_id(machine: Machine) -> Vec<libc::sock_filter> {
    let set_mode = SET_MODE.map(|(name, mode, flags)| {
        let mut body = Vec::new();
        if let Some(flags) = flags {
            body.push(step(LOAD, argument(flags)));
            body.push(branch(IF_BITS, MAKES_FILE, 1, 0));
            body.push(step(RETURN, ALLOW));
        }
        body.push(step(LOAD, argument(mode)));
        body.push(branch(IF_BITS, SET_ID, 0, 1));
        body.push(step(RETURN, EPERM));
        body.push(step(RETURN, ALLOW));
        (name, body)
    });
    // Told that it does not exist, programs use `openat`.
    let absent = ("openat2", vec![step(RETURN, ENOSYS)]);
    judging(machine, set_mode.into_iter().chain([absent]))
}

/// A filter that judges these calls as their instructions say, and allows others.
fn judging<'a>(
    machine: Machine,
    calls: impl IntoIterator<Item = (&'a str, Vec<libc::sock_filter>)>,
) -> Vec<libc::sock_filter> {
    let mut program = vec![step(LOAD, AT_NUMBER)];
    for (name, body) in calls {
        let row = ALLOWED.iter().find(|row| row.0 == name);
        let number = row.and_then(|row| machine.number(row));
        if let (Some(number), Ok(length)) = (number, u8::try_from(body.len())) {
            program.push(branch(IF_EQUAL, number, 0, length));
            program.extend(body);
        }
    }
    program.push(step(RETURN, ALLOW));
    program
}

fn build(machine: Machine) -> Vec<libc::sock_filter> {
    let mut program = vec![
        step(LOAD, AT_MACHINE),
        // The calls of another machine, such as i386 by interrupt 0x80, have
        // other numbers: none of them exists.
        branch(IF_EQUAL, machine.audit(), 1, 0),
        step(RETURN, ENOSYS),
        step(LOAD, AT_NUMBER),
        branch(IF_BITS, X32, 0, 1),
        step(RETURN, ENOSYS),
    ];
    program.extend(search(&ranges(machine)));
    program
}

fn verdict_of(name: &str) -> Verdict {
    match name {
        "clone" => Verdict::Clone,
        // Its flags are in memory, where a filter cannot see them; told that
        // it does not exist, every C library uses `clone`.
        "clone3" => Verdict::Absent,
        "socket" => Verdict::Socket,
        "personality" => Verdict::Personality,
        "ioctl" => Verdict::Ioctl,
        "fcntl" => Verdict::Fcntl,
        // The limits of the agent are not for root inside, who has its uid.
        "prlimit64" => Verdict::Own,
        _ => Verdict::Allow,
    }
}

/// The first number of each range and what becomes of the calls in it.
fn ranges(machine: Machine) -> Vec<(u32, Verdict)> {
    let mut known: Vec<(u32, Verdict)> = ALLOWED
        .iter()
        .filter_map(|row| Some((machine.number(row)?, verdict_of(row.0))))
        .collect();
    known.sort_unstable_by_key(|(number, _)| *number);
    let mut ranges: Vec<(u32, Verdict)> = Vec::new();
    let mut add = |first: u32, verdict: Verdict| {
        if ranges.last().is_none_or(|(_, last)| *last != verdict) {
            ranges.push((first, verdict));
        }
    };
    let mut next = 0;
    for (number, verdict) in known {
        if number > next {
            add(next, Verdict::Refuse);
        }
        add(number, verdict);
        next = number + 1;
    }
    if next <= NEWEST {
        add(next, Verdict::Refuse);
    }
    add(NEWEST + 1, Verdict::Absent);
    ranges
}

/// Finds the range of the number in the accumulator.
fn search(ranges: &[(u32, Verdict)]) -> Vec<libc::sock_filter> {
    if let [(_, verdict)] = ranges {
        return judge(*verdict);
    }
    let (low, high) = ranges.split_at(ranges.len() / 2);
    let (left, right) = (search(low), search(high));
    // A branch goes 255 instructions at most, a jump as far as it must.
    let mut code = match u8::try_from(left.len()) {
        Ok(length) => vec![branch(IF_AT_LEAST, high[0].0, length, 0)],
        Err(_) => vec![
            branch(IF_AT_LEAST, high[0].0, 0, 1),
            step(JUMP, u32::try_from(left.len()).unwrap_or(u32::MAX)),
        ],
    };
    code.extend(left);
    code.extend(right);
    code
}

/// Returns, having looked at arguments where the verdict asks for it.
fn judge(verdict: Verdict) -> Vec<libc::sock_filter> {
    match verdict {
        Verdict::Allow => vec![step(RETURN, ALLOW)],
        Verdict::Refuse => vec![step(RETURN, EPERM)],
        Verdict::Absent => vec![step(RETURN, ENOSYS)],
        Verdict::Clone => vec![
            step(LOAD, argument(0)),
            branch(IF_BITS, CLONE_NEW, 0, 1),
            step(RETURN, EPERM),
            step(RETURN, ALLOW),
        ],
        Verdict::Socket => vec![
            step(LOAD, argument(0)),
            branch(IF_EQUAL, FAMILIES[0], 6, 0),
            branch(IF_EQUAL, FAMILIES[1], 5, 0),
            branch(IF_EQUAL, FAMILIES[2], 4, 0),
            branch(IF_EQUAL, AF_NETLINK, 0, 2),
            step(LOAD, argument(2)),
            branch(IF_EQUAL, NETLINK_ROUTE, 1, 0),
            step(RETURN, EAFNOSUPPORT),
            step(RETURN, ALLOW),
        ],
        Verdict::Personality => {
            let mut code = vec![step(LOAD, argument(0))];
            for value in PERSONALITIES {
                code.push(branch(IF_EQUAL, value, 0, 1));
                code.push(step(RETURN, ALLOW));
            }
            code.push(step(RETURN, EPERM));
            code
        }
        Verdict::Own => vec![
            step(LOAD, argument(0)),
            branch(IF_EQUAL, 0, 1, 0),
            step(RETURN, EPERM),
            step(RETURN, ALLOW),
        ],
        Verdict::Fcntl => vec![
            step(LOAD, argument(1)),
            branch(IF_EQUAL, SET_SIGNAL, 0, 1),
            step(RETURN, EPERM),
            step(RETURN, ALLOW),
        ],
        Verdict::Ioctl => vec![
            step(LOAD, argument(1)),
            branch(IF_EQUAL, TERMINAL_REQUESTS[0], 1, 0),
            branch(IF_EQUAL, TERMINAL_REQUESTS[1], 0, 1),
            step(RETURN, EPERM),
            step(RETURN, ALLOW),
        ],
    }
}

#[cfg(test)]
mod tests;
