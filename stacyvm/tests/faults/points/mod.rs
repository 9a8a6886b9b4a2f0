//! Every named point: whoever is killed there, or whatever fills up, the next
//! start finds one sandbox that works or none, and nothing else is left. What
//! only looks like ours is not touched, and neither is another engine's.
//!
//! Each point comes once, in an order by the seed; `STACYVM_FAULT_ROUNDS` says
//! how often else.

mod decoys;
mod host;
mod round;

use std::collections::BTreeSet;

use stacyvm::faults::{AGENT, DOCKER, HELPER, HOST, IMAGE, LAYER, MAP};

use super::Random;
use round::{Scene, Table, Who};

/// What a host does, the points of it, and how many sandboxes are found then.
struct Deed {
    name: &'static str,
    points: &'static [&'static str],
    found: &'static [usize],
}

const fn deed(
    name: &'static str,
    found: &'static [usize],
    points: &'static [&'static str],
) -> Deed {
    Deed {
        name,
        points,
        found,
    }
}

const CREATES: &[Deed] = &[
    // Until its record says that it was made its caller never got it.
    deed(
        "create",
        &[0],
        &[
            "create.begun",
            "create.admitted",
            "create.marked",
            "store.begun",
            "store.written",
            "store.committed",
            "create.intended",
            "create.prepared",
            "create.range",
            "create.helper",
            "create.park-sent",
            "create.launching",
            "create.launch-sent",
            "create.parked",
            "create.started",
            "create.connected",
            "create.detached",
            "create.kept",
            "create.made",
            "store.begun*2",
            "store.written*2",
        ],
    ),
    deed(
        "create",
        &[1],
        &["store.committed*2", "create.recorded", "create.handed-over"],
    ),
    deed(
        "create attached",
        &[0],
        &["create.started", "create.made", "create.recorded"],
    ),
];

const POOLS: &[Deed] = &[
    deed(
        "fill",
        &[0],
        &[
            "pool.refill.begun",
            "pool.refill.intended",
            "create.launch-sent",
            "create.started",
            "create.kept",
            "pool.refill.made",
            "pool.refill.ready",
        ],
    ),
    // Until its record says whose it is nobody has it.
    deed(
        "claim",
        &[0],
        &[
            "pool.claim.begun",
            "pool.claim.taken",
            "file.write-asked",
            "pool.claim.files",
        ],
    ),
    // The record is written beside it.
    deed("claim", &[0, 1], &["pool.claim.given"]),
    deed("claim", &[1], &["pool.claim.recorded"]),
    deed(
        "drain",
        &[0],
        &["pool.end.begun", "destroy.intended", "destroy.done"],
    ),
];

const COMMANDS: &[Deed] = &[
    deed(
        "run",
        &[1],
        &[
            "exec.asking",
            "exec.asked",
            "exec.started",
            "exec.output",
            "exec.exited",
        ],
    ),
    deed(
        "feed",
        &[1],
        &["exec.input", "exec.input-end", "exec.signal"],
    ),
    deed("drop", &[1], &["exec.given-up"]),
    deed(
        "background",
        &[1],
        &["exec.noting", "exec.attached", "store.written"],
    ),
];

const FILES: &[Deed] = &[
    deed(
        "write",
        &[1],
        &[
            "file.write-asked",
            "file.chunk-sent",
            "file.all-sent",
            "file.written",
        ],
    ),
    deed(
        "read",
        &[1],
        &["file.read-begun", "file.chunk-read", "file.all-read"],
    ),
    deed(
        "export",
        &[1],
        &[
            "file.export-asked",
            "file.import-asked",
            "file.chunk-read*3",
        ],
    ),
    deed(
        "copy in",
        &[1],
        &["copy.in-begun", "file.chunk-sent*2", "copy.in-sent"],
    ),
    deed(
        "copy out",
        &[1],
        &["copy.out-begun", "copy.out-chunk*2", "copy.out-sent"],
    ),
];

const DESTROYS: &[Deed] = &[
    deed(
        "destroy",
        &[1],
        &["destroy.begun", "store.begun", "store.written"],
    ),
    deed(
        "destroy",
        &[0],
        &[
            "store.committed",
            "destroy.intended",
            "destroy.found",
            "monitor.asked",
            "destroy.answered",
            "destroy.taken-down",
            "destroy.done",
            "store.begun*2",
            "store.written*2",
            "store.committed*2",
            "destroy.recorded",
        ],
    ),
    deed(
        "sweep",
        &[0],
        &[
            "destroy.begun",
            "sweep.begun",
            "sweep.cgroup",
            "sweep.cgroup*2",
            "sweep.cgroups",
            "sweep.directory",
        ],
    ),
];

const DISKS: &[Deed] = &[
    deed(
        "create",
        &[0, 1],
        &[
            "create.admitted",
            "store.written",
            "create.intended",
            "create.launching",
            "create.detached",
            "create.made",
            "store.written*2",
            "helper.park.directory",
            "helper.park.socket",
            "helper.park.ids",
            "helper.launch.child-told",
        ],
    ),
    deed("background", &[1], &["exec.noting"]),
    deed("write", &[1], &["file.chunk-sent"]),
    deed(
        "destroy",
        &[0, 1],
        &["destroy.begun", "store.written", "destroy.done"],
    ),
];

fn rounds() -> usize {
    let rounds = std::env::var_os("STACYVM_FAULT_ROUNDS").and_then(|v| v.into_string().ok());
    rounds.map_or(1, |text| text.parse().unwrap())
}

/// Kills at each point of the deeds, in an order by the seed.
async fn each(title: &str, deeds: &[Deed], who: Who) {
    if !rustix::process::geteuid().is_root() {
        eprintln!("not run: the embedded provider needs root");
        return;
    }
    let _alone = super::ALONE.lock().await;
    let scene = Scene::set(who == Who::Disk).await;
    let mut all: Vec<_> = deeds
        .iter()
        .flat_map(|deed| deed.points.iter().map(move |point| (deed, *point)))
        .collect();
    let mut random = Random::seeded(title.len() as u64);
    let mut table = Table::default();
    for _ in 0..rounds() {
        for last in (1..all.len()).rev() {
            let other = random.below(last as u64 + 1);
            all.swap(last, usize::try_from(other).unwrap());
        }
        for (deed, point) in &all {
            let (count, mut wrong) = scene.round(deed.name, point, who).await;
            if !deed.found.contains(&count) {
                wrong.push(format!(
                    "{}: {who:?} at {point}: {count} sandboxes, expected {:?}",
                    deed.name, deed.found
                ));
            }
            table.note(deed.name, point, (count, wrong));
        }
    }
    table.print(title);
    assert!(table.wrong.is_empty(), "{:#?}", table.wrong);
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_host_is_killed_at_each_point_of_a_create() {
    each("host, creates", CREATES, Who::Host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_host_is_killed_at_each_point_of_a_pool() {
    each("host, pools", POOLS, Who::Host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_host_is_killed_at_each_point_of_commands() {
    each("host, commands", COMMANDS, Who::Host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_host_is_killed_at_each_point_of_files() {
    each("host, files", FILES, Who::Host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_host_is_killed_at_each_point_of_a_destroy() {
    each("host, destroys", DESTROYS, Who::Host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_helper_is_killed_at_each_point_of_a_life() {
    each("helper", &[deed("life", &[0], HELPER)], Who::Helper).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_is_killed_at_each_point_of_a_life() {
    each("agent", &[deed("life", &[0], AGENT)], Who::Agent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_disk_is_full_at_points_of_all_deeds() {
    each("full disk", DISKS, Who::Disk).await;
}

/// The points that the sources name, in files below a directory.
fn named_below(directory: &std::path::Path, names: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            named_below(&path, names);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let uses = text.split("fault_point!(\"").skip(1);
            names.extend(uses.map(|rest| rest.split('"').next().unwrap().to_owned()));
        }
    }
}

#[test]
fn every_point_is_listed_and_has_a_round() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut host, mut others) = (BTreeSet::new(), BTreeSet::new());
    named_below(&root.join("src"), &mut host);
    named_below(&root.join("../agent/src"), &mut others);
    let set = |names: &[&str]| {
        names
            .iter()
            .map(|n| (*n).to_owned())
            .collect::<BTreeSet<_>>()
    };
    // Those of images and of Docker have rounds of their own (tests/image_faults.rs,
    // tests/image_owners.rs and tests/docker_faults).
    let image = set(&[IMAGE, MAP, DOCKER].concat());
    assert!(image.is_subset(&host), "{image:?}");
    let host: BTreeSet<String> = host.difference(&image).cloned().collect();
    assert_eq!(host, set(HOST));
    assert_eq!(others, set(&[HELPER, LAYER, AGENT].concat()));
    let groups = [CREATES, POOLS, COMMANDS, FILES, DESTROYS];
    let killed = groups.into_iter().flatten().flat_map(|deed| deed.points);
    let killed: BTreeSet<_> = killed
        .map(|point| point.split('*').next().unwrap().to_owned())
        .collect();
    assert_eq!(killed, host, "the host is killed at each of its points");
    assert!(host.len() >= 40, "{} points of the host", host.len());
}
