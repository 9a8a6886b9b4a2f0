//! What a helper and the agent of its sandbox say to each other, one message
//! for each packet of their `SOCK_SEQPACKET` pair (descriptor 3 of the agent).
//!
//! Both ends come from one file of one release, so there is no negotiation.

use minicbor::{Decode, Encode};

use super::message::AgentConfig;

/// The descriptor at which an agent finds its helper.
pub const CONTROL_FD: i32 = 3;
/// The most bytes of one control message.
pub const MAX_CONTROL: usize = 256 * 1024;

/// One packet between a helper and an agent.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum ControlMessage {
    /// Helper to agent, first. The packet may carry the file that counts kills
    /// for lack of memory (`memory.oom_control` of cgroup v1, `memory.events`
    /// of v2), and after it those that `commands` tells of.
    #[n(0)]
    #[cbor(map)]
    Config {
        /// What the agent needs to know.
        #[n(0)]
        config: AgentConfig,
        /// How many descriptors at the end are files through which a command
        /// enters the cgroups of commands.
        #[n(1)]
        commands: u8,
    },
    /// Helper to agent: the packet carries one connected stream socket, a host
    /// that the helper let in.
    #[n(1)]
    #[cbor(map)]
    Connection {},
    /// Agent to helper, once: connections are welcome.
    #[n(2)]
    #[cbor(map)]
    Ready {},
    /// Agent to helper: end the sandbox now.
    #[n(3)]
    #[cbor(map)]
    EndSandbox {
        /// Why, for people.
        #[n(0)]
        reason: String,
    },
    /// Agent to helper: a host moved the end of the sandbox's life.
    #[n(4)]
    #[cbor(map)]
    Deadline {
        /// Milliseconds from now; absent means none.
        #[n(0)]
        in_ms: Option<u64>,
    },
    /// Agent to helper, where a sandbox ends by idleness: whether it is in use
    /// from here on. It begins unused.
    #[n(5)]
    #[cbor(map)]
    Use {
        /// Whether a command or a process of one runs, a file is worked on, or
        /// a connection to a port is open.
        #[n(0)]
        in_use: bool,
    },
}
