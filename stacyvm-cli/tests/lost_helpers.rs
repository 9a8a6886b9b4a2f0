//! Sandboxes whose helper lives and that are hard to find: the store was
//! deleted, or the helper's socket.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use serde_json::Value;
use support::{Cli, cli, shown};

fn json(cli: &Cli, arguments: &[&str]) -> Value {
    let output = cli.run(&[&["--json"], arguments].concat());
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", shown(&output)))
}

fn directory_of(cli: &Cli, sandbox: &str) -> std::path::PathBuf {
    let state = cli.state.path().canonicalize().unwrap();
    state.join("sandboxes").join(sandbox)
}

/// The one leak of this kind, of a sandbox.
fn leak(cli: &Cli, sandbox: &str, kind: &str) -> Value {
    let report = json(cli, &["leaks"]);
    let leaks = report["leaks"].as_array().unwrap().iter();
    let mut found = leaks.filter(|leak| leak["sandbox"] == sandbox && leak["kind"] == kind);
    let one = found.next().unwrap_or_else(|| panic!("{report}"));
    assert!(found.next().is_none(), "{report}");
    one.clone()
}

fn delete_store(cli: &Cli) {
    for entry in std::fs::read_dir(cli.state.path()).unwrap().flatten() {
        if entry.file_name().to_str().unwrap().starts_with("store.") {
            std::fs::remove_file(entry.path()).unwrap();
        }
    }
}

#[test]
fn a_sandbox_whose_store_was_deleted_is_ended_as_leaks_says() {
    let cli = cli();
    let id = cli.create(&[]);
    delete_store(&cli);
    assert_eq!(cli.code(&["kill", &id]), 125);
    let directory = leak(&cli, &id, "directory");
    assert_eq!(directory["owner_lives"], true);
    let remedy = directory["remedy"].as_str().unwrap();
    assert!(remedy.contains("remove it by its id"), "{remedy}");
    // One that is on record is not touched.
    let known = cli.create(&[]);
    let recorded = format!("directory:{}", directory_of(&cli, &known).display());
    let output = cli.run(&["leaks", "--remove", &recorded, "--yes"]);
    assert_eq!(output.status.code(), Some(125), "{}", shown(&output));
    let name = directory["id"].as_str().unwrap();
    cli.ok(&["leaks", "--remove", name, "--yes"]);
    assert!(!directory_of(&cli, &id).exists());
    assert_eq!(cli.ok(&["leaks"]), "nothing\n");
    assert_eq!(cli.ok(&["exec", &known, "echo", "fine"]), "fine\n");
}

#[test]
fn a_helper_without_its_socket_is_told_and_can_be_ended() {
    let cli = cli();
    let (id, other) = (cli.create(&[]), cli.create(&[]));
    std::fs::remove_file(directory_of(&cli, &id).join("helper.sock")).unwrap();
    let output = cli.run(&["exec", &id, "true"]);
    let text = shown(&output);
    assert_eq!(output.status.code(), Some(125), "{text}");
    assert!(text.contains("nobody reaches it"), "{text}");
    assert!(text.contains("kill"), "{text}");
    let mut both = vec![id.clone(), other.clone()];
    both.sort();
    let mut listed = cli.sandboxes();
    listed.sort();
    assert_eq!(listed, both);
    let process = leak(&cli, &id, "process");
    let remedy = process["remedy"].as_str().unwrap();
    assert!(remedy.contains(&format!("kill {id}")), "{remedy}");
    let helper = process["name"].as_str().unwrap();
    let title = std::fs::read_to_string(format!("/proc/{helper}/comm")).unwrap();
    assert_eq!(title.trim_end(), "stacyvm-helper");
    // It is on record, so it is not removed as something that nobody knows.
    let name = process["id"].as_str().unwrap();
    let output = cli.run(&["leaks", "--remove", name, "--yes"]);
    assert_eq!(output.status.code(), Some(125), "{}", shown(&output));
    cli.ok(&["kill", &id]);
    assert!(!directory_of(&cli, &id).exists());
    assert_eq!(cli.ok(&["leaks"]), "nothing\n");
    assert_eq!(cli.sandboxes(), [other.as_str()]);
    assert_eq!(cli.ok(&["exec", &other, "echo", "fine"]), "fine\n");
}

#[test]
fn a_helper_without_socket_and_record_is_ended_as_leaks_says() {
    let cli = cli();
    let id = cli.create(&[]);
    std::fs::remove_file(directory_of(&cli, &id).join("helper.sock")).unwrap();
    delete_store(&cli);
    let remedy = leak(&cli, &id, "process")["remedy"].to_string();
    let directory = leak(&cli, &id, "directory");
    let name = directory["id"].as_str().unwrap();
    assert!(remedy.contains(name), "{remedy}");
    cli.ok(&["leaks", "--remove", name, "--yes"]);
    assert!(!directory_of(&cli, &id).exists());
    assert_eq!(cli.ok(&["leaks"]), "nothing\n");
}
