//! `leaks`, `reconcile`, `df`, `prune`, on the embedded provider.
#![cfg(target_os = "linux")]
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that panics has failed, and processes are polled"
)]

mod support;

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use support::{Cli, cli, shown};

fn json(cli: &Cli, arguments: &[&str]) -> Value {
    let output = cli.run(&[&["--json"], arguments].concat());
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", shown(&output)))
}

/// Whether something of a state directory is among the leaks of the host.
fn host_leaks(cli: &Cli, of: &Path) -> Vec<Value> {
    let report = json(cli, &["leaks", "--all"]);
    let of = of.canonicalize().unwrap();
    let mine = |leak: &&Value| leak.to_string().contains(of.to_str().unwrap());
    let leaks = report["leaks"].as_array().unwrap();
    leaks.iter().filter(mine).cloned().collect()
}

/// The helper of a sandbox: whoever holds its directory's lock open.
fn helper_of(cli: &Cli, sandbox: &str) -> rustix::process::Pid {
    let state = cli.state.path().canonicalize().unwrap();
    let lock = state.join("sandboxes").join(sandbox).join("helper.lock");
    let pids = std::fs::read_dir("/proc").unwrap().flatten();
    let pid = pids
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .find(|pid| {
            let open = std::fs::read_dir(format!("/proc/{pid}/fd"));
            let open = open.into_iter().flatten().flatten();
            let mut links = open.filter_map(|fd| std::fs::read_link(fd.path()).ok());
            links.any(|link| link == lock)
        });
    rustix::process::Pid::from_raw(pid.unwrap()).unwrap()
}

/// Kills the helper of a sandbox, and waits until its lock is free.
fn kill_helper(cli: &Cli, sandbox: &str) {
    let directory = cli.state.path().join("sandboxes").join(sandbox);
    // Before this process has the file open, too.
    let helper = helper_of(cli, sandbox);
    let lock = std::fs::File::open(directory.join("helper.lock")).unwrap();
    rustix::process::kill_process(helper, rustix::process::Signal::KILL).unwrap();
    for _ in 0..2000 {
        if lock.try_lock_shared().is_ok() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("the lock is not free");
}

#[test]
fn what_is_accounted_for_is_no_leak() {
    let cli = cli();
    assert_eq!(cli.ok(&["leaks"]), "nothing\n");
    let id = cli.create(&[]);
    assert_eq!(cli.ok(&["leaks"]), "nothing\n");
    assert_eq!(cli.code(&["leaks"]), 0);
    let all = json(&cli, &["leaks", "--all"]);
    let accounted = all["accounted"].as_array().unwrap();
    let own = accounted.iter().find(|it| it["sandbox"] == id.as_str());
    let own = own.unwrap_or_else(|| panic!("{all}"));
    assert_eq!(own["owner_lives"], true);
    assert_eq!(own["kind"], "directory");
    // What a living owner holds is not removed, whoever asks.
    let name = own["id"].as_str().unwrap();
    let output = cli.run(&["leaks", "--remove", name]);
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("--yes"),
        "{}",
        shown(&output)
    );
    let output = cli.run(&["leaks", "--remove", name, "--yes"]);
    assert_eq!(output.status.code(), Some(125), "{}", shown(&output));
    assert!(String::from_utf8_lossy(&output.stderr).contains("living owner"));
    assert_eq!(cli.ok(&["exec", &id, "echo", "fine"]), "fine\n");
    let output = cli.run(&["leaks", "--remove", "cgroup:/none", "--yes"]);
    assert_eq!(output.status.code(), Some(125), "{}", shown(&output));
}

#[test]
fn reconcile_tells_what_a_killed_helper_left_and_takes_it_away() {
    let (left, other) = (cli(), cli());
    let id = left.create(&[]);
    kill_helper(&left, &id);
    let living = left.state.path().join("sandboxes").join(&id);
    assert!(living.exists());
    let reconciled = json(&left, &["reconcile"]);
    let swept = reconciled["swept"].as_array().unwrap();
    assert!(
        swept.iter().any(|it| it["name"] == id.as_str()),
        "{reconciled}"
    );
    assert_eq!(reconciled["ended"][0], id.as_str());
    assert!(!living.exists());
    assert_eq!(left.ok(&["reconcile"]), "nothing to do\n");
    assert_eq!(left.ok(&["leaks"]), "nothing\n");
    assert!(host_leaks(&other, left.state.path()).is_empty());
}

#[test]
fn a_dead_directory_beside_a_living_one_is_seen_from_elsewhere() {
    let (left, other) = (cli(), cli());
    let (dead, living) = (left.create(&[]), left.create(&[]));
    // Without root only the sandbox's own users may remove these.
    let closed = "mkdir -m 700 /tmp/x && touch /tmp/x/y && chmod 0 /tmp/x";
    left.ok(&["exec", &dead, "sh", "-c", closed]);
    if left.has_users() {
        let others = "mkdir -m 700 /tmp/z && touch /tmp/z/y";
        left.ok(&["exec", "--user", "1234:1234", &dead, "sh", "-c", others]);
    }
    kill_helper(&left, &dead);
    let leaks = host_leaks(&other, left.state.path());
    let directory = leaks.iter().find(|leak| leak["kind"] == "directory");
    let directory = directory.unwrap_or_else(|| panic!("{leaks:?}"));
    assert_eq!(directory["sandbox"], dead.as_str());
    assert_eq!(directory["owner_lives"], false);
    assert_eq!(other.code(&["leaks", "--all"]), 3);
    // The own instance of the other state directory has nothing of it.
    assert_eq!(other.ok(&["leaks"]), "nothing\n");
    let name = directory["id"].as_str().unwrap();
    other.ok(&["leaks", "--remove", name, "--yes"]);
    assert!(host_leaks(&other, left.state.path()).is_empty());
    assert!(!left.state.path().join("sandboxes").join(&dead).exists());
    assert_eq!(left.ok(&["exec", &living, "echo", "fine"]), "fine\n");
}

#[test]
fn a_cgroup_that_no_ledger_names_is_told_by_its_mark() {
    let (left, other) = (cli(), cli());
    let (dead, living) = (left.create(&[]), left.create(&[]));
    if !stacyvm_has_cgroups(&dead) {
        eprintln!("not run: this user makes no cgroups here");
        return;
    }
    let cgroups = |report: &Value, of: &str| -> Vec<String> {
        let leaks = report["leaks"].as_array().unwrap().iter();
        let cgroups = leaks.filter(|leak| leak["kind"] == "cgroup" && leak["sandbox"] == of);
        cgroups
            .map(|leak| leak["id"].as_str().unwrap().to_owned())
            .collect()
    };
    kill_helper(&left, &dead);
    // What names them is lost.
    std::fs::remove_dir_all(left.state.path().join("sandboxes").join(&dead)).unwrap();
    let notes = std::fs::read_dir("/run/stacyvm")
        .into_iter()
        .flatten()
        .flatten();
    for note in notes {
        let text = std::fs::read_to_string(note.path()).unwrap_or_default();
        if text.contains(&dead) {
            std::fs::write(note.path(), "").unwrap();
        }
    }
    let report = json(&other, &["leaks", "--all"]);
    let found = cgroups(&report, &dead);
    assert!(!found.is_empty(), "{report}");
    assert!(report.to_string().contains("mark of helper"), "{report}");
    assert!(cgroups(&report, &living).is_empty(), "{report}");
    for id in found {
        other.ok(&["leaks", "--remove", &id, "--yes"]);
    }
    let report = json(&other, &["leaks", "--all"]);
    assert!(cgroups(&report, &dead).is_empty(), "{report}");
    assert!(!stacyvm_has_cgroups(&dead));
    assert_eq!(left.ok(&["exec", &living, "echo", "fine"]), "fine\n");
}

/// Whether a cgroup of a sandbox is there, in any hierarchy of version 1 or in
/// the one of version 2.
fn stacyvm_has_cgroups(name: &str) -> bool {
    let base = Path::new("/sys/fs/cgroup");
    let hierarchies = std::fs::read_dir(base).into_iter().flatten().flatten();
    let mut all = hierarchies
        .map(|entry| entry.path())
        .chain([base.to_owned()]);
    all.any(|hierarchy| hierarchy.join("stacyvm").join(name).exists())
}

#[test]
fn near_misses_are_not_called_ours() {
    let (left, other) = (cli(), cli());
    let living = left.create(&[]);
    let state = left.state.path().canonicalize().unwrap();
    // Directories without a lock, and one beside the sandboxes with one.
    let alike = [
        state.join("sandboxes/salike"),
        state.join("sandboxesx/slock"),
    ];
    for directory in &alike {
        std::fs::create_dir_all(directory).unwrap();
    }
    std::fs::write(alike[1].join("helper.lock"), "").unwrap();
    // Cgroups that no ledger names.
    let cgroups: Vec<PathBuf> = ["stacyvmx/sdecoy", "stacyvm/sdecoy-of-a-test"]
        .iter()
        .map(|name| Path::new("/sys/fs/cgroup/pids").join(name))
        .filter(|path| std::fs::create_dir_all(path).is_ok())
        .collect();
    let mut processes: Vec<_> = ["stacyvm-helper", "stacyvm-helper2", "stacyvm-agent"]
        .iter()
        .map(|title| {
            let mut command = Command::new("sleep");
            command.arg0(title).arg("300").stdin(Stdio::null());
            command.spawn().unwrap()
        })
        .collect();
    let report = json(&other, &["leaks", "--all"]).to_string();
    let pids: Vec<u32> = processes.iter().map(std::process::Child::id).collect();
    for process in &mut processes {
        process.kill().unwrap();
        process.wait().unwrap();
    }
    for path in &cgroups {
        std::fs::remove_dir(path).unwrap();
    }
    let _ = std::fs::remove_dir("/sys/fs/cgroup/pids/stacyvmx");
    assert!(report.contains(&living), "{report}");
    for wrong in ["salike", "slock", "stacyvmx", "sdecoy"] {
        assert!(!report.contains(wrong), "{wrong}: {report}");
    }
    for pid in pids {
        assert!(!report.contains(&format!("\"process:{pid}\"")), "{report}");
    }
}

#[test]
fn df_tells_what_lies_on_the_disk() {
    let cli = cli();
    let id = cli.create(&["--mount", "volume:data:/data:rw"]);
    cli.ok(&["exec", &id, "sh", "-c", "head -c 3000000 /dev/zero > /workspace/a; truncate -s 1T /workspace/hole; head -c 2000000 /dev/zero > /data/b; sync"]);
    let report = json(&cli, &["df"]);
    let bytes = |kind: &str, name: &str| {
        let items = report["items"].as_array().unwrap();
        let found = items
            .iter()
            .find(|it| it["kind"] == kind && it["name"] == name);
        found.unwrap_or_else(|| panic!("{kind} {name}: {report}"))["bytes"]
            .as_u64()
            .unwrap()
    };
    assert!(
        (3_000_000..20_000_000).contains(&bytes("sandbox", &id)),
        "{report}"
    );
    assert!(
        (2_000_000..3_000_000).contains(&bytes("volume", "data")),
        "{report}"
    );
    let store = std::fs::metadata(cli.state.path().join("store.db")).unwrap();
    assert_eq!(bytes("store", "store.db"), store.blocks() * 512);
    let text = cli.ok(&["df"]);
    assert!(text.starts_with("KIND ") && text.contains("MiB"), "{text}");
}

#[test]
fn a_volume_is_its_sandboxes_for_as_long_as_they_live() {
    let cli = cli();
    let id = cli.create(&["--mount", "volume:used:/data:rw"]);
    cli.ok(&["exec", &id, "touch", "/data/kept"]);
    let path = cli.state.path().join("volume-locks/used");
    let lock = std::fs::File::open(&path).unwrap();
    // No host of it lives: the helper has the lock.
    assert!(lock.try_lock().is_err(), "nobody has the lock");
    cli.ok(&["kill", &id]);
    lock.try_lock().unwrap();
    lock.unlock().unwrap();
    // As a create has it that opened the volume and has no helper yet.
    lock.lock_shared().unwrap();
    let report = json(&cli, &["prune", "--volumes", "--yes"]);
    assert!(!report.to_string().contains("used"), "{report}");
    assert!(cli.state.path().join("volumes/used/kept").exists());
    drop(lock);
    let report = json(&cli, &["prune", "--volumes", "--yes"]);
    assert_eq!(report["items"][0]["name"], "used", "{report}");
    assert!(!cli.state.path().join("volumes/used").exists());
    assert!(!path.exists());
    let id = cli.create(&["--mount", "volume:used:/data:rw"]);
    assert_eq!(cli.ok(&["exec", &id, "ls", "/data"]), "");
}

#[test]
fn the_volume_of_a_sandbox_that_ended_unseen_is_pruned() {
    let cli = cli();
    let mut host = cli.command();
    host.args(["run", "--mount", "volume:left:/data:rw", "--"]);
    host.args(["sh", "-c", "touch /data/x; echo up; exec sleep 100"]);
    let mut host = host.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    let mut output = BufReader::new(host.stdout.as_mut().unwrap());
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "up\n");
    let path = cli.state.path().join("volumes/left");
    assert!(path.exists());
    host.kill().unwrap();
    host.wait().unwrap();
    let sandboxes = cli.state.path().join("sandboxes");
    let gone = || std::fs::read_dir(&sandboxes).unwrap().next().is_none();
    for _ in 0..1000 {
        if gone() {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(gone(), "the helper ends it");
    // Its record says that it runs, until somebody looks.
    let report = json(&cli, &["prune", "--volumes", "--yes"]);
    assert_eq!(report["items"][0]["name"], "left", "{report}");
    assert!(!path.exists());
}

#[test]
fn prune_needs_a_yes_for_what_cannot_be_had_back() {
    let cli = cli();
    let id = cli.create(&["--mount", "volume:used:/data:rw"]);
    let ended = cli.create(&["--mount", "volume:unused:/data:rw"]);
    cli.ok(&["kill", &ended]);
    let volumes = cli.state.path().join("volumes");
    let cached = cli.state.path().join("cache/helper-0123");
    std::fs::write(&cached, vec![1; 100_000]).unwrap();
    let output = cli.run(&["prune", "--volumes"]);
    assert_eq!(output.status.code(), Some(125), "{}", shown(&output));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("--yes") && text.contains("unused"), "{text}");
    assert!(volumes.join("unused").exists() && cached.exists());
    assert_eq!(json(&cli, &["ls", "--all"]).as_array().unwrap().len(), 2);
    // Too young to go, and then there is nothing for ever.
    let output = cli.run(&["prune", "--older-than", "1h"]);
    assert!(output.status.success(), "{}", shown(&output));
    assert!(!cached.exists());
    assert_eq!(json(&cli, &["ls", "--all"]).as_array().unwrap().len(), 2);
    let report = json(&cli, &["prune", "--volumes", "--yes"]);
    assert_eq!(report["records"], 1, "{report}");
    assert_eq!(report["items"][0]["name"], "unused");
    assert!(!volumes.join("unused").exists() && volumes.join("used").exists());
    let left = json(&cli, &["ls", "--all"]);
    assert_eq!(left.as_array().unwrap().len(), 1);
    assert_eq!(cli.ok(&["exec", &id, "echo", "fine"]), "fine\n");
}
