//! The agent's volume on a real engine; see `tests/docker.rs`.

use bollard::query_parameters::RemoveVolumeOptions;

use super::*;
use crate::id::InstanceId;
use crate::providers::docker::DockerConfig;

const IMAGE: &str = "stacyvm-test/busybox";

#[tokio::test]
async fn a_volume_is_filled_once_and_mended_when_it_is_doubted() {
    let Some(host) = std::env::var_os("STACYVM_TEST_DOCKER_HOST") else {
        println!("not run: no docker engine");
        return;
    };
    let state = tempfile::tempdir().unwrap();
    let config =
        DockerConfig::new(state.path(), InstanceId::random()).host(host.into_string().unwrap());
    let docker = super::super::connect::connect(&config).await.unwrap();
    let tickets = Tickets::open(state.path()).unwrap();
    // Of this run alone, so that nobody else's volume is touched.
    let bytes: &'static [u8] =
        Box::leak(config.instance.to_string().repeat(999).into_bytes().into());
    let volume = AgentVolume::new(bytes);
    let ensure = || volume.ensure(&docker, "engine", &tickets, IMAGE, "i");
    let instance = config.instance.as_str();

    // Two at once: the name of the filling container keeps them apart.
    let (first, second) = tokio::join!(ensure(), ensure());
    first.unwrap();
    second.unwrap();
    let filling = Filling::begin(&volume.mark(&tickets), STALE).await.unwrap();
    let make = volume.filler(&docker, IMAGE, instance, &filling);
    let filler = make.await.unwrap();
    assert!(volume.is_whole(&docker, &filler).await.unwrap());

    let other = UploadToContainerOptions {
        path: PLACE.to_owned(),
        ..UploadToContainerOptions::default()
    };
    let torn = bollard::body_full(tar_of(FILE, &bytes[..1000]).into());
    docker
        .upload_to_container(&filler, Some(other), torn)
        .await
        .unwrap();
    assert!(!volume.is_whole(&docker, &filler).await.unwrap());

    // Its process dies here: another store's takes nothing away, its own does.
    let there = async || {
        let none = None::<bollard::query_parameters::InspectContainerOptions>;
        docker.inspect_container(&filler, none).await.is_ok()
    };
    volume.tidy(&docker, &tickets, instance).await.unwrap();
    assert!(there().await, "somebody fills");
    drop(filling);
    volume.tidy(&docker, &tickets, "j").await.unwrap();
    assert!(there().await, "it is another store's");
    let filling = Filling::begin(&volume.mark(&tickets), STALE).await.unwrap();
    drop(filling);
    volume.tidy(&docker, &tickets, instance).await.unwrap();
    assert!(!there().await);

    volume.doubt(&tickets);
    ensure().await.unwrap();
    let filling = Filling::begin(&volume.mark(&tickets), STALE).await.unwrap();
    let make = volume.filler(&docker, IMAGE, instance, &filling);
    let filler = make.await.unwrap();
    assert!(volume.is_whole(&docker, &filler).await.unwrap());
    remove(&docker, &filler).await.unwrap();

    // Somebody removes it, and who makes it again dies before it is filled: nothing
    // says that it is whole, though both may have been made in one second.
    let remove = async || {
        let none = None::<RemoveVolumeOptions>;
        docker.remove_volume(&volume.name, none).await.unwrap();
    };
    let note = tickets.beside(&format!("{}.checked", volume.name));
    assert!(note.exists());
    drop(filling);
    remove().await;
    let no_image = volume.ensure(&docker, "engine", &tickets, "stacyvm-test/none", "i");
    assert_eq!(no_image.await.unwrap_err().kind(), ErrorKind::NotFound);
    assert!(!note.exists());
    remove().await;
}
