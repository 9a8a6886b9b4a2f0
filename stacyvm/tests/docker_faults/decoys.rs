//! What looks like ours on an engine and is somebody else's.

use std::collections::HashMap;

use bollard::Docker;
use bollard::models::{ContainerCreateBody, HostConfig, NetworkCreateRequest, VolumeCreateRequest};
use bollard::query_parameters::{CreateContainerOptions, StartContainerOptions};
use stacyvm::id::{InstanceId, SandboxId};

use super::IMAGE;

/// A decoy's name, its labels, and whether it runs.
type Decoy = (String, Vec<(&'static str, String)>, bool);

/// Containers, volumes and a network that miss being ours by little: the residue
/// watch finds any of them gone or changed.
pub(super) async fn place(docker: &Docker, instance: &InstanceId) -> usize {
    let (id, other) = (SandboxId::random(), InstanceId::random());
    let near = format!("{instance}x");
    let (i, s, t) = ("stacyvm.instance", "stacyvm.sandbox", "stacyvm.tenant");
    let decoys: [Decoy; 8] = [
        // Another store's.
        (
            format!("stacyvm-{id}"),
            vec![
                (i, other.to_string()),
                (s, id.to_string()),
                (t, "default".into()),
            ],
            true,
        ),
        // Our prefix without a label.
        (format!("stacyvm-{}", SandboxId::random()), vec![], false),
        ("stacyvm-agent".into(), vec![], false),
        // Names of labels, and values, that begin like ours.
        (
            "near-value".into(),
            vec![
                (i, near.clone()),
                (s, id.to_string()),
                (t, "default".into()),
            ],
            false,
        ),
        (
            "near-key".into(),
            vec![
                ("stacyvm.instance2", instance.to_string()),
                ("stacyvm.sandbox2", id.to_string()),
            ],
            true,
        ),
        (
            "upper".into(),
            vec![("Stacyvm.Instance", instance.to_string())],
            false,
        ),
        // Our sandbox's label alone.
        ("sandbox-alone".into(), vec![(s, id.to_string())], false),
        // A filler's name of an agent that is none.
        (
            "stacyvm-agent-0123456789abcdef0123456789-fill".into(),
            vec![(i, other.to_string())],
            false,
        ),
    ];
    for (name, labels, runs) in &decoys {
        let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), v.clone()));
        let body = ContainerCreateBody {
            image: Some(IMAGE.to_owned()),
            cmd: Some(vec!["sleep".to_owned(), "3600".to_owned()]),
            labels: Some(labels.collect()),
            host_config: Some(HostConfig {
                network_mode: Some("none".to_owned()),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        };
        let options = CreateContainerOptions {
            name: Some(name.clone()),
            ..CreateContainerOptions::default()
        };
        docker.create_container(Some(options), body).await.unwrap();
        if *runs {
            let started = docker.start_container(name, None::<StartContainerOptions>);
            started.await.unwrap();
        }
    }
    for (name, labels) in [
        ("stacyvm-agent-decoy", HashMap::new()),
        ("stacyvm-volume", HashMap::from([(i.to_owned(), near)])),
    ] {
        let request = VolumeCreateRequest {
            name: Some(name.to_owned()),
            labels: Some(labels),
            ..VolumeCreateRequest::default()
        };
        docker.create_volume(request).await.unwrap();
    }
    let request = NetworkCreateRequest {
        name: "stacyvm-network".to_owned(),
        ..NetworkCreateRequest::default()
    };
    docker.create_network(request).await.unwrap();
    decoys.len() + 3
}
