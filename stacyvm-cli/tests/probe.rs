//! `probe`: the escape suite, as a command.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use serde_json::Value;
use support::{cli, shown};

#[test]
fn a_family_is_tried_and_told_and_nothing_stays() {
    let cli = cli();
    let output = cli.run(&["probe", "--only", "neighbour", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", shown(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let checks = report["checks"].as_array().unwrap();
    assert_eq!(checks.len(), 7);
    for check in checks {
        assert_eq!(check["subject"]["verdict"], "silent", "{check}");
        assert_eq!(check["control"]["verdict"], "fired", "{check}");
        assert_eq!(check["proved"], true, "{check}");
    }
    assert_eq!(report["summary"]["proved"], 7);
    assert!(cli.sandboxes().is_empty());
}

#[test]
fn a_silence_that_proves_nothing_has_an_exit_code_of_its_own() {
    let cli = cli();
    let output = cli.run(&["probe", "--only", "masked"]);
    let text = shown(&output);
    // Some of what is masked is on no kernel: it is silent everywhere.
    assert_eq!(output.status.code(), Some(4), "{text}");
    assert!(
        text.contains("masked.sched_debug") && text.contains(" 0 fired"),
        "{text}"
    );
}

#[test]
fn a_family_that_there_is_not_is_refused_with_those_that_there_are() {
    let output = cli().run(&["probe", "--only", "nothing"]);
    assert_eq!(output.status.code(), Some(125));
    assert!(shown(&output).contains("seccomp"), "{}", shown(&output));
}
