//! The Python package beside the library itself, and beside docker-py.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::Plan;
use crate::library::Library;
use crate::measures::{Outcome, cold, engine, text};
use crate::peers;
use crate::stats::{Samples, print_bound, print_ratio, print_samples};

/// What a call through Python may add to a command, in milliseconds.
const MORE_MS: f64 = 0.15;

pub(crate) async fn bindings(plan: &Plan) -> Outcome {
    let Some(python) = std::env::var_os("STACYVM_BENCH_PYTHON").map(PathBuf::from) else {
        println!("blocked: the Python package is not installed (scripts/bench.sh bindings)");
        return Ok(());
    };
    match peer(&python, "stacyvm", "") {
        Err(why) => println!("blocked: stacyvm for Python: {why}"),
        Ok(package) => embedded(plan, package).await?,
    }
    import(plan, &python);
    match plan.docker_image.as_deref() {
        None => println!("blocked: no engine (scripts/docker-host.sh start)"),
        Some(image) => docker(plan, &python, image),
    }
    Ok(())
}

fn peer(python: &Path, which: &str, image: &str) -> Result<Library, String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/bench/bindings/peer.py");
    let mut command = Command::new(python);
    command.arg(script).args([which, image]);
    Library::of(command)
}

/// The same commands of the embedded provider, by Rust and by Python.
async fn embedded(plan: &Plan, mut package: Library) -> Outcome {
    let engine = engine().await?;
    let (sandbox, _) = cold(&engine).await?;
    let [mut ours, mut native, mut out, mut native_out] = [(); 4].map(|()| Samples::default());
    let [mut call, mut code, mut fresh] = [(); 3].map(|()| Samples::default());
    package.ask("code")?;
    for _ in 0..plan.blocks {
        for _ in 0..plan.block * 10 {
            ours.push(package.ask("run")?);
            let start = Instant::now();
            sandbox.exec(["/bin/true"]).output().await.map_err(text)?;
            native.push(start.elapsed());
        }
        for _ in 0..plan.block {
            code.push(package.ask("code")?);
            fresh.push(peers::time(Command::new("python3").args(["-c", "1+1"]))?);
        }
        for _ in 0..2 {
            out.push(package.ask("out")?);
            let start = Instant::now();
            let zeros = sandbox.exec(["head", "-c", "67108864", "/dev/zero"]);
            let said = zeros.output().await.map_err(text)?;
            native_out.push(start.elapsed());
            if said.stdout.len() != 64 << 20 {
                return Err("64 MiB did not come".to_owned());
            }
            call.push(package.ask("call")?);
        }
    }
    print_bound("a call without work", call.p50() * 1e6, "ns", 200.0, false);
    print_samples("commands.run", "stacyvm for Python", &ours);
    print_samples("commands.run", "stacyvm", &native);
    print_ratio("commands.run", "stacyvm", ours.p50(), native.p50(), None);
    print_bound(
        "commands.run beyond 1.1 of native",
        ours.p50() - 1.1 * native.p50(),
        "ms",
        MORE_MS,
        false,
    );
    print_samples("64 MiB out", "stacyvm for Python", &out);
    print_samples("64 MiB out", "stacyvm", &native_out);
    print_ratio(
        "64 MiB out",
        "stacyvm",
        out.p50(),
        native_out.p50(),
        Some(1.0 / 0.7),
    );
    print_samples("run_code 1+1", "stacyvm for Python", &code);
    print_samples("run_code 1+1", "python3 -c", &fresh);
    print_ratio(
        "run_code 1+1",
        "python3 -c",
        code.p50(),
        fresh.p50(),
        Some(0.1),
    );
    drop(package);
    sandbox.kill().await.map_err(text)?;
    Ok(())
}

/// Imports, each less what an interpreter takes to start.
fn import(plan: &Plan, python: &Path) {
    let mut times =
        ["pass", "import stacyvm", "import docker"].map(|code| (code, Samples::default()));
    for _ in 0..plan.blocks * plan.block {
        for (code, samples) in &mut times {
            match peers::time(Command::new(python).args(["-c", code])) {
                Ok(time) => samples.push(time),
                Err(why) => return println!("blocked: {code}: {why}"),
            }
        }
    }
    let [(_, start), (_, ours), (_, docker)] = &times;
    let [ours, docker] = [ours, docker].map(|samples| samples.p50() - start.p50());
    print_bound("import stacyvm", ours, "ms", 50.0, false);
    print_ratio("import stacyvm", "import docker", ours, docker, Some(1.0));
}

fn docker(plan: &Plan, python: &Path, image: &str) {
    let started = peer(python, "stacyvm", image)
        .and_then(|ours| Ok((ours, peer(python, "docker-py", image)?)));
    let (mut package, mut theirs) = match started {
        Ok(both) => both,
        Err(why) => return println!("blocked: docker: {why}"),
    };
    let [mut ours, mut peer] = [(); 2].map(|()| Samples::default());
    for _ in 0..plan.blocks * plan.block {
        match (package.ask("run"), theirs.ask("run")) {
            (Ok(our), Ok(their)) => {
                ours.push(our);
                peer.push(their);
            }
            (Err(why), _) | (_, Err(why)) => return println!("blocked: docker: {why}"),
        }
    }
    let measure = "commands.run on docker/runc";
    print_samples(measure, "stacyvm for Python", &ours);
    print_samples(measure, "docker-py exec_run", &peer);
    print_ratio(
        measure,
        "docker-py exec_run",
        ours.p50(),
        peer.p50(),
        Some(1.0 / 25.0),
    );
}
