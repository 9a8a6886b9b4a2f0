//! Runtimes that are what their names say, and those that are not, on the engine
//! that `STACYVM_TEST_DOCKER_HOST` names. The false ones are made by
//! `scripts/docker-host.sh start`; what is missing is printed as `not run`.
#![cfg(all(feature = "docker", unix))]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

use std::collections::HashMap;
use std::time::Instant;

use bollard::Docker;
use bollard::query_parameters::ListContainersOptions;
use stacyvm::id::{InstanceId, SandboxId, TenantId};
use stacyvm::provider::{CreateRequest, Isolation, Provider, Secrets};
use stacyvm::providers::docker::{DockerConfig, DockerProvider};
use stacyvm::sandbox::spec::SandboxSpec;
use stacyvm::{Context, Error, ErrorKind, Result};

const IMAGE: &str = "stacyvm-test/busybox";

/// A store on the engine, with one of its runtimes.
struct Store {
    engine: String,
    state: tempfile::TempDir,
    instance: InstanceId,
    provider: DockerProvider,
}

impl Store {
    /// None where there is no engine, or it has no such runtime.
    async fn open(runtime: &str) -> Option<Self> {
        let Some(engine) = std::env::var_os("STACYVM_TEST_DOCKER_HOST") else {
            println!("not run: no docker engine");
            return None;
        };
        let engine = engine.into_string().unwrap();
        let state = tempfile::tempdir().unwrap();
        let instance = InstanceId::random();
        let config = DockerConfig::new(state.path(), instance.clone())
            .host(&engine)
            .runtime(runtime);
        match DockerProvider::open(config).await {
            Ok(provider) => Some(Self {
                engine,
                state,
                instance,
                provider,
            }),
            Err(error) if error.fact("field") == Some("docker.runtime") => {
                println!("not run: no runtime {runtime} on this engine");
                None
            }
            Err(error) => panic!("{error:?}"),
        }
    }

    async fn create(&self) -> Result<SandboxId> {
        let request = CreateRequest {
            id: SandboxId::random(),
            instance: self.instance.clone(),
            spec: SandboxSpec::image(IMAGE),
            open_files_preferred: false,
            ends: None,
            secrets: Secrets::default(),
            waits: false,
        };
        self.provider.create(&cx(), &request).await?;
        Ok(request.id)
    }

    /// Containers and tickets of this store.
    async fn left(&self) -> (usize, usize) {
        let path = self.engine.strip_prefix("unix://").unwrap();
        let docker = Docker::connect_with_socket(path, 60, bollard::API_DEFAULT_VERSION).unwrap();
        let label = format!("stacyvm.instance={}", self.instance);
        let options = ListContainersOptions {
            all: true,
            filters: Some(HashMap::from([("label".to_owned(), vec![label])])),
            ..ListContainersOptions::default()
        };
        let containers = docker.list_containers(Some(options)).await.unwrap().len();
        let names = std::fs::read_dir(self.state.path()).unwrap();
        let tickets = names.filter(|entry| {
            let name = entry.as_ref().unwrap().file_name();
            name.to_string_lossy().ends_with(".ticket")
        });
        (containers, tickets.count())
    }

    /// The error of a create that leaves nothing.
    async fn refused(&self) -> Error {
        let error = self.create().await.unwrap_err();
        assert_eq!(error.fact("field"), Some("docker.runtime"), "{error:?}");
        assert_eq!(self.left().await, (0, 0));
        error
    }
}

fn cx() -> Context {
    Context::new(TenantId::default())
}

#[tokio::test]
async fn what_is_called_kata_and_is_not_is_refused_by_what_is_inside() {
    for runtime in ["kata-containers", "false-kata", "kata-gvisor"] {
        let Some(store) = Store::open(runtime).await else {
            continue;
        };
        let error = store.refused().await;
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
        let text = error.to_string();
        assert!(text.contains("is not what its name says"), "{text}");
        assert!(text.contains("of a virtual machine of its own"), "{text}");
        let seen = error.fact("seen").unwrap();
        let gvisor = runtime == "kata-gvisor";
        assert_eq!(seen.starts_with("gVisor"), gvisor, "{seen}");
        // Known by its program, it is not even promised.
        let promised = store.provider.capabilities().isolation;
        if runtime != "false-kata" {
            assert_ne!(promised, Isolation::VirtualMachine, "{runtime}");
        }
        // It fails every time, and not only the first.
        store.refused().await;
    }
}

#[tokio::test]
async fn what_is_called_gvisor_and_is_not_is_refused_by_what_is_inside() {
    let Some(store) = Store::open("false-gvisor").await else {
        return;
    };
    let error = store.refused().await;
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
    assert!(error.to_string().contains("gVisor's own kernel"), "{error}");
}

#[tokio::test]
async fn what_is_what_it_says_is_made() {
    for (runtime, isolation) in [
        ("runc", Isolation::Namespaces),
        ("runsc", Isolation::UserKernel),
    ] {
        let Some(store) = Store::open(runtime).await else {
            continue;
        };
        assert_eq!(store.provider.capabilities().isolation, isolation);
        let started = Instant::now();
        let id = store.create().await.unwrap();
        println!("{runtime}: made in {:?}", started.elapsed());
        store.provider.destroy(&cx(), &id).await.unwrap();
        assert_eq!(store.left().await, (0, 0));
    }
}

#[tokio::test]
async fn a_runtime_without_its_program_is_named() {
    let Some(store) = Store::open("absent").await else {
        return;
    };
    let error = store.refused().await;
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error:?}");
    assert_eq!(error.fact("value"), Some("absent"));
    assert!(error.fact("engine").is_some(), "{error:?}");
}

/// Engines before 23.0 know no shims, and say so; later ones find out when they
/// start the first container.
#[tokio::test]
async fn a_shim_that_is_not_there_is_named() {
    let Some(store) = Store::open("io.containerd.stacyvm-absent.v2").await else {
        return;
    };
    let error = store.refused().await;
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error:?}");
}

#[tokio::test]
async fn kata_itself() {
    let Some(store) = Store::open("kata").await else {
        println!("Kata itself: not run: no Kata runtime on this host");
        return;
    };
    let id = store.create().await.unwrap();
    store.provider.destroy(&cx(), &id).await.unwrap();
    assert_eq!(store.left().await, (0, 0));
}
