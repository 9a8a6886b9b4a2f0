//! The escape suite on the embedded provider, on Docker where there is one, and
//! on a sandbox that was weakened on purpose.
#![cfg(all(target_os = "linux", feature = "oci", feature = "certify"))]
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test that panics has failed, and one that cannot run says why"
)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::Duration;

use async_trait::async_trait;
use common::residue::Watch;
use common::soon;
use stacyvm::certify::{
    Attempt, Check, CheckLevel, Control, HostControl, Need, Place, Report, Subject, User, Verdict,
    judge, probes,
};
use stacyvm::engine::Engine;
use stacyvm::sandbox::spec::{Mount, MountSource, Privileges};
use stacyvm::{ExitStatus, SandboxSpec};

async fn report(
    engine: &Engine,
    provider: Option<&str>,
    spec: SandboxSpec,
    only: &[&str],
) -> Report {
    let mut checks = probes::all();
    checks.retain(|check| only.is_empty() || only.contains(&check.family()));
    let mut subject = Subject::open(engine, provider, spec).await.unwrap();
    let control = HostControl::open(subject.facts()).await.unwrap();
    subject.tell(control.facts());
    let report = judge(&subject, &control, &checks).await;
    subject.close().await.unwrap();
    report
}

/// What fired in the subject, with what was seen.
fn fired(report: &Report) -> BTreeMap<&str, &str> {
    let fired = report
        .checks
        .iter()
        .filter(|check| check.subject.name() == "fired");
    fired
        .map(|check| (check.id.as_str(), check.subject.detail()))
        .collect()
}

/// What proved nothing, with what was seen.
fn unproved(report: &Report) -> Vec<String> {
    let unproved = report.checks.iter().filter(|check| !check.proved);
    unproved
        .map(|check| {
            format!(
                "{}: {:?}; control: {:?}",
                check.id, check.subject, check.control
            )
        })
        .collect()
}

#[tokio::test]
async fn no_probe_fires_in_a_default_sandbox_and_enough_fire_in_a_weak_place() {
    // A descriptor that every program started from here would inherit.
    let leaked = std::fs::File::open("/").unwrap();
    rustix::io::fcntl_setfd(&leaked, rustix::io::FdFlags::empty()).unwrap();
    let Some(host) = common::embedded().await else {
        return;
    };
    let watch = Watch::begin(host.state.path());
    let report = report(&host.engine, None, SandboxSpec::host(), &[]).await;
    eprintln!("{:?}\n{:#?}", report.summary, unproved(&report));
    assert_eq!(fired(&report), BTreeMap::new());
    // As an ordinary user, less of a host can be reached.
    let enough = if rustix::process::geteuid().is_root() {
        130
    } else {
        60
    };
    assert!(report.summary.proved >= enough, "{:?}", report.summary);
    // Every one that could not be run is one of a limit that is not claimed.
    let claimed = report.checks.iter().all(|check| match &check.subject {
        Verdict::NotRun { reason } => reason.contains("is not claimed here"),
        _ => true,
    });
    assert!(claimed, "{:#?}", unproved(&report));
    // A helper may wait for the next create as long as the engine is there.
    let common::Host {
        engine,
        state: _state,
    } = host;
    engine.close().await.unwrap();
    drop(engine);
    watch.nothing_left().await;
    // Other tests have theirs at the same time, of processes that live.
    let names = std::fs::read_dir("/tmp").unwrap().flatten();
    let names = names.filter_map(|entry| entry.file_name().into_string().ok());
    let mut left: Vec<String> = names
        .filter_map(|name| Some(name.strip_prefix("stacyvm-bait-")?.to_owned()))
        .collect();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        left.retain(|marker| !line.contains(marker.as_str()));
    }
    // One that has ended meanwhile took its own away before.
    left.retain(|marker| std::path::Path::new(&format!("/tmp/stacyvm-bait-{marker}")).exists());
    assert!(left.is_empty(), "{left:?}");
}

/// What fired beyond the rights inside that were asked for.
fn fired_outside(report: &Report) -> Vec<&str> {
    let beyond = report
        .checks
        .iter()
        .filter(|check| check.subject.name() == "fired" && check.level != CheckLevel::Inside);
    beyond.map(|check| check.id.as_str()).collect()
}

#[tokio::test]
async fn with_namespaced_root_no_probe_fires_but_for_rights_inside() {
    let Some(host) = common::embedded().await else {
        return;
    };
    if !host.has_users().await {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let tmp = root.path().join("tmp");
    std::fs::create_dir(&tmp).unwrap();
    for (path, mode) in [(root.path(), 0o755), (tmp.as_path(), 0o1777)] {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(path, mode).unwrap();
    }
    let image = root.path().display().to_string();
    // All of them where set-id bits count, and those of files and of the agent where
    // the files are the host's.
    let of_host = [
        "agent",
        "capabilities",
        "cgroup",
        "devices",
        "host",
        "kernel_files",
        "masked",
        "neighbour",
        "setuid",
    ];
    for (spec, only) in [
        (SandboxSpec::image(image), &[][..]),
        (SandboxSpec::host(), &of_host[..]),
    ] {
        let spec = spec.privileges(Privileges::NamespacedRoot);
        let report = report(&host.engine, None, spec, only).await;
        eprintln!("{:?}\n{:#?}", report.summary, unproved(&report));
        assert_eq!(
            fired_outside(&report),
            Vec::<&str>::new(),
            "{:#?}",
            fired(&report)
        );
        assert_eq!(report.summary.fired, 0);
        // The rights are there, and the checks of them see it.
        let fired = fired(&report);
        for id in [
            "capabilities.effective",
            "capabilities.bounding",
            "capabilities.become_another",
            "capabilities.give_away",
            "capabilities.read_any_file",
            "setuid.no_new_privileges",
        ] {
            assert!(fired.contains_key(id), "{id}: {fired:#?}");
        }
        assert_eq!(report.summary.granted, fired.len());
    }
}

#[cfg(feature = "docker")]
#[tokio::test]
async fn what_fires_on_docker_is_known() {
    use stacyvm::config::{Config, ProviderConfig};

    /// What root inside, who is the agent's user there, may do to the agent: let it
    /// die first, ask whether it can be signalled, and reach its socket, where it
    /// then has to prove a key.
    const KNOWN: [&str; 3] = ["agent.out_of_memory", "agent.signal", "protocol.sockets"];
    let Some(engine) = std::env::var_os("STACYVM_TEST_DOCKER_HOST") else {
        eprintln!("not run: no docker engine (STACYVM_TEST_DOCKER_HOST)");
        return;
    };
    let state = tempfile::tempdir().unwrap();
    let mut config = Config::for_state_dir(state.path().to_path_buf());
    let docker = ProviderConfig {
        kind: "docker".into(),
        runtime: None,
        host: Some(engine.into_string().unwrap()),
        certs: None,
        direct: None,
        users: None,
        exec: None,
        url: None,
    };
    config.providers.insert("docker".into(), docker);
    let engine = Engine::open(config).await.unwrap();
    let spec = SandboxSpec::image("stacyvm-test/busybox");
    let report = report(&engine, Some("docker"), spec, &[]).await;
    engine.close().await.unwrap();
    eprintln!("{:?}\n{:#?}", report.summary, unproved(&report));
    let unexpected: BTreeMap<_, _> = fired(&report)
        .into_iter()
        .filter(|(id, _)| !KNOWN.contains(id))
        .collect();
    assert_eq!(unexpected, BTreeMap::new());
    assert!(report.summary.proved >= 60, "{:?}", report.summary);
}

/// What `--privileged` is, word by word, without what root of some hosts lacks.
const ALMOST_PRIVILEGED: [&str; 11] = [
    "--cap-add=ALL",
    "--cap-drop=SYS_RESOURCE",
    "--security-opt=seccomp=unconfined",
    "--security-opt=apparmor=unconfined",
    "--security-opt=systempaths=unconfined",
    "--cgroupns=host",
    "--device-cgroup-rule=a *:* rwm",
    "--volume=/dev:/dev",
    "--volume=/sys:/sys",
    "--volume=/sys/fs/cgroup:/sys/fs/cgroup",
    "--pids-limit=-1",
];

/// A container with `--privileged`, which most of what holds a sandbox does not hold.
struct Privileged {
    engine: String,
    name: String,
}

impl Privileged {
    /// `None` without an engine or its command line.
    fn start() -> Option<Self> {
        let Some(engine) = std::env::var_os("STACYVM_TEST_DOCKER_HOST") else {
            eprintln!("not run: no docker engine (STACYVM_TEST_DOCKER_HOST)");
            return None;
        };
        let this = Self {
            engine: engine.into_string().unwrap(),
            name: format!("stacyvm-test-privileged-{}", std::process::id()),
        };
        if this.docker(&["version"]).is_none() {
            eprintln!("not run: no command line of docker that reaches the engine");
            return None;
        }
        if !this.run(&["--privileged"]) {
            eprintln!("not as `--privileged`: this host's root lacks CAP_SYS_RESOURCE, or more");
            assert!(this.run(&ALMOST_PRIVILEGED));
        }
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("stacyvm-probe");
        std::fs::write(&program, stacyvm_agent::PROBE).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&program, mode).unwrap();
        let to = format!("{}:/stacyvm-probe", this.name);
        this.docker(&["cp", program.to_str().unwrap(), &to])
            .unwrap();
        Some(this)
    }

    /// Starts it with these options; false where the engine refuses them.
    fn run(&self, options: &[&str]) -> bool {
        let name = ["--name", &self.name, "--network", "none"];
        let command = ["stacyvm-test/busybox", "sleep", "600"];
        let words = [&["run", "--detach", "--rm"], &name[..], options, &command].concat();
        let started = self.docker(&words).is_some();
        if !started {
            self.docker(&["rm", "--force", &self.name]);
        }
        started
    }

    /// What a command of docker's printed; nothing where it failed.
    fn docker(&self, words: &[&str]) -> Option<Vec<u8>> {
        let mut command = Command::new("docker");
        let output = command
            .args(["-H", &self.engine])
            .args(words)
            .output()
            .ok()?;
        output.status.success().then_some(output.stdout)
    }
}

impl Drop for Privileged {
    fn drop(&mut self) {
        self.docker(&["rm", "--force", &self.name]);
    }
}

#[async_trait]
impl Place for Privileged {
    fn users(&self) -> &[User] {
        &[User::Default]
    }

    async fn attack(&self, attack: &str, _: User) -> stacyvm::Result<Attempt> {
        // As a subject with small limits tells, and this one has none.
        let told = [
            "memory_mib=96",
            "pids=64",
            "open_files=256",
            "disk_mib=64",
            "inodes=65536",
            "cpus_percent=30",
            "directory=/tmp",
        ];
        let words = ["exec", &self.name, "/stacyvm-probe", attack];
        match self.docker(&[&words[..], &told].concat()) {
            Some(said) => Attempt::parse(attack, ExitStatus::Code { code: 0 }, &said),
            None => Attempt::parse(attack, ExitStatus::Code { code: 1 }, b""),
        }
    }
}

#[tokio::test]
async fn a_privileged_container_is_caught_by_every_family_that_it_lets_go() {
    /// Families, and how many of each must fire at least. Kernels are built with
    /// more and with less.
    const EXPECTED: [(&str, usize); 10] = [
        ("agent", 10),
        ("capabilities", 6),
        ("cgroup", 4),
        ("clock", 3),
        ("devices", 5),
        ("kernel_files", 8),
        ("limits", 5),
        ("masked", 4),
        ("network", 3),
        ("seccomp", 30),
    ];
    let Some(container) = Privileged::start() else {
        return;
    };
    let mut fired: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for check in probes::all() {
        // Whoever reads judges these, and this place reads nothing without bounds.
        if matches!(check.family(), "output" | "protocol") {
            continue;
        }
        if let Verdict::Fired { .. } = check.run(&container).await {
            let family = fired.entry(check.family().to_owned()).or_default();
            family.push(check.id().to_owned());
        }
    }
    eprintln!("{fired:#?}");
    for (family, least) in EXPECTED {
        let seen = fired.get(family).map_or(0, Vec::len);
        assert!(seen >= least, "{family}: {seen}, expected at least {least}");
    }
    let all: usize = fired.values().map(Vec::len).sum();
    assert!(all >= 100, "{all}");
}

#[tokio::test]
async fn two_runs_say_the_same() {
    let Some(host) = common::embedded().await else {
        return;
    };
    let only = [
        "agent",
        "host",
        "identity",
        "masked",
        "neighbour",
        "network",
        "seccomp",
    ];
    let mut runs = Vec::new();
    for _ in 0..2 {
        let report = report(&host.engine, None, SandboxSpec::host(), &only).await;
        let mut value = serde_json::to_value(&report).unwrap();
        value.as_object_mut().unwrap().remove("started").unwrap();
        runs.push(value.to_string());
    }
    assert_eq!(runs[0], runs[1]);
}

#[tokio::test]
async fn a_sandbox_that_was_given_the_hosts_files_is_caught() {
    let Some(host) = common::embedded().await else {
        return;
    };
    let mount = Mount {
        target: "/var/tmp".into(),
        source: MountSource::Host("/var/tmp".into()),
        writable: false,
        size_mib: None,
    };
    let spec = SandboxSpec::host().mount(mount);
    let report = report(&host.engine, None, spec, &["host"]).await;
    let fired = fired(&report);
    assert_eq!(
        fired.keys().collect::<Vec<_>>(),
        [&"host.files"],
        "{fired:?}"
    );
}

#[tokio::test]
async fn others_answer_while_a_sandbox_is_bombed() {
    let Some(host) = common::embedded().await else {
        return;
    };
    let subject = Subject::open(&host.engine, None, SandboxSpec::host())
        .await
        .unwrap();
    let mut checks = probes::family("limits");
    checks.retain(|check| check.needs().iter().all(|need| need.met(subject.claims())));
    if checks.is_empty() {
        eprintln!("not run: no limit is this user's to set");
        return;
    }
    let bombs = async {
        for check in &checks {
            assert_eq!(check.run(&subject).await, Verdict::Silent, "{}", check.id());
        }
    };
    let answers = async {
        loop {
            let answer = soon(subject.neighbour().unwrap().exec(["true"]).output())
                .await
                .unwrap();
            assert!(answer.status.success());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        () = bombs => {}
        () = answers => {}
    }
    subject.close().await.unwrap();
}

#[tokio::test]
async fn no_signal_of_root_inside_ends_or_stops_the_agent() {
    let Some(host) = common::embedded().await else {
        return;
    };
    if !host.has_users().await {
        return;
    }
    let sandbox = host.sandbox().await;
    let line = "for n in $(seq 1 64); do kill -$n 1; done; echo sent";
    let sent = soon(sandbox.shell(line).user("root").output())
        .await
        .unwrap();
    assert!(sent.stdout_text().ends_with("sent\n"));
    let after = soon(sandbox.exec(["true"]).output()).await.unwrap();
    assert!(after.status.success());
}

#[test]
fn the_program_and_the_list_name_the_same_attacks() {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("probe");
    std::fs::write(&program, stacyvm_agent::PROBE).unwrap();
    std::os::unix::fs::chown(&program, None, None).unwrap();
    std::fs::set_permissions(
        &program,
        std::os::unix::fs::PermissionsExt::from_mode(0o700),
    )
    .unwrap();
    let output = Command::new(&program).arg("list").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let tried: BTreeSet<&str> = text.lines().collect();
    let checks = probes::all();
    let listed: BTreeSet<&str> = checks.iter().map(|check| check.id()).collect();
    assert_eq!(tried, listed);
    assert_eq!(listed.len(), checks.len(), "an id is there twice");
    assert!(listed.len() >= 60);
}

#[test]
fn the_documentation_lists_every_probe() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/probes.md");
    let text = std::fs::read_to_string(path).unwrap();
    assert!(
        text.contains(&probes::document()),
        "expected in docs/probes.md:\n{}",
        probes::document()
    );
}

/// A check that somebody else wrote: that `/etc/passwd` can be read, which it can.
struct Strangers;

#[async_trait]
impl Check for Strangers {
    fn id(&self) -> &'static str {
        "strangers.passwd"
    }

    fn level(&self) -> CheckLevel {
        CheckLevel::Hardening
    }

    fn needs(&self) -> &[Need] {
        &[]
    }

    fn tries(&self) -> &'static str {
        "reading the list of users"
    }

    fn means(&self) -> &'static str {
        "nothing"
    }

    async fn run(&self, place: &dyn Place) -> Verdict {
        let Some(sandbox) = place.sandbox() else {
            return Verdict::Silent;
        };
        match sandbox.files().read("/etc/passwd").await {
            Ok(_) => Verdict::Fired {
                evidence: "it was read".into(),
            },
            Err(_) => Verdict::Silent,
        }
    }
}

/// A place in which every attack gets what it wants.
struct Open;

#[async_trait]
impl Place for Open {
    fn users(&self) -> &[User] {
        &[User::Default]
    }

    async fn attack(&self, attack: &str, _: User) -> stacyvm::Result<Attempt> {
        let line = format!(
            "{{\"attack\":\"{attack}\",\"verdict\":\"fired\",\"errno\":0,\"evidence\":\"\"}}\n"
        );
        Attempt::parse(attack, ExitStatus::Code { code: 0 }, line.as_bytes())
    }
}

#[async_trait]
impl Control for Open {
    fn name(&self) -> &'static str {
        "open"
    }

    async fn run(&self, check: &dyn Check) -> Verdict {
        check.run(self).await
    }
}

#[tokio::test]
async fn a_strangers_check_and_control_are_judged_as_the_librarys_own() {
    let Some(host) = common::embedded().await else {
        return;
    };
    let subject = Subject::open(&host.engine, None, SandboxSpec::host())
        .await
        .unwrap();
    let mut checks = probes::family("clock");
    checks.push(Box::new(Strangers));
    let report = judge(&subject, &Open, &checks).await;
    subject.close().await.unwrap();
    assert_eq!(report.control, "open");
    assert_eq!(report.summary.proved, checks.len() - 1);
    assert_eq!(
        fired(&report).keys().collect::<Vec<_>>(),
        [&"strangers.passwd"]
    );
    let strangers = report.checks.last().unwrap();
    assert_eq!(
        (strangers.control.name(), strangers.proved),
        ("silent", false)
    );
}
