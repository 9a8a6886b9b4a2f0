//! Filters of system calls: the instructions they are made of.

mod core_dumps;
mod sys;

pub(crate) use core_dumps::core_dumps;
pub(crate) use sys::install;

pub(crate) const ALLOW: u32 = 0x7FFF_0000;
pub(crate) const ERRNO: u32 = 0x0005_0000;
pub(crate) const EPERM: u32 = ERRNO | 1;
/// The call is answered with success, without being made.
pub(crate) const NOTHING_DONE: u32 = ERRNO;

/// `AUDIT_ARCH_*` of `linux/audit.h`.
pub(crate) const AUDIT_X86_64: u32 = 0xC000_003E;
pub(crate) const AUDIT_AARCH64: u32 = 0xC000_00B7;

/// The bit of x32 calls, which share x86_64's `AUDIT_ARCH`.
pub(crate) const X32: u32 = 0x4000_0000;
// `struct seccomp_data`: number, machine, instruction pointer, arguments.
pub(crate) const AT_NUMBER: u32 = 0;
pub(crate) const AT_MACHINE: u32 = 4;

/// The lower half of an argument: both machines are little-endian. The kernel
/// reads the arguments that are judged here as 32-bit values too.
pub(crate) const fn argument(index: u32) -> u32 {
    16 + 8 * index
}

/// The upper half, of a pointer.
pub(crate) const fn upper_half(index: u32) -> u32 {
    argument(index) + 4
}

pub(crate) const LOAD: u16 = 0x20;
pub(crate) const JUMP: u16 = 0x05;
pub(crate) const IF_EQUAL: u16 = 0x15;
pub(crate) const IF_AT_LEAST: u16 = 0x35;
pub(crate) const IF_BITS: u16 = 0x45;
pub(crate) const RETURN: u16 = 0x06;

pub(crate) fn step(code: u16, k: u32) -> libc::sock_filter {
    libc::sock_filter {
        code,
        jt: 0,
        jf: 0,
        k,
    }
}

/// Goes `yes` or `no` instructions on.
pub(crate) fn branch(code: u16, k: u32, yes: u8, no: u8) -> libc::sock_filter {
    libc::sock_filter {
        code,
        jt: yes,
        jf: no,
        k,
    }
}

/// Runs a filter as the kernel does.
#[cfg(test)]
pub(crate) fn run(
    program: &[libc::sock_filter],
    machine: u32,
    number: u32,
    arguments: [u64; 4],
) -> u32 {
    let (mut at, mut value) = (0, 0_u32);
    loop {
        let step = program[at];
        at += 1;
        let jump = |taken: bool| usize::from(if taken { step.jt } else { step.jf });
        match step.code {
            LOAD => {
                value = match step.k {
                    AT_NUMBER => number,
                    AT_MACHINE => machine,
                    k => {
                        let index = (k - 16) / 8;
                        let value = arguments[index as usize];
                        let half = if k == argument(index) {
                            value & 0xFFFF_FFFF
                        } else {
                            assert_eq!(k, upper_half(index));
                            value >> 32
                        };
                        u32::try_from(half).unwrap()
                    }
                }
            }
            JUMP => at += step.k as usize,
            IF_EQUAL => at += jump(value == step.k),
            IF_AT_LEAST => at += jump(value >= step.k),
            IF_BITS => at += jump(value & step.k != 0),
            RETURN => return step.k,
            other => panic!("no such instruction: {other}"),
        }
    }
}
