//! Creates from an image of the store beside creates from a root directory with
//! the same content.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use stacyvm::engine::Engine;
use stacyvm::image::{Images, ImportOptions};
use stacyvm::sandbox::spec::Lifetime;
use stacyvm::{Context, SandboxSpec};

use crate::Plan;
use crate::measures::{Outcome, engine, text};
use crate::peers::Bundle;
use crate::stats::{Samples, print_ratio, print_samples};

/// How long apart creates are, so that each finds a parked helper.
const APART: Duration = Duration::from_millis(50);

/// What one create takes, alone and with its first command.
async fn timed(engine: &Engine, source: &str) -> Result<(Duration, Duration), String> {
    tokio::time::sleep(APART).await;
    let spec = SandboxSpec::image(source)
        .memory_mib(512)
        .pids(1024)
        .lifetime(Lifetime::Attached);
    let start = Instant::now();
    let sandbox = engine.create(spec).await.map_err(text)?;
    let created = start.elapsed();
    let output = sandbox.exec(["/bin/true"]).output().await.map_err(text)?;
    let taken = start.elapsed();
    sandbox.kill().await.map_err(text)?;
    if output.status.success() {
        Ok((created, taken))
    } else {
        Err(output.status.to_string())
    }
}

/// Keeps the root directory as an image of the store.
fn import(root: &Path, state: &Path) -> Outcome {
    let archive = root.with_extension("tar");
    let packed = Command::new("tar")
        .arg("-C")
        .arg(root)
        .arg("-cf")
        .arg(&archive)
        .arg(".")
        .status()
        .map_err(text)?;
    if !packed.success() {
        return Err(format!("tar: {packed}"));
    }
    let images = Images::open(&state.join("images")).map_err(text)?;
    let source = format!("rootfs-archive:{}", archive.display());
    let source = source.parse().map_err(text)?;
    let options = ImportOptions::named("bench");
    let imported = images.import(&Context::default(), &source, &options);
    imported.map(drop).map_err(text)
}

pub(crate) async fn image(plan: &Plan) -> Outcome {
    let state = std::env::var_os("STACYVM_STATE_DIR").ok_or("STACYVM_STATE_DIR is not set")?;
    let bundle = Bundle::make()?;
    let root = bundle.path().join("rootfs");
    let engine = engine().await?;
    import(&root, Path::new(&state))?;
    let directory = root
        .to_str()
        .ok_or("the root directory's path is no text")?;
    let sources = ["bench", directory];
    for source in sources {
        timed(&engine, source).await?;
    }
    let [mut created, mut taken] = [(); 2].map(|()| [(); 2].map(|()| Samples::default()));
    for turn in 0..plan.blocks * plan.block * 2 {
        for which in [turn % 2, 1 - turn % 2] {
            let (create, all) = timed(&engine, sources[which]).await?;
            created[which].push(create);
            taken[which].push(all);
        }
    }
    let measures = [("create", created), ("create+exec", taken)];
    for (measure, [image, directory]) in &measures {
        print_samples(measure, "an image", image);
        print_samples(measure, "a root directory", directory);
        let ratio = (image.p50(), directory.p50());
        let measure = format!("{measure} of an image");
        print_ratio(&measure, "a root directory", ratio.0, ratio.1, Some(1.1));
    }
    engine.close().await.map_err(text)
}
