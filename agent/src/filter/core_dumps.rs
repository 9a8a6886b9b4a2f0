//! The filter that keeps core dumps off.
//!
//! A host may hand core dumps to a handler by a pipe. It runs as the host's root
//! with what the dying process chose as its memory and its name, whatever that
//! process's limit of core dumps is: only for a limit of 1 byte the kernel gives
//! up first (`do_coredump` in the kernel's `fs/coredump.c`). So that is the limit
//! of every command, and this keeps it: calls that set it succeed and change
//! nothing, as programs that turn dumps off, and end if they cannot, expect.

use super::{
    ALLOW, AT_MACHINE, AT_NUMBER, AUDIT_AARCH64, AUDIT_X86_64, EPERM, IF_EQUAL, LOAD, NOTHING_DONE,
    RETURN, X32, argument, branch, step, upper_half,
};

/// `RLIMIT_CORE`.
const CORE: u32 = 4;

/// `AUDIT_ARCH_*` of a machine, and what `setrlimit` and `prlimit64` are there.
type Machine = (u32, &'static [(u32, u32)]);

/// What a processor runs: its own calls, and those of its 32-bit forerunner.
/// Whether they exist is the business of other filters.
const X86: [Machine; 2] = [
    (AUDIT_X86_64, &[(160, 302), (X32 + 160, X32 + 302)]),
    (0x4000_0003, &[(75, 340)]),
];
const ARM: [Machine; 2] = [(AUDIT_AARCH64, &[(164, 261)]), (0x4000_0028, &[(75, 369)])];

/// The filter of this machine.
pub(crate) fn core_dumps() -> Vec<libc::sock_filter> {
    build(if cfg!(target_arch = "aarch64") {
        &ARM
    } else {
        &X86
    })
}

fn build(machines: &[Machine]) -> Vec<libc::sock_filter> {
    let mut program = vec![step(LOAD, AT_MACHINE)];
    for (machine, calls) in machines {
        let mut body = vec![step(LOAD, AT_NUMBER)];
        for (setrlimit, prlimit64) in *calls {
            for (number, judge) in [(*setrlimit, set_limit()), (*prlimit64, limit())] {
                // Both are a dozen instructions at most.
                let length = u8::try_from(judge.len()).unwrap_or(u8::MAX);
                body.push(branch(IF_EQUAL, number, 0, length));
                body.extend(judge);
            }
        }
        body.push(step(RETURN, ALLOW));
        let length = u8::try_from(body.len()).unwrap_or(u8::MAX);
        program.push(branch(IF_EQUAL, *machine, 0, length));
        program.extend(body);
    }
    program.push(step(RETURN, ALLOW));
    program
}

fn set_limit() -> Vec<libc::sock_filter> {
    vec![
        step(LOAD, argument(0)),
        branch(IF_EQUAL, CORE, 0, 1),
        step(RETURN, NOTHING_DONE),
        step(RETURN, ALLOW),
    ]
}

/// Asking is free; setting and asking in one call would leave the answer unwritten.
fn limit() -> Vec<libc::sock_filter> {
    vec![
        step(LOAD, argument(1)),
        branch(IF_EQUAL, CORE, 0, 8),
        // Is there a new limit?
        step(LOAD, argument(2)),
        branch(IF_EQUAL, 0, 0, 2),
        step(LOAD, upper_half(2)),
        branch(IF_EQUAL, 0, 4, 0),
        // A place for the old one?
        step(LOAD, argument(3)),
        branch(IF_EQUAL, 0, 0, 3),
        step(LOAD, upper_half(3)),
        branch(IF_EQUAL, 0, 2, 1),
        step(RETURN, ALLOW),
        step(RETURN, EPERM),
        step(RETURN, NOTHING_DONE),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::run;
    use super::*;

    const HIGH: u64 = 1 << 32;

    #[test]
    fn the_limit_of_core_dumps_cannot_be_set() {
        for family in [X86, ARM] {
            let program = build(&family);
            for (machine, calls) in family {
                for (setrlimit, prlimit64) in calls {
                    let set = |limit| run(&program, machine, *setrlimit, [limit, 1, 1, 1]);
                    let one = |arguments| run(&program, machine, *prlimit64, arguments);
                    for limit in 0..16 {
                        let core = limit == 4;
                        let done = if core { NOTHING_DONE } else { ALLOW };
                        // The kernel looks at the lower half of the limit's number.
                        for limit in [limit, HIGH | limit] {
                            assert_eq!(set(limit), done, "{machine:x} {limit}");
                            for new in [1, HIGH, HIGH | 1] {
                                assert_eq!(one([0, limit, new, 0]), done, "{limit} {new:x}");
                                assert_eq!(one([7, limit, new, 0]), done, "{limit} {new:x}");
                                for old in [1, HIGH, HIGH | 1] {
                                    let refused = if core { EPERM } else { ALLOW };
                                    assert_eq!(one([0, limit, new, old]), refused);
                                    assert_eq!(one([0, limit, 0, old]), ALLOW);
                                }
                            }
                            assert_eq!(one([0, limit, 0, 0]), ALLOW);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn every_other_call_is_allowed() {
        for family in [X86, ARM] {
            let program = build(&family);
            for (machine, calls) in family {
                for number in 0..1200 {
                    if calls.iter().all(|(a, b)| number != *a && number != *b) {
                        assert_eq!(run(&program, machine, number, [4; 4]), ALLOW, "{number}");
                    }
                }
            }
            assert_eq!(run(&program, 0xC000_0016, 160, [4; 4]), ALLOW);
        }
    }

    #[test]
    fn numbers_are_those_of_the_c_library() {
        let number = |call: libc::c_long| u32::try_from(call).unwrap();
        let own = if cfg!(target_arch = "aarch64") {
            ARM
        } else {
            X86
        };
        let expected = (number(libc::SYS_setrlimit), number(libc::SYS_prlimit64));
        assert_eq!(own[0].1[0], expected);
        assert_eq!(libc::RLIMIT_CORE, CORE);
    }
}
