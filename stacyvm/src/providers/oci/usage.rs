//! What a sandbox uses: what cgroups tell, and else what its agent sees.

use stacyvm_agent::helper_protocol::Usage as Outside;

use crate::sandbox::state::Usage;

/// What the helper sees in the sandbox's cgroups.
pub(super) fn outside(seen: Outside) -> Usage {
    Usage {
        memory_bytes: seen.memory_bytes,
        memory_peak_bytes: seen.memory_peak_bytes,
        cpu_us: seen.cpu_us,
        processes: seen.pids,
        disk_bytes: None,
        oom_kills: seen.oom_kills,
    }
}

/// Whether all is seen from outside that the agent could tell.
pub(super) fn lacks_nothing(seen: &Usage) -> bool {
    seen.memory_bytes.is_some() && seen.cpu_us.is_some() && seen.processes.is_some()
}

/// Adds what only the agent tells. It is not believed where the kernel tells it, and
/// its disk is the file system that it shares with others.
pub(super) fn filled(seen: Usage, inside: &Usage) -> Usage {
    Usage {
        memory_bytes: seen.memory_bytes.or(inside.memory_bytes),
        cpu_us: seen.cpu_us.or(inside.cpu_us),
        processes: seen.processes.or(inside.processes),
        ..seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_is_asked_for_what_nobody_sees_and_believed_in_nothing_else() {
        let inside = Usage {
            memory_bytes: Some(1),
            cpu_us: Some(2),
            processes: Some(3),
            disk_bytes: Some(4),
            oom_kills: Some(5),
            ..Usage::default()
        };
        let seen = Usage {
            memory_bytes: Some(100),
            ..Usage::default()
        };
        assert!(!lacks_nothing(&seen));
        let filled = filled(seen, &inside);
        assert_eq!(filled.memory_bytes, Some(100));
        assert_eq!((filled.cpu_us, filled.processes), (Some(2), Some(3)));
        assert_eq!((filled.disk_bytes, filled.oom_kills), (None, None));
        assert!(lacks_nothing(&filled));
    }
}
