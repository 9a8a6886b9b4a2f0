//! Registries that lie, break off, redirect and send too much.

use std::io::Write as _;
use std::sync::Mutex;

use stacyvm::image::{Credentials, Digest, PullOptions, Secret};
use stacyvm::{Context, ErrorKind};

use super::made::Made;
use super::server::{Server, anonymous, is_without_image, other_bytes, send, store};

#[test]
fn other_bytes_than_promised_are_refused() {
    let made = Made::here();
    let mut wrong = made.layers[0].clone();
    wrong[600_000] ^= 1;
    let path = format!("/blobs/{}", Digest::of(&made.layers[0]));
    let server = Server::start(&made, other_bytes(path, wrong));
    let (_home, images) = store();
    let pulled = images.pull(&Context::default(), &server.reference(), &anonymous());
    assert_eq!(pulled.unwrap_err().kind(), ErrorKind::Corrupt);
    is_without_image(&images);
    let blob = Digest::of(&made.layers[0]);
    assert!(!images.has_blob(blob), "the blob has its final name");
}

#[test]
fn a_blob_that_breaks_off_goes_on_where_it_stopped() {
    let made = Made::here();
    let layer = made.layers[0].clone();
    let path = format!("/blobs/{}", Digest::of(&layer));
    let server = Server::start(
        &made,
        Box::new(move |request, stream| {
            if !request.path.ends_with(&path) {
                return false;
            }
            let from = request.header("range").map_or(0, |range| {
                let range = range.trim_start_matches("bytes=").trim_end_matches('-');
                range.parse().unwrap()
            });
            let head = format!(
                "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {from}-{}/{}\r\nContent-Length: {}\r\n\r\n",
                layer.len() - 1,
                layer.len(),
                layer.len() - from
            );
            let head = if from == 0 {
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", layer.len())
            } else {
                head
            };
            let _ = stream.write_all(head.as_bytes());
            // Two megabytes at once, then it hangs up.
            let end = layer.len().min(from + 2_000_000);
            let _ = stream.write_all(&layer[from..end]);
            true
        }),
    );
    let (_home, images) = store();
    let image = images
        .pull(&Context::default(), &server.reference(), &anonymous())
        .unwrap();
    let ranges: Vec<String> = {
        let seen = server.seen.lock().unwrap();
        let all = seen.iter().filter_map(|one| one.header("range"));
        all.map(str::to_owned).collect()
    };
    assert!(ranges.len() >= 3, "{ranges:?}");
    assert!(ranges.iter().all(|range| range != "bytes=0-"));
    assert_eq!(image.layers.len(), 2);
    assert_eq!(images.verify(&Context::default()).unwrap(), []);
}

#[test]
fn a_server_that_fails_once_is_asked_again() {
    let made = Made::here();
    let failed = Mutex::new(false);
    let server = Server::start(
        &made,
        Box::new(move |request, stream| {
            let mut failed = failed.lock().unwrap();
            let fail = request.path.contains("/manifests/") && !*failed;
            if fail {
                *failed = true;
                send(stream, "503 Service Unavailable", "", b"");
            }
            fail
        }),
    );
    let (_home, images) = store();
    images
        .pull(&Context::default(), &server.reference(), &anonymous())
        .unwrap();
    assert_eq!(server.count("/manifests/"), 2);
}

#[test]
fn credentials_do_not_follow_to_another_host() {
    let made = Made::here();
    let other = Server::start(&made, Box::new(|_, _| false));
    let to = other.host.clone();
    let server = Server::start(
        &made,
        Box::new(move |request, stream| {
            if request.header("authorization").is_none() {
                send(
                    stream,
                    "401 Unauthorized",
                    "WWW-Authenticate: Basic realm=\"r\"\r\n",
                    b"",
                );
                return true;
            }
            let blob = request.path.contains("/blobs/");
            if blob {
                let location = format!("Location: http://{to}{}\r\n", request.path);
                send(stream, "307 Temporary Redirect", &location, b"");
            }
            blob
        }),
    );
    let mut options = PullOptions::default();
    options.credentials = Some(Credentials::Password {
        user: "u".into(),
        password: Secret::new("hush"),
    });
    let (_home, images) = store();
    images
        .pull(&Context::default(), &server.reference(), &options)
        .unwrap();
    let seen = other.seen.lock().unwrap();
    assert!(seen.len() >= 3, "nothing was redirected");
    for request in &*seen {
        assert_eq!(request.header("authorization"), None, "{}", request.path);
    }
}

#[test]
fn a_manifest_without_end_is_not_read() {
    let made = Made::here();
    let server = Server::start(
        &made,
        Box::new(|request, stream| {
            let mine = request.path.contains("/manifests/");
            if mine {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
                while stream.write_all(&[b' '; 8192]).is_ok() {}
            }
            mine
        }),
    );
    let (_home, images) = store();
    let pulled = images.pull(&Context::default(), &server.reference(), &anonymous());
    let error = pulled.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
    assert_eq!(error.fact("cap"), Some("manifest_bytes"));
    is_without_image(&images);
}

#[test]
fn an_image_for_another_machine_is_a_clear_error() {
    let made = Made::of("s390x");
    let server = Server::start(&made, Box::new(|_, _| false));
    let (_home, images) = store();
    let pulled = images.pull(&Context::default(), &server.reference(), &anonymous());
    let error = pulled.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.message().contains("s390x"), "{error}");
}
