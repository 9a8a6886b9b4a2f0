//! The table of operations: every method of a provider, classified once.

macro_rules! operations {
    ($($(#[$doc:meta])* $name:ident = $text:literal, idempotent: $idempotent:literal, streams: $streams:literal;)*) => {
        /// A method of [`super::Provider`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum OperationKind { $($(#[$doc])* $name,)* }

        impl OperationKind {
            /// Every operation.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Its name in errors, traces and records.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// Whether the same call twice is the same as once, so that it may
            /// be tried again after an error that does not say what happened.
            pub fn is_idempotent(self) -> bool {
                match self { $(Self::$name => $idempotent,)* }
            }

            /// Whether the call returns a stream that outlives it; a deadline
            /// bounds only the opening of such a call.
            pub fn streams(self) -> bool {
                match self { $(Self::$name => $streams,)* }
            }
        }
    };
}

operations! {
    /// `probe`.
    Probe = "probe", idempotent: true, streams: false;
    /// `pull`. It repeats its requests itself.
    Pull = "pull", idempotent: false, streams: false;
    /// `create`. The caller mints the id, so a second call finds the first's sandbox.
    Create = "create", idempotent: true, streams: false;
    /// `origin`.
    Origin = "origin", idempotent: true, streams: false;
    /// `claim`. One whose answer was lost may have been done, and is not done twice.
    Claim = "claim", idempotent: false, streams: false;
    /// `inspect`.
    Inspect = "inspect", idempotent: true, streams: false;
    /// `list`.
    List = "list", idempotent: true, streams: false;
    /// `set_deadline`.
    SetDeadline = "set_deadline", idempotent: true, streams: false;
    /// `set_lifetime`.
    SetLifetime = "set_lifetime", idempotent: true, streams: false;
    /// `pause`.
    Pause = "pause", idempotent: true, streams: false;
    /// `resume`.
    Resume = "resume", idempotent: true, streams: false;
    /// `destroy`.
    Destroy = "destroy", idempotent: true, streams: false;
    /// `exec`. A command may have run: never repeated by itself.
    Exec = "exec", idempotent: false, streams: true;
    /// `attach`.
    Attach = "attach", idempotent: true, streams: true;
    /// `read_log`.
    ReadLog = "read_log", idempotent: true, streams: true;
    /// `list_execs`.
    ListExecs = "list_execs", idempotent: true, streams: false;
    /// `signal_exec`.
    SignalExec = "signal_exec", idempotent: false, streams: false;
    /// `file`. The file operation itself knows whether it may be repeated.
    File = "file", idempotent: false, streams: true;
    /// `read_file`.
    ReadFile = "read_file", idempotent: true, streams: true;
    /// `write_file`. Its input is a stream that cannot be read twice.
    WriteFile = "write_file", idempotent: false, streams: false;
    /// `watch`.
    Watch = "watch", idempotent: true, streams: true;
    /// `export_tar`.
    ExportTar = "export_tar", idempotent: true, streams: true;
    /// `import_tar`.
    ImportTar = "import_tar", idempotent: false, streams: false;
    /// `dial`.
    Dial = "dial", idempotent: true, streams: true;
    /// `listen`.
    Listen = "listen", idempotent: true, streams: true;
    /// `endpoint`.
    Endpoint = "endpoint", idempotent: true, streams: false;
    /// `processes`.
    Processes = "processes", idempotent: true, streams: false;
    /// `usage`.
    Usage = "usage", idempotent: true, streams: false;
    /// `snapshot`.
    Snapshot = "snapshot", idempotent: true, streams: false;
    /// `delete_snapshot`.
    DeleteSnapshot = "delete_snapshot", idempotent: true, streams: false;
    /// `leftovers`.
    Leftovers = "leftovers", idempotent: true, streams: false;
    /// `remove_leftover`.
    RemoveLeftover = "remove_leftover", idempotent: true, streams: false;
    /// `disk_use`.
    DiskUse = "disk_use", idempotent: true, streams: false;
    /// `tidy`. Another attempt would not tell what the first one removed.
    Tidy = "tidy", idempotent: false, streams: false;
}

/// One call, as layers see it.
#[derive(Clone, Debug)]
pub struct Operation {
    /// Which method.
    pub kind: OperationKind,
    /// Whether it may be repeated: the kind's answer, refined by the request.
    pub idempotent: bool,
    /// Its sandbox, where it has one.
    pub sandbox: Option<crate::id::SandboxId>,
}
