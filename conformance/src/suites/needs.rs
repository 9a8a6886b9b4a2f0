//! What cases need a provider to claim.

use stacyvm::provider::{Isolation, KillScope, Level, Signals, Users};

use crate::case::Need;

macro_rules! needs {
    ($($name:ident $text:literal $met:expr;)*) => {
        $(pub(crate) const $name: Need = Need { name: $text, met: $met };)*
    };
}

needs! {
    STDIN "exec_stdin" |c| c.exec_stdin;
    TTY "exec_tty" |c| c.exec_tty;
    USERS "users" |c| c.users == Users::Many;
    BACKGROUND "exec_background" |c| c.exec_background;
    REATTACH "reattach_output" |c| c.reattach_output;
    TREE "kill_scope" |c| c.kill_scope == KillScope::Tree;
    SIGNALS "signals" |c| c.signals == Signals::Any;
    FILES "files" |c| c.files;
    WATCH "file_watch" |c| c.file_watch;
    TAR "file_tar" |c| c.file_tar;
    DIAL "dial" |c| c.dial;
    LISTEN "listen" |c| c.listen;
    ENDPOINT "endpoint" |c| c.endpoint;
    PAUSE "pause" |c| c.pause;
    ATTACHED "attached_lifetime" |c| c.attached_lifetime;
    TTL "ttl" |c| c.ttl >= Level::BestEffort;
    PROCESSES "processes" |c| c.processes;
    USAGE "usage" |c| c.usage;
    ENV "env" |c| c.env;
    OOM "oom_reported" |c| c.oom_reported;
    MEMORY "memory_limit" |c| c.memory_limit >= Level::BestEffort;
    PIDS "pids_limit" |c| c.pids_limit >= Level::BestEffort;
    CPUS "cpu_limit" |c| c.cpu_limit >= Level::BestEffort;
    OPEN_FILES "open_files_limit" |c| c.open_files_limit >= Level::BestEffort;
    DISK "disk_limit" |c| c.disk_limit >= Level::BestEffort;
    NETWORK_NONE "network_none" |c| c.network_none >= Level::BestEffort;
    NETWORK_FULL "network_full" |c| c.network_full;
    MOUNT_TMPFS "mount_tmpfs" |c| c.mount_tmpfs;
    READ_ONLY "read_only_root" |c| c.read_only_root >= Level::BestEffort;
    NAMESPACED_ROOT "namespaced_root" |c| c.namespaced_root;
    SNAPSHOT "snapshot_disk" |c| c.snapshot_disk;
    MOUNT_HOST "mount_host" |c| c.mount_host;
    MOUNT_VOLUME "mount_volume" |c| c.mount_volume;
    MOUNT_VOLUME_SIZE "mount_volume_size" |c| c.mount_volume_size;
    NETWORK_ALLOW "network_allow" |c| c.network_allow >= Level::BestEffort;
    LIMITS_VISIBLE "limits_visible" |c| c.limits_visible;
    ISOLATION "isolation" |c| c.isolation != Isolation::None;
    PORTS "dial, listen" |c| c.dial && c.listen;
    IDLE "idle_timeout" |c| c.idle_timeout >= Level::BestEffort;
    CLAIM "claim" |c| c.claim;
    IMAGE_HOST "image_host" |c| c.image_host;
    IMAGE_DIRECTORY "image_directory" |c| c.image_directory;
    PUBLISH "publish_ports" |c| c.publish_ports;
    ROOT_MAPPED "root_mapped" |c| c.root_mapped >= Level::BestEffort;
    SYSCALL_FILTER "syscall_filter" |c| c.syscall_filter >= Level::BestEffort;
    NO_NEW_PRIVILEGES "no_new_privileges" |c| c.no_new_privileges >= Level::BestEffort;
}
