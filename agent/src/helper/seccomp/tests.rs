use std::collections::BTreeSet;

use super::*;
use crate::filter::run;

mod numbers;

fn call(machine: Machine, name: &str, arguments: [u64; 3]) -> u32 {
    let row = ALLOWED.iter().find(|row| row.0 == name).unwrap();
    let number = machine.number(row).unwrap();
    let [a, b, c] = arguments;
    run(&build(machine), machine.audit(), number, [a, b, c, 0])
}

const BOTH: [Machine; 2] = [Machine::X86_64, Machine::Aarch64];

#[test]
fn the_two_columns_fit_each_other() {
    for machine in BOTH {
        let numbers: Vec<u32> = ALLOWED.iter().filter_map(|r| machine.number(r)).collect();
        let once: BTreeSet<u32> = numbers.iter().copied().collect();
        assert_eq!(once.len(), numbers.len(), "a number stands twice");
        assert!(once.iter().all(|number| *number <= NEWEST));
    }
    let names: BTreeSet<&str> = ALLOWED.iter().map(|row| row.0).collect();
    assert_eq!(names.len(), ALLOWED.len(), "a name stands twice");
    // The calls that only x86_64 has: each is an older form of another.
    let old = [
        "access",
        "alarm",
        "arch_prctl",
        "chmod",
        "chown",
        "creat",
        "dup2",
        "epoll_create",
        "epoll_wait",
        "eventfd",
        "fork",
        "futimesat",
        "getdents",
        "getpgrp",
        "inotify_init",
        "lchown",
        "link",
        "lstat",
        "mkdir",
        "mknod",
        "open",
        "pause",
        "pipe",
        "poll",
        "readlink",
        "rename",
        "rmdir",
        "select",
        "signalfd",
        "stat",
        "symlink",
        "time",
        "unlink",
        "utime",
        "utimes",
        "vfork",
    ];
    for (name, x86_64, aarch64) in ALLOWED {
        assert!(*x86_64 >= 0, "{name} is missing on x86_64");
        assert_eq!(*aarch64 < 0, old.contains(name), "{name} on aarch64");
        // From 424 on every machine has the same numbers.
        if *x86_64 >= 424 || *aarch64 >= 424 {
            assert_eq!(x86_64, aarch64, "{name}");
        }
    }
}

#[test]
fn numbers_are_those_of_the_c_library() {
    #[cfg(target_arch = "x86_64")]
    let machine = Machine::X86_64;
    #[cfg(target_arch = "aarch64")]
    let machine = Machine::Aarch64;
    let named: Vec<_> = numbers::KNOWN.iter().chain(numbers::OWN).collect();
    for row in ALLOWED {
        if numbers::NEWER.contains(row) {
            continue;
        }
        let known = named.iter().find(|(name, _)| *name == row.0);
        let Some((_, number)) = known else {
            let is_known = !cfg!(target_arch = "x86_64");
            assert!(is_known, "{row:?} is checked by nothing");
            continue;
        };
        assert_eq!(machine.number(row).map(i64::from), Some(*number), "{row:?}");
    }
    assert!(named.len() > 200, "{}", named.len());
}

#[test]
fn every_number_gets_its_verdict() {
    for machine in BOTH {
        let program = build(machine);
        assert!(program.len() < 4096, "the kernel takes no more");
        for number in 0..1200 {
            let row = ALLOWED.iter().find(|r| machine.number(r) == Some(number));
            let expected = match row {
                Some(("clone3", ..)) => ENOSYS,
                Some(("socket", ..)) => EAFNOSUPPORT,
                Some(_) => ALLOW,
                None if number > NEWEST => ENOSYS,
                None => EPERM,
            };
            assert_eq!(
                run(&program, machine.audit(), number, [0; 4]),
                expected,
                "{machine:?} {number}"
            );
        }
        assert_eq!(run(&program, machine.audit(), u32::MAX, [0; 4]), ENOSYS);
        assert_eq!(run(&program, machine.audit(), X32, [0; 4]), ENOSYS);
        // i386, and the other one of the two.
        for other in [0x4000_0003, 0xC000_003E ^ 0xC000_00B7 ^ machine.audit()] {
            assert_eq!(run(&program, other, 1, [0; 4]), ENOSYS);
        }
    }
}

#[test]
fn dangerous_calls_are_not_in_the_table() {
    for name in [
        "mount",
        "umount2",
        "pivot_root",
        "chroot",
        "unshare",
        "setns",
        "bpf",
        "keyctl",
        "add_key",
        "request_key",
        "perf_event_open",
        "userfaultfd",
        "io_uring_setup",
        "io_uring_enter",
        "io_uring_register",
        "open_by_handle_at",
        "init_module",
        "finit_module",
        "kexec_load",
        "reboot",
        "swapon",
        "syslog",
        "acct",
        "quotactl",
        "settimeofday",
        "clock_settime",
        "clock_adjtime",
        "sethostname",
        "move_mount",
        "fsopen",
        "open_tree",
        "mount_setattr",
        "mbind",
        "move_pages",
        "pidfd_getfd",
        "kcmp",
        "iopl",
        "ioperm",
        "modify_ldt",
        "fanotify_init",
        "lookup_dcookie",
        "nfsservctl",
        "uselib",
        "vm86",
    ] {
        assert!(ALLOWED.iter().all(|row| row.0 != name), "{name}");
    }
}

#[test]
fn arguments_decide() {
    for machine in BOTH {
        for bit in [17, 25, 26, 27, 28, 29, 30] {
            assert_eq!(call(machine, "clone", [1 << bit | 0x11, 0, 0]), EPERM);
        }
        assert_eq!(call(machine, "clone", [0x003D_0F00, 0, 0]), ALLOW);
        for family in 0..64 {
            let expected = if [1, 2, 10, 16].contains(&family) {
                ALLOW
            } else {
                EAFNOSUPPORT
            };
            assert_eq!(
                call(machine, "socket", [family, 1, 0]),
                expected,
                "{family}"
            );
        }
        assert_eq!(call(machine, "socket", [16, 3, 9]), EAFNOSUPPORT);
        // The kernel looks at the lower half only, and so must the filter.
        assert_eq!(
            call(machine, "socket", [1 << 32 | 0x26, 5, 0]),
            EAFNOSUPPORT
        );
        assert_eq!(call(machine, "personality", [0x004_0000, 0, 0]), EPERM);
        assert_eq!(call(machine, "personality", [0xFFFF_FFFF, 0, 0]), ALLOW);
        assert_eq!(call(machine, "prlimit64", [0, 7, 0]), ALLOW);
        assert_eq!(call(machine, "prlimit64", [1, 7, 0]), EPERM);
        assert_eq!(call(machine, "fcntl", [0, 10, 9]), EPERM);
        assert_eq!(call(machine, "fcntl", [0, (1 << 32) + 10, 9]), EPERM);
        // F_SETFL, F_SETOWN and its neighbours.
        for request in [0, 1, 2, 3, 4, 8, 9, 11, 15, 1030] {
            assert_eq!(call(machine, "fcntl", [0, request, 9]), ALLOW);
        }
        assert_eq!(call(machine, "ioctl", [0, 0x5412, 0]), EPERM);
        assert_eq!(call(machine, "ioctl", [0, 1 << 32 | 0x5412, 0]), EPERM);
        assert_eq!(call(machine, "ioctl", [0, 0x541C, 0]), EPERM);
        assert_eq!(call(machine, "ioctl", [0, 0x5413, 0]), ALLOW);
    }
}

#[test]
fn set_id_bits_are_refused_and_nothing_else() {
    for machine in BOTH {
        let program = build_no_set_id(machine);
        let judge = |name: &str, arguments| {
            let row = ALLOWED.iter().find(|row| row.0 == name).unwrap();
            let number = machine.number(row)?;
            Some(run(&program, machine.audit(), number, arguments))
        };
        for (name, mode, flags) in SET_MODE {
            let mut arguments = [u64::MAX << 32; 4];
            for bits in 0..0o10_000_u64 {
                arguments[mode as usize] = u64::MAX << 32 | bits;
                if let Some(flags) = flags {
                    arguments[flags as usize] = 0o2;
                    let seen = judge(name, arguments).unwrap_or(ALLOW);
                    assert_eq!(seen, ALLOW, "{name} {bits:o}");
                    arguments[flags as usize] = 0o101;
                    if bits % 2 == 0 {
                        arguments[flags as usize] = 0o20_200_002;
                    }
                }
                let expected = if bits & 0o6000 == 0 { ALLOW } else { EPERM };
                let seen = judge(name, arguments).unwrap_or(expected);
                assert_eq!(seen, expected, "{name} {bits:o}");
            }
        }
        assert_eq!(judge("openat2", [0; 4]), Some(ENOSYS));
        // Whatever the others are given.
        let others = ALLOWED
            .iter()
            .filter(|row| row.0 != "openat2" && SET_MODE.iter().all(|(name, ..)| *name != row.0));
        for (name, ..) in others {
            let seen = judge(name, [u64::MAX; 4]).unwrap_or(ALLOW);
            assert_eq!(seen, ALLOW, "{name}");
        }
    }
}

#[test]
fn nobody_becomes_the_reserved_user() {
    const USER: u32 = 65_000;
    for machine in BOTH {
        let program = build_reserved(machine, USER);
        let judge = |name: &str, arguments| {
            let row = ALLOWED.iter().find(|row| row.0 == name).unwrap();
            let number = machine.number(row)?;
            Some(run(&program, machine.audit(), number, arguments))
        };
        for (name, users) in SET_USER {
            // The kernel reads the lower half alone.
            for upper in [0, u64::MAX << 32] {
                let others = [0, 1000, USER - 1, USER + 1, u32::MAX];
                for index in 0..4 {
                    let mut arguments = [u64::from(u32::MAX); 4];
                    arguments[index] = upper | u64::from(USER);
                    let is_user = users.iter().any(|user| *user as usize == index);
                    let expected = if is_user { EPERM } else { ALLOW };
                    let seen = judge(name, arguments).unwrap_or(expected);
                    assert_eq!(seen, expected, "{name} {index}");
                    for other in others {
                        arguments[index] = upper | u64::from(other);
                        let seen = judge(name, arguments).unwrap_or(ALLOW);
                        assert_eq!(seen, ALLOW, "{name} {index} {other}");
                    }
                }
            }
        }
        // Every call that takes a user is judged.
        let takes_user = |name: &str| {
            ["chown", "uid"].iter().any(|part| name.contains(part)) && !name.starts_with("get")
        };
        let named: BTreeSet<&str> = SET_USER.iter().map(|(name, _)| *name).collect();
        let known: BTreeSet<&str> = ALLOWED.iter().map(|row| row.0).collect();
        let known: BTreeSet<&str> = known.into_iter().filter(|name| takes_user(name)).collect();
        assert_eq!(named, known);
        for (name, ..) in ALLOWED.iter().filter(|row| !named.contains(row.0)) {
            let seen = judge(name, [u64::from(USER); 4]).unwrap_or(ALLOW);
            assert_eq!(seen, ALLOW, "{name}");
        }
    }
}
