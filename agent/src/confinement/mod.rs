//! What every embedded sandbox is held to, as data: for the helper, which puts
//! it in force by system calls, and for hosts, which write it into the bundle
//! of a runtime's binary.

pub mod system_calls;

/// The capabilities of the agent, by name and number: to become other users,
/// to signal and own their processes and files. All within the sandbox's own
/// user namespace.
pub const CAPABILITIES: [(&str, u32); 7] = [
    ("CAP_CHOWN", 0),
    ("CAP_DAC_OVERRIDE", 1),
    ("CAP_FOWNER", 3),
    ("CAP_KILL", 5),
    ("CAP_SETGID", 6),
    ("CAP_SETUID", 7),
    ("CAP_SETPCAP", 8),
];

/// What root's programs get with `privileges: namespaced_root`, within the
/// sandbox's own user namespace: owners, modes and users of files and processes.
/// Nothing to signal or trace others, to mount, or to rule over network or kernel.
pub const ROOT_CAPABILITIES: [(&str, u32); 9] = [
    ("CAP_CHOWN", 0),
    ("CAP_DAC_OVERRIDE", 1),
    ("CAP_FOWNER", 3),
    ("CAP_FSETID", 4),
    ("CAP_SETGID", 6),
    ("CAP_SETUID", 7),
    ("CAP_SETPCAP", 8),
    ("CAP_NET_BIND_SERVICE", 10),
    ("CAP_SETFCAP", 31),
];

/// A set of Linux capabilities as the kernel counts them: one bit each.
pub const fn bits(capabilities: &[(&str, u32)]) -> u64 {
    let (mut set, mut at) = (0, 0);
    while at < capabilities.len() {
        set |= 1 << capabilities[at].1;
        at += 1;
    }
    set
}

/// Below `/proc`, hidden: they tell about the host or reach its hardware.
pub const MASKED: [&str; 13] = [
    "acpi",
    "asound",
    "interrupts",
    "kallsyms",
    "kcore",
    "key-users",
    "keys",
    "latency_stats",
    "sched_debug",
    "scsi",
    "timer_list",
    "timer_stats",
    "kpagecount",
];
/// Below `/proc`, readable and no more: writing there is for the host.
pub const READ_ONLY: [&str; 5] = ["bus", "fs", "irq", "sys", "sysrq-trigger"];
/// Below `/sys`, hidden.
pub const MASKED_SYS: [&str; 2] = ["firmware", "devices/virtual/powercap"];
