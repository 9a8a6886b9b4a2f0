//! One function for each row of the table.

use std::future::Future;
use std::pin::Pin;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use stacyvm::engine::Engine;
use stacyvm::sandbox::spec::Lifetime;
use stacyvm::{ExecEvent, Sandbox, SandboxSpec};

use crate::peers::{self, Blocked, Bundle};
use crate::stats::{Samples, print_bound, print_ratio, print_samples};
use crate::{Plan, memory};

pub(crate) type Outcome = Result<(), String>;
type Measure = fn(&Plan) -> Pin<Box<dyn Future<Output = Outcome> + '_>>;

pub(crate) const ALL: &[(&str, Measure)] = &[
    ("create", |plan| Box::pin(create(plan))),
    #[cfg(feature = "image")]
    ("image", |plan| Box::pin(crate::image::image(plan))),
    ("pool", |plan| Box::pin(crate::pool::pool(plan))),
    ("exec", |plan| Box::pin(exec(plan))),
    ("stream", |plan| Box::pin(stream(plan))),
    ("idle", |plan| Box::pin(idle(plan))),
    ("fork", |plan| Box::pin(fork(plan))),
    ("destroy", |plan| Box::pin(destroy(plan))),
    ("crowd", |plan| Box::pin(crate::crowd::crowd(plan))),
    ("abuse", |plan| Box::pin(crate::abuse::abuse(plan))),
    #[cfg(all(feature = "http", feature = "server"))]
    ("wire", |plan| Box::pin(crate::wire::wire(plan))),
    #[cfg(feature = "docker")]
    ("docker", |plan| Box::pin(crate::docker::docker(plan))),
    ("bindings", |plan| Box::pin(crate::bindings::bindings(plan))),
    ("rootless", |plan| {
        Box::pin(async { crate::rootless::rootless(plan) })
    }),
];

pub(crate) fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

pub(crate) async fn engine() -> Result<Engine, String> {
    Engine::open_default().await.map_err(text)
}

pub(crate) fn spec() -> SandboxSpec {
    SandboxSpec::host()
        .memory_mib(512)
        .pids(1024)
        .lifetime(Lifetime::Attached)
}

/// Create, and the decoded result of the first command.
pub(crate) async fn cold(engine: &Engine) -> Result<(Sandbox, Duration), String> {
    let start = Instant::now();
    let sandbox = engine.create(spec()).await.map_err(text)?;
    let output = sandbox.exec(["/bin/true"]).output().await.map_err(text)?;
    let taken = start.elapsed();
    if output.status.success() {
        Ok((sandbox, taken))
    } else {
        Err(output.status.to_string())
    }
}

pub(crate) async fn fill(engine: &Engine, count: usize) -> Result<Vec<Sandbox>, String> {
    let mut live = Vec::new();
    while live.len() < count {
        live.push(cold(engine).await?.0);
    }
    Ok(live)
}

pub(crate) async fn empty(live: Vec<Sandbox>) -> Outcome {
    for sandbox in live {
        sandbox.kill().await.map_err(text)?;
    }
    Ok(())
}

/// A peer that is measured beside us, until it cannot be.
struct Peer<'a> {
    name: &'static str,
    bar: f64,
    run: Box<dyn FnMut(usize) -> Result<Duration, Blocked> + 'a>,
    samples: Samples,
    blocked: Option<Blocked>,
}

async fn create(plan: &Plan) -> Outcome {
    let engine = engine().await?;
    let bundle = Bundle::make();
    for gap in [Duration::ZERO, Duration::from_millis(100)] {
        let label = if gap.is_zero() {
            "back to back"
        } else {
            "100 ms apart"
        };
        let oci = |runtime: &'static str| {
            let bundle = bundle.as_ref();
            move |turn: usize| {
                let bundle = bundle.map_err(Clone::clone)?;
                peers::oci_run(
                    runtime,
                    bundle,
                    &format!("bench-{}-{turn}", std::process::id()),
                )
            }
        };
        let mut peers = vec![
            peer("runc run", 0.35, oci("runc")),
            peer("crun run", 0.7, oci("crun")),
            peer("bwrap --unshare-all", 1.4, |_| peers::bwrap()),
        ];
        if let Some(image) = &plan.docker_image {
            peers.push(peer("docker run", 0.05, move |_| peers::docker_run(image)));
        } else {
            println!("blocked: docker run: no engine (scripts/bench.sh starts one)");
        }
        for count in plan.live.iter().filter(|n| gap.is_zero() || **n == 1) {
            let live = fill(&engine, count - 1).await?;
            let mut ours = Samples::default();
            for block in 0..plan.blocks {
                for turn in 0..=peers.len() {
                    let who = if block % 2 == 0 {
                        turn
                    } else {
                        peers.len() - turn
                    };
                    for sample in 0..plan.block {
                        tokio::time::sleep(gap).await;
                        if who == 0 {
                            let (sandbox, taken) = cold(&engine).await?;
                            ours.push(taken);
                            sandbox.kill().await.map_err(text)?;
                        } else {
                            peers[who - 1].take(block * plan.block + sample);
                        }
                    }
                }
            }
            let name = format!("create+exec, {label}, {count} live");
            print_samples(&name, "stacyvm", &ours);
            for peer in &mut peers {
                peer.print(&name, &ours);
                peer.samples = Samples::default();
            }
            empty(live).await?;
        }
    }
    engine.close().await.map_err(text)?;
    Ok(())
}

fn peer<'a>(
    name: &'static str,
    bar: f64,
    run: impl FnMut(usize) -> Result<Duration, Blocked> + 'a,
) -> Peer<'a> {
    Peer {
        name,
        bar,
        run: Box::new(run),
        samples: Samples::default(),
        blocked: None,
    }
}

impl Peer<'_> {
    fn take(&mut self, turn: usize) {
        if self.blocked.is_none() {
            match (self.run)(turn) {
                Ok(time) => self.samples.push(time),
                Err(why) => self.blocked = Some(why),
            }
        }
    }

    fn print(&self, measure: &str, ours: &Samples) {
        if let Some(why) = &self.blocked {
            println!("blocked: {}: {why}", self.name);
            return;
        }
        print_samples(measure, self.name, &self.samples);
        print_ratio(
            measure,
            self.name,
            ours.p50(),
            self.samples.p50(),
            Some(self.bar),
        );
    }
}

async fn exec(plan: &Plan) -> Outcome {
    let engine = engine().await?;
    let container = Running::start("bench-exec").ok();
    let docker = plan
        .docker_image
        .as_deref()
        .and_then(|image| DockerRunning::start(image).ok());
    for count in &plan.live {
        let live = fill(&engine, *count).await?;
        let sandbox = &live[0];
        let (mut ours, mut docker_exec, mut runc_exec, mut nsenter) = (
            Samples::default(),
            Samples::default(),
            Samples::default(),
            Samples::default(),
        );
        for _ in 0..plan.blocks {
            for _ in 0..plan.block * 20 {
                let start = Instant::now();
                let output = sandbox.exec(["/bin/true"]).output().await.map_err(text)?;
                ours.push(start.elapsed());
                if !output.status.success() {
                    return Err(output.status.to_string());
                }
            }
            for _ in 0..plan.block {
                if let Some(docker) = &docker {
                    docker_exec.push(peers::time(
                        Command::new("docker").args(["exec", &docker.0, "true"]),
                    )?);
                }
                if let Some(container) = &container {
                    runc_exec.push(peers::time(Command::new("runc").args([
                        "exec",
                        &container.name,
                        "/bin/true",
                    ]))?);
                    let pid = container.pid.to_string();
                    nsenter.push(peers::time(Command::new("nsenter").args([
                        "-t",
                        &pid,
                        "-a",
                        "/bin/true",
                    ]))?);
                }
            }
        }
        let name = format!("exec /bin/true, {count} live");
        print_samples(&name, "stacyvm", &ours);
        print_bound(&format!("{name}, p50"), ours.p50(), "ms", 2.0, false);
        print_bound(
            &format!("{name}, p99"),
            ours.quantile(0.99),
            "ms",
            10.0,
            false,
        );
        for (peer, samples, bar) in [
            ("docker exec", &docker_exec, Some(1.0 / 30.0)),
            ("runc exec", &runc_exec, None),
            ("nsenter", &nsenter, None),
        ] {
            if samples.len() == 0 {
                println!("blocked: {peer}");
                continue;
            }
            print_samples(&name, peer, samples);
            print_ratio(&name, peer, ours.p50(), samples.p50(), bar);
        }
        empty(live).await?;
    }
    engine.close().await.map_err(text)?;
    Ok(())
}

const GIB: u64 = 1 << 30;
const GIB_ARGV: [&str; 4] = ["dd", "if=/dev/zero", "bs=1M", "count=1024"];

async fn stream(plan: &Plan) -> Outcome {
    let engine = engine().await?;
    let sandbox = engine.create(spec()).await.map_err(text)?;
    let mut ours = Samples::default();
    let mut docker = Samples::default();
    let container = plan
        .docker_image
        .as_deref()
        .and_then(|image| DockerRunning::start(image).ok());
    for _ in 0..5 {
        let start = Instant::now();
        let mut process = sandbox.exec(GIB_ARGV).start().await.map_err(text)?;
        let mut bytes = 0;
        while let Some(event) = process.next_event().await.map_err(text)? {
            match event {
                ExecEvent::Stdout(chunk) => bytes += chunk.len() as u64,
                ExecEvent::Exited(status) if !status.success() => return Err(status.to_string()),
                _ => {}
            }
        }
        ours.push(start.elapsed());
        if bytes != GIB {
            return Err(format!("{bytes} bytes came instead of {GIB}"));
        }
        if let Some(container) = &container {
            docker.push(peers::time(
                Command::new("docker")
                    .args(["exec", &container.0])
                    .args(GIB_ARGV),
            )?);
        }
    }
    print_samples("1 GiB of stdout", "stacyvm", &ours);
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    print_bound("stdout", GIB as f64 / 1e6 / ours.p50(), "GB/s", 1.0, true);
    if docker.len() > 0 {
        print_samples("1 GiB of stdout", "docker exec", &docker);
        print_ratio(
            "1 GiB of stdout",
            "docker exec",
            ours.p50(),
            docker.p50(),
            None,
        );
    }
    let before = memory::own_resident_kib();
    let stalled = sandbox.exec(["yes"]).start().await.map_err(text)?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let grown = memory::own_resident_kib().saturating_sub(before);
    drop(stalled);
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    print_bound(
        "host memory, stalled reader",
        grown as f64 / 1024.0,
        "MiB",
        16.0,
        false,
    );
    sandbox.kill().await.map_err(text)?;
    engine.close().await.map_err(text)?;
    Ok(())
}

async fn idle(plan: &Plan) -> Outcome {
    let engine = engine().await?;
    let most = plan.live.iter().copied().max().unwrap_or(32);
    let mut live = fill(&engine, 1).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let sum = |title: &str| {
        memory::processes(title)
            .into_iter()
            .map(memory::proportional_kib)
            .sum::<u64>()
    };
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    {
        let helpers = memory::processes("stacyvm-helper").len() as f64;
        let agents = memory::processes("stacyvm-agent").len() as f64;
        println!("note   {helpers} helpers and {agents} agents, parked ones included");
        let each = sum("stacyvm-helper") as f64 / helpers + sum("stacyvm-agent") as f64 / agents;
        print_bound(
            "idle sandbox, helper and agent",
            each / 1024.0,
            "MiB",
            2.0,
            false,
        );
        let shims = memory::processes("containerd-shim");
        if let Some(shim) = shims.first() {
            println!(
                "note   containerd-shim: {:.1} MiB",
                memory::proportional_kib(*shim) as f64 / 1024.0
            );
        }
        let before = memory::own_resident_kib();
        live.extend(fill(&engine, most).await?);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let grown = memory::own_resident_kib().saturating_sub(before);
        let measure = format!("idle sandbox in the host process, {most}");
        print_bound(&measure, grown as f64 / most as f64, "KiB", 64.0, false);
    }
    empty(live).await?;
    engine.close().await.map_err(text)?;
    Ok(())
}

/// Create from a host process with a gibibyte in memory.
async fn fork(plan: &Plan) -> Outcome {
    let engine = engine().await?;
    let (mut small, mut large) = (Samples::default(), Samples::default());
    for block in 0..plan.blocks * 2 {
        let ballast = (block % 2 == 1).then(|| vec![1_u8; 1 << 30]);
        for _ in 0..plan.block {
            let (sandbox, taken) = cold(&engine).await?;
            if ballast.is_some() {
                large.push(taken);
            } else {
                small.push(taken);
            }
            sandbox.kill().await.map_err(text)?;
        }
        drop(std::hint::black_box(ballast));
    }
    print_samples("create, 1 GiB host process", "stacyvm", &large);
    print_ratio(
        "create, 1 GiB host process",
        "a small one",
        large.p50(),
        small.p50(),
        Some(1.1),
    );
    engine.close().await.map_err(text)?;
    Ok(())
}

async fn destroy(plan: &Plan) -> Outcome {
    let engine = engine().await?;
    let (mut ours, mut runc) = (Samples::default(), Samples::default());
    for _ in 0..plan.blocks {
        for _ in 0..plan.block {
            let (sandbox, _) = cold(&engine).await?;
            let start = Instant::now();
            sandbox.kill().await.map_err(text)?;
            ours.push(start.elapsed());
        }
        for _ in 0..plan.block {
            let running = Running::start("bench-destroy")?;
            let name = running.name.clone();
            runc.push(peers::time(
                Command::new("runc").args(["delete", "-f", &name]),
            )?);
        }
    }
    print_samples("destroy", "stacyvm", &ours);
    print_samples("destroy", "runc delete -f", &runc);
    print_ratio(
        "destroy",
        "runc delete -f",
        ours.p50(),
        runc.p50(),
        Some(1.0),
    );
    engine.close().await.map_err(text)?;
    Ok(())
}

/// A runc container that sleeps.
struct Running {
    name: String,
    pid: u32,
    _bundle: Bundle,
}

impl Running {
    fn start(name: &str) -> Result<Self, Blocked> {
        let bundle = Bundle::make()?;
        bundle.set_command("[\"/bin/sleep\", \"100000\"]")?;
        let name = format!("{name}-{}", std::process::id());
        let pid_file = bundle.path().join("pid");
        peers::time(
            Command::new("runc")
                .args(["run", "--detach", "--bundle"])
                .arg(bundle.path())
                .arg("--pid-file")
                .arg(&pid_file)
                .arg(&name),
        )?;
        let pid = std::fs::read_to_string(pid_file)
            .map_err(text)?
            .trim()
            .parse()
            .map_err(text)?;
        Ok(Self {
            name,
            pid,
            _bundle: bundle,
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Already gone where its removal was measured.
        let _ = peers::time(Command::new("runc").args(["delete", "-f", &self.name]));
    }
}

/// A Docker container that sleeps.
struct DockerRunning(String);

impl DockerRunning {
    fn start(image: &str) -> Result<Self, Blocked> {
        let output = Command::new("docker")
            .args([
                "run",
                "-d",
                "--rm",
                "--network",
                "none",
                image,
                "sleep",
                "100000",
            ])
            .stderr(Stdio::null())
            .output()
            .map_err(text)?;
        let id = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if id.is_empty() {
            Err("docker run failed".into())
        } else {
            Ok(Self(id))
        }
    }
}

impl Drop for DockerRunning {
    fn drop(&mut self) {
        // A container that is already gone needs no removal.
        let _ = peers::time(Command::new("docker").args(["rm", "-f", &self.0]));
    }
}
