//! `--idle-timeout`: a sandbox that is not in use ends, with no host alive.
#![cfg(target_os = "linux")]
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that panics has failed, and ends are polled"
)]

mod support;

use std::time::Duration;

use serde_json::Value;
use support::{Cli, cli, shown};

fn inspect(cli: &Cli, sandbox: &str) -> Value {
    let text = cli.ok(&["inspect", sandbox]);
    serde_json::from_str::<Value>(&text).unwrap()[0].take()
}

/// Waits until nothing of a sandbox is left on the disk; nobody is asked.
fn gone(cli: &Cli, sandbox: &str) {
    let directory = cli.state.path().join("sandboxes").join(sandbox);
    for _ in 0..3000 {
        if !directory.exists() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("it does not end");
}

#[test]
fn a_sandbox_that_is_not_used_ends_with_no_host_alive() {
    let cli = cli();
    let id = cli.create(&["--idle-timeout", "2s"]);
    gone(&cli, &id);
    assert_eq!(inspect(&cli, &id)["phase"], "ended");
    assert_eq!(inspect(&cli, &id)["idle_timeout"], "2s");
    // It was not the other timer.
    let long = cli.create(&["--idle-timeout", "1h"]);
    let shown_now = inspect(&cli, &long);
    assert!(shown_now["idle_ends"].is_object(), "{shown_now}");
    assert_eq!(cli.ok(&["exec", &long, "echo", "fine"]), "fine\n");
    let output = cli.run(&["create", "--profile", "strict", "--idle-timeout", "1h"]);
    assert_eq!(output.status.code(), Some(125), "{}", shown(&output));
    assert!(String::from_utf8_lossy(&output.stderr).contains("idle_timeout"));
}

#[test]
fn what_runs_in_the_background_is_use() {
    let cli = cli();
    let id = cli.create(&["--idle-timeout", "3s"]);
    let exec = cli.ok(&["exec", "--detach", &id, "sleep", "6"]);
    // In use, it has no such end.
    let mut seen = inspect(&cli, &id);
    for _ in 0..100 {
        if seen["idle_ends"].is_null() {
            break;
        }
        seen = inspect(&cli, &id);
    }
    assert!(seen["idle_ends"].is_null(), "{seen}");
    let followed = cli.run(&["logs", "--follow", "--process", exec.trim(), &id]);
    // It lived until the command ended, twice as long as it may be idle.
    assert!(followed.status.success(), "{}", shown(&followed));
    gone(&cli, &id);
}
