//! Images of the Docker provider: pulls by a real engine from registries on its own
//! loopback, other architectures, and what an image says of commands.
#![cfg(all(target_os = "linux", feature = "docker", feature = "registry"))]
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "tests, with parts that others use more of"
)]

#[path = "common/archive.rs"]
mod archive;
mod docker_common;
#[path = "image_registry/made.rs"]
mod made;
#[path = "docker_common/real.rs"]
mod real;
#[path = "image_registry/server.rs"]
mod server;

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use docker_common::{Host, IMAGE, SOON, cx, eventually, listen_in, network_of};
use futures_util::future::join_all;
use made::Made;
use server::{Request, Server, send};
use stacyvm::image::{Digest, media};
use stacyvm::provider::{Provider, Pull, PullRequest};
use stacyvm::sandbox::spec::{SandboxSpec, Source};
use stacyvm::{Error, ErrorKind, Result};

/// An engine, and a registry that it reaches.
struct World {
    host: Host,
    server: Server,
    /// Blobs come byte by byte while it is set.
    hangs: Arc<AtomicBool>,
    /// Blobs whose reader hung up.
    left: Arc<AtomicU64>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.hangs.store(false, Ordering::Relaxed);
    }
}

/// What a test answers instead, if anything.
type Instead = Box<dyn Fn(&Request) -> Option<(&'static str, String, String)> + Send + Sync>;

impl World {
    async fn new(made: &Made, instead: Instead) -> Option<Self> {
        Self::with(Host::open().await?, made, instead)
    }

    fn with(host: Host, made: &Made, instead: Instead) -> Option<Self> {
        let network = network_of(&host.address)?;
        let (hangs, left) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let (wait, leaves) = (Arc::clone(&hangs), Arc::clone(&left));
        let manifest = made.manifest.clone();
        let by_digest = format!("/v2/app/manifests/{}", Digest::of(&manifest));
        let answer = move |request: &Request, stream: &mut std::net::TcpStream| {
            if let Some((status, headers, body)) = instead(request) {
                send(stream, status, &headers, body.as_bytes());
                return true;
            }
            if request.path == "/v2/" {
                send(stream, "200 OK", "", b"{}");
                return true;
            }
            if request.path == by_digest || request.path.ends_with("/app/manifests/1") {
                // The engine believes the type and not what is written inside.
                let digest = Digest::of(&manifest);
                let headers = format!(
                    "Content-Type: {}\r\nDocker-Content-Digest: {digest}\r\n",
                    media::MANIFEST
                );
                let body: &[u8] = if request.head.starts_with("HEAD") {
                    b""
                } else {
                    &manifest
                };
                let length = manifest.len();
                if body.is_empty() {
                    let head = format!(
                        "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n"
                    );
                    let _ = stream.write_all(head.as_bytes());
                } else {
                    send(stream, "200 OK", &headers, body);
                }
                return true;
            }
            if request.path.contains("/blobs/") && wait.load(Ordering::Relaxed) {
                let head =
                    "HTTP/1.1 200 OK\r\nContent-Length: 9000000\r\nConnection: close\r\n\r\n";
                let _ = stream.write_all(head.as_bytes());
                while wait.load(Ordering::Relaxed) {
                    if stream.write_all(b"x").is_err() {
                        leaves.fetch_add(1, Ordering::Relaxed);
                        break;
                    }
                    std::thread::sleep(Duration::from_millis(10));
                }
                return true;
            }
            false
        };
        let server = Server::on(listen_in(&network), made, Box::new(answer));
        Some(Self {
            host,
            server,
            hangs,
            left,
        })
    }

    fn image(&self) -> String {
        self.server.reference().to_string()
    }

    async fn pull(&self, image: &str, when: Pull) -> Result<()> {
        pull(&self.host, image, when, None).await
    }

    /// Takes the image away, and nothing else is there.
    async fn end(self) {
        self.host.remove_image(&self.image()).await;
        assert_eq!(self.host.held().await, Vec::<String>::new());
    }
}

async fn pull(
    host: &Host,
    image: &str,
    when: Pull,
    observer: Option<stacyvm::provider::PullObserver>,
) -> Result<()> {
    let request = PullRequest {
        source: Source::Image(image.to_owned()),
        when,
        observer,
    };
    let cx = cx();
    let pulled = host.provider.pull(&cx, &request);
    tokio::time::timeout(SOON, pulled).await.expect("hangs")
}

fn nothing() -> Instead {
    Box::new(|_| None)
}

/// An image that no engine has, whatever a run that failed has left there.
fn made() -> Made {
    Made::with(&stacyvm::image::Platform::host().architecture, random())
}

fn random() -> u32 {
    use std::hash::{BuildHasher as _, Hasher as _};
    let hasher = std::collections::hash_map::RandomState::new().build_hasher();
    let bytes = hasher.finish().to_le_bytes();
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

#[tokio::test]
async fn a_missing_image_is_pulled_once_and_later_creates_ask_nobody() {
    let Some(world) = World::new(&made(), nothing()).await else {
        return;
    };
    let image = world.image();
    world.pull(&image, Pull::Never).await.unwrap();
    let create = world.host.request(SandboxSpec::image(&image));
    let error = world
        .host
        .provider
        .create(&cx(), &create)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert!(
        error.fact("remedy").unwrap().contains("docker pull"),
        "{error:?}"
    );
    assert_eq!(world.server.count(""), 0, "a registry was asked");

    let most = Arc::new(AtomicU64::new(0));
    let pulls = (0..4).map(|_| {
        let seen = Arc::clone(&most);
        let observer = move |progress: stacyvm::provider::PullProgress| {
            assert!(progress.done <= progress.total);
            seen.fetch_max(progress.done, Ordering::Relaxed);
        };
        pull(&world.host, &image, Pull::Missing, Some(Arc::new(observer)))
    });
    for pulled in join_all(pulls).await {
        pulled.unwrap();
    }
    assert_eq!(world.server.count("/blobs/"), 3);
    let most = most.load(Ordering::Relaxed);
    assert!(most > 6_000_000, "progress was told up to {most}");

    let before = world.server.count("");
    world.pull(&image, Pull::Missing).await.unwrap();
    let id = world.host.make(&create).await;
    assert_eq!(world.server.count(""), before, "a registry was asked");
    world.host.provider.destroy(&cx(), &id).await.unwrap();

    // What a tag stands for is looked up again where that is asked for.
    world.pull(&image, Pull::Always).await.unwrap();
    assert!(world.server.count("/manifests/") > 1);
    assert!(world.server.count("") > before);
    assert_eq!(world.server.count("/blobs/"), 3);
    world.end().await;
}

#[tokio::test]
async fn always_takes_what_the_tag_stands_for_now() {
    let Some(old) = World::new(&made(), nothing()).await else {
        return;
    };
    let image = old.image();
    old.pull(&image, Pull::Missing).await.unwrap();
    let first = old.host.docker.inspect_image(&image).await.unwrap().id;
    // The same name stands for another one: as if the registry had moved it.
    let new = World::with(Host::open().await.unwrap(), &made(), nothing()).unwrap();
    new.pull(&new.image(), Pull::Missing).await.unwrap();
    let (repo, tag) = image.rsplit_once(':').unwrap();
    let options = bollard::query_parameters::TagImageOptions {
        repo: Some(repo.to_owned()),
        tag: Some(tag.to_owned()),
    };
    let docker = &old.host.docker;
    docker.tag_image(&new.image(), Some(options)).await.unwrap();
    let id = async || docker.inspect_image(&image).await.unwrap().id;
    assert_ne!(id().await, first);
    old.pull(&image, Pull::Missing).await.unwrap();
    assert_ne!(id().await, first);
    old.pull(&image, Pull::Always).await.unwrap();
    assert_eq!(id().await, first);
    old.end().await;
    new.end().await;
}

#[tokio::test]
async fn an_image_by_its_digest_is_that_one() {
    let made = made();
    let Some(world) = World::new(&made, nothing()).await else {
        return;
    };
    let digest = Digest::of(&made.manifest);
    let image = format!("{}/app@{digest}", world.server.host);
    world.pull(&image, Pull::Missing).await.unwrap();
    let before = world.server.count("");
    world.pull(&image, Pull::Missing).await.unwrap();
    assert_eq!(world.server.count(""), before);
    let spec = SandboxSpec::image(&image);
    let origin = world.host.provider.origin(&cx(), &spec).await.unwrap();
    assert_eq!(origin, Digest::of(&made.config).to_string());
    let id = world.host.sandbox(spec).await;
    let seen = world.host.provider.inspect(&cx(), &id).await.unwrap();
    assert_eq!(seen.effective["image"].value, origin);
    world.host.provider.destroy(&cx(), &id).await.unwrap();

    let other = format!("{}/app@{}", world.server.host, Digest::of(b"other"));
    let error = world.pull(&other, Pull::Missing).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    world.host.remove_image(&image).await;
    world.end().await;
}

fn is_typed(error: &Error, kind: ErrorKind, image: &str) {
    assert_eq!(error.kind(), kind, "{error:?}");
    assert_eq!(error.fact("value"), Some(image), "{error:?}");
    assert!(error.fact("remedy").is_some(), "{error:?}");
    let shown = format!("{error} {error:?}");
    assert!(
        !shown.contains("hush") && !shown.contains('\x1b'),
        "{shown}"
    );
}

#[tokio::test]
async fn what_a_registry_refuses_is_told_by_its_kind() {
    for (status, code, kind) in [
        ("404 Not Found", "MANIFEST_UNKNOWN", ErrorKind::NotFound),
        ("404 Not Found", "", ErrorKind::NotFound),
        (
            "401 Unauthorized",
            "UNAUTHORIZED",
            ErrorKind::Unauthenticated,
        ),
        ("401 Unauthorized", "", ErrorKind::Unauthenticated),
        ("403 Forbidden", "DENIED", ErrorKind::PermissionDenied),
        ("403 Forbidden", "", ErrorKind::PermissionDenied),
        (
            "429 Too Many Requests",
            "TOOMANYREQUESTS",
            ErrorKind::ResourceExhausted,
        ),
        (
            "503 Service Unavailable",
            "UNAVAILABLE",
            ErrorKind::Unavailable,
        ),
        ("503 Service Unavailable", "", ErrorKind::Unavailable),
    ] {
        let instead = move |request: &Request| {
            let mine = request.path.contains("/manifests/");
            let basic = if status.starts_with("401") {
                "WWW-Authenticate: Basic realm=\"r\"\r\n"
            } else {
                ""
            };
            // With the words of a registry, and without any.
            let body = if code.is_empty() {
                String::new()
            } else {
                let message = format!("\u{1b}[2J https://cdn/x?key=hush {}", code.to_lowercase());
                serde_json::json!({"errors": [{"code": code, "message": message}]}).to_string()
            };
            mine.then(|| (status, basic.to_owned(), body))
        };
        let Some(world) = World::new(&made(), Box::new(instead)).await else {
            return;
        };
        let image = world.image();
        let error = world.pull(&image, Pull::Missing).await.unwrap_err();
        is_typed(&error, kind, &image);
        assert!(!world.host.has_image(&image).await);
        world.end().await;
    }
}

#[tokio::test]
async fn a_registry_that_cannot_be_reached_and_names_that_are_none_are_told() {
    let Some(host) = Host::open().await else {
        return;
    };
    let image = "127.0.0.1:1/app:1";
    let error = pull(&host, image, Pull::Missing, None).await.unwrap_err();
    is_typed(&error, ErrorKind::Unavailable, image);
    for image in [
        "../containers/x",
        "A",
        "a b",
        "a?x=y",
        "a//b",
        "x\u{1b}[2J",
        "",
    ] {
        let pulled = pull(&host, image, Pull::Missing, None).await.unwrap_err();
        assert_eq!(
            pulled.kind(),
            ErrorKind::InvalidArgument,
            "{image:?}: {pulled:?}"
        );
        assert_eq!(pulled.fact("field"), Some("image"), "{pulled:?}");
    }
    host.end(&[]).await;
}

#[tokio::test]
async fn other_bytes_than_the_digest_says_are_refused() {
    let made = made();
    let layer = Digest::of(&made.layers[1]).to_string();
    let empty = move |request: &Request| {
        let mine = request.path.ends_with(&layer);
        mine.then(|| ("200 OK", String::new(), String::new()))
    };
    let Some(world) = World::new(&made, Box::new(empty)).await else {
        return;
    };
    let image = world.image();
    let error = world.pull(&image, Pull::Missing).await.unwrap_err();
    is_typed(&error, ErrorKind::Corrupt, &image);
    assert!(!world.host.has_image(&image).await);
    world.end().await;
}

#[tokio::test]
async fn a_pull_that_is_given_up_ends_in_the_engine_and_leaves_nothing() {
    let Some(world) = World::new(&made(), nothing()).await else {
        return;
    };
    let image = world.image();
    world.hangs.store(true, Ordering::Relaxed);
    let request = PullRequest {
        source: Source::Image(image.clone()),
        when: Pull::Missing,
        observer: None,
    };
    let late = cx().with_deadline(Instant::now() + Duration::from_secs(2));
    let error = world.host.provider.pull(&late, &request).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    let asked = world.server.count("/blobs/");
    assert!(asked > 0, "nothing was under way");
    // Long before the engine would be given up for its silence.
    let given_up = Instant::now();
    eventually("the engine hangs up", async || {
        world.left.load(Ordering::Relaxed) > 0
    })
    .await;
    assert!(
        given_up.elapsed() < SOON / 4,
        "only after {:?}",
        given_up.elapsed()
    );
    assert!(!world.host.has_image(&image).await);

    // Dropped, and cancelled.
    let provider = Arc::clone(&world.host.provider);
    let (dropped, wanted) = (request.clone(), request.clone());
    let pulling = tokio::spawn(async move { provider.pull(&cx(), &dropped).await });
    eventually("blobs are asked for", async || {
        world.server.count("/blobs/") > asked
    })
    .await;
    pulling.abort();
    let (inside, canceller) = cx().cancellable();
    let provider = Arc::clone(&world.host.provider);
    let pulling = tokio::spawn(async move { provider.pull(&inside, &wanted).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    canceller.cancel();
    let error = pulling.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
    assert!(!world.host.has_image(&image).await);

    // Nothing of that is in the way of a later one.
    world.hangs.store(false, Ordering::Relaxed);
    world.pull(&image, Pull::Missing).await.unwrap();
    world.end().await;
}

#[tokio::test]
async fn a_silent_registry_is_given_up() {
    let host = Host::with(|mut config| {
        config.answer_within = Duration::from_secs(3);
        config
    });
    let Some(host) = host.await else {
        return;
    };
    let stop = Arc::new(AtomicBool::new(false));
    let silent = Arc::clone(&stop);
    let instead = move |request: &Request| {
        while request.path.contains("/blobs/") && !silent.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(10));
        }
        None
    };
    let Some(world) = World::with(host, &made(), Box::new(instead)) else {
        return;
    };
    let image = world.image();
    let error = world.pull(&image, Pull::Missing).await.unwrap_err();
    stop.store(true, Ordering::Relaxed);
    is_typed(&error, ErrorKind::Unavailable, &image);
    assert!(error.to_string().contains("said nothing"), "{error}");
    world.end().await;
}

#[tokio::test]
async fn an_image_of_another_architecture_is_refused_before_anything_is_made() {
    let Some(world) = World::new(&Made::with("s390x", random()), nothing()).await else {
        return;
    };
    let image = world.image();
    // The engine takes what it cannot run.
    world.pull(&image, Pull::Missing).await.unwrap();
    let request = world.host.request(SandboxSpec::image(&image));
    let error = world
        .host
        .provider
        .create(&cx(), &request)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
    assert_eq!(error.fact("value"), Some("linux/s390x"));
    assert!(error.fact("expected").unwrap().starts_with("linux/"));
    assert!(error.fact("remedy").unwrap().contains("--platform"));
    let state = std::fs::read_dir(world.host.state.path()).unwrap();
    let state = state.map(|entry| entry.unwrap().file_name());
    let tickets = state.filter(|name| name.to_string_lossy().ends_with(".ticket"));
    assert_eq!(tickets.count(), 0);
    world.end().await;
}

#[tokio::test]
async fn what_an_image_says_holds_unless_the_spec_says_otherwise() {
    let Some(host) = Host::open().await else {
        return;
    };
    let name = format!("stacyvm-test/said:{}", host.instance);
    let container = host.sandbox(SandboxSpec::image(IMAGE)).await;
    let exported = format!("stacyvm-{container}");
    let export = host.docker.export_container(&exported);
    let root: Vec<bytes::Bytes> = futures_util::TryStreamExt::try_collect(export)
        .await
        .unwrap();
    host.provider.destroy(&cx(), &container).await.unwrap();
    let changes = [
        "ENV GREETING=\"from the image\" PATH=/bin:/sbin KEPT=yes",
        "USER user:nogroup",
        "WORKDIR /srv/app",
        "ENTRYPOINT [\"/bin/sh\", \"-c\"]",
        "CMD [\"echo $GREETING\"]",
        "LABEL stacyvm.tenant=other stacyvm.image-command=false",
    ];
    host.import(&name, root.concat(), &changes).await;

    let id = host.sandbox(SandboxSpec::image(&name)).await;
    let line = "echo $GREETING; echo $KEPT; id -un; id -gn; pwd; touch here && echo written";
    let expected = "from the image\nyes\nuser\nnogroup\n/srv/app\nwritten";
    assert_eq!(host.sh(&id, line).await, expected);
    let seen = host.provider.inspect(&cx(), &id).await.unwrap();
    let command = r#"["/bin/sh","-c","echo $GREETING"]"#;
    assert_eq!(seen.effective["image_command"].value, command);
    assert_eq!(seen.tenant, Some(cx().tenant));

    let spec = SandboxSpec::image(&name).env("GREETING", "mine");
    let over = host.sandbox(spec.user("0:0").workdir("/root")).await;
    let line = "echo $GREETING; echo $KEPT; id -u; id -g; pwd";
    assert_eq!(host.sh(&over, line).await, "mine\nyes\n0\n0\n/root");
    for id in [&id, &over] {
        host.provider.destroy(&cx(), id).await.unwrap();
    }
    host.remove_image(&name).await;
    host.end(&[]).await;
}

#[tokio::test]
async fn an_image_that_names_no_user_runs_commands_as_no_root() {
    let Some(host) = Host::open().await else {
        return;
    };
    // Nobody has an account in it, and what commands need is root's or not there.
    let name = format!("stacyvm-test/nobody:{}", host.instance);
    let container = host.sandbox(SandboxSpec::image(IMAGE)).await;
    let ours = "id -un; echo ~; cd ~ && echo x > f && rm f && stat -c %u:%g . /workspace";
    let expected = "user\n/home/user\n1000:1000\n1000:1000";
    assert_eq!(host.sh(&container, ours).await, expected);
    let mut remove = stacyvm::ExecSpec::shell("rm -r /etc/passwd /etc/group /home /workspace");
    remove.user = Some("root".to_owned());
    let removed = host.provider.exec(&cx(), &container, &remove).await;
    let events = removed.unwrap().events;
    let events: Vec<_> = futures_util::TryStreamExt::try_collect(events)
        .await
        .unwrap();
    let ended = matches!(events.last(), Some(stacyvm::ExecEvent::Exited(end)) if end.success());
    assert!(ended, "{events:?}");
    let exported = format!("stacyvm-{container}");
    let export = host.docker.export_container(&exported);
    let root: Vec<bytes::Bytes> = futures_util::TryStreamExt::try_collect(export)
        .await
        .unwrap();
    host.provider.destroy(&cx(), &container).await.unwrap();
    host.import(&name, root.concat(), &["ENV PATH=/bin"]).await;

    let id = host.sandbox(SandboxSpec::image(&name)).await;
    let line = "id -u; id -g; echo $HOME; pwd; echo x > f && echo y > ~/f && \
                stat -c '%u:%g %a' . f ~ ~/f /home";
    let expected = "1000\n1000\n/home/user\n/workspace\n1000:1000 755\n1000:1000 644\n\
                    1000:1000 755\n1000:1000 644\n0:0 755";
    assert_eq!(host.sh(&id, line).await, expected);
    let user = async |id| {
        let seen = host.provider.inspect(&cx(), id).await.unwrap();
        seen.effective["user"].value.clone()
    };
    assert_eq!(user(&id).await, "1000:1000");
    // Root is a word of the spec's, and so shown.
    let root = host.sandbox(SandboxSpec::image(&name).user("root")).await;
    assert_eq!(
        host.sh(&root, "id -u; echo x > f; stat -c %u . f").await,
        "0\n0\n0"
    );
    assert_eq!(user(&root).await, "root");
    let mut spec = SandboxSpec::image(IMAGE);
    spec.read_only_root = true;
    let read_only = host.sandbox(spec).await;
    let line = "echo x > f; stat -c %u . f; touch ~/f";
    let line = format!("{line} 2>&1 | grep -o 'Read-only.*'");
    assert_eq!(
        host.sh(&read_only, &line).await,
        "1000\n1000\nRead-only file system"
    );
    for id in [&id, &root, &read_only] {
        host.provider.destroy(&cx(), id).await.unwrap();
    }
    host.remove_image(&name).await;
    host.end(&[]).await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn what_is_mounted_on_a_place_of_the_default_user_keeps_its_owner() {
    use std::os::unix::fs::MetadataExt as _;
    let Some(host) = Host::open().await else {
        return;
    };
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let place = tempfile::Builder::new()
        .prefix("stacyvm-test-")
        .tempdir_in("/var/tmp")
        .unwrap();
    let mut ids = Vec::new();
    for users in [
        stacyvm::provider::Users::Many,
        stacyvm::provider::Users::One,
    ] {
        let config =
            stacyvm::providers::docker::DockerConfig::new(host.state.path(), host.instance.clone());
        let config = config.host(&host.address).users(users);
        let provider = stacyvm::providers::docker::DockerProvider::open(config);
        let provider = provider.await.unwrap();
        for target in ["/workspace", "/home"] {
            let spec = SandboxSpec::image(IMAGE).mount(stacyvm::sandbox::spec::Mount {
                target: target.to_owned(),
                source: stacyvm::sandbox::spec::MountSource::Host(
                    place.path().display().to_string(),
                ),
                writable: true,
                size_mib: None,
            });
            let made = provider.create(&cx(), &host.request(spec)).await.unwrap();
            ids.push(made.id);
            assert_eq!(
                place.path().metadata().unwrap().uid(),
                0,
                "{users:?} {target}"
            );
            assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
        }
    }
    host.end(&ids.iter().collect::<Vec<_>>()).await;
}
