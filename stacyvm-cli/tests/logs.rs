//! `logs`: what commands wrote is shown again, by another process.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use support::{Cli, cli, shown};

/// Starts a command in the background and waits until `logs` shows this of it.
fn start(cli: &Cli, sandbox: &str, script: &str, shows: &str) -> String {
    let exec = cli.ok(&["exec", "--detach", sandbox, "sh", "-c", script]);
    let exec = exec.trim().to_owned();
    for _ in 0..1000 {
        let output = cli.run(&["logs", "--process", &exec, sandbox]);
        assert!(output.status.success(), "{}", output.status);
        if String::from_utf8_lossy(&output.stdout).contains(shows) {
            return exec;
        }
    }
    panic!("never shown: {shows}");
}

#[test]
fn output_is_shown_again_with_whose_it_is() {
    let cli = cli();
    let id = cli.create(&[]);
    let server = start(
        &cli,
        &id,
        "echo up; echo bad >&2; printf end; sleep 1000",
        "end",
    );
    cli.ok(&["exec", &id, "echo", "seen by its caller"]);
    let output = cli.run(&["logs", &id]);
    assert!(output.status.success(), "{}", shown(&output));
    let (out, err) = (
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    );
    assert!(
        out.contains(&format!("{server} | up\n{server} | end\n")),
        "{out}"
    );
    assert!(out.contains(" | seen by its caller\n"), "{out}");
    assert_eq!(err, format!("{server} | bad\n"));
    // One command: as it was written.
    let output = cli.run(&["logs", "-p", &server[..6], &id]);
    assert_eq!(
        (output.stdout, output.stderr),
        (b"up\nend".to_vec(), b"bad\n".to_vec())
    );
    // Nothing of it is newer than now.
    assert_eq!(cli.ok(&["logs", "--since", "0s", "-p", &server, &id]), "");
    assert_eq!(
        cli.ok(&[
            "logs",
            "--since",
            "2000-01-01T00:00:00Z",
            "-p",
            &server,
            &id
        ]),
        "up\nend"
    );
    for since in ["soon", "-5s", "2026-11-26"] {
        let output = cli.run(&["logs", "--since", since, &id]);
        assert_eq!(output.status.code(), Some(125), "{}", shown(&output));
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(
            text.contains("since") && text.contains("2026-01-31T12:00:00Z"),
            "{text}"
        );
    }
    let output = cli.run(&["logs", "-p", "none", &id]);
    assert_eq!(output.status.code(), Some(125), "{}", shown(&output));
}

#[test]
fn json_holds_all_that_is_kept_and_counts_what_is_not() {
    let cli = cli();
    let id = cli.create(&[]);
    start(
        &cli,
        &id,
        "head -c 3000000 /dev/zero; printf '\\351END'; sleep 1000",
        "END",
    );
    let report: serde_json::Value =
        serde_json::from_str(&cli.ok(&["logs", "--json", &id])).unwrap();
    let command = &report["commands"][0];
    assert_eq!(report["sandbox"], id.as_str());
    assert_eq!(command["status"], serde_json::Value::Null);
    assert_eq!(command["stdout_encoding"], "base64");
    assert_eq!(command["background"], true);
    // A MiB is kept; how it is encoded is tested where it is written.
    let lost = command["stdout_lost_bytes"].as_u64().unwrap();
    assert_eq!(lost, 3_000_004 - (1 << 20));
    let text = command["stdout"].as_str().unwrap();
    assert_eq!(text.len() as u64, (3_000_004 - lost).div_ceil(3) * 4);
}

#[test]
fn no_command_forges_another_and_one_alone_is_as_it_was() {
    let cli = cli();
    let id = cli.create(&[]);
    let script = "printf 'x\\rforged | \\033[1mbold\\r\\nEND'; sleep 1000";
    let exec = start(&cli, &id, script, "END");
    assert_eq!(
        cli.ok(&["logs", &id]),
        format!("{exec} | x\\u{{d}}forged | \\u{{1b}}[1mbold\n{exec} | END\n")
    );
    assert_eq!(
        cli.ok(&["logs", "-p", &exec, &id]),
        "x\rforged | \u{1b}[1mbold\r\nEND"
    );
}

#[test]
fn more_output_than_fits_a_document_is_refused() {
    let cli = cli();
    let id = cli.create(&[]);
    // A MiB of each stream is kept.
    let script = "head -c 1048576 /dev/zero; head -c 1048573 /dev/zero >&2; printf END >&2";
    for _ in 0..33 {
        let line = format!("{script}; touch /tmp/$$; sleep 1000");
        cli.ok(&["exec", "--detach", &id, "sh", "-c", &line]);
    }
    let wait = "while [ $(ls /tmp | wc -l) -lt 33 ]; do sleep 0.1; done";
    cli.ok(&["exec", &id, "sh", "-c", wait]);
    let output = cli.run(&["logs", "--json", &id]);
    assert_eq!(output.status.code(), Some(125));
    let error: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(error["error"]["code"], "resource_exhausted", "{error}");
    let message = error["error"]["message"].as_str().unwrap();
    assert!(message.contains("64 MiB"), "{message}");
}

#[test]
fn what_comes_is_followed_to_the_end_and_nobody_is_disturbed() {
    let cli = cli();
    let id = cli.create(&[]);
    let exec = start(
        &cli,
        &id,
        "mkfifo /tmp/go; echo up; read x < /tmp/go; echo $x",
        "up",
    );
    let mut following = cli
        .command()
        .args(["logs", "--follow", "--json", "-p", &exec, &id])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(following.stdout.take().unwrap()).lines();
    let mut next =
        || -> serde_json::Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    assert_eq!(next()["stdout"], "up\n");
    cli.ok(&["exec", &id, "sh", "-c", "echo gone > /tmp/go"]);
    assert_eq!(next()["stdout"], "gone\n");
    let last = next();
    assert_eq!(last["status"]["reason"], "code");
    assert!(following.wait().unwrap().success());
    // What starts from now on is shown from its beginning.
    let mut following = cli
        .command()
        .args(["logs", "--follow", "--since", "0s", "--json", &id])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(following.stdout.take().unwrap()).lines();
    let mut next =
        || -> serde_json::Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    // The end of the first one says that it has looked once.
    while next()["exec"] != exec.as_str() {}
    let later = cli.ok(&[
        "exec",
        "--detach",
        &id,
        "sh",
        "-c",
        "echo hello; sleep 1000",
    ]);
    loop {
        let event = next();
        if event["exec"] == later.trim() {
            assert_eq!(event["stdout"], "hello\n");
            break;
        }
    }
    following.kill().unwrap();
    following.wait().unwrap();
    // A reader that goes away is nobody's loss.
    let mut following = cli
        .command()
        .args(["logs", "--follow", &id])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    following.kill().unwrap();
    following.wait().unwrap();
    assert_eq!(cli.ok(&["exec", &id, "echo", "fine"]), "fine\n");
}
