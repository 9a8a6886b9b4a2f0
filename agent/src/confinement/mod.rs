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
