//! Client libraries of other languages, each in a process of its own that takes
//! the times itself.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use crate::measures::text;
use crate::peers::Blocked;

/// One library.
pub(crate) struct Library {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Library {
    /// Starts a client library of Docker; `scripts/bench.sh` installed it.
    #[cfg(feature = "docker")]
    pub(crate) fn start(name: &str, image: &str, runtime: &str) -> Result<Self, Blocked> {
        let installed = std::env::var_os("STACYVM_BENCH_PEERS")
            .map(PathBuf::from)
            .ok_or("not installed (scripts/bench.sh docker)")?;
        let sources = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples/bench/docker");
        let mut command = if name == "dockerode" {
            let mut command = Command::new("node");
            command.arg(sources.join("peers.js"));
            command.env("NODE_PATH", installed.join("js/node_modules"));
            command
        } else {
            let mut command = Command::new(installed.join("py/bin/python"));
            command.arg(sources.join("peers.py"));
            command
        };
        command.args([name, image, runtime]);
        Self::of(command)
    }

    /// Starts a program that answers a line of a word by a line of milliseconds.
    pub(crate) fn of(mut command: Command) -> Result<Self, Blocked> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(text)?;
        let input = child.stdin.take();
        let output = child.stdout.take().ok_or("no output")?;
        let mut library = Self {
            child,
            input,
            output: BufReader::new(output),
        };
        library.ask("ready")?;
        Ok(library)
    }

    /// Has it do something once, and gives the time that this took.
    pub(crate) fn ask(&mut self, what: &str) -> Result<Duration, Blocked> {
        let input = self.input.as_mut().ok_or("it has ended")?;
        writeln!(input, "{what}").map_err(text)?;
        let mut answer = String::new();
        self.output.read_line(&mut answer).map_err(text)?;
        match answer.trim().parse::<f64>() {
            Ok(milliseconds) if milliseconds >= 0.0 => {
                Ok(Duration::from_secs_f64(milliseconds / 1e3))
            }
            _ => Err(answer.trim().to_owned()),
        }
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        // It removes what it has at the end of its input.
        self.input = None;
        let _ = self.child.wait();
    }
}
