//! The program inside a sandbox: PID 1, its supervisors and its workers.

mod agent;
mod bridge;
mod clock;
mod connection;
mod control;
mod dispatch;
mod exec;
mod failure;
pub mod files;
mod handshake;
mod launch;
mod port;
mod process;
mod ring;
mod sink;
mod start;
mod supervisor;
mod sys;
pub mod users;
mod worker;

use std::process::ExitCode;

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

/// Copies between its standard streams and the agent's socket at `path`.
pub fn bridge(path: &std::ffi::OsStr) -> ExitCode {
    match bridge::run(path) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
