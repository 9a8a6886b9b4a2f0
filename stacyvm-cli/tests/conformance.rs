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
        (&["--deadline", "0s"], "more than no time"),
        (&["--junit", "/nosuch/r.xml"], "/nosuch/r.xml"),
        (&["--json", "/nosuch/r.json"], "/nosuch/r.json"),
        (&["--junit", "/"], "written to /"),
        (&["--jobs", "0"], "0"),
    ] {
        let output = cli.run(&[&["conformance", "run"], arguments].concat());
        assert!(!output.status.success(), "{arguments:?}");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains(told), "{arguments:?}: {text}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
}

#[test]
fn two_reports_in_one_file_are_refused_before_the_run() {
    let cli = cli();
    let file = cli.state.path().join("r");
    let file = file.to_str().unwrap();
    let output = cli.run(&["conformance", "run", "--junit", file, "--json", file]);
    assert_eq!(output.status.code(), Some(125), "{}", shown(&output));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("one report would be lost"), "{text}");
    assert!(!std::path::Path::new(file).exists());
}

#[test]
fn a_report_leaves_a_device_what_it_is() {
    use std::os::unix::fs::FileTypeExt as _;

    let (cli, home) = (cli(), tempfile::tempdir().unwrap());
    let link = home.path().join("null");
    std::os::unix::fs::symlink("/dev/null", &link).unwrap();
    let arguments = ["conformance", "run", "--case", "exec.code*", "--junit"];
    let output = cli.run(&[&arguments[..], &[link.to_str().unwrap()]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", shown(&output));
    assert!(link.is_symlink());
    let null = std::fs::metadata("/dev/null").unwrap().file_type();
    assert!(null.is_char_device());
}

#[test]
fn a_reader_that_has_had_enough_ends_the_list() {
    for arguments in [
        &["conformance", "list"][..],
        &["conformance", "list", "--json"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = cli().command();
        let output = command.args(arguments).stdout(writer).output().unwrap();
        assert!(output.status.success(), "{}", shown(&output));
        assert!(output.stderr.is_empty(), "{}", shown(&output));
    }
}

#[test]
fn evidence_is_whole_where_nobody_watches() {
    let cli = cli();
    let arguments = ["conformance", "run", "--case", "exec.code*"];
    let image = format!("/nosuch/{}", "x".repeat(80));
    let output = cli.run(&[&arguments[..], &["--image", &image]].concat());
    assert_eq!(output.status.code(), Some(1), "{}", shown(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains(&image) && !text.contains('…'), "{text}");
}

#[test]
fn engines_and_processes_are_opened_over_its_state_and_probes_are_cases() {
    let cli = cli();
    let list = cli.ok(&["conformance", "list"]);
    assert!(list.lines().any(|line| line.starts_with("probes.")));
    let (engine, process) = ("reattach.another_engine_ends_it", "*_killed_host");
    let output = cli.run(&["conformance", "run", "--case", engine, "--case", process]);
    assert_eq!(output.status.code(), Some(0), "{}", shown(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("4 passed"), "{text}");
}

/// A configuration with these settings.
fn configured(home: &tempfile::TempDir, settings: &str) -> String {
    let path = home.path().join("stacyvm.yaml");
    std::fs::write(&path, settings).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_server_that_says_nothing_is_given_up_by_name() {
    let (cli, home) = (cli(), tempfile::tempdir().unwrap());
    // Nobody accepts; the kernel connects all the same.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let settings = format!("providers:\n  h:\n    kind: http\n    url: {url}\n");
    let config = configured(&home, &settings);
    let output = cli.run(&[
        "--config",
        &config,
        "conformance",
        "run",
        "--provider",
        "h",
        "--deadline",
        "1s",
    ]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{text}");
    assert!(text.contains("within 1 s") && text.contains(&url), "{text}");
    assert!(text.contains("--deadline"), "{text}");
}

#[test]
fn a_directory_that_the_policy_forbids_is_a_fact_that_is_missing() {
    let (cli, home) = (cli(), tempfile::tempdir().unwrap());
    let roots = home.path().join("roots");
    std::fs::create_dir(&roots).unwrap();
    let settings = format!("policy:\n  mount_roots: [{}]\n", roots.display());
    let config = configured(&home, &settings);
    let case = "mounts.a_host_directory_is_seen_as_it_is";
    let output = cli.run(&["--config", &config, "conformance", "run", "--case", case]);
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    if text.contains("1 declined") {
        return;
    }
    assert_eq!(output.status.code(), Some(4), "{}", shown(&output));
    assert!(
        text.contains("not_run") && text.contains("policy.mount_roots"),
        "{text}"
    );
}
