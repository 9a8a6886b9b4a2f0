//! The Python and the Node package beside the library itself, and beside Docker's clients of
//! the same languages.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::Plan;
use crate::library::Library;
use crate::measures::{Outcome, cold, engine, text};
use crate::peers;
use crate::stats::{Samples, print_bound, print_ratio, print_samples};

/// What a call through a package may add to a command, in milliseconds.
const MORE_MS: f64 = 0.15;

/// A package as users have it, in the interpreter of its language.
struct Package {
    name: &'static str,
    /// Where `scripts/bench.sh` installed it and the peer.
    installed: PathBuf,
    interpreter: &'static str,
    /// The flag of a line of code.
    code: &'static str,
    /// Lines that do nothing, load the package, and load the peer.
    loads: [&'static str; 3],
    peer: &'static str,
    /// The most that a call without work may take.
    call_ns: f64,
    /// The most that loading it may take.
    load_ms: f64,
}

fn packages() -> Option<[Package; 2]> {
    let python = std::env::var_os("STACYVM_BENCH_PYTHON")?;
    let node = std::env::var_os("STACYVM_BENCH_NODE")?;
    Some([
        Package {
            name: "Python",
            installed: python.into(),
            interpreter: "bin/python",
            code: "-c",
            loads: ["pass", "import stacyvm", "import docker"],
            peer: "docker-py",
            call_ns: 200.0,
            load_ms: 50.0,
        },
        Package {
            name: "Node",
            installed: node.into(),
            interpreter: "node",
            code: "-e",
            loads: ["0", "require('stacyvm')", "require('dockerode')"],
            peer: "dockerode",
            call_ns: 150.0,
            load_ms: 30.0,
        },
    ])
}

impl Package {
    fn interpreter(&self) -> Command {
        // Of the installation, or of the path.
        let own = self.installed.join(self.interpreter);
        let mut command = Command::new(if own.exists() {
            own
        } else {
            self.interpreter.into()
        });
        command.env("NODE_PATH", self.installed.join("node_modules"));
        command
    }

    fn start(&self, which: &str, image: &str) -> Result<Library, String> {
        let script = match self.name {
            "Python" => "peer.py",
            _ => "peer.cjs",
        };
        let script = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("examples/bench/bindings")
            .join(script);
        let mut command = self.interpreter();
        command.arg(script).args([which, image]);
        Library::of(command)
    }

    fn subject(&self) -> String {
        format!("stacyvm for {}", self.name)
    }
}

pub(crate) async fn bindings(plan: &Plan) -> Outcome {
    let Some(packages) = packages() else {
        println!("blocked: the packages are not installed (scripts/bench.sh bindings)");
        return Ok(());
    };
    for package in &packages {
        println!("-- {}", package.subject());
        match package.start("stacyvm", "") {
            Err(why) => println!("blocked: {}: {why}", package.subject()),
            Ok(process) => embedded(plan, package, process).await?,
        }
        load(plan, package);
        if package.name == "Python" {
            large(plan, package);
        }
        match plan.docker_image.as_deref() {
            None => println!("blocked: no engine (scripts/docker-host.sh start)"),
            Some(image) => docker(plan, package, image),
        }
    }
    Ok(())
}

/// The same commands of the embedded provider, by Rust and by the package.
async fn embedded(plan: &Plan, package: &Package, mut process: Library) -> Outcome {
    let engine = engine().await?;
    let (sandbox, _) = cold(&engine).await?;
    let [mut ours, mut native, mut out, mut native_out] = [(); 4].map(|()| Samples::default());
    let [mut call, mut code, mut fresh] = [(); 3].map(|()| Samples::default());
    process.ask("code")?;
    for _ in 0..plan.blocks {
        for _ in 0..plan.block * 10 {
            ours.push(process.ask("run")?);
            let start = Instant::now();
            sandbox.exec(["/bin/true"]).output().await.map_err(text)?;
            native.push(start.elapsed());
        }
        for _ in 0..plan.block {
            code.push(process.ask("code")?);
            fresh.push(peers::time(Command::new("python3").args(["-c", "1+1"]))?);
        }
        for _ in 0..2 {
            out.push(process.ask("out")?);
            let start = Instant::now();
            let zeros = sandbox.exec(["head", "-c", "67108864", "/dev/zero"]);
            let said = zeros.output().await.map_err(text)?;
            native_out.push(start.elapsed());
            if said.stdout.len() != 64 << 20 {
                return Err("64 MiB did not come".to_owned());
            }
            call.push(process.ask("call")?);
        }
    }
    let subject = package.subject();
    let bar = package.call_ns;
    print_bound("a call without work", call.p50() * 1e6, "ns", bar, false);
    print_samples("a command", &subject, &ours);
    print_samples("a command", "stacyvm", &native);
    print_ratio("a command", "stacyvm", ours.p50(), native.p50(), None);
    let more = ours.p50() - 1.1 * native.p50();
    print_bound("a command beyond 1.1 of native", more, "ms", MORE_MS, false);
    print_samples("64 MiB out", &subject, &out);
    print_samples("64 MiB out", "stacyvm", &native_out);
    let bar = Some(1.0 / 0.7);
    print_ratio("64 MiB out", "stacyvm", out.p50(), native_out.p50(), bar);
    print_samples("run_code 1+1", &subject, &code);
    print_samples("run_code 1+1", "python3 -c", &fresh);
    let bar = Some(0.1);
    print_ratio("run_code 1+1", "python3 -c", code.p50(), fresh.p50(), bar);
    drop(process);
    sandbox.kill().await.map_err(text)?;
    Ok(())
}

/// How long the package and the peer take to load, each less what an interpreter takes to start.
fn load(plan: &Plan, package: &Package) {
    let mut times = package.loads.map(|code| (code, Samples::default()));
    for _ in 0..plan.blocks * plan.block {
        for (code, samples) in &mut times {
            match peers::time(package.interpreter().args([package.code, code])) {
                Ok(time) => samples.push(time),
                Err(why) => return println!("blocked: {code}: {why}"),
            }
        }
    }
    let [(_, start), (ours, our_times), (theirs, their_times)] = &times;
    let [mine, peer] = [our_times, their_times].map(|samples| samples.p50() - start.p50());
    print_bound(ours, mine, "ms", package.load_ms, false);
    print_ratio(ours, theirs, mine, peer, Some(1.0));
}

/// Creates of a process that has 2 GiB of memory, beside those of a small one.
fn large(plan: &Plan, package: &Package) {
    let started = package
        .start("large", "")
        .and_then(|large| Ok((large, package.start("stacyvm", "")?)));
    let (mut large, mut small) = match started {
        Ok(both) => both,
        Err(why) => return println!("blocked: a large process: {why}"),
    };
    let [mut ours, mut peer] = [(); 2].map(|()| Samples::default());
    for _ in 0..plan.blocks * plan.block {
        match (large.ask("create"), small.ask("create")) {
            (Ok(our), Ok(their)) => {
                ours.push(our);
                peer.push(their);
            }
            (Err(why), _) | (_, Err(why)) => return println!("blocked: create: {why}"),
        }
    }
    let measure = "create with a first command";
    print_samples(measure, "a process of 2 GiB", &ours);
    print_samples(measure, "a small process", &peer);
    let bar = Some(1.1);
    print_ratio(measure, "a small process", ours.p50(), peer.p50(), bar);
}

fn docker(plan: &Plan, package: &Package, image: &str) {
    let started = package
        .start("stacyvm", image)
        .and_then(|ours| Ok((ours, package.start(package.peer, image)?)));
    let (mut process, mut theirs) = match started {
        Ok(both) => both,
        Err(why) => return println!("blocked: docker: {why}"),
    };
    let [mut ours, mut peer] = [(); 2].map(|()| Samples::default());
    // In blocks, as in `exec true` of `docker`: for some milliseconds after an exec of the
    // engine's it and the runtime still clear up, on the processors that the next one needs.
    for _ in 0..plan.blocks {
        for (library, samples, times) in [
            (&mut process, &mut ours, plan.block * 10),
            (&mut theirs, &mut peer, plan.block),
        ] {
            for _ in 0..times {
                match library.ask("run") {
                    Ok(time) => samples.push(time),
                    Err(why) => return println!("blocked: docker: {why}"),
                }
            }
        }
    }
    let measure = "a command on docker/runc";
    print_samples(measure, &package.subject(), &ours);
    print_samples(measure, package.peer, &peer);
    let bar = Some(1.0 / 25.0);
    print_ratio(measure, package.peer, ours.p50(), peer.p50(), bar);
}
