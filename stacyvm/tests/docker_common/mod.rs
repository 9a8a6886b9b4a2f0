//! What tests of images on a real Docker engine share: the engine that
//! `STACYVM_TEST_DOCKER_HOST` names (`scripts/docker-host.sh start`).
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "each test program uses a part of it"
)]

use std::collections::HashMap;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use bollard::Docker;
use bollard::query_parameters::{
    CreateImageOptions, ListContainersOptions, ListImagesOptions, RemoveImageOptions,
};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use stacyvm::id::{InstanceId, SandboxId, TenantId};
use stacyvm::provider::{CreateRequest, Provider, Secrets};
use stacyvm::providers::docker::{DockerConfig, DockerProvider};
use stacyvm::sandbox::spec::SandboxSpec;
use stacyvm::{Context, ExecEvent, ExecSpec};

pub const IMAGE: &str = "stacyvm-test/busybox";
/// Far longer than anything here takes; only a hang gets there.
pub const SOON: Duration = Duration::from_mins(2);

pub fn cx() -> Context {
    Context::new(TenantId::default())
}

/// One store's view of the engine, and the engine's own.
pub struct Host {
    pub address: String,
    pub state: tempfile::TempDir,
    pub instance: InstanceId,
    pub provider: Arc<DockerProvider>,
    pub docker: Docker,
}

impl Host {
    pub async fn open() -> Option<Self> {
        Self::with(|config| config).await
    }

    pub async fn with(change: impl FnOnce(DockerConfig) -> DockerConfig) -> Option<Self> {
        let Some(address) = std::env::var_os("STACYVM_TEST_DOCKER_HOST") else {
            eprintln!("not run: no docker engine (STACYVM_TEST_DOCKER_HOST)");
            return None;
        };
        let address = address.into_string().unwrap();
        let socket = address.strip_prefix("unix://").unwrap();
        let docker = Docker::connect_with_socket(socket, 120, bollard::API_DEFAULT_VERSION);
        let docker = docker.unwrap().negotiate_version().await.unwrap();
        let state = tempfile::tempdir().unwrap();
        let instance = InstanceId::random();
        let mut config = DockerConfig::new(state.path(), instance.clone()).host(&address);
        // Never those of whoever runs the tests.
        config.auth_file = Some(state.path().join("no-credentials"));
        let provider = DockerProvider::open(change(config)).await.unwrap();
        Some(Self {
            address,
            state,
            instance,
            provider: Arc::new(provider),
            docker,
        })
    }

    /// Whether the engine has a runtime; else says so.
    pub async fn has(&self, runtime: &str) -> bool {
        let info = self.docker.info().await.unwrap();
        let has = info.runtimes.unwrap_or_default().contains_key(runtime);
        if !has {
            eprintln!("not run: the engine has no runtime {runtime}");
        }
        has
    }

    pub fn request(&self, spec: SandboxSpec) -> CreateRequest {
        CreateRequest {
            id: SandboxId::random(),
            instance: self.instance.clone(),
            spec,
            open_files_preferred: false,
            ends: None,
            secrets: Secrets::default(),
            waits: false,
        }
    }

    pub async fn make(&self, request: &CreateRequest) -> SandboxId {
        let cx = cx();
        let made = self.provider.create(&cx, request);
        let made = tokio::time::timeout(SOON, made).await.expect("hangs");
        made.unwrap().id
    }

    pub async fn sandbox(&self, spec: SandboxSpec) -> SandboxId {
        self.make(&self.request(spec)).await
    }

    /// Standard output of a line of the shell, which must succeed.
    pub async fn sh(&self, id: &SandboxId, line: &str) -> String {
        let (cx, spec) = (cx(), ExecSpec::shell(line));
        let session = self.provider.exec(&cx, id, &spec).await.unwrap();
        let events: Vec<_> = tokio::time::timeout(SOON, session.events.try_collect())
            .await
            .expect("hangs")
            .unwrap();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        for event in &events {
            match event {
                ExecEvent::Stdout(bytes) => out.extend_from_slice(bytes),
                ExecEvent::Stderr(bytes) => err.extend_from_slice(bytes),
                ExecEvent::Exited(status) if status.success() => {}
                other => panic!("{line}: {other:?} {}", String::from_utf8_lossy(&err)),
            }
        }
        String::from_utf8(out).unwrap().trim_end().to_owned()
    }

    /// Makes an image of a root directory, with what a Dockerfile says.
    pub async fn import(&self, name: &str, archive: Vec<u8>, changes: &[&str]) {
        let (repo, tag) = name.split_once(':').unwrap();
        let options = CreateImageOptions {
            from_src: Some("-".to_owned()),
            repo: Some(repo.to_owned()),
            tag: Some(tag.to_owned()),
            changes: changes.iter().map(|change| (*change).to_owned()).collect(),
            ..CreateImageOptions::default()
        };
        let body = bollard::body_full(Bytes::from(archive));
        let told = self.docker.create_image(Some(options), Some(body), None);
        told.try_collect::<Vec<_>>().await.unwrap();
    }

    /// Gives an image a further name.
    pub async fn has_image(&self, name: &str) -> bool {
        self.docker.inspect_image(name).await.is_ok()
    }

    pub async fn remove_image(&self, name: &str) {
        let options = RemoveImageOptions {
            force: true,
            ..RemoveImageOptions::default()
        };
        let _ = self.docker.remove_image(name, Some(options), None).await;
    }

    /// Names of containers, and ids of images, that have this store's label.
    pub async fn held(&self) -> Vec<String> {
        let label = format!("stacyvm.instance={}", self.instance);
        let filters = || Some(HashMap::from([("label".to_owned(), vec![label.clone()])]));
        let options = ListContainersOptions {
            all: true,
            filters: filters(),
            ..ListContainersOptions::default()
        };
        let containers = self.docker.list_containers(Some(options)).await.unwrap();
        let names = containers
            .into_iter()
            .flat_map(|c| c.names.unwrap_or_default());
        let options = ListImagesOptions {
            filters: filters(),
            ..ListImagesOptions::default()
        };
        let images = self.docker.list_images(Some(options)).await.unwrap();
        names
            .chain(images.into_iter().map(|image| image.id))
            .collect()
    }

    pub async fn end(self, ids: &[&SandboxId]) {
        for id in ids {
            self.provider.destroy(&cx(), id).await.unwrap();
        }
        assert_eq!(self.held().await, Vec::<String>::new());
    }

    /// The content of an image as the engine exports it.
    pub async fn exported(&self, name: &str) -> Vec<u8> {
        let mut all = Vec::new();
        let mut stream = std::pin::pin!(self.docker.export_image(name));
        while let Some(piece) = stream.next().await {
            all.extend_from_slice(&piece.unwrap());
        }
        all
    }
}

/// The engine's own network namespace, in which it reaches loopback; none where this
/// user may not enter it.
#[cfg(target_os = "linux")]
pub fn network_of(address: &str) -> Option<String> {
    let socket = address.strip_prefix("unix://").unwrap();
    let socket = std::os::unix::net::UnixStream::connect(socket).unwrap();
    let peer = rustix::net::sockopt::socket_peercred(&socket).unwrap();
    let file = format!("/proc/{}/ns/net", peer.pid.as_raw_nonzero());
    if std::fs::File::open(&file).is_err() || !rustix::process::geteuid().is_root() {
        eprintln!("not run: this user may not enter the engine's network");
        return None;
    }
    Some(file)
}

/// A port of loopback there.
#[cfg(target_os = "linux")]
pub fn listen_in(network: &str) -> TcpListener {
    let file = std::fs::File::open(network).unwrap();
    // A thread of its own, which ends in the other namespace.
    let listening = std::thread::spawn(move || {
        use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
        use std::os::fd::AsFd as _;
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        TcpListener::bind("127.0.0.1:0").unwrap()
    });
    listening.join().unwrap()
}

pub async fn eventually(what: &str, mut check: impl AsyncFnMut() -> bool) {
    let until = tokio::time::Instant::now() + SOON;
    while !check().await {
        assert!(tokio::time::Instant::now() < until, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
