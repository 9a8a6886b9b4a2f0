//! Bridges that do not start, on a real engine; see `tests/docker.rs`.

use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::{
    CreateContainerOptions, RemoveContainerOptions, StartContainerOptions,
};
use tokio::io::AsyncReadExt;

use super::*;
use crate::id::InstanceId;
use crate::providers::docker::DockerConfig;

/// What the bridge of this program writes, and the error of one that did not start.
async fn tried(docker: &Docker, container: &str, program: &str) -> (String, Option<Error>) {
    let opened = Bridge::open(docker, container, program, "OCI runtime exec failed").await;
    let (mut bridge, opening) = opened.unwrap();
    let mut said = Vec::new();
    let _ = bridge.read_to_end(&mut said).await;
    let said = String::from_utf8_lossy(&said).into_owned();
    (said, opening.refused(docker).await)
}

#[tokio::test]
async fn an_engine_that_starts_no_bridge_is_told_from_one_who_imitates_it() {
    let Some(host) = std::env::var_os("STACYVM_TEST_DOCKER_HOST") else {
        println!("not run: no docker engine");
        return;
    };
    let state = tempfile::tempdir().unwrap();
    let config =
        DockerConfig::new(state.path(), InstanceId::random()).host(host.into_string().unwrap());
    let docker = super::super::connect::connect(&config).await.unwrap();
    let body = ContainerCreateBody {
        image: Some("stacyvm-test/busybox".to_owned()),
        cmd: Some(vec!["sleep".to_owned(), "60".to_owned()]),
        host_config: Some(HostConfig {
            auto_remove: Some(true),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    };
    let made = docker
        .create_container(None::<CreateContainerOptions>, body)
        .await
        .unwrap();
    docker
        .start_container(&made.id, None::<StartContainerOptions>)
        .await
        .unwrap();

    let (said, refused) = tried(&docker, &made.id, "/no/program").await;
    // As a frame of the agent's output would be.
    assert!(said.contains("OCI runtime exec failed"), "{said:?}");
    let refused = refused.unwrap();
    assert_eq!(refused.kind(), ErrorKind::Unavailable);
    let fact = refused.fact("engine").unwrap();
    assert!(fact.contains("/no/program"), "{fact}");

    // One writes the same words and ends well, the other ends badly.
    let (said, refused) = tried(&docker, &made.id, "/bin/echo").await;
    assert!(said.contains("OCI runtime exec failed"), "{said:?}");
    assert!(refused.is_none(), "{refused:?}");
    let (_, refused) = tried(&docker, &made.id, "/bin/ls").await;
    assert!(refused.is_none(), "{refused:?}");

    let options = RemoveContainerOptions {
        force: true,
        ..RemoveContainerOptions::default()
    };
    docker
        .remove_container(&made.id, Some(options))
        .await
        .unwrap();
}
