//! A process that is killed at each named point of an import or a removal: what
//! it leaves is swept, nothing half-made is used, and the next try succeeds.
#![cfg(all(target_os = "linux", feature = "image", feature = "faults"))]
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

#[path = "common/archive.rs"]
mod archive;

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use archive::archive;
use serde_json::json;
use stacyvm::image::{Digest, Images, ImportOptions, Platform, media};
use stacyvm::{Context, ErrorKind, faults};

const HOME: &str = "STACYVM_IMAGE_FAULT_HOME";
const DEED: &str = "STACYVM_IMAGE_FAULT_DEED";
const POINT: &str = "STACYVM_IMAGE_FAULT_POINT";

/// What a process does, and the points of it at which it is killed.
const DEEDS: &[(&str, &[&str])] = &[
    (
        "import",
        &[
            "image.work.locked",
            "image.work.made",
            "image.add.begun",
            "image.layer.begun",
            "image.layer.begun*2",
            "image.blob.bytes",
            "image.blob.bytes*2",
            "image.layer.member",
            "image.layer.member*7",
            "image.layer.written",
            "image.layer.judged",
            "image.blob.synced",
            "image.blob.named",
            "image.layer.recorded",
            "image.layer.named",
            "image.layer.named*2",
            "image.blob.synced*3",
            "image.blob.named*4",
            "image.add.whole",
            "image.layers.synced",
            "image.name.written",
            "image.name.set",
        ],
    ),
    (
        "rootfs",
        &[
            "image.rootfs.begun",
            "image.blob.bytes",
            "image.layer.member*2",
            "image.blob.named",
            "image.layer.named",
            "image.add.whole",
            "image.name.set",
        ],
    ),
    (
        "remove",
        &[
            "image.remove.unnamed",
            "image.work.made",
            "image.prune.layer",
            "image.prune.layer*2",
            "image.prune.blob",
            "image.prune.blob*3",
        ],
    ),
    ("sweep", &["image.sweep.piece", "image.sweep.piece*2"]),
];

fn parameter(name: &str) -> String {
    let value = std::env::var_os(name).and_then(|v| v.into_string().ok());
    value.unwrap_or_default()
}

/// A layout of two layers, and the archive of the first of them.
fn prepare(home: &Path) {
    let first = archive(&[
        ("bin/a", &vec![1; 900_000]),
        ("etc/b", b"b"),
        ("etc/c", b"c"),
        ("etc/d", b"d"),
    ]);
    let second = archive(&[("etc/e", b"e"), ("etc/.wh.b", b""), ("etc/c", b"other")]);
    let blobs = home.join("layout/blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let keep = |bytes: &[u8]| std::fs::write(blobs.join(Digest::of(bytes).hex()), bytes).unwrap();
    let layers = [&first, &second];
    let diff_ids: Vec<Digest> = layers.iter().map(|layer| Digest::of(layer)).collect();
    let config = json!({
        "os": "linux", "architecture": Platform::host().architecture,
        "config": {}, "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let config = config.to_string().into_bytes();
    let described: Vec<_> = layers
        .iter()
        .map(|layer| {
            keep(layer);
            json!({"mediaType": media::LAYER, "digest": Digest::of(layer), "size": layer.len()})
        })
        .collect();
    keep(&config);
    let manifest = json!({
        "schemaVersion": 2, "mediaType": media::MANIFEST, "layers": described,
        "config": {"mediaType": media::CONFIG, "digest": Digest::of(&config), "size": config.len()},
    });
    let manifest = manifest.to_string().into_bytes();
    keep(&manifest);
    let index = json!({"schemaVersion": 2, "manifests": [
        {"mediaType": media::MANIFEST, "digest": Digest::of(&manifest), "size": manifest.len()},
    ]});
    let layout = home.join("layout");
    std::fs::write(layout.join("index.json"), index.to_string()).unwrap();
    std::fs::write(
        layout.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )
    .unwrap();
    std::fs::write(home.join("rootfs.tar"), &first).unwrap();
}

fn act(home: &Path, images: &Images, deed: &str) -> stacyvm::Result<()> {
    let source = match deed {
        "remove" => return images.remove("it").map(drop),
        "sweep" => return Images::open(&home.join("images")).map(drop),
        "rootfs" => format!("rootfs-archive:{}", home.join("rootfs.tar").display()),
        _ => format!("oci:{}", home.join("layout").display()),
    };
    let options = ImportOptions::named("it");
    images
        .import(&Context::default(), &source.parse()?, &options)
        .map(drop)
}

/// Not a test of its own: the process that is killed.
#[test]
fn entry() {
    let home = parameter(HOME);
    if home.is_empty() {
        return;
    }
    let home = Path::new(&home);
    let deed = parameter(DEED);
    let images = Images::open(&home.join("images")).unwrap();
    match deed.as_str() {
        "remove" => act(home, &images, "import").unwrap(),
        "sweep" => {
            for name in ["one", "two", "three"] {
                let dead = home.join("images/tmp").join(name);
                std::fs::create_dir_all(dead.join("deep/er")).unwrap();
                std::fs::write(dead.with_extension("lock"), "").unwrap();
            }
        }
        _ => {}
    }
    faults::arm(&parameter(POINT));
    act(home, &images, &deed).unwrap();
}

fn count(path: &Path) -> usize {
    std::fs::read_dir(path).unwrap().count()
}

fn round(deed: &str, point: &str) {
    let home = tempfile::tempdir().unwrap();
    prepare(home.path());
    let killed = Command::new(std::env::current_exe().unwrap())
        .args(["entry", "--exact", "--nocapture"])
        .env(HOME, home.path())
        .env(DEED, deed)
        .env(POINT, point)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert_eq!(
        killed.signal(),
        Some(9),
        "{deed} at {point}: it was not reached"
    );

    let path = home.path().join("images");
    let images = Images::open(&path).unwrap();
    assert_eq!(count(&path.join("tmp")), 0, "{deed} at {point}");
    let damage = images.verify(&Context::default()).unwrap();
    assert_eq!(damage, [], "{deed} at {point}");
    // There is the whole image or none.
    match images.find("it") {
        Ok(image) => {
            let root = images.root(&image).unwrap();
            assert!(root.lower.iter().all(|layer| layer.join("etc").is_dir()));
        }
        Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{deed} at {point}"),
    }
    for again in ["import", "rootfs"] {
        act(home.path(), &images, again).unwrap();
        assert_eq!(images.verify(&Context::default()).unwrap(), []);
        let image = images.find("it").unwrap();
        let lowest = images.root(&image).unwrap().lower.pop().unwrap();
        assert_eq!(
            std::fs::read(lowest.join("bin/a")).unwrap(),
            vec![1; 900_000]
        );
        assert_eq!(std::fs::read(lowest.join("etc/d")).unwrap(), b"d");
    }
    images.remove("it").unwrap();
    images.prune().unwrap();
    for what in ["layers", "blobs/sha256", "refs", "tmp"] {
        assert_eq!(count(&path.join(what)), 0, "{deed} at {point}: {what}");
    }
}

#[test]
fn a_kill_at_any_point_leaves_a_store_that_is_whole() {
    let rounds = std::env::var_os("STACYVM_FAULT_ROUNDS")
        .map_or(1, |text| text.to_str().unwrap().parse().unwrap());
    let mut points = 0;
    for (deed, all) in DEEDS {
        for point in *all {
            for _ in 0..rounds {
                round(deed, point);
            }
            points += 1;
        }
    }
    println!(
        "host, images: {points} points, {} rounds, 0 wrong",
        points * rounds
    );
}

#[test]
fn every_point_of_the_store_has_a_kill() {
    let all = DEEDS.iter().flat_map(|(_, points)| *points);
    let killed: BTreeSet<&str> = all.map(|point| point.split('*').next().unwrap()).collect();
    let listed: BTreeSet<&str> = faults::IMAGE.iter().copied().collect();
    assert_eq!(killed, listed);
}
