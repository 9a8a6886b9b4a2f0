//! The Docker provider against a real engine: the one that
//! `STACYVM_TEST_DOCKER_HOST` names (`scripts/docker-host.sh start`), with the
//! image `stacyvm-test/busybox`. Without it each test prints `not run`.
#![cfg(all(feature = "docker", unix))]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bollard::Docker;
use bollard::query_parameters::{ListContainersOptions, ListVolumesOptions};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use stacyvm::error::ErrorKind;
use stacyvm::id::{InstanceId, SandboxId, TenantId};
use stacyvm::provider::{CreateRequest, Level, Provider, Secrets};
use stacyvm::providers::docker::{DockerConfig, DockerProvider};
use stacyvm::sandbox::exec::SignalScope;
use stacyvm::sandbox::files::{
    FileOperation, FileReply, FileRequest, GuestPath, ReadRequest, WriteMode, WriteRequest,
};
use stacyvm::sandbox::spec::{Lifetime, Network, SandboxSpec};
use stacyvm::sandbox::state::ObservedState;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use stacyvm::{Context, Error, ExecEvent, ExecSpec, ExitStatus, Result};

const IMAGE: &str = "stacyvm-test/busybox";
/// Far longer than anything here takes; only a hang gets there.
const SOON: Duration = Duration::from_mins(1);

/// One store's view of the engine, with its own state directory.
struct Host {
    engine: String,
    state: tempfile::TempDir,
    instance: InstanceId,
    provider: Arc<DockerProvider>,
}

impl Host {
    async fn open() -> Option<Self> {
        let engine = std::env::var_os("STACYVM_TEST_DOCKER_HOST")?;
        let engine = engine.into_string().unwrap();
        let state = tempfile::tempdir().unwrap();
        let instance = InstanceId::random();
        let config = DockerConfig::new(state.path(), instance.clone()).host(&engine);
        let provider = Arc::new(DockerProvider::open(config).await.unwrap());
        Some(Self {
            engine,
            state,
            instance,
            provider,
        })
    }

    /// Another process of the same user.
    async fn again(&self) -> DockerProvider {
        let config = DockerConfig::new(self.state.path(), self.instance.clone()).host(&self.engine);
        DockerProvider::open(config).await.unwrap()
    }

    fn request(&self, spec: SandboxSpec) -> CreateRequest {
        CreateRequest {
            id: SandboxId::random(),
            instance: self.instance.clone(),
            spec,
            open_files_preferred: false,
            ends: None,
            secrets: Secrets::default(),
            waits: false,
        }
    }

    async fn sandbox(&self, spec: SandboxSpec) -> SandboxId {
        let request = self.request(spec);
        let made = self.provider.create(&cx(), &request).await.unwrap();
        assert_eq!(made.state, ObservedState::Running);
        assert_eq!(made.id, request.id);
        request.id
    }

    async fn run(&self, id: &SandboxId, spec: ExecSpec) -> Ran {
        run(&*self.provider, id, spec).await.unwrap()
    }

    async fn sh(&self, id: &SandboxId, line: &str) -> Ran {
        self.run(id, ExecSpec::shell(line)).await
    }

    /// Names of the containers and volumes that the engine holds for this store.
    async fn held(&self) -> Vec<String> {
        let path = self.engine.strip_prefix("unix://").unwrap();
        let docker = Docker::connect_with_socket(path, 60, bollard::API_DEFAULT_VERSION)
            .unwrap()
            .negotiate_version()
            .await
            .unwrap();
        let label = format!("stacyvm.instance={}", self.instance);
        let filters = HashMap::from([("label".to_owned(), vec![label])]);
        let containers = docker
            .list_containers(Some(ListContainersOptions {
                all: true,
                filters: Some(filters.clone()),
                ..ListContainersOptions::default()
            }))
            .await
            .unwrap();
        let volumes = docker
            .list_volumes(Some(ListVolumesOptions {
                filters: Some(filters),
            }))
            .await
            .unwrap();
        let mut names: Vec<String> = containers
            .into_iter()
            .flat_map(|c| c.names.unwrap_or_default())
            .collect();
        names.extend(
            volumes
                .volumes
                .unwrap_or_default()
                .into_iter()
                .map(|v| v.name),
        );
        names.retain(|name| !name.starts_with("stacyvm-agent-"));
        names
    }

    fn tickets(&self) -> usize {
        std::fs::read_dir(self.state.path())
            .unwrap()
            .filter(|e| {
                let name = e.as_ref().unwrap().file_name();
                name.to_string_lossy().ends_with(".ticket")
            })
            .count()
    }

    async fn end(self, ids: &[&SandboxId]) {
        for id in ids {
            self.provider.destroy(&cx(), id).await.unwrap();
        }
        assert_eq!(self.held().await, Vec::<String>::new());
        assert_eq!(self.tickets(), 0);
    }
}

macro_rules! host {
    () => {
        match Host::open().await {
            Some(host) => host,
            None => {
                println!("not run: no docker engine");
                return;
            }
        }
    };
}

fn cx() -> Context {
    Context::new(TenantId::default())
}

#[derive(Debug)]
struct Ran {
    status: ExitStatus,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Ran {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap().trim_end()
    }
}

async fn run(provider: &dyn Provider, id: &SandboxId, spec: ExecSpec) -> Result<Ran> {
    let session = provider.exec(&cx(), id, &spec).await?;
    collect(session.events).await
}

async fn collect(mut events: stacyvm::sandbox::exec::BoxStream<Result<ExecEvent>>) -> Result<Ran> {
    let mut ran = Ran {
        status: ExitStatus::SandboxGone,
        stdout: Vec::new(),
        stderr: Vec::new(),
    };
    let work = async {
        let mut ends = 0;
        while let Some(event) = events.next().await {
            match event? {
                ExecEvent::Stdout(bytes) => ran.stdout.extend_from_slice(&bytes),
                ExecEvent::Stderr(bytes) => ran.stderr.extend_from_slice(&bytes),
                ExecEvent::Lost { .. } => panic!("a foreground command loses nothing"),
                ExecEvent::Exited(status) => {
                    ran.status = status;
                    ends += 1;
                }
            }
        }
        assert_eq!(ends, 1, "exactly one terminal event");
        Ok::<_, Error>(())
    };
    tokio::time::timeout(SOON, work).await.expect("hangs")?;
    Ok(ran)
}

fn path(text: &str) -> GuestPath {
    GuestPath::new(text).unwrap()
}

#[tokio::test]
async fn commands_run_and_end_as_they_do() {
    let host = host!();
    let id = host
        .sandbox(SandboxSpec::image(IMAGE).env("GREETING", "hi"))
        .await;

    let ran = host.sh(&id, "echo out; echo err >&2; exit 7").await;
    assert_eq!(ran.status, ExitStatus::Code { code: 7 });
    assert_eq!(
        (ran.text(), ran.stderr.as_slice()),
        ("out", b"err\n".as_slice())
    );

    let ran = host.sh(&id, "kill -9 $$").await;
    assert_eq!(ran.status, ExitStatus::Signal { signal: 9 });

    let ran = host.sh(&id, "echo $GREETING; pwd; id -u; hostname").await;
    assert_eq!(ran.text(), format!("hi\n/workspace\n1000\n{id}"));

    let error = run(&*host.provider, &id, ExecSpec::new(["no-such-program"]))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CommandNotFound);
    assert_eq!(error.failed_provider(), Some("docker"));

    // Every byte value, both ways, and more than one window of it.
    let every: Vec<u8> = (0..=255).cycle().take(3 << 20).collect();
    let mut spec = ExecSpec::new(["cat"]);
    spec.stdin = true;
    let session = host.provider.exec(&cx(), &id, &spec).await.unwrap();
    let control = Arc::clone(&session.control);
    let input = Bytes::from(every.clone());
    let feed = tokio::spawn(async move {
        for at in (0..input.len()).step_by(100_000) {
            let piece = input.slice(at..input.len().min(at + 100_000));
            control.write_stdin(piece).await.unwrap();
        }
        control.close_stdin().await.unwrap();
    });
    let ran = collect(session.events).await.unwrap();
    feed.await.unwrap();
    assert!(ran.status.success());
    assert!(
        ran.stdout == every,
        "{} bytes of {}",
        ran.stdout.len(),
        every.len()
    );

    let mut spec = ExecSpec::shell("sleep 1000 & sleep 1000");
    spec.timeout = Some(Duration::from_millis(300));
    let ran = host.run(&id, spec).await;
    assert_eq!(
        ran.status,
        ExitStatus::TimedOut {
            sandbox_ended: false
        }
    );
    assert_eq!(host.provider.processes(&cx(), &id).await.unwrap().len(), 0);

    host.end(&[&id]).await;
}

#[tokio::test]
async fn a_server_does_not_hold_its_command_and_is_reached_by_its_port() {
    let host = host!();
    let id = host.sandbox(SandboxSpec::image(IMAGE)).await;
    let ran = host
        .sh(&id, "nc -l -p 4321 -e cat >/dev/null 2>&1 & echo started")
        .await;
    assert_eq!(ran.text(), "started");
    let mut connection = loop {
        match host.provider.dial(&cx(), &id, 4321).await {
            Ok(connection) => break connection,
            // It listens a moment after the shell has gone.
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    connection.write_all(b"echo").await.unwrap();
    connection.flush().await.unwrap();
    let mut back = [0; 4];
    connection.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"echo");
    host.end(&[&id]).await;
}

#[tokio::test]
async fn files_go_in_and_out() {
    let host = host!();
    let id = host.sandbox(SandboxSpec::image(IMAGE)).await;
    let content: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
    let pieces: Vec<Result<Bytes>> = content
        .chunks(70_000)
        .map(|c| Ok(Bytes::copy_from_slice(c)))
        .collect();
    let request = WriteRequest {
        user: None,
        path: path("/workspace/deep/file"),
        how: WriteMode::Replace,
        mode: Some(0o640),
        parents: true,
    };
    let written = host
        .provider
        .write_file(&cx(), &id, &request, Box::pin(stream::iter(pieces)))
        .await
        .unwrap();
    assert_eq!((written.size, written.mode), (content.len() as u64, 0o640));

    let request = ReadRequest {
        user: None,
        path: path("/workspace/deep/file"),
        offset: 1,
        length: None,
    };
    let (entry, mut data) = host.provider.read_file(&cx(), &id, &request).await.unwrap();
    assert_eq!(entry.size, content.len() as u64);
    let mut read = Vec::new();
    while let Some(piece) = data.next().await {
        read.extend_from_slice(&piece.unwrap());
    }
    assert!(read == content[1..], "{} bytes", read.len());

    let list = FileRequest {
        user: None,
        operation: FileOperation::List {
            path: path("/workspace"),
            depth: 2,
        },
    };
    let FileReply::Entries(mut entries) = host.provider.file(&cx(), &id, &list).await.unwrap()
    else {
        panic!("a listing has entries");
    };
    let mut names = Vec::new();
    while let Some(entry) = entries.next().await {
        names.push(String::from_utf8(entry.unwrap().path).unwrap());
    }
    assert_eq!(names, ["deep", "deep/file"]);

    let absent = ReadRequest {
        path: path("/workspace/absent"),
        ..request
    };
    let error = host
        .provider
        .read_file(&cx(), &id, &absent)
        .await
        .err()
        .unwrap();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    host.end(&[&id]).await;
}

#[tokio::test]
async fn what_a_command_sees_is_hardened() {
    let host = host!();
    let spec = SandboxSpec::image(IMAGE)
        .memory_mib(64)
        .cpus(0.5)
        .pids(40)
        .network(Network::None);
    let id = host.sandbox(spec).await;
    let status = host.sh(&id, "cat /proc/self/status").await;
    let field = |name: &str| {
        status
            .text()
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    assert_eq!(field("NoNewPrivs"), "1");
    assert_eq!(field("Seccomp"), "2");

    // A handler of the host would run for every limit but 1.
    let line = "ulimit -c 0; ulimit -c unlimited; grep 'core file' /proc/self/limits | tr -s ' '";
    let limit = host.sh(&id, line).await;
    assert_eq!(limit.text().trim(), "Max core file size 1 1 bytes");

    let interfaces = host.sh(&id, "tail -n +3 /proc/net/dev | cut -d: -f1").await;
    assert_eq!(interfaces.text().trim(), "lo");
    for forbidden in [
        "echo x > /proc/sys/kernel/domainname",
        "mount -t tmpfs none /mnt",
        "mknod /tmp/device b 8 0",
        "cat /proc/1/environ",
        "ls /proc/1/root",
        "cat /run/stacyvm/agent.sock",
        "d=$(echo /.stacyvm-*); echo x > $d/stacyvm-agent",
        "d=$(echo /.stacyvm-*); mv $d /elsewhere",
        "d=$(echo /.stacyvm-*); rm -rf $d",
        "unshare -U true",
    ] {
        let ran = host.sh(&id, forbidden).await;
        assert!(!ran.status.success(), "{forbidden}: {ran:?}");
    }
    // Positive controls: what is meant to work does.
    for allowed in [
        "echo x > /tmp/file",
        "echo x > /workspace/file",
        "ls /.stacyvm-*/stacyvm-agent",
    ] {
        let ran = host.sh(&id, allowed).await;
        assert!(ran.status.success(), "{allowed}: {ran:?}");
    }
    let kept = host.sh(&id, "tr '\\0' '\\n' < /proc/self/environ").await;
    assert!(!kept.text().contains("stacyvm"), "{}", kept.text());

    let seen = host.provider.inspect(&cx(), &id).await.unwrap();
    for (need, value) in [
        ("memory_limit", "64 MiB"),
        ("cpu_limit", "0.500"),
        ("pids_limit", "40"),
        ("no_new_privileges", "true"),
        ("network_none", "none"),
    ] {
        assert_eq!(seen.effective[need].value, value, "{need}");
        assert_eq!(seen.effective[need].level, Level::Enforced, "{need}");
    }
    let greedy = host
        .sh(&id, "head -c 200m /dev/zero | tail -c 150m | wc -c")
        .await;
    assert_ne!(
        greedy.text(),
        (150 << 20).to_string(),
        "150 MiB in a sandbox of 64"
    );
    let bomb = host
        .sh(
            &id,
            "i=0; while [ $i -lt 60 ]; do sleep 5 & i=$((i+1)); done; echo all",
        )
        .await;
    assert_ne!(bomb.text(), "all", "60 processes in a sandbox of 40");
    host.end(&[&id]).await;
}

#[tokio::test]
async fn another_user_of_the_image_is_served_and_signals_arrive() {
    let host = host!();
    let id = host.sandbox(SandboxSpec::image(IMAGE).user("1000")).await;
    assert_eq!(host.sh(&id, "id -u").await.text(), "1000");
    let mut spec = ExecSpec::new(["id", "-u"]);
    spec.user = Some("65534".to_owned());
    assert_eq!(host.run(&id, spec).await.text(), "65534");

    let spec = ExecSpec::shell("trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done");
    let mut session = host.provider.exec(&cx(), &id, &spec).await.unwrap();
    let first = session.events.next().await.unwrap().unwrap();
    assert_eq!(first, ExecEvent::Stdout(Bytes::from_static(b"ready\n")));
    let (exec, term) = (session.exec.clone(), 15);
    host.provider
        .signal_exec(&cx(), &id, &exec, term, SignalScope::Process)
        .await
        .unwrap();
    let ran = collect(session.events).await.unwrap();
    assert_eq!(ran.status, ExitStatus::Code { code: 3 });
    host.end(&[&id]).await;
}

#[tokio::test]
async fn another_process_of_the_user_goes_on_and_nobody_else() {
    let host = host!();
    let id = host.sandbox(SandboxSpec::image(IMAGE)).await;
    host.sh(&id, "echo kept > /workspace/a").await;

    let second = host.again().await;
    let ran = run(&second, &id, ExecSpec::new(["cat", "/workspace/a"]))
        .await
        .unwrap();
    assert_eq!(ran.text(), "kept");
    let listed = second.list(&cx(), None, 10).await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].id, id);
    assert_eq!(listed[0].tenant, Some(TenantId::default()));
    assert_eq!(second.list(&cx(), Some(&id), 10).await.unwrap(), []);

    let elsewhere = tempfile::tempdir().unwrap();
    let config = DockerConfig::new(elsewhere.path(), host.instance.clone()).host(&host.engine);
    let keyless = DockerProvider::open(config).await.unwrap();
    let error = run(&keyless, &id, ExecSpec::new(["true"]))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);

    let config = DockerConfig::new(elsewhere.path(), InstanceId::random()).host(&host.engine);
    let stranger = DockerProvider::open(config).await.unwrap();
    assert_eq!(stranger.list(&cx(), None, 10).await.unwrap(), []);
    stranger.destroy(&cx(), &id).await.unwrap();
    let error = stranger.inspect(&cx(), &id).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);

    assert_eq!(host.sh(&id, "echo alive").await.text(), "alive");
    second.destroy(&cx(), &id).await.unwrap();
    let error = run(&*host.provider, &id, ExecSpec::new(["true"]))
        .await
        .unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::SandboxGone | ErrorKind::NotFound),
        "{error:?}"
    );
    host.end(&[&id]).await;
}

#[tokio::test]
async fn a_missing_image_is_told_with_its_remedy_and_leaves_nothing() {
    let host = host!();
    let request = host.request(SandboxSpec::image("stacyvm-test/absent:1"));
    let error = host.provider.create(&cx(), &request).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("docker pull"), "{error}");
    assert_eq!(error.fact("value"), Some("stacyvm-test/absent:1"));
    host.end(&[]).await;
}

#[tokio::test]
async fn the_same_request_finds_the_same_sandbox_and_another_one_conflicts() {
    let host = host!();
    let request = host.request(SandboxSpec::image(IMAGE));
    host.provider.create(&cx(), &request).await.unwrap();
    host.sh(&request.id, "echo mark > /workspace/mark").await;

    let second = host.again().await;
    second.create(&cx(), &request).await.unwrap();
    let ran = host.sh(&request.id, "cat /workspace/mark").await;
    assert_eq!(ran.text(), "mark");

    let mut other = request.clone();
    other.spec = SandboxSpec::image(IMAGE).env("A", "b");
    let error = second.create(&cx(), &other).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert_eq!(
        host.sh(&request.id, "cat /workspace/mark").await.text(),
        "mark"
    );
    host.end(&[&request.id]).await;
}

#[tokio::test]
async fn a_create_that_is_given_up_leaves_nothing() {
    let host = host!();
    for after in [0, 5, 20, 60, 150, 300] {
        let request = host.request(SandboxSpec::image(IMAGE));
        let cx = cx();
        let create = host.provider.create(&cx, &request);
        let _ = tokio::time::timeout(Duration::from_millis(after), create).await;
        host.provider.destroy(&cx, &request.id).await.unwrap();
        assert_eq!(host.held().await, Vec::<String>::new(), "after {after} ms");
    }
    host.end(&[]).await;
}

#[tokio::test]
async fn a_life_ends_by_its_own_timer() {
    let host = host!();
    let mut request = host.request(SandboxSpec::image(IMAGE));
    request.ends = Some(SystemTime::now() + Duration::from_hours(1));
    let made = host.provider.create(&cx(), &request).await.unwrap();
    let ends = made.ends.unwrap();
    assert!(ends.duration_since(request.ends.unwrap()).is_err() || ends == request.ends.unwrap());

    let soon = SystemTime::now() + Duration::from_millis(500);
    host.provider
        .set_deadline(&cx(), &request.id, Some(soon))
        .await
        .unwrap();
    let gone = async {
        loop {
            match host.provider.inspect(&cx(), &request.id).await {
                Err(e) if e.kind() == ErrorKind::NotFound => break,
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    tokio::time::timeout(SOON, gone).await.expect("it lives on");
    host.end(&[&request.id]).await;
}

#[test]
fn an_attached_sandbox_ends_with_its_owner_and_not_before() {
    let lease = Duration::from_millis(1500);
    outlive(Some(lease), 3 * lease, SOON);
}

#[test]
fn an_attached_sandbox_is_gone_within_ten_seconds_of_its_owner() {
    outlive(None, Duration::from_millis(1500), Duration::from_secs(10));
}

/// Makes an attached sandbox, looks whether it is of use after a while, and lets
/// its owner die: within this time it is gone.
fn outlive(lease: Option<Duration>, living: Duration, within: Duration) {
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap()
    };
    let outside = runtime();
    let Some(host) = outside.block_on(Host::open()) else {
        println!("not run: no docker engine");
        return;
    };
    let request = host.request(SandboxSpec::image(IMAGE).lifetime(Lifetime::Attached));
    // The owner: all it does ends with its runtime, as with a killed process.
    let owner = runtime();
    owner.block_on(async {
        let mut config = DockerConfig::new(host.state.path(), host.instance.clone());
        config = config.host(&host.engine);
        if let Some(lease) = lease {
            config = config.lease(lease);
        }
        let provider = DockerProvider::open(config).await.unwrap();
        provider.create(&cx(), &request).await.unwrap();
        tokio::time::sleep(living).await;
        let ran = run(&provider, &request.id, ExecSpec::new(["true"])).await;
        assert!(ran.unwrap().status.success());
    });
    owner.shutdown_background();
    outside.block_on(async {
        let gone = async {
            while !host.held().await.is_empty() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(within, gone)
            .await
            .expect("it lives on");
        host.end(&[&request.id]).await;
    });
}

#[tokio::test]
async fn a_paused_sandbox_stands_still_and_goes_on() {
    let host = host!();
    let id = host.sandbox(SandboxSpec::image(IMAGE)).await;
    for _ in 0..2 {
        host.provider.pause(&cx(), &id).await.unwrap();
        let seen = host.provider.inspect(&cx(), &id).await.unwrap();
        assert_eq!(seen.state, ObservedState::Paused);
    }
    let error = host.provider.usage(&cx(), &id).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
    for _ in 0..2 {
        host.provider.resume(&cx(), &id).await.unwrap();
        let seen = host.provider.inspect(&cx(), &id).await.unwrap();
        assert_eq!(seen.state, ObservedState::Running);
    }
    assert_eq!(host.sh(&id, "echo on").await.text(), "on");
    let usage = host.provider.usage(&cx(), &id).await.unwrap();
    assert!(
        usage.memory_bytes.unwrap() > 0 && usage.cpu_us.unwrap() > 0,
        "{usage:?}"
    );
    host.end(&[&id]).await;
}

#[tokio::test]
async fn one_that_was_given_another_name_is_destroyed_and_another_of_its_labels_is_not() {
    use bollard::models::ContainerCreateBody;
    use bollard::query_parameters::{
        CreateContainerOptions, RemoveContainerOptions, RenameContainerOptions,
        StartContainerOptions,
    };
    let host = host!();
    let id = host.sandbox(SandboxSpec::image(IMAGE)).await;
    let name = format!("stacyvm-{id}");
    let socket = host.engine.trim_start_matches("unix://");
    let docker = bollard::Docker::connect_with_socket(socket, 30, bollard::API_DEFAULT_VERSION);
    let docker = docker.unwrap().negotiate_version().await.unwrap();
    let seen = docker.inspect_container(&name, None).await.unwrap();
    // As of an image that was saved of it.
    let other = format!("other-{id}");
    let options = CreateContainerOptions {
        name: Some(other.clone()),
        ..CreateContainerOptions::default()
    };
    let body = ContainerCreateBody {
        image: Some(IMAGE.into()),
        cmd: Some(vec!["sleep".into(), "600".into()]),
        labels: seen.config.unwrap().labels,
        ..ContainerCreateBody::default()
    };
    docker.create_container(Some(options), body).await.unwrap();
    let none = None::<StartContainerOptions>;
    docker.start_container(&other, none).await.unwrap();
    let renamed = RenameContainerOptions {
        name: format!("renamed-{id}"),
    };
    docker.rename_container(&name, renamed).await.unwrap();

    host.provider.destroy(&cx(), &id).await.unwrap();
    let there = async |name: String| docker.inspect_container(&name, None).await.is_ok();
    let (renamed, other_lives) = (
        there(format!("renamed-{id}")).await,
        there(other.clone()).await,
    );
    let options = RemoveContainerOptions {
        force: true,
        ..RemoveContainerOptions::default()
    };
    docker
        .remove_container(&other, Some(options))
        .await
        .unwrap();
    assert!(!renamed && other_lives, "{renamed} {other_lives}");
    host.end(&[&id]).await;
}

#[tokio::test]
async fn a_read_only_root_is_read_only_and_still_of_use() {
    let host = host!();
    let mut spec = SandboxSpec::image(IMAGE);
    spec.read_only_root = true;
    let id = host.sandbox(spec).await;
    assert!(!host.sh(&id, "echo x > /etc/file").await.status.success());
    assert!(
        host.sh(&id, "echo x > /workspace/file && echo x > /tmp/file")
            .await
            .status
            .success()
    );
    host.end(&[&id]).await;
}

#[tokio::test]
async fn what_is_not_served_has_no_effect() {
    let host = host!();
    let request = host.request(SandboxSpec::image(IMAGE).network(Network::Allow(Vec::new())));
    let error = host.provider.create(&cx(), &request).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert_eq!(host.provider.capabilities().network_allow, Level::Absent);
    host.end(&[&request.id]).await;
}
