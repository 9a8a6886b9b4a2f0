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
    let cli = cli();
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
fn a_parent_that_ignores_the_end_of_children_changes_nothing() {
    let cli = cli();
    let own = cli.command();
    let mut command = std::process::Command::new("bash");
    command.args(["-c", "trap '' CHLD; exec \"$@\"", "bash"]);
    command.arg(own.get_program());
    for (name, value) in own.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let output = command.args(["run", "--", "echo", "hi"]).output().unwrap();
    assert!(output.status.success(), "{}", shown(&output));
    assert_eq!(output.stdout, b"hi\n");
}

#[test]
fn exit_codes_are_those_of_the_manual() {
    let cli = cli();
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
            // A limit that no cgroup can hold is refused.
            if cli.limits_memory() { 137 } else { 125 },
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
    let cli = cli();
    let id = cli.create(&[]);
    let full = || std::fs::File::create("/dev/full").unwrap();
    let command = ["--", "sh", "-c", "echo x; echo y >&2; exit 3"];
    for start in [&["run"][..], &["exec", &id]] {
        let mut full_output = cli.command();
        full_output.args(start).args(command).stdout(full());
        let output = full_output.output().unwrap();
        assert_eq!(output.status.code(), Some(125), "{}", shown(&output));
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains("cannot write to standard output"), "{text}");
        let mut full_errors = cli.command();
        full_errors.args(start).args(command).stderr(full());
        assert_eq!(full_errors.output().unwrap().status.code(), Some(125));
        // A reader that is gone has had enough, which is no fault.
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut closed = cli.command();
        closed.args(start).args(command).stdout(writer);
        let output = closed.output().unwrap();
        assert_eq!(output.status.code(), Some(141), "{}", shown(&output));
        assert!(!String::from_utf8_lossy(&output.stderr).contains("stacyvm:"));
    }
    assert_eq!(cli.sandboxes(), [id]);
}

#[test]
fn a_mount_that_cannot_be_where_it_was_asked_for_names_its_target() {
    let cli = cli();
    let shared = tempfile::tempdir().unwrap();
    let directory = shared.path().display();
    let long = format!("/workspace/{}", "x".repeat(256));
    let table = [
        (
            "tmpfs=1m:/usr/newdir".to_owned(),
            "/usr/newdir",
            "below /workspace",
        ),
        (
            format!("{directory}:/etc/passwd"),
            "/etc/passwd",
            "mount a file",
        ),
        (format!("tmpfs=1m:{long}"), &long, "shorter names"),
    ];
    for (mount, target, remedy) in table {
        let output = cli.run(&[
            "--json",
            "create",
            "--mount",
            "tmpfs=1m:/tmp/a",
            "--mount",
            &mount,
        ]);
        assert_eq!(output.status.code(), Some(125), "{mount}");
        let told: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
        let error = &told["error"];
        assert_eq!(error["code"], "invalid_argument", "{mount}: {told}");
        assert_eq!(error["context"]["field"], "mounts[1].target", "{told}");
        assert_eq!(error["context"]["value"], *target, "{told}");
        assert!(!error["context"]["expected"].as_str().unwrap().is_empty());
        let given = error["context"]["remedy"].as_str().unwrap();
        assert!(given.contains(remedy), "{told}");
    }
    assert!(cli.sandboxes().is_empty());
    // A path that can be made is made.
    cli.ok(&[
        "run",
        "--mount",
        "tmpfs=1m:/new/dir",
        "--",
        "test",
        "-d",
        "/new/dir",
    ]);
}

#[test]
fn texts_name_commands_as_people_know_them() {
    let cli = cli();
    let id = cli.create(&[]);
    std::fs::remove_file(
        cli.state
            .path()
            .join("sandboxes")
            .join(&id)
            .join("helper.sock"),
    )
    .unwrap();
    for (command, name) in [
        (&["ps", &id][..], "ps: "),
        (&["extend", &id, "60s"], "extend: "),
    ] {
        let output = cli.run(command);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.starts_with(&format!("stacyvm: {name}")), "{text}");
    }
}

#[test]
fn too_few_open_files_are_an_error_and_no_panic() {
    let cli = cli();
    // Fewer than five, and the loader says so itself.
    for files in 5..24 {
        let mut limited = std::process::Command::new("sh");
        limited
            .args(["-c", r#"ulimit -n "$1" && exec "$2" run -- true"#, "sh"])
            .arg(files.to_string())
            .arg(env!("CARGO_BIN_EXE_stacyvm"))
            .env("STACYVM_STATE_DIR", cli.state.path());
        let output = limited.output().unwrap();
        let text = shown(&output);
        assert_eq!(output.status.code(), Some(125), "{files}: {text}");
        assert!(text.contains("stacyvm: "), "{files}: {text}");
    }
}

#[test]
fn an_unknown_option_is_not_taken_for_the_command() {
    let cli = cli();
    let output = cli.run(&["run", "--memry", "64m", "--", "true"]);
    assert_eq!(output.status.code(), Some(125));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--memry"));
}

#[test]
fn a_sandbox_lives_on_between_commands_until_it_is_killed() {
    let cli = cli();
    let id = cli.create(&["--label", "team=a", "--env", "COLOR=green"]);
    cli.ok(&["exec", &id, "sh", "-c", "echo kept > /workspace/file"]);
    assert_eq!(
        cli.ok(&["exec", &id, "sh", "-c", "cat file; echo $COLOR"]),
        "kept\ngreen\n"
    );
    let (user, uid) = if cli.has_users() {
        ("--user=root", 0)
    } else {
        ("--env=B=2", 1000)
    };
    assert_eq!(
        cli.ok(&[
            "exec",
            "--env",
            "A=1",
            "--workdir",
            "/tmp",
            user,
            &id[..6],
            "sh",
            "-c",
            "echo $A; pwd; id -u"
        ]),
        format!("1\n/tmp\n{uid}\n")
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
    let cli = cli();
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
    let cli = cli();
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
    let cli = cli();
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
    let cli = cli();
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
    let cli = cli();
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
            &["run", "--privileges", "all", "--", "true"],
            &["privileges", "`all`", "namespaced-root"],
        ),
        (
            &[
                "run",
                "--pull",
                "never",
                "--image",
                "nosuchimage",
                "--",
                "true",
            ],
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
        (&["run", "--ttl", "-1s", "--", "true"], &["ttl", "-1s"]),
        (&["extend", "s123", "-1s"], &["ttl", "-1s"]),
        (
            &["run", "--timeout", "-1s", "--", "true"],
            &["timeout", "-1s"],
        ),
        (
            &[
                "run",
                "--pull",
                "never",
                "--image",
                "no-such-image",
                "--",
                "true",
            ],
            &["image", "no-such-image", "image pull"],
        ),
        (
            &["run", "--pull", "sometimes", "--", "true"],
            &["pull", "sometimes", "missing"],
        ),
        (
            &["run", "--workdir", "/no/such/dir", "--", "true"],
            &["workdir", "/no/such/dir"],
        ),
        (
            &["run", "--user", "nosuchuser", "--", "true"],
            &["user", "nosuchuser", "/etc/passwd"],
        ),
        (
            &["run", "--user", "99999", "--", "true"],
            &["user", "99999", "65536"],
        ),
        (
            &["run", "--user", "1000:99999", "--", "true"],
            &["group", "1000:99999", "65536"],
        ),
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
    let has_users = cli.has_users();
    for (arguments, words) in table {
        // Where there is one user, another is refused for that.
        let words = match arguments {
            ["run", "--user", name, ..] if !has_users && !name.contains(' ') => {
                &["user", "users"][..]
            }
            _ => words,
        };
        let output = cli.run(arguments);
        assert_eq!(
            output.status.code(),
            Some(125),
            "{arguments:?}: {}",
            shown(&output)
        );
        let text = String::from_utf8_lossy(&output.stderr);
        for word in words {
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
    let cli = cli();
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
    let cli = cli();
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
    let cli = cli();
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
fn text_of_a_sandbox_cannot_drive_the_terminal_in_a_table() {
    let cli = cli();
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

#[test]
fn a_sandbox_that_nobody_is_told_of_is_not_kept() {
    let cli = cli();
    let full = || std::fs::File::create("/dev/full").unwrap();
    let create = |arguments: &[&str]| {
        let mut create = cli.command();
        create.args(["create", "--ttl", "120s"]).args(arguments);
        create.stdout(full()).output().unwrap().status.code()
    };
    assert_eq!(create(&[]), Some(125));
    assert!(cli.sandboxes().is_empty());
    // One that its key finds again is.
    assert_eq!(create(&["--idempotency-key", "k"]), Some(125));
    assert_eq!(cli.sandboxes(), [cli.create(&["--idempotency-key", "k"])]);
}

#[test]
fn arguments_that_make_no_sense_are_told_in_json_too() {
    let cli = cli();
    for arguments in [
        &["--json", "run"][..],
        &["run", "--json", "--no-such-option"],
        &["create", "--json", "--memory"],
    ] {
        let output = cli.run(arguments);
        assert_eq!(output.status.code(), Some(125), "{}", shown(&output));
        let told: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
        assert_eq!(told["error"]["code"], "invalid_argument", "{told}");
        assert!(output.stdout.is_empty());
    }
    let output = cli.run(&["run", "--no-such-option", "--", "true", "--json"]);
    assert!(output.stderr.starts_with(b"error: "), "{}", shown(&output));
}

#[test]
fn files_of_the_working_directory_are_no_configuration() {
    let cli = cli();
    let here = tempfile::tempdir().unwrap();
    for place in [
        "",
        ".stacyvm/",
        "stacyvm/",
        ".config/stacyvm/",
        "etc/stacyvm/",
    ] {
        let directory = here.path().join(place);
        std::fs::create_dir_all(&directory).unwrap();
        for name in [
            "stacyvm.yaml",
            ".stacyvm.yaml",
            "stacyvm.yml",
            "config.yaml",
        ] {
            std::fs::write(directory.join(name), "parked_helpers: 7\n").unwrap();
        }
    }
    let show = |config_home: Option<&str>, home: Option<&Path>| {
        let mut show = cli.command();
        show.args(["config", "show", "--origin"]);
        show.current_dir(&here).env_remove("XDG_CONFIG_HOME");
        show.env_remove("HOME");
        show.envs(config_home.map(|value| ("XDG_CONFIG_HOME", value)));
        show.envs(home.map(|value| ("HOME", value)));
        let output = show.output().unwrap();
        assert!(output.status.success(), "{}", shown(&output));
        let text = String::from_utf8(output.stdout).unwrap();
        let line = text.lines().find(|line| line.starts_with("parked_helpers"));
        let fields: Vec<_> = line
            .unwrap()
            .split_whitespace()
            .map(str::to_owned)
            .collect();
        fields[1].clone()
    };
    let elsewhere = Some(cli.state.path());
    for config_home in [None, Some(""), Some("."), Some("stacyvm"), Some(".config")] {
        for home in [None, Some(Path::new(".")), Some(Path::new("")), elsewhere] {
            assert_eq!(show(config_home, home), "1", "{config_home:?} {home:?}");
        }
    }
    // It would be seen where a configuration is looked for.
    assert_eq!(show(here.path().to_str(), elsewhere), "7");
}
