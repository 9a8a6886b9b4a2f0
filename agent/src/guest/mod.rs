//! The program inside a sandbox: PID 1, its supervisors and its workers.

#[cfg(feature = "guest")]
mod agent;
#[cfg(feature = "guest")]
mod bridge;
#[cfg(feature = "guest")]
mod clock;
#[cfg(feature = "guest")]
mod connection;
#[cfg(feature = "guest")]
mod control;
#[cfg(feature = "guest")]
mod dispatch;
#[cfg(feature = "guest")]
mod exec;
#[cfg(feature = "guest")]
mod failure;
pub mod files;
#[cfg(feature = "guest")]
mod handshake;
#[cfg(feature = "guest")]
mod kernel;
#[cfg(feature = "guest")]
mod launch;
#[cfg(feature = "guest")]
mod places;
#[cfg(feature = "guest")]
mod port;
#[cfg(feature = "guest")]
mod process;
#[cfg(feature = "guest")]
mod reserve;
#[cfg(feature = "guest")]
mod ring;
#[cfg(feature = "guest")]
mod sink;
#[cfg(feature = "guest")]
mod start;
#[cfg(feature = "guest")]
mod supervisor;
#[cfg(feature = "guest")]
mod sys;
pub mod users;
#[cfg(feature = "guest")]
mod worker;

#[cfg(feature = "guest")]
use std::process::ExitCode;

#[cfg(feature = "guest")]
/// Runs as the agent; returns when the sandbox is to end.
///
/// With `--stdin` the configuration comes from standard input and connections
/// over a keyed socket, else both come from the helper at descriptor 3.
pub fn main(from_stdin: bool) -> ExitCode {
    match start::run(from_stdin) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Descriptor 2 is the log of whoever started the sandbox.
            #[expect(clippy::print_stderr, reason = "there is no other place yet")]
            {
                eprintln!("stacyvm-agent: {error}");
            }
            ExitCode::FAILURE
        }
    }
}

#[cfg(feature = "guest")]
/// Copies between its standard streams and the agent's socket at `path`.
pub fn bridge(path: &std::ffi::OsStr) -> ExitCode {
    match bridge::run(path) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

#[cfg(feature = "guest")]
/// Writes which start of a kernel this is to standard output.
pub fn boot_id() -> ExitCode {
    use std::io::Write as _;
    let line = format!("{}\n", kernel::seen().boot_id);
    match std::io::stdout().write_all(line.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

#[cfg(feature = "guest")]
/// Takes `bytes` in as those of an accepted host, and does nothing of what
/// they ask for: the way from bytes to requests, for fuzzing.
#[doc(hidden)]
pub fn feed(bytes: &[u8]) {
    connection::feed(bytes);
}
