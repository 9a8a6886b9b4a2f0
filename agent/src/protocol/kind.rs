//! The kinds of frame, each with the generation that introduced it.

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $number:literal since $generation:literal;)*) => {
        /// What a frame carries. Numbers are never reused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Kind { $($(#[$doc])* $name = $number,)* }

        impl Kind {
            /// Every kind, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The kind of this number, if this generation knows it.
            pub fn from_number(number: u8) -> Option<Self> {
                match number { $($number => Some(Self::$name),)* _ => None }
            }

            /// The generation that introduced this kind. A sender refuses,
            /// before sending, what the agreed generation does not know.
            pub fn introduced(self) -> u32 {
                match self { $(Self::$name => $generation,)* }
            }

            /// The name, as it stands in the schema snapshot.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }
        }
    };
}

impl Kind {
    /// Whether the payload of such a frame counts towards the credit of its
    /// stream: everything of which there may be more than a reader takes.
    pub fn is_counted(self) -> bool {
        matches!(
            self,
            Self::Data | Self::DataErr | Self::Entries | Self::WatchEvent
        )
    }
}

kinds! {
    // Connection, on stream 0.
    /// Both ways, first: [`super::message::Hello`].
    Hello = 1 since 1;
    /// Agent to host, after the host's hello was accepted: [`super::message::Welcome`].
    Welcome = 2 since 1;
    /// Heartbeat; the payload comes back in a [`Kind::Pong`].
    Ping = 3 since 1;
    /// Answer to a [`Kind::Ping`].
    Pong = 4 since 1;

    // Requests, host to agent; each opens its stream.
    /// Starts a command: [`super::message::ExecRequest`]. Answered by
    /// [`Kind::Started`] or [`Kind::Failure`]; then data; last [`Kind::Exited`].
    Exec = 16 since 1;
    /// Follows a running or finished command: [`super::message::AttachRequest`]. Answered as [`Kind::Exec`].
    Attach = 17 since 1;
    /// Lists commands. Answered by [`Kind::Execs`].
    ListExecs = 18 since 1;
    /// Sends a signal: [`super::message::SignalRequest`]. Answered by [`Kind::Done`].
    Signal = 19 since 1;
    /// Sets the size of a command's terminal: [`super::message::ResizeRequest`]. Answered by [`Kind::Done`].
    Resize = 20 since 1;
    /// Reads what is kept of a command's output without following it: [`super::message::LogRequest`].
    /// Answered by [`Kind::Started`], then data and [`Kind::Lost`]; last [`Kind::Exited`], or
    /// [`Kind::Done`] where the command runs and what comes is not wanted.
    Logs = 21 since 2;
    /// A file operation without data: [`super::message::FileRequest`]. Answered by
    /// [`Kind::Done`], [`Kind::Entry`], or any number of [`Kind::Entries`] and [`Kind::Done`].
    File = 32 since 1;
    /// Reads a file: [`super::message::ReadRequest`]. Answered by [`Kind::Entry`], data, [`Kind::Done`].
    ReadFile = 33 since 1;
    /// Writes a file: [`super::message::WriteRequest`], then data and [`Kind::End`]. Answered by [`Kind::Entry`].
    WriteFile = 34 since 1;
    /// Reports changes below a path: [`super::message::WatchRequest`]. Answered by
    /// [`Kind::Done`] once armed, then [`Kind::WatchEvent`]s until cancelled.
    Watch = 35 since 1;
    /// Sends a path as a tar stream: [`super::message::ExportRequest`]. Answered by data,
    /// at most one [`Kind::LeftOut`] anywhere between, [`Kind::Done`].
    ExportTar = 36 since 1;
    /// Unpacks a tar stream: [`super::message::ImportRequest`], then data and [`Kind::End`]. Answered by [`Kind::Done`].
    ImportTar = 37 since 1;
    /// Connects to a port inside: [`super::message::PortRequest`]. Answered by [`Kind::Done`], then data both ways.
    Dial = 48 since 1;
    /// Listens on a port inside: [`super::message::PortRequest`]. Answered by [`Kind::Listening`], then [`Kind::Accepted`]s.
    Listen = 49 since 1;
    /// Lists processes. Answered by [`Kind::ProcessList`].
    Processes = 56 since 1;
    /// Asks for the usage of the sandbox. Answered by [`Kind::UsageReport`].
    Usage = 57 since 1;
    /// Moves the end of the sandbox's life: [`super::message::DeadlineRequest`]. Answered by [`Kind::Done`].
    SetDeadline = 58 since 1;
    /// Ends the sandbox. The connection closes.
    Terminate = 59 since 1;
    /// Gives a sandbox that waited in a pool the variables of every later command, once:
    /// [`super::message::EnvironmentRequest`]. Answered by [`Kind::Done`].
    SetEnvironment = 60 since 3;

    // Replies, agent to host.
    /// The request succeeded; on a one-answer stream this is the last frame.
    Done = 64 since 1;
    /// The request failed; the last frame of its stream: [`super::message::Failure`].
    Failure = 65 since 1;
    /// One file: [`super::message::Entry`].
    Entry = 66 since 1;
    /// Some files: [`super::message::Entries`].
    Entries = 67 since 1;
    /// The command runs: [`super::message::Started`].
    Started = 68 since 1;
    /// The command ended; the last frame of its stream: [`super::message::Exited`].
    Exited = 69 since 1;
    /// The commands: [`super::message::Execs`].
    Execs = 70 since 1;
    /// Something changed: [`super::message::WatchEvent`].
    WatchEvent = 71 since 1;
    /// The processes: [`super::message::ProcessList`].
    ProcessList = 72 since 1;
    /// The usage: [`super::message::UsageReport`].
    UsageReport = 73 since 1;
    /// Output that a ring no longer holds: [`super::message::Lost`].
    Lost = 74 since 1;
    /// The port is open: [`super::message::Listening`].
    Listening = 75 since 1;
    /// Agent to host, opening an agent stream: [`super::message::Accepted`].
    Accepted = 76 since 1;
    /// What a tar stream does not hold: [`super::message::LeftOut`].
    LeftOut = 77 since 1;

    // Flow, on any open stream.
    /// Bytes: standard input, standard output, a terminal, a file, a tar stream, a port.
    Data = 80 since 1;
    /// Bytes of standard error.
    DataErr = 81 since 1;
    /// The sender has no more data on this stream; the other way stays open.
    End = 82 since 1;
    /// The receiver took bytes: [`super::message::Credit`].
    Credit = 83 since 1;
    /// The host gives the stream up: a command's whole tree is killed, a file
    /// operation is undone where it can be, a port is closed. The agent still
    /// sends the last frame.
    Cancel = 84 since 1;
    /// The host stops following a command, which goes on. No further frame
    /// comes on the stream.
    Detach = 85 since 1;
}
