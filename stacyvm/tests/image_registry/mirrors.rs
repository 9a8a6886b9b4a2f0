//! Mirrors: asked before the registry, in order, and trusted with nothing of it.

use stacyvm::image::{Credentials, Digest, PullOptions, Reference, Secret};
use stacyvm::{Context, ErrorKind};

use super::made::Made;
use super::server::{Server, anonymous, other_bytes, send, store};

/// One that serves all, below a path too.
fn good(made: &Made) -> Server {
    let at = made.manifest.clone();
    let by_digest = format!("/manifests/{}", Digest::of(&made.manifest));
    Server::start(
        made,
        Box::new(move |request, stream| {
            let mine = request.path.ends_with(&by_digest);
            if mine {
                send(stream, "200 OK", "", &at);
            }
            mine
        }),
    )
}

/// One that answers everything with this.
fn only(made: &Made, status: &'static str, headers: &'static str) -> Server {
    Server::start(
        made,
        Box::new(move |_, stream| {
            send(stream, status, headers, b"");
            true
        }),
    )
}

fn through(registry: &Server, mirrors: &[&str]) -> PullOptions {
    let mut options = anonymous();
    for mirror in mirrors {
        let of = (registry.host.clone(), (*mirror).to_owned());
        options.mirrors.push(of);
    }
    options
}

#[test]
fn mirrors_are_asked_in_order_and_the_registry_last() {
    let made = Made::here();
    let registry = good(&made);
    let broken = only(&made, "503 Service Unavailable", "");
    let empty = only(&made, "404 Not Found", "");
    let options = through(&registry, &[&broken.host, &empty.host]);
    let (_home, images) = store();
    images
        .pull(&Context::default(), &registry.reference(), &options)
        .unwrap();
    // Once each: somebody else has it.
    for mirror in [&broken, &empty] {
        assert_eq!(mirror.count("/manifests/"), 1);
    }
    assert_eq!(registry.count("/manifests/"), 1);

    let mirror = good(&made);
    let options = through(&registry, &[&broken.host, &mirror.host]);
    let (_home, images) = store();
    let image = images
        .pull(&Context::default(), &registry.reference(), &options)
        .unwrap();
    assert_eq!(broken.count("/manifests/"), 2);
    assert_eq!(mirror.count("/blobs/"), 3);
    assert_eq!(
        registry.count("/manifests/"),
        1,
        "the registry was asked again"
    );
    // The name is that of the registry.
    assert_eq!(image.name, Some(registry.reference().to_string()));
}

#[test]
fn a_mirror_may_be_a_path_of_its_host() {
    let made = Made::here();
    let registry = only(&made, "404 Not Found", "");
    let manifest = made.manifest.clone();
    let blobs: Vec<Vec<u8>> = made.blobs().into_iter().cloned().collect();
    let mirror = Server::start(
        &made,
        Box::new(move |request, stream| {
            let Some(rest) = request.path.strip_prefix("/v2/cache/hub/app/") else {
                send(stream, "404 Not Found", "", b"");
                return true;
            };
            let blob = blobs
                .iter()
                .find(|b| rest == format!("blobs/{}", Digest::of(b)));
            match (rest, blob) {
                ("manifests/1", _) => send(stream, "200 OK", "", &manifest),
                (_, Some(blob)) => send(stream, "200 OK", "", blob),
                _ => send(stream, "404 Not Found", "", b""),
            }
            true
        }),
    );
    let options = through(&registry, &[&format!("{}/cache/hub", mirror.host)]);
    let (_home, images) = store();
    images
        .pull(&Context::default(), &registry.reference(), &options)
        .unwrap();

    for wrong in [
        "mirror",
        "https://m.io",
        "m.io/",
        "m.io/../x",
        "docker.io",
        "",
    ] {
        let options = through(&registry, &[wrong]);
        let error = images.pull(&Context::default(), &registry.reference(), &options);
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{wrong}");
        assert_eq!(error.fact("field"), Some("mirrors"));
    }
}

#[test]
fn digests_hold_whoever_serves() {
    let made = Made::here();
    let registry = good(&made);
    let (path, mut wrong) = (
        format!("/blobs/{}", Digest::of(&made.layers[0])),
        made.layers[0].clone(),
    );
    wrong[700] ^= 1;
    let mirror = Server::start(&made, other_bytes(path, wrong));
    let options = through(&registry, &[&mirror.host]);
    let (_home, images) = store();
    images
        .pull(&Context::default(), &registry.reference(), &options)
        .unwrap();
    // The layer that the mirror falsified came from the registry.
    assert_eq!(registry.count(&Digest::of(&made.layers[0]).hex()), 1);
    assert_eq!(images.verify(&Context::default()).unwrap(), []);

    // A manifest that is another than that of the digest.
    let other = Made::of("s390x");
    let manifest = other.manifest.clone();
    let liar = Server::start(
        &other,
        Box::new(move |_, stream| {
            send(stream, "200 OK", "", &manifest);
            true
        }),
    );
    let digest = Digest::of(&made.manifest);
    let pinned: Reference = format!("{}/app@{digest}", registry.host).parse().unwrap();
    let (_home, images) = store();
    let options = through(&registry, &[&liar.host]);
    let image = images.pull(&Context::default(), &pinned, &options).unwrap();
    assert_eq!(image.digest, digest);
    assert_eq!(liar.count("/manifests/"), 1);
}

#[test]
fn a_mirror_gets_its_own_credentials_and_no_others() {
    let made = Made::here();
    // It wants a password, and takes `ann:hush`.
    let closed = || {
        Server::start(
            &made,
            Box::new(|request, stream| {
                let refused = request.header("authorization") != Some("Basic YW5uOmh1c2g=");
                if refused {
                    let wants = "WWW-Authenticate: Basic realm=\"r\"\r\n";
                    send(stream, "401 Unauthorized", wants, b"");
                }
                refused
            }),
        )
    };
    let (mirror, registry) = (closed(), closed());
    let (home, images) = store();
    let file = home.path().join("config.json");
    std::fs::write(&file, "{}").unwrap();
    let mut options = through(&registry, &[&mirror.host]);
    options.auth_file = Some(file.clone());
    options.credentials = Some(Credentials::Password {
        user: "ann".into(),
        password: Secret::new("hush"),
    });
    images
        .pull(&Context::default(), &registry.reference(), &options)
        .unwrap();
    {
        let seen = mirror.seen.lock().unwrap();
        assert!(!seen.is_empty());
        assert!(
            seen.iter().all(|one| one.header("authorization").is_none()),
            "{seen:?}"
        );
    }
    let before = registry.count("/");
    let auths = serde_json::json!({"auths": {mirror.host.clone(): {"auth": "YW5uOmh1c2g="}}});
    std::fs::write(&file, auths.to_string()).unwrap();
    let (_home, images) = store();
    images
        .pull(&Context::default(), &registry.reference(), &options)
        .unwrap();
    assert_eq!(
        registry.count("/"),
        before,
        "the mirror's own credentials were not used"
    );
}

#[test]
fn where_all_fail_the_error_is_that_of_the_registry_and_names_the_mirrors() {
    let made = Made::here();
    let registry = only(&made, "404 Not Found", "");
    let mirror = only(&made, "403 Forbidden", "");
    let options = through(&registry, &[&mirror.host]);
    let (_home, images) = store();
    let pulled = images.pull(&Context::default(), &registry.reference(), &options);
    let error = pulled.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(error.fact("registry"), Some(registry.host.as_str()));
    let mirrors = error.fact("mirrors").unwrap();
    assert!(mirrors.contains(&mirror.host), "{mirrors}");
}
