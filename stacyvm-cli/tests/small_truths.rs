//! What sandboxes and commands are told to have, and what they have, on the
//! embedded provider.
#![cfg(target_os = "linux")]
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that panics has failed, and processes are polled"
)]

mod support;

use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use serde_json::Value;
use support::{Cli, cli, shown};

/// How long a sandbox has left, in seconds.
fn left(cli: &Cli, id: &str) -> u64 {
    let text = cli.ok(&["inspect", id]);
    let info: Value = serde_json::from_str(&text).unwrap();
    let ends = info[0]["ends"]["secs_since_epoch"].as_u64();
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap();
    ends.unwrap_or_else(|| panic!("{text}")) - now.as_secs()
}

/// A sandbox with a time to live of its own.
fn lives(cli: &Cli, ttl: &str) -> String {
    cli.ok(&["create", "--ttl", ttl]).trim().to_owned()
}

#[test]
fn a_hundred_years_are_kept_whole() {
    let cli = cli();
    let id = lives(&cli, "36500d");
    let wanted = 36_500 * 86_400 - 60;
    assert!(left(&cli, &id) > wanted);
    cli.ok(&["extend", &id, "876000h"]);
    assert!(left(&cli, &id) > wanted);
}

#[test]
fn what_ended_by_itself_is_shown_without_an_end_and_pruned() {
    let cli = cli();
    let killed = lives(&cli, "1h");
    cli.ok(&["kill", &killed]);
    let all = cli.ok(&["ls", "-a"]);
    assert!(all.contains(&killed) && !all.contains("in 59m"), "{all}");
    let ended = lives(&cli, "1s");
    std::thread::sleep(Duration::from_secs(3));
    let pruned = cli.ok(&["prune", "-y"]);
    assert!(pruned.contains("records of 2 ended"), "{pruned}");
    let all = cli.ok(&["ls", "-a"]);
    assert!(!all.contains(&ended), "{all}");
}

#[test]
fn standard_input_that_cannot_be_read_is_told() {
    let cli = cli();
    let id = cli.create(&[]);
    let mut command = cli.command();
    command.args(["exec", "-i", &id, "wc", "-c"]);
    let directory = std::fs::File::open("/tmp").unwrap();
    let output = command.stdin(Stdio::from(directory)).output().unwrap();
    assert_eq!(output.status.code(), Some(125), "{}", shown(&output));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("standard input"), "{text}");
}

#[test]
fn limits_of_the_maker_bind_no_command() {
    let cli = cli();
    let made = cli.command();
    let mut command = Command::new("prlimit");
    let soft = ["--cpu=900:", "--fsize=900000000:", "--data=9000000000:"];
    command.args(soft).args(["--stack=4000000:"]);
    command.arg(made.get_program()).arg("create");
    for (name, value) in made.get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{}", shown(&output));
    let id = String::from_utf8(output.stdout).unwrap();
    let limits = cli.ok(&["exec", id.trim(), "cat", "/proc/self/limits"]);
    for soft in [" 900 ", " 900000000 ", " 9000000000 ", " 4000000 "] {
        assert!(!limits.contains(soft), "{soft}: {limits}");
    }
    let stack = limits.lines().find(|line| line.starts_with("Max stack"));
    assert!(stack.unwrap().contains(" 8388608 "), "{limits}");
}

#[test]
fn a_directory_that_has_lost_its_lock_is_told_as_such() {
    let cli = cli();
    let id = cli.create(&[]);
    let directory = cli.state.path().join("sandboxes").join(&id);
    let inspected: Value = serde_json::from_str(&cli.ok(&["inspect", &id])).unwrap();
    let pid = inspected[0]["host_pid"].as_u64().unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let parent = stat.rsplit_once(") ").unwrap().1.split(' ').nth(1).unwrap();
    let helper = rustix::process::Pid::from_raw(parent.parse().unwrap()).unwrap();
    let lock = directory.join("helper.lock");
    std::fs::remove_file(&lock).unwrap();
    rustix::process::kill_process(helper, rustix::process::Signal::KILL).unwrap();
    let output = cli.run(&["kill", &id]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("lost its lock"), "{}", shown(&output));
    // The remedy that it names does.
    std::fs::write(&lock, "").unwrap();
    cli.ok(&["kill", &id]);
    assert!(!directory.exists());
}

#[test]
fn a_sandbox_of_a_provider_that_is_gone_keeps_no_other_one_alive() {
    let cli = cli();
    let place = tempfile::tempdir().unwrap();
    let settings = place.path().join("other.yaml");
    std::fs::write(&settings, "providers: {other: {kind: oci}}\n").unwrap();
    let settings = settings.to_str().unwrap();
    let far = cli.ok(&["--config", settings, "create", "--provider", "other"]);
    let near = lives(&cli, "1h");
    let done = cli.run(&["kill", "--all"]);
    assert_eq!(done.status.code(), Some(125), "{}", shown(&done));
    assert!(shown(&done).contains(far.trim()), "{}", shown(&done));
    assert!(!cli.ok(&["ls"]).contains(&near));
    cli.ok(&["--config", settings, "kill", "--all"]);
    assert!(!cli.ok(&["ls"]).contains(far.trim()));
}
