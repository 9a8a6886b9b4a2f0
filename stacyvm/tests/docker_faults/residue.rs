//! What sandboxes leave on an engine and its host, counted where it is and not
//! as the engine tells it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use bollard::query_parameters::{
    ListContainersOptions, ListImagesOptions, ListNetworksOptions, ListVolumesOptions,
};

use super::eventually;
use super::machine::Machine;

/// Said of a container's directory that the engine itself cannot find again.
pub(super) const UNKNOWN: &str = ", which the engine does not load";

/// What there was before.
pub(super) struct Watch(BTreeSet<String>);

impl Watch {
    pub(super) async fn begin(machine: &Machine, state: &Path) -> Self {
        // What was started or ended just before may still be on its way.
        let mut before = seen(machine, state).await;
        for _ in 0..100 {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            let now = seen(machine, state).await;
            if now == before {
                break;
            }
            before = now;
        }
        Self(before)
    }

    /// What has come since, or has gone though it is not ours.
    pub(super) async fn changed(&self, machine: &Machine, state: &Path) -> BTreeSet<String> {
        let now = seen(machine, state).await;
        let came = now.difference(&self.0).map(|what| format!("left: {what}"));
        let went = self.0.difference(&now).map(|what| format!("gone: {what}"));
        came.chain(went).collect()
    }

    /// The same, of what stays so for half a minute.
    pub(super) async fn staying(&self, machine: &Machine, state: &Path) -> BTreeSet<String> {
        let mut changed = BTreeSet::new();
        eventually(async || {
            changed = self.changed(machine, state).await;
            changed.is_empty()
        })
        .await;
        changed
    }

    pub(super) async fn nothing_changed(&self, machine: &Machine, state: &Path) {
        let staying = self.staying(machine, state).await;
        assert!(staying.is_empty(), "{staying:#?}");
    }
}

/// Everything that there is.
async fn seen(machine: &Machine, state: &Path) -> BTreeSet<String> {
    let mut all: BTreeSet<String> = machine
        .processes()
        .iter()
        .map(|p| format!("process {} {}: {}", p.pid, p.title, p.arguments))
        .collect();
    all.extend(cgroups(&machine.cgroup()));
    all.extend(mounts(machine.init));
    for directory in ["overlay2", "containers", "volumes"] {
        for name in names(&machine.data().join(directory)) {
            // What they are called by links, which come and go with them.
            if name != "l" {
                let unknown = if directory == "containers" && cannot_be_loaded(machine, &name) {
                    UNKNOWN
                } else {
                    ""
                };
                all.insert(format!("data {directory}/{name}{unknown}"));
            }
        }
    }
    // The agent's note comes with the first sandbox and stays, and so does the lock
    // of who fills its volume.
    let directory = state.join("docker");
    let is_empty = |name: &str| directory.join(name).metadata().is_ok_and(|m| m.len() == 0);
    let files = names(&directory).into_iter();
    let files = files.filter(|name| {
        !(name.ends_with(".checked") || name.ends_with(".filling") && is_empty(name))
    });
    all.extend(files.map(|name| format!("state {name}")));
    all.extend(told(machine).await);
    all
}

/// An engine that was killed while it removed a container passes it over when it starts
/// if its layer or its settings are gone already ("mount does not exist"), and no client
/// can ask for it any more. One that the engine still has is told besides.
fn cannot_be_loaded(machine: &Machine, container: &str) -> bool {
    let directory = machine.data().join("containers").join(container);
    let settings = fs::read_to_string(directory.join("config.v2.json"));
    settings.is_ok_and(|text| text.contains(r#""RemovalInProgress":true,"Dead":true"#))
        || !directory.join("config.v2.json").exists()
}

/// What the engine says that it has.
async fn told(machine: &Machine) -> Vec<String> {
    let docker = machine.docker().await;
    let options = ListContainersOptions {
        all: true,
        ..ListContainersOptions::default()
    };
    let containers = docker.list_containers(Some(options)).await.unwrap();
    let volumes = docker.list_volumes(None::<ListVolumesOptions>).await;
    let networks = docker.list_networks(None::<ListNetworksOptions>).await;
    let images = docker.list_images(None::<ListImagesOptions>).await;
    let containers = containers.into_iter().map(|c| {
        let state = c.state.map(|s| s.to_string()).unwrap_or_default();
        format!(
            "container {} {state}",
            c.names.unwrap_or_default().join(" ")
        )
    });
    let volumes = volumes.unwrap().volumes.unwrap_or_default();
    let volumes = volumes.into_iter().map(|v| format!("volume {}", v.name));
    let networks = networks.unwrap().into_iter();
    let networks = networks.map(|n| format!("network {}", n.name.unwrap_or_default()));
    let images = images.unwrap().into_iter();
    let images = images.map(|i| format!("image {}", i.id));
    let all = containers.chain(volumes).chain(networks);
    all.chain(images).collect()
}

/// Cgroups below the engine's own, in every hierarchy.
fn cgroups(parent: &str) -> Vec<String> {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = names(root).into_iter().map(|name| root.join(name));
    let parents = hierarchies.chain([root.to_owned()]);
    let mut all = Vec::new();
    for parent in parents.map(|at| at.join(parent)) {
        for name in names(&parent) {
            let path = parent.join(name);
            if path.is_dir() {
                all.push(format!("cgroup {}", path.display()));
            }
        }
    }
    all
}

fn mounts(init: u32) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{init}/mountinfo")).unwrap_or_default();
    let points = text
        .lines()
        .filter_map(|line| line.split_whitespace().nth(4));
    points.map(|point| format!("mount {point}")).collect()
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter_map(|e| e.file_name().into_string().ok())
        .collect()
}
