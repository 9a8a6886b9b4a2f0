//! Docker without an agent: commands by the engine's own exec, on the engine that
//! `STACYVM_TEST_DOCKER_HOST` names (`scripts/docker-host.sh start`).
#![cfg(all(feature = "docker", feature = "sqlite", unix))]
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that panics has failed, one that cannot run says why, and waits for what takes its time"
)]

use std::process::Command;
use std::time::{Duration, Instant};

use stacyvm::config::{Config, ExecBy};
use stacyvm::engine::{Engine, Filter};
use stacyvm::provider::{KillScope, Level, Signals};
use stacyvm::sandbox::exec::TtySize;
use stacyvm::sandbox::spec::Lifetime;
use stacyvm::{ErrorKind, ExitStatus, Sandbox, SandboxSpec};

const IMAGE: &str = "stacyvm-test/busybox";

struct Host {
    address: String,
    engine: Engine,
    _state: tempfile::TempDir,
}

impl Host {
    async fn open(runtime: Option<&str>) -> Option<stacyvm::Result<Self>> {
        let address = std::env::var_os("STACYVM_TEST_DOCKER_HOST");
        let Some(address) = address.and_then(|address| address.into_string().ok()) else {
            println!("not run: no docker engine");
            return None;
        };
        let state = tempfile::tempdir().unwrap();
        let mut config = Config::for_state_dir(state.path().join("state"));
        config.parked_helpers = 0;
        "docker".clone_into(&mut config.default_provider);
        let docker = config.providers.get_mut("docker").unwrap();
        docker.host = Some(address.clone());
        docker.exec = Some(ExecBy::Engine);
        docker.runtime = runtime.map(str::to_owned);
        Some(match Engine::open(config).await {
            Ok(engine) => Ok(Self {
                address,
                engine,
                _state: state,
            }),
            Err(error) => Err(error),
        })
    }

    async fn sandbox(&self, spec: SandboxSpec) -> Sandbox {
        let spec = spec.lifetime(Lifetime::Detached);
        self.engine.create(spec).await.unwrap()
    }

    fn docker(&self, arguments: &[&str]) -> String {
        let mut docker = Command::new("docker");
        docker.arg("-H").arg(&self.address).args(arguments);
        let output = docker.output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Whether the engine still has the container of a sandbox.
    fn has(&self, sandbox: &Sandbox) -> bool {
        let name = format!("name=stacyvm-{}", sandbox.id());
        !self
            .docker(&["ps", "--all", "--quiet", "--filter", &name])
            .is_empty()
    }

    async fn ends(&self, sandbox: &Sandbox) {
        for _ in 0..600 {
            if !self.has(sandbox) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("its container is still there");
    }
}

async fn host() -> Option<Host> {
    Some(Host::open(None).await?.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_are_the_engines_own_and_keep_to_the_contract() {
    let Some(host) = host().await else { return };
    let sandbox = host
        .sandbox(SandboxSpec::image(IMAGE).env("A", "of all"))
        .await;
    let seen = host.docker(&["inspect", "--format", "{{.HostConfig.CapAdd}} {{.HostConfig.CapDrop}} {{.HostConfig.NetworkMode}} {{.Config.User}}", &format!("stacyvm-{}", sandbox.id())]);
    assert_eq!(seen, "[] [ALL] none 1000:1000");

    let line = "id -u; pwd; echo $A $B; touch made && echo wrote; echo bad >&2; exit 7";
    let out = sandbox
        .shell(line)
        .env("B", "of it")
        .output()
        .await
        .unwrap();
    assert_eq!(out.status, ExitStatus::Code { code: 7 });
    assert_eq!(out.stdout_text(), "1000\n/workspace\nof all of it\nwrote\n");
    assert_eq!(out.stderr_text(), "bad\n");

    let out = sandbox
        .exec(["id", "-u"])
        .user("root")
        .workdir("/tmp")
        .output()
        .await
        .unwrap();
    assert_eq!(out.stdout_text(), "0\n");
    let bytes: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
    let out = sandbox
        .exec(["cat"])
        .stdin(bytes.clone())
        .output()
        .await
        .unwrap();
    assert!(out.stdout == bytes, "{} bytes came back", out.stdout.len());
    let out = sandbox.exec(["cat"]).output().await.unwrap();
    assert_eq!((out.status.code(), out.stdout.len()), (Some(0), 0));
    let out = sandbox
        .shell("head -c 20000000 /dev/zero")
        .output()
        .await
        .unwrap();
    assert_eq!(out.stdout.len(), 20_000_000);

    // Its first process ends it, and what it left keeps nobody waiting.
    let begun = Instant::now();
    let out = sandbox
        .shell("sleep 60 & echo begun")
        .output()
        .await
        .unwrap();
    assert_eq!(
        (out.status.code(), &out.stdout_text()[..]),
        (Some(0), "begun\n")
    );
    assert!(begun.elapsed() < Duration::from_secs(30));

    let size = TtySize {
        rows: 7,
        columns: 77,
    };
    let out = sandbox
        .shell("sleep 0.2; stty size")
        .tty(size)
        .output()
        .await
        .unwrap();
    assert_eq!(out.stdout_text().trim(), "7 77");
    sandbox.kill().await.unwrap();
    assert!(!host.has(&sandbox));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_never_started_is_an_error_and_no_exit() {
    let Some(host) = host().await else { return };
    let sandbox = host.sandbox(SandboxSpec::image(IMAGE)).await;
    let nobody = sandbox
        .exec(["no-such-command"])
        .output()
        .await
        .unwrap_err();
    assert_eq!(nobody.kind(), ErrorKind::CommandNotFound, "{nobody:?}");
    let text = sandbox.exec(["/etc/passwd"]).output().await.unwrap_err();
    assert_eq!(text.kind(), ErrorKind::CommandNotExecutable, "{text:?}");
    let lost = sandbox
        .exec(["no-such-command"])
        .user("nobody-here")
        .output()
        .await
        .unwrap_err();
    assert_eq!(lost.fact("field"), Some("user"), "{lost:?}");
    // A command that says so of itself has an exit.
    let out = sandbox.shell("exit 127").output().await.unwrap();
    assert_eq!(out.status.code(), Some(127));
    sandbox.kill().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_is_ended_takes_the_sandbox_with_it() {
    let Some(host) = host().await else { return };
    let forks = "(setsid sleep 600 &) ; trap '' TERM; sleep 600";

    let sandbox = host.sandbox(SandboxSpec::image(IMAGE)).await;
    let out = sandbox
        .shell(forks)
        .timeout(Duration::from_millis(500))
        .output()
        .await
        .unwrap();
    let ended = ExitStatus::TimedOut {
        sandbox_ended: true,
    };
    assert_eq!(out.status, ended);
    assert!(!host.has(&sandbox));

    let sandbox = host.sandbox(SandboxSpec::image(IMAGE)).await;
    let mut process = sandbox.shell(forks).start().await.unwrap();
    process.kill().await.unwrap();
    let ended = ExitStatus::Cancelled {
        sandbox_ended: true,
    };
    assert_eq!(process.wait().await.unwrap(), ended);
    assert!(!host.has(&sandbox));

    let sandbox = host.sandbox(SandboxSpec::image(IMAGE)).await;
    drop(sandbox.shell(forks).start().await.unwrap());
    host.ends(&sandbox).await;

    let sandbox = host.sandbox(SandboxSpec::image(IMAGE)).await;
    let mut process = sandbox.shell(forks).start().await.unwrap();
    host.docker(&["rm", "--force", &format!("stacyvm-{}", sandbox.id())]);
    assert_eq!(process.wait().await.unwrap(), ExitStatus::SandboxGone);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_an_agent_could_do_is_not_claimed_and_refused() {
    let Some(host) = host().await else { return };
    let sandbox = host.sandbox(SandboxSpec::image(IMAGE)).await;
    let claims = sandbox.capabilities().unwrap();
    assert_eq!(
        (claims.kill_scope, claims.signals),
        (KillScope::Tree, Signals::Kill)
    );
    assert_eq!(claims.ttl, Level::BestEffort);
    let absent = [
        claims.exec_background,
        claims.reattach_output,
        claims.files,
        claims.file_watch,
        claims.file_tar,
        claims.dial,
        claims.listen,
        claims.attached_lifetime,
        claims.claim,
        claims.processes,
        claims.usage,
        claims.snapshot_disk,
        claims.mount_host,
        claims.mount_volume,
    ];
    assert!(!absent.contains(&true), "{claims:?}");
    let unsupported =
        |error: stacyvm::Error| assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
    unsupported(sandbox.files().read("/etc/passwd").await.unwrap_err());
    unsupported(
        sandbox
            .exec(["true"])
            .background()
            .start()
            .await
            .unwrap_err(),
    );
    let process = sandbox.exec(["sleep", "5"]).start().await.unwrap();
    unsupported(
        process
            .signal(15, stacyvm::SignalScope::Tree)
            .await
            .unwrap_err(),
    );
    drop(process);
    let spec = SandboxSpec::image(IMAGE).lifetime(Lifetime::Attached);
    unsupported(host.engine.create(spec).await.unwrap_err());
    host.ends(&sandbox).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_ends_without_a_host_and_needs_a_program_that_holds_it() {
    let Some(host) = host().await else { return };
    let sandbox = host
        .sandbox(SandboxSpec::image(IMAGE).ttl(Duration::from_secs(2)))
        .await;
    host.ends(&sandbox).await;
    host.engine.reconcile().await.unwrap();
    let left = host.engine.list(Filter::default()).await.unwrap();
    assert!(left.is_empty(), "{left:?}");

    let empty = "stacyvm-test/empty-of-engine-exec";
    let import = format!(
        "tar c --files-from /dev/null | docker -H '{}' import - {empty}",
        host.address
    );
    assert!(
        Command::new("sh")
            .args(["-c", &import])
            .output()
            .unwrap()
            .status
            .success()
    );
    let spec = SandboxSpec::image(empty).lifetime(Lifetime::Detached);
    let error = host.engine.create(spec).await.unwrap_err();
    host.docker(&["rmi", "--force", empty]);
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
    assert!(error.message().contains("`sleep`"), "{error}");
    let label = "label=stacyvm.instance";
    let format = "{{.Image}}";
    let left = host.docker(&["ps", "--all", "--filter", label, "--format", format]);
    assert!(!left.contains(empty), "{left}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kernel_of_its_own_is_refused_as_nobody_could_check_it() {
    let Some(opened) = Host::open(Some("runsc")).await else {
        return;
    };
    let opened = match opened {
        Ok(host) => host
            .engine
            .create(SandboxSpec::image(IMAGE).lifetime(Lifetime::Detached))
            .await
            .map(drop),
        Err(error) => Err(error),
    };
    let error = opened.unwrap_err();
    if error.fact("field") == Some("docker.runtime") {
        println!("not run: no gVisor on this engine");
        return;
    }
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
    assert_eq!(error.fact("field"), Some("docker.exec"), "{error:?}");
}
