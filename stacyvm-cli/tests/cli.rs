//! The command line, as people and scripts use it, on the embedded provider.
#![cfg(target_os = "linux")]
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that panics has failed, one that cannot run says why, and processes are polled"
)]

mod support;

use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use support::{cli, shown};

#[test]
fn run_prints_what_the_command_prints_and_leaves_nothing() {
    let Some(cli) = cli() else { return };
    let output = cli.run(&[
        "run",
        "--",
        "sh",
        "-c",
        "echo \"hello from $(hostname)\"; echo problem >&2",
    ]);
    assert!(output.status.success(), "{}", shown(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.starts_with("hello from s") && text.len() > 15,
        "{text}"
    );
    assert_eq!(output.stderr, b"problem\n");
    assert!(cli.sandboxes().is_empty());
    let left = std::fs::read_dir(cli.state.path().join("sandboxes"))
        .unwrap()
        .count();
    assert_eq!(left, 0);
}

#[test]
fn exit_codes_are_those_of_the_manual() {
    let Some(cli) = cli() else { return };
    let id = cli.create(&[]);
    let table: &[(&[&str], i32)] = &[
        (&["exec", &id, "true"], 0),
        (&["exec", &id, "sh", "-c", "exit 7"], 7),
        (&["exec", &id, "sh", "-c", "exit 125"], 125),
        (&["exec", &id, "sh", "-c", "kill -15 $$"], 143),
        (&["exec", "--timeout", "200ms", &id, "sleep", "100"], 124),
        (&["exec", &id, "/etc/passwd"], 126),
        (&["exec", &id, "no-such-command"], 127),
        (&["exec", "snosuchsandbox", "true"], 125),
        (&["run", "--", "sh", "-c", "exit 3"], 3),
        (&["run", "--", "no-such-command"], 127),
        (&["run", "--timeout", "200ms", "--", "sleep", "100"], 124),
        (
            &[
                "run",
                "--memory",
                "32",
                "--",
                "sh",
                "-c",
                "x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done",
            ],
            137,
        ),
    ];
    for (arguments, code) in table {
        let output = cli.run(arguments);
        assert_eq!(
            output.status.code(),
            Some(*code),
            "{arguments:?}: {}",
            shown(&output)
        );
    }
    assert_eq!(cli.sandboxes(), [id]);
}

#[test]
fn output_that_cannot_be_written_is_no_success() {
    let Some(cli) = cli() else { return };
    let full = std::fs::File::options()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let status = cli
        .command()
        .args(["run", "--", "echo", "important"])
        .stdout(full)
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(141));
}

#[test]
fn an_unknown_option_is_not_taken_for_the_command() {
    let Some(cli) = cli() else { return };
    let output = cli.run(&["run", "--memry", "64m", "--", "true"]);
    assert_eq!(output.status.code(), Some(125));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--memry"));
}

#[test]
fn a_sandbox_lives_on_between_commands_until_it_is_killed() {
    let Some(cli) = cli() else { return };
    let id = cli.create(&["--label", "team=a", "--env", "COLOR=green"]);
    cli.ok(&["exec", &id, "sh", "-c", "echo kept > /workspace/file"]);
    assert_eq!(
        cli.ok(&["exec", &id, "sh", "-c", "cat file; echo $COLOR"]),
        "kept\ngreen\n"
    );
    assert_eq!(
        cli.ok(&[
            "exec",
            "--env",
            "A=1",
            "--workdir",
            "/tmp",
            "--user",
            "root",
            &id[..6],
            "sh",
            "-c",
            "echo $A; pwd; id -u"
        ]),
        "1\n/tmp\n0\n"
    );
    assert!(cli.ok(&["ls"]).contains("team=a"));
    assert!(cli.ok(&["ls", "--label", "team=b", "--quiet"]).is_empty());
    let inspect = cli.ok(&["inspect", &id]);
    assert!(
        inspect.contains("\"phase\": \"running\"")
            && inspect.contains("COLOR")
            && !inspect.contains("green"),
        "{inspect}"
    );
    cli.ok(&["extend", &id, "10m"]);
    assert_eq!(cli.ok(&["kill", &id]).trim(), id);
    assert!(cli.sandboxes().is_empty());
    assert_eq!(cli.code(&["exec", &id, "true"]), 125);
}

#[test]
fn standard_input_is_forwarded_only_when_asked_for() {
    let Some(cli) = cli() else { return };
    let feed = |arguments: &[&str]| {
        let mut child = cli
            .command()
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // The command that does not read may be gone already.
        let _ = stdin.write_all(b"from outside\n");
        drop(stdin);
        child.wait_with_output().unwrap().stdout
    };
    assert_eq!(feed(&["run", "-i", "--", "cat"]), b"from outside\n");
    assert_eq!(feed(&["run", "--", "cat"]), b"");
}

#[test]
fn a_detached_command_is_listed_by_ps() {
    let Some(cli) = cli() else { return };
    let id = cli.create(&[]);
    let exec = cli.ok(&["exec", "--detach", &id, "sleep", "7171"]);
    let listed = cli.ok(&["ps", &id]);
    assert!(
        listed.contains("7171") && listed.contains(exec.trim()),
        "{listed}"
    );
    assert!(
        cli.ok(&["ps", "--json", &id])
            .contains("\"background\": true")
    );
}

#[test]
fn everything_speaks_json() {
    let Some(cli) = cli() else { return };
    let id = cli.create(&[]);
    let parse = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    let ran = parse(&cli.ok(&["run", "--json", "--", "echo", "hi"]));
    assert_eq!(
        (&ran["stdout"], &ran["exit_code"]),
        (&"hi\n".into(), &0.into())
    );
    for arguments in [
        &["ls", "--json"][..],
        &["inspect", "--json", &id],
        &["ps", "--json", &id],
        &["providers", "--json"],
        &["config", "show", "--origin", "--json"],
        &["version", "--json"],
        &["extend", "--json", &id, "5m"],
        &["kill", "--json", &id],
    ] {
        parse(&cli.ok(arguments));
    }
    let output = cli.run(&["exec", "--json", "snosuchsandbox", "true"]);
    let error = parse(std::str::from_utf8(&output.stderr).unwrap());
    assert_eq!(error["error"]["code"], "not_found");
}

#[test]
fn json_holds_input_and_output_as_they_were() {
    let Some(cli) = cli() else { return };
    let feed = |input: &[u8]| {
        let mut child = cli
            .command()
            .args(["run", "--json", "-i", "--", "sh", "-c", "cat; echo e >&2"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
    };
    let text = feed("\u{e9}\n".as_bytes());
    assert_eq!(text["stdout"], "\u{e9}\n");
    assert_eq!(text["stdout_encoding"], "utf-8");
    assert_eq!(text["stderr"], "e\n");
    let bytes = feed(b"\x00\xff\xfe");
    assert_eq!(bytes["stdout"], "AP/+");
    assert_eq!(bytes["stdout_encoding"], "base64");
    assert_eq!(bytes["stderr_encoding"], "utf-8");
}

#[test]
fn bad_input_is_refused_with_field_value_and_remedy_and_leaves_nothing() {
    let Some(cli) = cli() else { return };
    let state = cli.state.path().to_str().unwrap().to_owned();
    let of_state = format!("{state}:/x");
    let table: &[(&[&str], &[&str])] = &[
        (&["run"], &["COMMAND"]),
        (&["run", "--memory", "-5", "--", "true"], &["memory", "-5"]),
        (&["run", "--memory", "0", "--", "true"], &["memory", "0"]),
        (&["run", "--memory", "1k", "--", "true"], &["memory", "1k"]),
        (&["run", "--cpus", "-1", "--", "true"], &["cpus", "-1"]),
        (&["run", "--cpus", "nan", "--", "true"], &["cpus", "NaN"]),
        (&["run", "--pids", "-1", "--", "true"], &["pids", "-1"]),
        (
            &["run", "--pids", "99999999999", "--", "true"],
            &["pids", "99999999999"],
        ),
        (
            &["run", "--image", "nosuchimage", "--", "true"],
            &["image", "nosuchimage"],
        ),
        (
            &["run", "--image", "/no/such/dir", "--", "true"],
            &["image", "/no/such/dir"],
        ),
        (
            &["run", "--provider", "nosuch", "--", "true"],
            &["provider", "nosuch", "docker"],
        ),
        (
            &["run", "--runtime", "nosuch", "--", "true"],
            &["runtime", "nosuch"],
        ),
        (
            &["run", "--mount", "/:/x", "--", "true"],
            &["mounts[0].source.host", "`/`"],
        ),
        (
            &["run", "--mount", &of_state, "--", "true"],
            &["mounts[0].source.host", &state],
        ),
        (
            &["run", "--mount", "/etc:/../x", "--", "true"],
            &["mounts[0].target", "/../x"],
        ),
        (
            &["run", "--mount", "/no/such/dir:/x", "--", "true"],
            &["/no/such/dir"],
        ),
        (
            &["run", "--mount", "relative:/x", "--", "true"],
            &["mount", "relative"],
        ),
        (
            &["run", "--network", "full", "--", "true"],
            &["network", "full"],
        ),
        (
            &["run", "--network", "martian", "--", "true"],
            &["network", "martian"],
        ),
        (&["run", "--ttl", "soon", "--", "true"], &["ttl", "soon"]),
        (&["run", "--timeout", "0", "--", "true"], &["timeout", "0s"]),
        (
            &["run", "--workdir", "relative", "--", "true"],
            &["workdir", "relative"],
        ),
        (&["run", "--user", "a b", "--", "true"], &["user", "a b"]),
        (&["run", "--env", "=x", "--", "true"], &["env", "``"]),
        (
            &["run", "--profile", "lax", "--", "true"],
            &["profile", "lax"],
        ),
        (&["run", "--", ""], &["argv[0]"]),
        (&["--config", "/no/such/file", "ls"], &["/no/such/file"]),
        (&["extend", "s123", "soon"], &["ttl", "soon"]),
        (&["cp", "a", "b"], &["SANDBOX:PATH"]),
        (&["nosuchcommand"], &["nosuchcommand"]),
    ];
    for (arguments, words) in table {
        let output = cli.run(arguments);
        assert_eq!(
            output.status.code(),
            Some(125),
            "{arguments:?}: {}",
            shown(&output)
        );
        let text = String::from_utf8_lossy(&output.stderr);
        for word in *words {
            assert!(
                text.contains(word),
                "{arguments:?} says no {word:?}: {text}"
            );
        }
        // What was expected, and what to do; the parser of arguments points to its help.
        let told = ["; ", "remedy: ", "--help"];
        assert!(
            told.iter().any(|sign| text.contains(sign)),
            "{arguments:?} says no remedy: {text}"
        );
    }
    assert!(cli.sandboxes().is_empty());
    let directory = cli.state.path().join("sandboxes");
    let left = std::fs::read_dir(directory).map_or(0, Iterator::count);
    assert_eq!(left, 0);
}

#[test]
fn the_same_idempotency_key_gives_the_same_sandbox() {
    let Some(cli) = cli() else { return };
    let first = cli.create(&["--idempotency-key", "k1"]);
    assert_eq!(cli.create(&["--idempotency-key", "k1"]), first);
    let other = cli.run(&[
        "create",
        "--ttl",
        "120s",
        "--idempotency-key",
        "k1",
        "--memory",
        "64",
    ]);
    assert_eq!(other.status.code(), Some(125));
    assert_eq!(cli.sandboxes(), [first]);
}

#[test]
fn an_interrupt_reaches_the_command_and_a_second_one_kills() {
    let Some(cli) = cli() else { return };
    let start = |line: &str| {
        let mut child = cli
            .command()
            .args(["run", "--", "sh", "-c", line])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut byte = [0];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut byte).unwrap();
        child
    };
    let interrupt = |child: &std::process::Child| {
        let pid = rustix::process::Pid::from_child(child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    };
    let mut polite = start("trap 'exit 9' INT; echo; while :; do sleep 0.05; done");
    interrupt(&polite);
    assert_eq!(polite.wait().unwrap().code(), Some(9));

    let mut stubborn = start("trap '' INT; echo; while :; do sleep 0.05; done");
    interrupt(&stubborn);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(stubborn.try_wait().unwrap(), None);
    interrupt(&stubborn);
    assert_eq!(stubborn.wait().unwrap().code(), Some(137));
    assert!(cli.sandboxes().is_empty());
}

#[test]
fn an_attached_sandbox_ends_with_a_command_line_that_is_killed() {
    let Some(cli) = cli() else { return };
    let mut child = cli
        .command()
        .args(["run", "--", "sh", "-c", "echo; sleep 8181"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut byte = [0];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut byte).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let start = Instant::now();
    while std::fs::read_dir(cli.state.path().join("sandboxes"))
        .unwrap()
        .count()
        > 0
    {
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "the sandbox is still there"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn cp_moves_files_and_directories_as_docker_cp_does() {
    let Some(cli) = cli() else { return };
    let id = cli.create(&[]);
    let host = tempfile::tempdir().unwrap();
    let path = |name: &str| host.path().join(name).to_str().unwrap().to_owned();
    let inside = |name: &str| format!("{id}:{name}");
    std::fs::create_dir_all(host.path().join("tree/sub")).unwrap();
    std::fs::write(host.path().join("tree/sub/file"), "content").unwrap();
    std::os::unix::fs::symlink("file", host.path().join("tree/sub/link")).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o750);
    std::fs::set_permissions(host.path().join("tree/sub/file"), mode).unwrap();

    cli.ok(&["cp", &path("tree/sub/file"), &inside("/workspace/renamed")]);
    cli.ok(&["cp", &path("tree"), &inside("/workspace")]);
    cli.ok(&[
        "cp",
        &format!("{}/.", path("tree")),
        &inside("/workspace/new"),
    ]);
    let listing = cli.ok(&[
        "exec",
        &id,
        "sh",
        "-c",
        "cat renamed tree/sub/file new/sub/link; stat -c %a tree/sub/file; readlink tree/sub/link",
    ]);
    assert_eq!(listing, "contentcontentcontent750\nfile\n");

    cli.ok(&["cp", &inside("/workspace/tree"), &path("back")]);
    assert_eq!(
        std::fs::read(host.path().join("back/sub/file")).unwrap(),
        b"content"
    );
    assert_eq!(
        std::fs::read_link(host.path().join("back/sub/link")).unwrap(),
        Path::new("file")
    );
    cli.ok(&["cp", &inside("/workspace/renamed"), &path("other")]);
    assert_eq!(
        std::fs::read(host.path().join("other")).unwrap(),
        b"content"
    );

    let archive = cli
        .command()
        .args(["cp", &inside("/workspace/tree"), "-"])
        .output()
        .unwrap();
    assert!(archive.status.success());
    let mut unpack = cli
        .command()
        .args(["cp", "-", &inside("/tmp")])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    unpack
        .stdin
        .take()
        .unwrap()
        .write_all(&archive.stdout)
        .unwrap();
    assert!(unpack.wait().unwrap().success());
    assert_eq!(
        cli.ok(&["exec", &id, "cat", "/tmp/tree/sub/file"]),
        "content"
    );

    for arguments in [
        ["cp", &path("missing"), &inside("/workspace/")],
        ["cp", &path("tree"), &inside("/workspace/renamed")],
        ["cp", &inside("/missing"), &path("x")],
    ] {
        assert_eq!(cli.code(&arguments), 125, "{arguments:?}");
    }
}

#[test]
fn what_cannot_be_copied_is_told() {
    let Some(cli) = cli() else { return };
    let id = cli.create(&[]);
    let host = tempfile::tempdir().unwrap();
    let path = |name: &str| host.path().join(name).to_str().unwrap().to_owned();
    std::fs::create_dir(host.path().join("tree")).unwrap();
    std::fs::write(host.path().join("tree/file"), "content").unwrap();
    std::os::unix::net::UnixListener::bind(host.path().join("tree/evil\x1b]0;x")).unwrap();

    let into = format!("{id}:/workspace");
    let output = cli.run(&["cp", &path("tree"), &into]);
    assert!(output.status.success(), "{}", shown(&output));
    let warned = String::from_utf8(output.stderr).unwrap();
    assert_eq!(warned.lines().count(), 1, "{warned:?}");
    assert!(
        warned.contains("evil") && !warned.contains('\x1b'),
        "{warned:?}"
    );

    // One that is made inside, where a program can.
    let script = "import socket; socket.socket(socket.AF_UNIX).bind('/workspace/tree/inner')";
    let made = cli.run(&["exec", &id, "python3", "-c", script]);
    if made.status.code() == Some(127) {
        eprintln!("not run in full: no python3 inside to make a socket with");
        return;
    }
    assert!(made.status.success(), "{}", shown(&made));
    let from = format!("{id}:/workspace/tree");
    let output = cli.run(&["cp", "--json", &from, &path("back")]);
    assert!(output.status.success(), "{}", shown(&output));
    let warned = String::from_utf8(output.stderr).unwrap();
    assert!(warned.lines().count() == 1 && warned.contains("inner"));
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let inner = serde_json::json!([{ "name": "./inner", "name_encoding": "utf-8" }]);
    assert_eq!(
        (&told["left_out"], &told["left_out_more"]),
        (&inner, &0.into())
    );
    let back = std::fs::read(host.path().join("back/file")).unwrap();
    assert_eq!(back, b"content");

    // Where standard output is the archive, standard error is the report.
    let output = cli.run(&["cp", "--json", &from, "-"]);
    assert!(output.status.success() && output.stdout.len() > 1024);
    let told: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(told["left_out"][0]["name"], "tree/inner");
}

#[test]
fn text_of_a_sandbox_cannot_drive_the_terminal_in_a_table() {
    let Some(cli) = cli() else { return };
    let id = cli.create(&[]);
    cli.ok(&[
        "exec",
        "--detach",
        &id,
        "sh",
        "-c",
        "sleep 9191; :",
        "\x1b]0;title\x07",
        "two\nrows",
    ]);
    let listed = cli.ok(&["ps", &id]);
    assert!(listed.contains("9191"), "{listed}");
    assert!(
        !listed.contains('\x1b') && !listed.contains('\x07'),
        "{listed:?}"
    );
}
