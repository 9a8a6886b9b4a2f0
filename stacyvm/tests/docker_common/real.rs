//! A real registry with basic auth, on the loopback of the engine.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use bollard::auth::DockerCredentials;
use bollard::query_parameters::{PushImageOptions, TagImageOptions};
use futures_util::TryStreamExt as _;
use serde_json::json;
use stacyvm::ErrorKind;
use stacyvm::provider::{Provider as _, Pull};
use stacyvm::sandbox::spec::SandboxSpec;

use super::docker_common::{Host, IMAGE, cx, listen_in, network_of};
use super::pull;

const USER: &str = "tester";
/// `tester:correct-horse` and a wrong one, as `docker login` writes them.
const PASSWORD: &str = "correct-horse";
const RIGHT: &str = "dGVzdGVyOmNvcnJlY3QtaG9yc2U=";
const WRONG: &str = "dGVzdGVyOndyb25nLWJhdHRlcnk=";

struct Registry {
    _home: tempfile::TempDir,
    child: Child,
    host: String,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Registry {
    fn start(address: &str) -> Option<Self> {
        for program in ["docker-registry", "htpasswd", "nsenter"] {
            let found = Command::new("sh")
                .args(["-c", &format!("command -v {program}")])
                .stdout(Stdio::null())
                .status();
            if !found.is_ok_and(|found| found.success()) {
                eprintln!("not run: {program} is not installed");
                return None;
            }
        }
        let network = network_of(address)?;
        let port = listen_in(&network);
        let host = port.local_addr().unwrap().to_string();
        drop(port);
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name).display().to_string();
        let users = Command::new("htpasswd")
            .args(["-Bbn", USER, PASSWORD])
            .output()
            .unwrap();
        std::fs::write(at("users"), users.stdout).unwrap();
        let config = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: {host}}}\nauth: {{htpasswd: {{realm: test, path: {}}}}}\n",
            at("data"),
            at("users")
        );
        std::fs::write(at("config.yml"), config).unwrap();
        let mut child = Command::new("nsenter")
            .arg(format!("--net={network}"))
            .args(["docker-registry", "serve", &at("config.yml")])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let ready = lines.any(|line| line.is_ok_and(|line| line.contains("listening on")));
        assert!(ready, "the registry did not start");
        std::thread::spawn(move || lines.for_each(drop));
        Some(Self {
            _home: home,
            child,
            host,
        })
    }
}

#[tokio::test]
async fn a_private_image_comes_with_the_credentials_of_this_user_alone() {
    let state = tempfile::tempdir().unwrap();
    let file = state.path().join("config.json");
    let Some(host) = Host::with(|config| config.auth_file(&file)).await else {
        return;
    };
    let Some(registry) = Registry::start(&host.address) else {
        return;
    };
    let name = format!("{}/team/app", registry.host);
    let image = format!("{name}:1");
    let options = TagImageOptions {
        repo: Some(name.clone()),
        tag: Some("1".to_owned()),
    };
    host.docker.tag_image(IMAGE, Some(options)).await.unwrap();
    let options = PushImageOptions {
        tag: Some("1".to_owned()),
        ..PushImageOptions::default()
    };
    let credentials = DockerCredentials {
        username: Some(USER.to_owned()),
        password: Some(PASSWORD.to_owned()),
        ..DockerCredentials::default()
    };
    let pushed = host
        .docker
        .push_image(&name, Some(options), Some(credentials));
    pushed.try_collect::<Vec<_>>().await.unwrap();
    host.remove_image(&image).await;

    let auths = |auth: &str| {
        let registry = registry.host.clone();
        std::fs::write(
            &file,
            json!({"auths": {registry: {"auth": auth}}}).to_string(),
        )
        .unwrap();
    };
    let failed = async |what: &str| {
        let error = pull(&host, &image, Pull::Missing, None).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error:?}");
        assert!(error.message().contains(what), "{error}");
        assert_eq!(error.fact("registry"), Some(registry.host.as_str()));
        let shown = format!("{error} {error:?}");
        assert!(
            !shown.contains("battery") && !shown.contains(WRONG),
            "{shown}"
        );
        assert!(!host.has_image(&image).await);
    };
    failed("wants credentials").await;
    auths(WRONG);
    failed("refuses the credentials").await;
    // Characters that the engine would not read: it would go on as nobody.
    std::fs::write(
        &file,
        json!({"auths": {registry.host.clone(): {"username": USER, "password": "???"}}})
            .to_string(),
    )
    .unwrap();
    let error = pull(&host, &image, Pull::Missing, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
    assert!(!format!("{error:?}").contains("???"));

    auths(RIGHT);
    let told = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let seen = Arc::clone(&told);
    let observer = move |progress: stacyvm::provider::PullProgress| {
        seen.fetch_max(progress.total, std::sync::atomic::Ordering::Relaxed);
    };
    // Its layer is here already, so nothing need be transferred.
    pull(&host, &image, Pull::Missing, Some(Arc::new(observer)))
        .await
        .unwrap();
    let id = host.sandbox(SandboxSpec::image(&image)).await;
    assert_eq!(host.sh(&id, "echo works").await, "works");
    let name = format!("stacyvm-{id}");
    let seen = host.docker.inspect_container(
        &name,
        None::<bollard::query_parameters::InspectContainerOptions>,
    );
    let seen = serde_json::to_string(&seen.await.unwrap()).unwrap();
    assert!(!seen.contains(PASSWORD) && !seen.contains(RIGHT), "{seen}");
    host.provider.destroy(&cx(), &id).await.unwrap();
    host.remove_image(&image).await;
    host.end(&[]).await;
}
