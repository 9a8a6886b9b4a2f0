//! What cases need a provider to claim.

use stacyvm::provider::{KillScope, Level, Signals, Users};

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
    PAUSE "pause" |c| c.pause;
    TTL "ttl" |c| c.ttl >= Level::BestEffort;
    PROCESSES "processes" |c| c.processes;
    USAGE "usage" |c| c.usage;
    ENV "env" |c| c.env;
}
