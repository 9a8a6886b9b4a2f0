//! Checks of what a command reaches of others.

use super::table::{Group, needing, not_as_root, of_linux, row, with_needs};
use crate::certify::CheckLevel::{Hardening, Isolation};
use crate::certify::Need;

pub(super) const GROUPS: &[Group] = &[
    Group {
        level: Isolation,
        means: "a command rules over the agent, and so over every other command in the sandbox",
        rows: &[
            row("agent.trace", "PID 1 seized as a debugger does"),
            // Root inside has the agent's number; the kernel keeps signals from PID 1.
            not_as_root("agent.signal", "whether PID 1 can be signalled"),
            row("agent.read_memory", "PID 1's memory, with a system call"),
            row("agent.open_memory", "PID 1's memory, as a file"),
            row("agent.environment", "PID 1's environment"),
            row("agent.maps", "PID 1's addresses"),
            row("agent.read_program", "PID 1's program, read"),
            row("agent.write_program", "PID 1's program, written"),
            row("agent.root", "PID 1's root directory"),
            row("agent.directory", "PID 1's directory"),
            row(
                "agent.descriptors",
                "PID 1's descriptors, its channel among them",
            ),
            row("agent.namespaces", "PID 1's namespaces"),
            row("agent.take_descriptor", "a descriptor taken from PID 1"),
            row(
                "agent.limits",
                "PID 1's limit of open files, set to what it is",
            ),
            with_needs(
                of_linux(
                    "agent.processors",
                    "PID 1's processors, set to what they are",
                    "gVisor remembers the set and does nothing by it; the host's threads keep theirs",
                ),
                &[Need::Users, Need::LinuxKernel],
            ),
            of_linux(
                "agent.out_of_memory",
                "whether PID 1 dies first when memory runs out",
                "gVisor remembers the number and ends nobody by it: where memory runs out, the host's kernel ends gVisor",
            ),
            row(
                "agent.trace_supervisor",
                "its supervisor seized as a debugger does",
            ),
            needing(
                "agent.signal_supervisor",
                "whether its supervisor can be signalled",
                &[Need::Users],
            ),
            needing(
                "agent.become_supervisor",
                "becoming its supervisor's user",
                &[Need::Users],
            ),
            needing(
                "agent.set_id_of_supervisor",
                "a file given to its supervisor's user, to become it by a set-id bit",
                &[Need::Users],
            ),
            row("agent.read_supervisor", "its supervisor's memory"),
            row(
                "agent.supervisor_descriptors",
                "its supervisor's descriptors",
            ),
            row("agent.own_program", "its supervisor's program, written"),
            row(
                "agent.leaked_descriptors",
                "descriptors that it was not given",
            ),
        ],
    },
    Group {
        level: Isolation,
        means: "a command sees or reaches what is the host's own",
        rows: &[
            row("host.processes", "a process of the host"),
            row(
                "host.environments",
                "the environment of a process of the host",
            ),
            row(
                "host.own_environment",
                "a variable of the process that made the sandbox",
            ),
            row("host.files", "a file in a temporary directory of the host"),
            row(
                "host.home_of_root",
                "a file in the home directory of the host's user",
            ),
            row("host.shadow", "the host's password hashes"),
            row("host.shared_memory", "shared memory of the host"),
            row("host.message_queue", "a message queue of the host"),
            row(
                "host.abstract_socket",
                "a socket of the host without a path",
            ),
            row(
                "host.loopback_port",
                "a port that the host listens on for itself",
            ),
            row("host.listeners", "the list of what the host listens on"),
            row("identity.hostname", "the host's name"),
            row("sockets.docker", "the socket of Docker"),
            row(
                "sockets.containerd",
                "the sockets of containerd, CRI-O and Podman",
            ),
            row("sockets.system_bus", "the socket of the system's bus"),
            row(
                "sockets.system_manager",
                "the sockets of the system's manager",
            ),
        ],
    },
    Group {
        level: Isolation,
        means: "a sandbox without a network has one",
        rows: &[
            row(
                "network.metadata",
                "the address at which clouds tell a machine its secrets",
            ),
            row("network.route", "a way to anywhere outside"),
            row("network.interfaces", "an interface other than its own"),
            row("network.routing_table", "a route"),
        ],
    },
    Group {
        level: Hardening,
        means: "a command speaks below the protocols that programs need, or rules over the network",
        rows: &[
            row("network.raw_socket", "a raw socket of IPv4"),
            row("network.raw_socket_6", "a raw socket of IPv6"),
            row("network.packet_socket", "a socket of whole packets"),
            row(
                "network.administer",
                "an interface's flags, set to what they are",
            ),
        ],
    },
    Group {
        level: Isolation,
        means: "one sandbox sees or reaches another",
        rows: &[
            row("neighbour.processes", "a process of another sandbox"),
            row(
                "neighbour.environments",
                "the environment of a process of another sandbox",
            ),
            row(
                "neighbour.files",
                "a file in a temporary directory of another sandbox",
            ),
            row(
                "neighbour.shared_memory",
                "shared memory of another sandbox",
            ),
            row(
                "neighbour.message_queue",
                "a message queue of another sandbox",
            ),
            row("neighbour.abstract_socket", "a socket of another sandbox"),
            row("neighbour.loopback_port", "a port of another sandbox"),
        ],
    },
    Group {
        level: Isolation,
        means: "what a command writes takes the host's memory, or holds its caller up",
        rows: &[
            row(
                "output.flood",
                "64 MiB on both streams, with a caller that keeps little",
            ),
            row(
                "output.long_line",
                "64 MiB on both streams without the end of a line, read as what is kept",
            ),
            row(
                "output.unread",
                "64 MiB on both streams, which nobody reads",
            ),
            row(
                "output.many_unread",
                "16 commands at once that write what nobody reads",
            ),
            row(
                "output.survivors",
                "a process that writes on when its command has ended",
            ),
        ],
    },
    Group {
        level: Isolation,
        means: "a command decides what its caller is told",
        rows: &[row(
            "protocol.forged_end",
            "frames in the output that say that it ended well, that lie about lengths, and that nobody knows",
        )],
    },
    Group {
        level: Hardening,
        means: "a command speaks to the agent as its host does, with the flaws of that",
        rows: &[row(
            "protocol.sockets",
            "a socket that listens and is not its own",
        )],
    },
    Group {
        level: Isolation,
        means: "a command takes from the host more than it was given",
        rows: &[
            needing(
                "limits.memory",
                "memory beyond the limit",
                &[Need::MemoryLimit],
            ),
            needing(
                "limits.memory_file",
                "a file in memory beyond the limit",
                &[Need::MemoryLimit],
            ),
            needing(
                "limits.shared_memory",
                "files in `/dev/shm` beyond the limit of memory",
                &[Need::MemoryLimit],
            ),
            needing(
                "limits.processes",
                "processes beyond the limit",
                &[Need::PidsLimit],
            ),
            needing(
                "limits.threads",
                "threads beyond the limit of processes",
                &[Need::PidsLimit],
            ),
            needing(
                "limits.open_files",
                "open files beyond the limit",
                &[Need::OpenFilesLimit],
            ),
            needing(
                "limits.disk",
                "a file beyond the limit of the disk",
                &[Need::DiskLimit],
            ),
            needing(
                "limits.inodes",
                "files without content that no disk of this size holds",
                &[Need::DiskLimit],
            ),
            needing(
                "limits.processors",
                "two processors where a third of one is allowed",
                &[Need::CpuLimit],
            ),
        ],
    },
];
