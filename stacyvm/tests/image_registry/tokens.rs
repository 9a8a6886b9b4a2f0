//! Token services, as Docker Hub has one.

use std::io::Write as _;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use stacyvm::image::{Credentials, PullOptions, Secret};
use stacyvm::{Context, Error, ErrorKind};

use super::made::Made;
use super::server::{Answer, Request, Server, anonymous, send, store};

/// `ann:hush-4711`, as a header has it.
const BASIC: &str = "Basic YW5uOmh1c2gtNDcxMQ==";

fn password() -> PullOptions {
    let mut options = PullOptions::default();
    options.credentials = Some(Credentials::Password {
        user: "ann".into(),
        password: Secret::new("hush-4711"),
    });
    options
}

fn identity() -> PullOptions {
    let mut options = PullOptions::default();
    options.credentials = Some(Credentials::IdentityToken(Secret::new("hush-4711")));
    options
}

/// A registry that serves whoever brings the token with the number that is
/// valid, and a service that gives these.
struct World {
    service: Server,
    registry: Server,
    valid: Arc<AtomicUsize>,
}

impl World {
    /// With an answer that the service gives first.
    fn new(first: Answer) -> Self {
        Self::start(first, false)
    }

    /// The first token may run out before the first blob.
    fn start(first: Answer, runs_out: bool) -> Self {
        let made = Made::here();
        let given = AtomicUsize::new(0);
        let service = Server::start(
            &made,
            Box::new(move |request, stream| {
                if first(request, stream) {
                    return true;
                }
                let number = given.fetch_add(1, Ordering::Relaxed) + 1;
                let body = format!("{{\"access_token\": \"t{number}\", \"expires_in\": 60}}");
                send(stream, "200 OK", "", body.as_bytes());
                true
            }),
        );
        let valid = Arc::new(AtomicUsize::new(1));
        let (realm, now) = (service.host.clone(), Arc::clone(&valid));
        let registry = Server::start(
            &made,
            Box::new(move |request, stream| {
                if runs_out && request.path.contains("/blobs/") {
                    now.store(2, Ordering::Relaxed);
                }
                let right = format!("Bearer t{}", now.load(Ordering::Relaxed));
                let refused = request.header("authorization") != Some(&right);
                if refused {
                    let wants = format!(
                        "WWW-Authenticate: Bearer realm=\"http://{realm}/token?a=b\",service=\"the registry\",scope=\"repository:secret:*\"\r\n"
                    );
                    send(stream, "401 Unauthorized", &wants, b"");
                }
                refused
            }),
        );
        Self {
            service,
            registry,
            valid,
        }
    }

    fn pull(&self, options: &PullOptions) -> Result<(), Error> {
        let (_home, images) = store();
        images
            .pull(&Context::default(), &self.registry.reference(), options)
            .map(drop)
    }
}

#[test]
fn a_token_is_fetched_for_this_image_alone_and_again_when_it_ran_out() {
    let world = World::start(Box::new(|_, _| false), true);
    world.pull(&password()).unwrap();
    let seen = world.service.seen.lock().unwrap();
    assert_eq!(seen.len(), 2, "{seen:?}");
    for request in &*seen {
        assert_eq!(request.header("authorization"), Some(BASIC));
        // What is asked for is said by who asks, and not by the registry.
        assert!(request.path.starts_with("/token?a=b&"), "{}", request.path);
        assert!(
            request.path.contains("scope=repository%3Aapp%3Apull"),
            "{}",
            request.path
        );
        assert!(
            request.path.contains("service=the+registry"),
            "{}",
            request.path
        );
        assert!(!request.path.contains("secret"), "{}", request.path);
    }
    let seen = world.registry.seen.lock().unwrap();
    let mut with = seen.iter().filter_map(|one| one.header("authorization"));
    assert!(
        with.all(|with| with.starts_with("Bearer t")),
        "the password went to the registry"
    );
}

#[test]
fn who_may_not_have_a_token_is_told_why() {
    let refuse = || -> Answer {
        Box::new(|_, stream| {
            send(
                stream,
                "401 Unauthorized",
                "",
                b"{\"details\": \"hush-4711\"}",
            );
            true
        })
    };
    let error = World::new(refuse()).pull(&password()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated);
    assert!(
        error.message().contains("refuses the credentials"),
        "{error}"
    );
    assert!(!format!("{error:?}").contains("4711"), "{error:?}");
    let error = World::new(refuse()).pull(&anonymous()).unwrap_err();
    assert!(error.message().contains("wants credentials"), "{error}");

    // One that gives tokens that the registry does not take.
    let world = World::new(Box::new(|_, _| false));
    world.valid.store(99, Ordering::Relaxed);
    let error = world.pull(&password()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated);
    assert!(
        world.service.count("/token") <= 2,
        "it was asked again and again"
    );
}

#[test]
fn whoever_has_no_credentials_gets_a_token_for_what_is_public() {
    let world = World::new(Box::new(|_, _| false));
    world.pull(&anonymous()).unwrap();
    let seen = world.service.seen.lock().unwrap();
    assert!(seen.iter().all(|one| one.header("authorization").is_none()));
}

#[test]
fn an_identity_token_is_exchanged_and_follows_to_no_other_host() {
    let world = World::new(Box::new(|_, _| false));
    world.pull(&identity()).unwrap();
    {
        let seen = world.service.seen.lock().unwrap();
        assert!(seen[0].head.starts_with("POST "), "{:?}", seen[0]);
        let body = &seen[0].body;
        assert!(body.contains("grant_type=refresh_token&"), "{body}");
        assert!(body.contains("refresh_token=hush-4711"), "{body}");
        assert!(!seen[0].path.contains("4711"), "{}", seen[0].path);
    }
    let other = Server::start(&Made::here(), Box::new(|_, _| false));
    for options in [identity(), password()] {
        let to = other.host.clone();
        let world = World::new(Box::new(move |_, stream| {
            let location = format!("Location: http://{to}/token\r\n");
            send(stream, "307 Temporary Redirect", &location, b"");
            true
        }));
        let error = world.pull(&options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol, "{error:?}");
    }
    assert_eq!(
        other.seen.lock().unwrap().len(),
        0,
        "another host was asked"
    );
}

#[test]
fn a_token_that_is_none_is_refused() {
    for body in [
        "",
        "hush-4711",
        "{}",
        "{\"token\": \"\"}",
        "{\"token\": 4711}",
        "{\"token\": \"hush-4711\\r\\nX-Other: 1\"}",
    ] {
        let world = World::new(Box::new(move |_, stream| {
            send(stream, "200 OK", "", body.as_bytes());
            true
        }));
        let error = world.pull(&password()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol, "{body}: {error:?}");
        assert!(!format!("{error:?}").contains("4711"), "{error:?}");
    }
    let world = World::new(Box::new(|_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
        while stream.write_all(&[b' '; 8192]).is_ok() {}
        true
    }));
    let error = world.pull(&password()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{error:?}");
}

#[test]
fn a_service_that_fails_once_is_asked_again() {
    // For a blob, whose request is repeated by nobody else.
    let asked = AtomicUsize::new(0);
    let fails = move |_: &Request, stream: &mut TcpStream| {
        let fail = asked.fetch_add(1, Ordering::Relaxed) == 1;
        if fail {
            send(stream, "503 Service Unavailable", "", b"");
        }
        fail
    };
    let world = World::start(Box::new(fails), true);
    world.pull(&password()).unwrap();
    assert_eq!(world.service.count("/token"), 3);
}
