//! `conformance`: the suite, as a command.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use serde_json::Value;
use support::{cli, shown};

#[test]
fn a_part_of_the_suite_runs_and_is_told_in_both_forms() {
    let cli = cli();
    let (json, junit) = (
        cli.state.path().join("r.json"),
        cli.state.path().join("r.xml"),
    );
    let output = cli.run(&[
        "conformance",
        "run",
        "--suite",
        "exec",
        "--case",
        "exec.*arg*",
        "--junit",
        junit.to_str().unwrap(),
        "--json",
        json.to_str().unwrap(),
    ]);
    assert_eq!(output.status.code(), Some(0), "{}", shown(&output));
    let report: Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    let cases = report["cases"].as_array().unwrap();
    assert!(!cases.is_empty());
    for case in cases {
        assert_eq!(case["outcome"], "passed", "{case}");
        assert!(case["id"].as_str().unwrap().starts_with("exec."), "{case}");
    }
    assert_eq!(report["subject"]["harness"], "oci");
    let told = String::from_utf8(output.stdout).unwrap();
    let expected = format!("{} passed, 0 declined", cases.len());
    assert!(told.starts_with(&expected), "{told}");
    let junit = std::fs::read_to_string(junit).unwrap();
    assert_eq!(junit.matches("<testcase ").count(), cases.len(), "{junit}");
    assert!(cli.sandboxes().is_empty());
}

#[test]
fn the_list_has_an_id_a_line() {
    let list = cli().ok(&["conformance", "list"]);
    let all: Value = serde_json::from_str(&cli().ok(&["conformance", "list", "--json"])).unwrap();
    let ids: Vec<&str> = list
        .lines()
        .map(|line| line.split_whitespace().next().unwrap())
        .collect();
    let known: Vec<&str> = all
        .as_array()
        .unwrap()
        .iter()
        .map(|case| case["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, known);
    assert!(ids.len() > 100 && ids.iter().all(|id| id.contains('.')));
}

#[test]
fn what_there_is_not_is_refused_by_name() {
    let cli = cli();
    for (arguments, told) in [
        (&["--suite", "nothing"][..], "nothing"),
        (&["--case", "exec.nothing*"], "exec.nothing*"),
        (&["--provider", "nowhere"], "nowhere"),
        (&["--deadline", "soon"], "soon"),
        (&["--jobs", "0"], "0"),
    ] {
        let output = cli.run(&[&["conformance", "run"], arguments].concat());
        assert!(!output.status.success(), "{arguments:?}");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains(told), "{arguments:?}: {text}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
}
