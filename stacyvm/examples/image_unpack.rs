//! What an import takes beside `skopeo copy` and `umoci unpack` of the same
//! image, in turns, in one run. The image is made of directories of this host.
//!
//! ```sh
//! cargo run --release -p stacyvm --example image_unpack [-- ROUNDS]
//! ```
#![expect(clippy::print_stdout, reason = "what it prints is its result")]

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;
use stacyvm::Context;
use stacyvm::image::{Digest, Images, ImportOptions, Platform, media};

type Failure = Box<dyn std::error::Error>;

/// What each layer is made of, where it is there.
const LAYERS: [&[&str]; 3] = [
    &["usr/bin", "etc/ssl", "usr/share/zoneinfo"],
    &["usr/lib/python3", "usr/lib/python3.11", "usr/share/perl"],
    &["usr/share/doc", "usr/include"],
];

fn run(command: &mut Command) -> Result<Duration, Failure> {
    let start = Instant::now();
    let done = command.stdin(Stdio::null()).output()?;
    if !done.status.success() {
        let text = String::from_utf8_lossy(&done.stderr).into_owned();
        return Err(format!("{}: {text}", command.get_program().to_string_lossy()).into());
    }
    Ok(start.elapsed())
}

/// A layout with layers of gzip, as builders make them.
fn make(layout: &Path) -> Result<u64, Failure> {
    let blobs = layout.join("blobs/sha256");
    std::fs::create_dir_all(&blobs)?;
    let keep = |bytes: &[u8]| std::fs::write(blobs.join(Digest::of(bytes).hex()), bytes);
    let (mut layers, mut diff_ids, mut total) = (Vec::new(), Vec::new(), 0);
    for parts in LAYERS {
        let there = parts
            .iter()
            .filter(|part| Path::new("/").join(part).exists());
        let tar = Command::new("tar")
            .args(["--format=pax", "-C", "/", "-cf", "-"])
            .args(there)
            .stderr(Stdio::null())
            .output()?
            .stdout;
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(&tar)?;
        let blob = encoder.finish()?;
        keep(&blob)?;
        total += tar.len() as u64;
        diff_ids.push(Digest::of(&tar));
        layers.push(json!({
            "mediaType": media::LAYER_GZIP, "digest": Digest::of(&blob), "size": blob.len(),
        }));
    }
    let config = json!({
        "os": "linux", "architecture": Platform::host().architecture, "config": {},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let config = config.to_string().into_bytes();
    keep(&config)?;
    let manifest = json!({
        "schemaVersion": 2, "mediaType": media::MANIFEST, "layers": layers,
        "config": {"mediaType": media::CONFIG, "digest": Digest::of(&config), "size": config.len()},
    });
    let manifest = manifest.to_string().into_bytes();
    keep(&manifest)?;
    let index = json!({"schemaVersion": 2, "manifests": [{
        "mediaType": media::MANIFEST, "digest": Digest::of(&manifest), "size": manifest.len(),
        "annotations": {"org.opencontainers.image.ref.name": "v1"},
    }]});
    std::fs::write(layout.join("index.json"), index.to_string())?;
    std::fs::write(
        layout.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )?;
    Ok(total)
}

fn ours(layout: &Path, place: &Path) -> Result<Duration, Failure> {
    let start = Instant::now();
    let images = Images::open(&place.join("images"))?;
    let source = format!("oci:{}:v1", layout.display()).parse()?;
    let image = images.import(&Context::default(), &source, &ImportOptions::named("bench"))?;
    images.root(&image)?;
    Ok(start.elapsed())
}

fn theirs(layout: &Path, place: &Path) -> Result<(Duration, Duration), Failure> {
    let from = format!("oci:{}:v1", layout.display());
    let copied = place.join("copied");
    let to = format!("oci:{}:v1", copied.display());
    let copy = run(Command::new("skopeo").args(["--insecure-policy", "copy", "-q", &from, &to]))?;
    let image = format!("{}:v1", copied.display());
    let mut unpack = Command::new("umoci");
    unpack
        .args(["unpack", "--image", &image])
        .arg(place.join("bundle"));
    Ok((copy, run(&mut unpack)?))
}

fn median(times: &mut [Duration]) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1e3
}

fn main() -> Result<(), Failure> {
    let rounds: usize = std::env::args().nth(1).map_or(Ok(5), |text| text.parse())?;
    let place = tempfile::tempdir()?;
    let layout = place.path().join("layout");
    let bytes = make(&layout)?;
    println!("image  {} MiB in {} layers", bytes >> 20, LAYERS.len());
    let (mut own, mut copies, mut unpacks, mut sums) = (vec![], vec![], vec![], vec![]);
    for round in 0..rounds {
        // In turns, and the other one first in every second round.
        for turn in 0..2 {
            let room = tempfile::tempdir()?;
            if (round + turn) % 2 == 0 {
                own.push(ours(&layout, room.path())?);
            } else {
                match theirs(&layout, room.path()) {
                    Ok((copy, unpack)) => {
                        copies.push(copy);
                        unpacks.push(unpack);
                        sums.push(copy + unpack);
                    }
                    Err(error) => println!("blocked: {error}"),
                }
            }
        }
    }
    let own = median(&mut own);
    println!("times  import                 p50 {own:>9.1} ms  n {rounds}");
    if !sums.is_empty() {
        let (copy, unpack) = (median(&mut copies), median(&mut unpacks));
        println!("times  skopeo copy            p50 {copy:>9.1} ms  n {rounds}");
        println!("times  umoci unpack           p50 {unpack:>9.1} ms  n {rounds}");
        let ratio = own / median(&mut sums);
        let verdict = if ratio <= 1.0 { "met" } else { "MISSED" };
        println!("ratio  import / skopeo copy + umoci unpack {ratio:>7.3}  bar 1: {verdict}");
    }
    Ok(())
}
