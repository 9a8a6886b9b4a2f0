//! The command line in front of a terminal, on the embedded provider.
#![cfg(target_os = "linux")]
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that panics has failed, and processes are polled"
)]

mod support;
#[path = "support/terminal.rs"]
mod tty;

use std::io::{Read, Write};
use std::process::{Child, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use rustix::termios::{LocalModes, Termios, tcgetattr};

use support::{Cli, cli};
use tty::Terminal;

impl Terminal {
    fn state(&self) -> Termios {
        tcgetattr(&self.programs).unwrap()
    }

    fn is_raw(&self) -> bool {
        let modes = self.state().local_modes;
        !modes.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }
}

/// All that a terminal's state says.
fn all(state: &Termios) -> String {
    format!("{state:?}")
}

fn interrupt(child: &Child) {
    kill_process(Pid::from_child(child), Signal::INT).unwrap();
}

/// Waits until a file is inside.
fn wait_for(cli: &Cli, id: &str, file: &str) {
    // Long enough for any machine, so that what never comes fails the test.
    let latest = std::time::Instant::now() + Duration::from_secs(30);
    while cli.code(&["exec", id, "test", "-e", file]) != 0 {
        assert!(std::time::Instant::now() < latest, "{file} never came");
        std::thread::sleep(Duration::from_millis(20));
    }
}

const LOOP: &str = "while :; do sleep 0.05; done";

#[test]
fn the_terminal_is_as_before_however_the_command_line_ends() {
    let cli = cli();
    let id = cli.create(&[]);
    let exec = |terminal: &Terminal, line: &str| {
        terminal.start(&cli, &["exec", "-i", "-t", &id, "sh", "-c", line])
    };
    let mut terminal = Terminal::open();
    let before = all(&terminal.state());
    assert!(!terminal.is_raw());

    // The command ends.
    let mut child = exec(&terminal, "echo ready; read line; exit 3");
    terminal.shows("ready");
    assert!(terminal.is_raw());
    terminal.person.write_all(b"\r").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(3));
    assert_eq!(all(&terminal.state()), before);

    // It never starts.
    let arguments = ["exec", "-i", "-t", &id, "no-such-command"];
    let mut child = terminal.start(&cli, &arguments);
    assert_eq!(child.wait().unwrap().code(), Some(127));
    assert_eq!(all(&terminal.state()), before);

    // A second interrupt kills it.
    let mut child = exec(
        &terminal,
        &format!("trap 'echo first' INT; echo ready; {LOOP}"),
    );
    terminal.shows("ready");
    assert!(terminal.is_raw());
    interrupt(&child);
    terminal.shows("first");
    interrupt(&child);
    assert_eq!(child.wait().unwrap().code(), Some(137));
    assert_eq!(all(&terminal.state()), before);

    // The sandbox ends under it.
    let mut child = exec(&terminal, &format!("echo ready; {LOOP}"));
    terminal.shows("ready");
    assert!(terminal.is_raw());
    cli.ok(&["kill", &id]);
    assert_eq!(child.wait().unwrap().code(), Some(125));
    assert_eq!(all(&terminal.state()), before);
}

#[test]
fn a_terminal_that_closes_hangs_up_on_the_command() {
    let cli = cli();
    let id = cli.create(&[]);
    // One that is silent, and one that writes without end and while it cleans up.
    for (name, body) in [("silent", LOOP), ("loud", "while :; do echo x; done")] {
        let file = format!("/workspace/{name}");
        let line =
            format!("trap 'sleep 0.2; echo bye; touch {file}; exit 4' HUP; echo ready; {body}");
        let mut terminal = Terminal::open();
        let mut child = terminal.start(&cli, &["exec", "-i", "-t", &id, "sh", "-c", &line]);
        terminal.shows("ready");
        drop(terminal);
        assert!(child.wait().unwrap().code().is_some(), "{name}");
        wait_for(&cli, &id, &file);
    }
}

#[test]
fn what_is_typed_interrupts_also_when_json_is_asked_for() {
    let cli = cli();
    let id = cli.create(&[]);
    let terminal = Terminal::open();
    let run = |name: &str, line: &str| {
        let child = terminal.start(&cli, &["exec", "--json", &id, "sh", "-c", line]);
        wait_for(&cli, &id, &format!("/workspace/{name}"));
        (&terminal.person).write_all(b"\x03").unwrap();
        child
    };
    let mut polite = run("a", &format!("trap 'exit 9' INT; touch a; {LOOP}"));
    assert_eq!(polite.wait().unwrap().code(), Some(9));

    let line = format!("trap 'touch c' INT; touch b; {LOOP}");
    let mut stubborn = run("b", &line);
    wait_for(&cli, &id, "/workspace/c");
    assert_eq!(stubborn.try_wait().unwrap(), None);
    (&terminal.person).write_all(b"\x03").unwrap();
    assert_eq!(stubborn.wait().unwrap().code(), Some(137));
}

#[test]
fn json_holds_what_a_terminal_showed() {
    let cli = cli();
    let mut terminal = Terminal::open();
    let mut command = cli.command();
    let mut child = command
        .args(["run", "--json", "-i", "-t", "--", "sh", "-c"])
        .arg("read line; printf \"<$line>\\377\"; exit 5")
        .stdin(Stdio::from(terminal.programs.try_clone().unwrap()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // What is typed before raw mode is discarded.
    while !terminal.is_raw() {
        assert_eq!(child.try_wait().unwrap(), None);
        std::thread::sleep(Duration::from_millis(20));
    }
    terminal.person.write_all(b"typed\r").unwrap();
    let mut text = String::new();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_to_string(&mut text).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(5));
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["exit_code"], 5);
    assert_eq!(value["stdout_encoding"], "base64");
    // The echo, and then "<typed>" and one byte that is not UTF-8.
    assert_eq!(value["stdout"], "dHlwZWQNCjx0eXBlZD7/");
}
