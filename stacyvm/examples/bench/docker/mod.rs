//! The Docker provider beside what else drives the same engine: its own client, its
//! API without a library, and libraries of other languages.

mod load;
mod raw;
mod transfer;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use stacyvm::config::{Config, ProviderConfig};
use stacyvm::sandbox::spec::Lifetime;
use stacyvm::{Engine, Sandbox, SandboxSpec};

use self::raw::Raw;
use crate::Plan;
use crate::library::Library;
use crate::measures::{Outcome, text};
use crate::peers::{self, Blocked};
use crate::stats::{Samples, print_ratio, print_samples};

/// The libraries, in the order in which they are printed.
const LIBRARIES: [&str; 3] = ["docker-py", "dockerode", "llm-sandbox"];
/// What keeps a peer's container alive.
const SLEEP: [&str; 2] = ["sleep", "100000"];

/// One runtime of the engine, and the bars that hold for it.
struct Subject<'a> {
    engine: Engine,
    _state: tempfile::TempDir,
    image: &'a str,
    runtime: &'static str,
    /// Path of the engine's socket.
    socket: String,
    /// The most of `docker exec` that a command may take.
    exec_bar: f64,
    /// The most of `docker run` that a claim with a command may take.
    claim_bar: f64,
}

pub(crate) async fn docker(plan: &Plan) -> Outcome {
    let Some(image) = plan.docker_image.as_deref() else {
        println!("blocked: no engine (scripts/docker-host.sh start)");
        return Ok(());
    };
    let host = std::env::var_os("DOCKER_HOST").and_then(|host| host.into_string().ok());
    let host = host.unwrap_or_else(|| "unix:///var/run/docker.sock".to_owned());
    let only = std::env::var_os("STACYVM_BENCH_RUNTIME");
    for (runtime, exec_bar, claim_bar) in [("runc", 1.0 / 30.0, 1.0 / 60.0), ("runsc", 0.25, 0.05)]
    {
        if only.as_ref().is_some_and(|only| only != runtime) {
            continue;
        }
        println!("\n## runtime {runtime}");
        let opened = Subject::open(&host, image, runtime, exec_bar, claim_bar).await;
        match opened {
            Err(why) => println!("blocked: {runtime}: {why}"),
            Ok(subject) => {
                subject.create(plan).await?;
                subject.exec(plan).await?;
                subject.claim(plan).await?;
                subject.destroy(plan).await?;
                transfer::stdout(&subject).await?;
                transfer::files(&subject).await?;
                load::at_once(&subject, plan).await?;
                load::live(&subject).await?;
                subject.engine.close().await.map_err(text)?;
            }
        }
    }
    Ok(())
}

impl<'a> Subject<'a> {
    async fn open(
        host: &str,
        image: &'a str,
        runtime: &'static str,
        exec_bar: f64,
        claim_bar: f64,
    ) -> Result<Self, Blocked> {
        let socket = host.strip_prefix("unix://").ok_or("no local socket")?;
        let state = tempfile::tempdir().map_err(text)?;
        let mut config = Config::for_state_dir(state.path());
        config.default_provider = "docker".into();
        let docker = ProviderConfig {
            kind: "docker".into(),
            runtime: Some(runtime.into()),
            host: Some(host.to_owned()),
            url: None,
            certs: None,
            direct: None,
            users: None,
            exec: None,
        };
        config.providers.insert("docker".into(), docker);
        Ok(Self {
            engine: Engine::open(config).await.map_err(text)?,
            _state: state,
            image,
            runtime,
            socket: socket.to_owned(),
            exec_bar,
            claim_bar,
        })
    }

    fn spec(&self) -> SandboxSpec {
        SandboxSpec::image(self.image).lifetime(Lifetime::Attached)
    }

    async fn sandbox(&self) -> Result<Sandbox, String> {
        self.engine.create(self.spec()).await.map_err(text)
    }

    fn raw(&self) -> Result<Raw, Blocked> {
        Raw::connect(&self.socket)
    }

    /// A container of the engine's own client that sleeps.
    fn container(&self) -> Result<Container, Blocked> {
        let output = Command::new("docker")
            .args(["run", "-d", "--network", "none", "--runtime", self.runtime])
            .arg(self.image)
            .args(SLEEP)
            .stderr(Stdio::null())
            .output()
            .map_err(text)?;
        let id = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if id.is_empty() {
            return Err("docker run failed".into());
        }
        Ok(Container(id))
    }

    fn docker_run(&self) -> Result<Duration, Blocked> {
        peers::time(
            Command::new("docker")
                .args(["run", "--rm", "--network", "none", "--runtime"])
                .args([self.runtime, self.image, "true"]),
        )
    }

    /// The first command of a new sandbox.
    async fn create(&self, plan: &Plan) -> Outcome {
        let measure = "create+exec";
        let mut raw = self.raw()?;
        let mut libraries = LIBRARIES.map(|name| {
            (
                name,
                Library::start(name, self.image, self.runtime),
                Samples::default(),
            )
        });
        let [mut ours, mut run, mut raw_exec, mut raw_run] = [(); 4].map(|()| Samples::default());
        let contenders = 4 + libraries.len();
        for turn in 0..plan.blocks * plan.block / 2 {
            // The engine still takes down what ran before, so each follows each in
            // turn. There are seven, a prime: every stride reaches all of them.
            let stride = 1 + turn % (contenders - 1);
            for place in 0..contenders {
                match (turn + place * stride) % contenders {
                    0 => {
                        let start = Instant::now();
                        let sandbox = self.sandbox().await?;
                        succeeds(&sandbox).await?;
                        ours.push(start.elapsed());
                        sandbox.kill().await.map_err(text)?;
                    }
                    1 => run.push(self.docker_run()?),
                    2 => {
                        let start = Instant::now();
                        let id = raw.start(self.image, self.runtime, &SLEEP)?;
                        raw.exec(&id, &["true"])?;
                        raw_exec.push(start.elapsed());
                        raw.remove(&id)?;
                    }
                    3 => {
                        let start = Instant::now();
                        let id = raw.start(self.image, self.runtime, &["true"])?;
                        raw.wait(&id)?;
                        raw_run.push(start.elapsed());
                        raw.remove(&id)?;
                    }
                    other => {
                        let (_, library, samples) = &mut libraries[other - 4];
                        if let Ok(started) = library {
                            match started.ask("create") {
                                Ok(time) => samples.push(time),
                                Err(why) => *library = Err(why),
                            }
                        }
                    }
                }
            }
        }
        print_samples(measure, "stacyvm", &ours);
        beside(
            measure,
            &ours,
            "raw API, create+exec",
            &raw_exec,
            Some(1.05),
        );
        beside(measure, &ours, "raw API, run", &raw_run, Some(1.05));
        beside(measure, &ours, "docker run --rm", &run, Some(0.95));
        for (name, library, samples) in &libraries {
            match library {
                Ok(_) => beside(measure, &ours, name, samples, Some(1.0)),
                Err(why) => println!("blocked: {name}: {why}"),
            }
        }
        Ok(())
    }

    /// A command in a sandbox that runs.
    async fn exec(&self, plan: &Plan) -> Outcome {
        let measure = "exec true";
        let sandbox = self.sandbox().await?;
        let container = self.container()?;
        let [mut ours, mut theirs] = [(); 2].map(|()| Samples::default());
        for _ in 0..plan.blocks {
            for _ in 0..plan.block * 10 {
                let start = Instant::now();
                succeeds(&sandbox).await?;
                ours.push(start.elapsed());
            }
            for _ in 0..plan.block {
                theirs.push(peers::time(Command::new("docker").args([
                    "exec",
                    &container.0,
                    "true",
                ]))?);
            }
        }
        print_samples(measure, "stacyvm", &ours);
        beside(measure, &ours, "docker exec", &theirs, Some(self.exec_bar));
        sandbox.kill().await.map_err(text).map(drop)
    }

    /// A sandbox that waited, and its first command.
    async fn claim(&self, plan: &Plan) -> Outcome {
        let measure = "claim+exec";
        let pool = self.engine.pool(self.spec()).size(2).await.map_err(text)?;
        let [mut ours, mut theirs] = [(); 2].map(|()| Samples::default());
        for _ in 0..plan.blocks {
            for _ in 0..plan.block / 2 {
                pool.filled().await.map_err(text)?;
                tokio::time::sleep(Duration::from_millis(20)).await;
                let start = Instant::now();
                let sandbox = pool.claim().await.map_err(text)?;
                succeeds(&sandbox).await?;
                ours.push(start.elapsed());
                sandbox.kill().await.map_err(text)?;
                pool.filled().await.map_err(text)?;
                theirs.push(self.docker_run()?);
            }
        }
        let stats = pool.stats();
        if stats.cold > 0 || stats.failed > 0 {
            return Err(format!("not all claims were warm: {stats:?}"));
        }
        print_samples(measure, "stacyvm", &ours);
        beside(
            measure,
            &ours,
            "docker run --rm",
            &theirs,
            Some(self.claim_bar),
        );
        pool.drain().await.map_err(text)
    }

    /// The end of a sandbox, until nothing is left of it.
    async fn destroy(&self, plan: &Plan) -> Outcome {
        let measure = "destroy";
        let [mut ours, mut theirs] = [(); 2].map(|()| Samples::default());
        for _ in 0..plan.blocks {
            for _ in 0..plan.block / 2 {
                let sandbox = self.sandbox().await?;
                succeeds(&sandbox).await?;
                let start = Instant::now();
                sandbox.kill().await.map_err(text)?;
                ours.push(start.elapsed());
                let container = self.container()?;
                theirs.push(container.remove()?);
            }
        }
        print_samples(measure, "stacyvm", &ours);
        beside(measure, &ours, "docker rm -f", &theirs, Some(1.05));
        Ok(())
    }
}

async fn succeeds(sandbox: &Sandbox) -> Outcome {
    let output = sandbox.exec(["/bin/true"]).output().await.map_err(text)?;
    if output.status.success() {
        Ok(())
    } else {
        Err(output.status.to_string())
    }
}

fn beside(measure: &str, ours: &Samples, peer: &str, theirs: &Samples, bar: Option<f64>) {
    print_samples(measure, peer, theirs);
    print_ratio(measure, peer, ours.p50(), theirs.p50(), bar);
}

/// A peer's container, which goes with this value.
struct Container(String);

impl Container {
    fn remove(self) -> Result<Duration, Blocked> {
        let taken = peers::time(Command::new("docker").args(["rm", "-f", &self.0]));
        std::mem::forget(self);
        taken
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = peers::time(Command::new("docker").args(["rm", "-f", &self.0]));
    }
}
