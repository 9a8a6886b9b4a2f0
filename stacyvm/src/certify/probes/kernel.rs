//! Checks of what the kernel lets a command do.

use super::table::{Group, of_linux, row, with_needs};
use crate::certify::CheckLevel::{Hardening, Inside, Isolation};
use crate::certify::Need;

/// Of gVisor's cgroups.
const OWN_CGROUPS: &str = "gVisor keeps cgroups of its own, in its memory: what is written there reaches no cgroup of the host, and those hold gVisor as a whole";

pub(super) const GROUPS: &[Group] = &[
    Group {
        level: Hardening,
        means: "a part of the kernel that programs do not need is within reach, with its flaws",
        rows: &[
            row("seccomp.af_alg", "a socket of the kernel's cryptography"),
            row("seccomp.af_vsock", "a socket to the hypervisor"),
            row("seccomp.netlink_audit", "a socket to the kernel's audit"),
            row(
                "seccomp.netlink_uevent",
                "a socket that hears of the host's devices",
            ),
            row("seccomp.netlink_netfilter", "a socket to the packet filter"),
            row(
                "seccomp.rare_families",
                "sockets of families that hardly anybody uses",
            ),
            row(
                "seccomp.bpf",
                "`bpf`, with a size that its first check refuses",
            ),
            row(
                "seccomp.keyctl",
                "`keyctl` on the keys of the session, which no namespace divides",
            ),
            row(
                "seccomp.add_key",
                "`add_key`, with a type that cannot be read",
            ),
            row(
                "seccomp.request_key",
                "`request_key`, which starts a program of the host",
            ),
            row(
                "seccomp.userfaultfd",
                "`userfaultfd`, with which races in the kernel are won",
            ),
            row(
                "seccomp.perf_event_open",
                "`perf_event_open`, with flags that nobody knows",
            ),
            row(
                "seccomp.io_uring",
                "`io_uring_setup`, whose requests no filter sees",
            ),
            row("seccomp.setns", "`setns` with no descriptor"),
            row("seccomp.open_tree", "`open_tree` of the root directory"),
            row(
                "seccomp.mount_setattr",
                "`mount_setattr`, with flags that nobody knows",
            ),
            row("seccomp.umount", "`umount2`, with flags that nobody knows"),
            row("seccomp.chroot", "`chroot` to a path that cannot be read"),
            row(
                "seccomp.quotactl",
                "`quotactl`, with a command that nobody knows",
            ),
            row("seccomp.swapon", "`swapon`, with flags that nobody knows"),
            row(
                "seccomp.name_to_handle_at",
                "`name_to_handle_at`, with flags that nobody knows",
            ),
            row(
                "seccomp.open_by_handle_at",
                "`open_by_handle_at`, which leaves a root directory",
            ),
            row(
                "seccomp.fanotify_init",
                "`fanotify_init`, which watches whole file systems",
            ),
            row(
                "seccomp.personality",
                "`personality`, to place memory at known addresses",
            ),
            row(
                "seccomp.kcmp",
                "`kcmp`, which tells the order of the kernel's addresses",
            ),
            row(
                "seccomp.pidfd_getfd",
                "`pidfd_getfd`, which takes descriptors of others",
            ),
            row(
                "seccomp.descriptor_signal",
                "`fcntl` with `F_SETSIG`, by which any signal reaches any owner of a descriptor",
            ),
            row(
                "seccomp.process_madvise",
                "`process_madvise` of another process",
            ),
            row("seccomp.set_mempolicy", "`set_mempolicy` to what it is"),
            row(
                "seccomp.move_pages",
                "`move_pages`, with flags that nobody knows",
            ),
            row(
                "seccomp.lsm_list_modules",
                "`lsm_list_modules`, with flags that nobody knows",
            ),
            row("seccomp.sysfs", "`sysfs`, an old call"),
            row("seccomp.ustat", "`ustat`, an old call"),
            row(
                "seccomp.other_machine",
                "`bpf` as a 32-bit call, past a filter of 64-bit ones",
            ),
            row(
                "seccomp.terminal_input",
                "a letter typed into a terminal, with `TIOCSTI`",
            ),
            row(
                "identity.seccomp_filter",
                "whether a filter of system calls is in force",
            ),
            row(
                "identity.core_dumps",
                "whether a crash may start what the host has set for crashes",
            ),
        ],
    },
    Group {
        level: Isolation,
        means: "a command gets rights in a namespace of its own, which most flaws of the kernel begin with",
        rows: &[
            row("seccomp.unshare_user", "a user namespace, with `unshare`"),
            row("seccomp.unshare_mount", "a mount namespace, with `unshare`"),
            row("seccomp.unshare_network", "a network, with `unshare`"),
            row(
                "seccomp.clone_user",
                "a process in a user namespace, with `clone`",
            ),
            row(
                "seccomp.clone_mount",
                "a process in a mount namespace, with `clone`",
            ),
            of_linux(
                "seccomp.clone3_user",
                "a process in a user namespace, with `clone3`, whose flags no filter sees",
                "a filter cannot tell gVisor's programs that there is no `clone3`, so they are let; the namespace is gVisor's own, and rights in it reach no kernel but gVisor's",
            ),
        ],
    },
    Group {
        level: Isolation,
        means: "a command changes what it sees of the file system, and can uncover what was hidden",
        rows: &[
            row("seccomp.mount", "a file system mounted on `/tmp`"),
            row("seccomp.bind_mount", "`/proc` mounted on `/tmp`"),
            row("seccomp.fsopen", "a file system opened, with `fsopen`"),
            row(
                "seccomp.move_mount",
                "`move_mount`, with flags that nobody knows",
            ),
            row(
                "seccomp.pivot_root",
                "`pivot_root` to a path that cannot be read",
            ),
        ],
    },
    Group {
        level: Isolation,
        means: "a command commands the host's kernel",
        rows: &[
            row(
                "seccomp.kexec_load",
                "another kernel, with flags that nobody knows",
            ),
            row("seccomp.init_module", "a module of no bytes"),
            row("seccomp.finit_module", "a module from no descriptor"),
            row(
                "seccomp.delete_module",
                "the end of a module whose name cannot be read",
            ),
            row(
                "seccomp.reboot",
                "`reboot` without the numbers that it needs",
            ),
            row("seccomp.swapoff", "`swapoff` of a path that cannot be read"),
            row("seccomp.acct", "`acct` on a path that cannot be read"),
            row("seccomp.iopl", "`iopl`, the ports of the hardware"),
            row("seccomp.ioperm", "`ioperm`, one port of the hardware"),
            row("seccomp.hostname", "the host's name, set to what it is"),
            row("clock.settimeofday", "the clock, set to nothing"),
            row(
                "clock.clock_settime",
                "the clock, set to a time that cannot be read",
            ),
            row("clock.adjust", "the clock's frequency, set to what it is"),
            row("clock.wake_alarm", "an alarm that wakes the host"),
            row(
                "kernel_files.core_pattern",
                "the program that is started for a crash",
            ),
            row(
                "kernel_files.modprobe",
                "the program that is started to load a module",
            ),
            row(
                "kernel_files.uevent_helper",
                "the program that is started for a new device",
            ),
            row(
                "kernel_files.poweroff_cmd",
                "the program that is started to power off",
            ),
            of_linux(
                "kernel_files.sysrq_trigger",
                "the emergency key",
                "gVisor's file can be opened by root, and each write to it fails",
            ),
            row("kernel_files.sysrq", "what the emergency key may do"),
            row("kernel_files.panic", "what follows a panic"),
            row("kernel_files.randomize", "whether addresses are random"),
            row("kernel_files.pid_max", "how many processes there may be"),
            row("kernel_files.overcommit", "how memory is given out"),
            row(
                "kernel_files.suid_dumpable",
                "how set-id programs and links are guarded",
            ),
            row(
                "kernel_files.binfmt_misc",
                "a program that is started for others",
            ),
            row(
                "kernel_files.user_limits",
                "how many namespaces there may be",
            ),
            row(
                "kernel_files.interrupts",
                "which processor serves the interrupts",
            ),
            row("kernel_files.mtrr", "how physical memory is cached"),
            row(
                "kernel_files.module_parameters",
                "the parameters of a module",
            ),
            row("kernel_files.uevent", "an event of a device"),
            row("kernel_files.block_queue", "how a disk is driven"),
            row(
                "kernel_files.memory_tuning",
                "how pages are joined and swapped",
            ),
            row("kernel_files.power", "power, restart and processors"),
            row("kernel_files.debugfs", "the kernel's files for debugging"),
            row("kernel_files.tracefs", "the kernel's files for tracing"),
            row("kernel_files.security", "the files of security modules"),
            row(
                "cgroup.release_agent",
                "the program that is started for an empty cgroup",
            ),
            of_linux(
                "cgroup.move_processes",
                "a process moved out of its limits",
                OWN_CGROUPS,
            ),
            of_linux("cgroup.memory_limit", "the limit of memory", OWN_CGROUPS),
            of_linux("cgroup.device_rules", "the rules for devices", OWN_CGROUPS),
            of_linux("cgroup.make", "a cgroup of its own", OWN_CGROUPS),
            row("cgroup.mount_v1", "the cgroups of version 1, mounted"),
            row("cgroup.mount_v2", "the cgroups of version 2, mounted"),
        ],
    },
    Group {
        level: Hardening,
        means: "a command learns of the host what makes an attack on its kernel easier",
        rows: &[
            row("kernel_log.syslog", "the kernel's log, with `syslog`"),
            row("devices.kernel_log", "the kernel's log, as a device"),
            row("masked.kcore", "the kernel's memory"),
            row("masked.kallsyms", "addresses of the kernel's functions"),
            row("masked.iomem", "addresses of the hardware"),
            row("masked.keys", "the kernel's keys"),
            row("masked.timer_list", "the kernel's timers"),
            row("masked.sched_debug", "every process of the host"),
            row("masked.page_flags", "how each page of memory is used"),
            row("masked.slab", "the sizes of the kernel's structures"),
            row("masked.vmalloc", "addresses of the kernel's memory"),
            row("masked.firmware", "the firmware's tables"),
            row(
                "masked.powercap",
                "the processor's power, which tells what others compute",
            ),
        ],
    },
    Group {
        level: Isolation,
        means: "a command reaches the host's hardware, past the file systems and networks",
        rows: &[
            row("devices.memory", "physical memory or ports, as devices"),
            row("devices.disk", "a disk, as a device"),
            row("devices.virtual_machine", "the makers of virtual machines"),
            row("devices.vsock", "the way to the hypervisor"),
            row("devices.fuse", "file systems of its own"),
            row("devices.tun", "network interfaces of its own"),
            row("devices.loop_control", "disks made from files"),
            row(
                "devices.userfaultfd",
                "`userfaultfd` without a system call for it",
            ),
            row("devices.console", "the host's consoles"),
            row("devices.display", "the host's displays"),
            row(
                "devices.unexpected",
                "any device but the few that every program needs",
            ),
            row(
                "devices.make_character",
                "a device node that is made and opened",
            ),
            row(
                "devices.make_disk",
                "a node of a disk that is made and opened",
            ),
        ],
    },
    Group {
        level: Inside,
        means: "a command has rights over users and files inside that it was not given",
        rows: &[
            row(
                "capabilities.effective",
                "whether a Linux capability is held",
            ),
            row("capabilities.bounding", "whether one could still be gained"),
            row(
                "capabilities.after_exec",
                "whether root gains one by starting a program",
            ),
            row("capabilities.become_another", "becoming another user"),
            row("capabilities.join_group", "joining another group"),
            row("capabilities.give_away", "giving a file to another user"),
            row(
                "capabilities.read_any_file",
                "reading a file that nobody may read",
            ),
            row(
                "setuid.no_new_privileges",
                "whether programs may give rights",
            ),
            row(
                "setuid.programs",
                "a set-id program of root's that would give its rights",
            ),
            row(
                "setuid.file_capability",
                "a file that is given a Linux capability",
            ),
        ],
    },
    Group {
        level: Isolation,
        means: "a command has rights that only the agent should have",
        rows: &[
            row(
                "capabilities.beyond_root",
                "whether a Linux capability is held, or could be gained, that is not one over users and files",
            ),
            row("capabilities.inheritable", "whether one would be inherited"),
            of_linux(
                "capabilities.priority",
                "a priority above others'",
                "gVisor remembers the number and does nothing by it; the host's threads keep theirs",
            ),
            row("capabilities.realtime", "running before all others"),
            row(
                "capabilities.lock_memory",
                "memory that is never given back",
            ),
            with_needs(
                of_linux(
                    "identity.user_namespace",
                    "whether root inside is root of the host",
                    "gVisor tells the map of its own first namespace; to the host all inside is gVisor's one user",
                ),
                &[Need::RootMapped, Need::LinuxKernel],
            ),
        ],
    },
];
