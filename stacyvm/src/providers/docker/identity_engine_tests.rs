//! What a plain container tells, on a real engine; see `tests/docker_runtimes.rs`.

use super::*;
use crate::id::InstanceId;
use crate::providers::docker::DockerConfig;
use crate::providers::docker::ticket::Ticket;
use bollard::query_parameters::ListContainersOptions;

const IMAGE: &str = "stacyvm-test/busybox";

#[tokio::test]
async fn a_plain_container_tells_the_boot_of_the_engines_host_and_is_gone() {
    let Some(host) = std::env::var_os("STACYVM_TEST_DOCKER_HOST") else {
        println!("not run: no docker engine");
        return;
    };
    let state = tempfile::tempdir().unwrap();
    let config =
        DockerConfig::new(state.path(), InstanceId::random()).host(host.into_string().unwrap());
    let life = Life::open(config).await.unwrap();
    life.agent_at_hand(IMAGE).await.unwrap();
    let ticket = Ticket::mint(None, false).unwrap();
    let info = life.docker.info().await.unwrap();
    let started = std::time::Instant::now();
    let told = life.plain_boot_id(&info, IMAGE, &ticket).await.unwrap();
    println!("a plain container took {:?}", started.elapsed());
    if Some(&info.kernel_version.unwrap_or_default()) == release_here().as_ref() {
        assert_eq!(Some(told), boot_id_here());
    } else {
        println!("not compared: the engine is not on this host");
    }
    // It removes itself, which takes a moment.
    let label = format!("{INSTANCE}={}", life.config.instance);
    for _ in 0..200 {
        let options = ListContainersOptions {
            all: true,
            filters: Some([("label".to_owned(), vec![label.clone()])].into()),
            ..ListContainersOptions::default()
        };
        if life
            .docker
            .list_containers(Some(options))
            .await
            .unwrap()
            .is_empty()
        {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("a plain container is left");
}

fn release_here() -> Option<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/osrelease").ok()?;
    Some(text.trim().to_owned())
}
