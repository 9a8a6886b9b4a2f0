//! A terminal of the tests' own.
#![allow(dead_code, reason = "no file uses all of it")]

use std::fs::File;
use std::io::Read;
use std::process::{Child, Command, Stdio};

use rustix::fs::{Mode, OFlags};
use rustix::pty::OpenptFlags;

use super::support::Cli;

/// A terminal: the side of the person, and that of the programs.
pub(crate) struct Terminal {
    pub(crate) person: File,
    pub(crate) programs: File,
}

impl Terminal {
    pub(crate) fn open() -> Self {
        // An inherited descriptor of the person's side would keep it open.
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let person = rustix::pty::openpt(flags).unwrap();
        rustix::pty::grantpt(&person).unwrap();
        rustix::pty::unlockpt(&person).unwrap();
        let name = rustix::pty::ptsname(&person, Vec::new()).unwrap();
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let programs = rustix::fs::open(name, flags, Mode::empty()).unwrap();
        Self {
            person: person.into(),
            programs: programs.into(),
        }
    }

    /// Starts the command line as the leader of a session on this terminal.
    pub(crate) fn start(&self, cli: &Cli, arguments: &[&str]) -> Child {
        let plain = cli.command();
        let mut command = Command::new("setsid");
        command.arg("--ctty").arg(plain.get_program());
        for (name, value) in plain.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let stdio = || Stdio::from(self.programs.try_clone().unwrap());
        command
            .args(arguments)
            .stdin(stdio())
            .stdout(stdio())
            .stderr(stdio())
            .spawn()
            .unwrap()
    }

    /// Reads what is shown until `text` was.
    pub(crate) fn shows(&mut self, text: &str) {
        let mut shown = Vec::new();
        let mut byte = [0];
        while !shown.ends_with(text.as_bytes()) {
            self.person.read_exact(&mut byte).unwrap();
            shown.extend(byte);
        }
    }
}
