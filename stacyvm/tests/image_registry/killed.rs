//! A process that is killed at each named point of a pull, and between bytes of a
//! layer: what it leaves is swept, nothing half-made is used, and the next pull
//! succeeds.

use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use stacyvm::image::{Digest, Images, Reference};
use stacyvm::{Context, ErrorKind, faults};

use super::made::Made;
use super::server::{Server, anonymous, count};

const HOME: &str = "STACYVM_TEST_PULL_HOME";
const REFERENCE: &str = "STACYVM_TEST_PULL_REFERENCE";
const POINT: &str = "STACYVM_TEST_PULL_POINT";

/// The points that a pull of the image comes by. A star says at which pass.
const POINTS: &[&str] = &[
    "image.work.locked",
    "image.work.made",
    "image.add.begun",
    "image.layer.begun",
    "image.layer.begun*2",
    "image.blob.bytes",
    "image.blob.bytes*4",
    "image.layer.member",
    "image.layer.member*2",
    "image.layer.written",
    "image.layer.judged",
    "image.layer.judged*2",
    "image.blob.synced",
    "image.blob.named",
    "image.blob.named*3",
    "image.layer.recorded",
    "image.layer.named",
    "image.layer.named*2",
    "image.add.whole",
    "image.layers.synced",
    "image.name.written",
    "image.name.set",
];

/// How often each point comes.
fn rounds() -> usize {
    std::env::var("STACYVM_FAULT_ROUNDS").map_or(1, |text| text.parse().unwrap())
}

/// Not a test of its own: the process that is killed.
#[test]
fn entry() {
    let Ok(home) = std::env::var(HOME) else {
        return;
    };
    let reference: Reference = std::env::var(REFERENCE).unwrap().parse().unwrap();
    let images = Images::open(&Path::new(&home).join("images")).unwrap();
    if let Ok(point) = std::env::var(POINT) {
        faults::arm(&point);
    }
    images
        .pull(&Context::default(), &reference, &anonymous())
        .unwrap();
}

fn begin(home: &Path, server: &Server, point: Option<&str>) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["killed::entry", "--exact", "--nocapture"])
        .env(HOME, home)
        .env(REFERENCE, server.reference().to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if let Some(point) = point {
        command.env(POINT, point);
    }
    command.spawn().unwrap()
}

/// What the next process finds, and that it can pull.
fn look(home: &Path, server: &Server, layers: &[Vec<u8>], at: &str) {
    let path = home.join("images");
    let images = Images::open(&path).unwrap();
    assert_eq!(count(&path.join("tmp")), 0, "{at}");
    assert_eq!(images.verify(&Context::default()).unwrap(), [], "{at}");
    let name = server.reference().to_string();
    // There is the whole image or none.
    match images.find(&name) {
        Ok(image) => {
            let root = images.root(&image).unwrap();
            assert_eq!(root.lower.len(), layers.len(), "{at}");
        }
        Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{at}"),
    }
    images
        .pull(&Context::default(), &server.reference(), &anonymous())
        .unwrap();
    assert_eq!(images.verify(&Context::default()).unwrap(), [], "{at}");
    let image = images.find(&name).unwrap();
    let lower = images.root(&image).unwrap().lower;
    let is_there = |file: &str| lower.iter().any(|layer| layer.join(file).is_file());
    assert!(is_there("bin/a") && is_there("etc/b"), "{at}");
    images.remove(&name).unwrap();
    images.prune().unwrap();
    for what in ["layers", "blobs/sha256", "refs", "tmp"] {
        assert_eq!(count(&path.join(what)), 0, "{at}: {what}");
    }
}

#[test]
fn a_kill_at_any_point_of_a_pull_leaves_a_store_that_is_whole() {
    let made = Made::here();
    let server = Server::start(&made, Box::new(|_, _| false));
    for _ in 0..rounds() {
        for point in POINTS {
            let home = tempfile::tempdir().unwrap();
            let ended = begin(home.path(), &server, Some(point)).wait().unwrap();
            assert_eq!(ended.signal(), Some(9), "{point}: it was not reached");
            look(home.path(), &server, &made.layers, point);
        }
    }
    let (points, rounds) = (POINTS.len(), POINTS.len() * rounds());
    println!("host, pulls: {points} points, {rounds} rounds, 0 wrong");
}

#[test]
fn a_kill_between_the_bytes_of_a_layer_leaves_a_store_that_is_whole() {
    let made = Made::here();
    let layer = made.layers[0].clone();
    let path = format!("/blobs/{}", Digest::of(&layer));
    let (sent, half_is_there) = channel();
    let stuck = Server::start(
        &made,
        Box::new(move |request, stream| {
            if !request.path.ends_with(&path) {
                return false;
            }
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", layer.len());
            let _ = stream.write_all(head.as_bytes());
            let _ = stream.write_all(&layer[..layer.len() / 2]);
            let _ = sent.send(());
            // The rest comes when nobody listens any more.
            std::thread::sleep(Duration::from_mins(1));
            true
        }),
    );
    let home = tempfile::tempdir().unwrap();
    let mut pulling = begin(home.path(), &stuck, None);
    half_is_there
        .recv_timeout(Duration::from_mins(1))
        .expect("the layer is asked for");
    pulling.kill().unwrap();
    assert_eq!(pulling.wait().unwrap().signal(), Some(9));
    assert_ne!(
        count(&home.path().join("images/tmp")),
        0,
        "nothing to sweep"
    );
    let whole = Server::start(&made, Box::new(|_, _| false));
    look(home.path(), &whole, &made.layers, "half a layer");
}
