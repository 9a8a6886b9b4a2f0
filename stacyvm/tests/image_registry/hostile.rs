//! Registries that lie, break off, redirect and send too much.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use stacyvm::image::{Credentials, Digest, Images, PullOptions, Secret};
use stacyvm::{Context, ErrorKind};

use super::Made;

/// A request: its path and its whole head.
#[derive(Clone, Debug)]
struct Request {
    path: String,
    head: String,
}

impl Request {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

type Answer = Box<dyn Fn(&Request, &mut TcpStream) -> bool + Send + Sync>;

/// A registry without TLS. Its answer is asked first; where that is none, it
/// serves the image.
struct Server {
    host: String,
    seen: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    fn start(made: &Made, answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let mut content: HashMap<String, Vec<u8>> = HashMap::new();
        content.insert("/v2/app/manifests/1".into(), made.manifest.clone());
        for blob in made.blobs() {
            content.insert(format!("/v2/app/blobs/{}", Digest::of(blob)), blob.clone());
        }
        let (content, answer) = (Arc::new(content), Arc::new(answer));
        let noted = Arc::clone(&seen);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (content, answer) = (Arc::clone(&content), Arc::clone(&answer));
                let noted = Arc::clone(&noted);
                std::thread::spawn(move || serve(stream.unwrap(), &content, &answer, &noted));
            }
        });
        Self { host, seen }
    }

    fn reference(&self) -> stacyvm::image::Reference {
        format!("{}/app:1", self.host).parse().unwrap()
    }

    fn count(&self, part: &str) -> usize {
        let seen = self.seen.lock().unwrap();
        seen.iter().filter(|one| one.path.contains(part)).count()
    }
}

fn serve(
    mut stream: TcpStream,
    content: &HashMap<String, Vec<u8>>,
    answer: &Answer,
    seen: &Mutex<Vec<Request>>,
) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).unwrap_or(0) == 0 {
            return;
        }
        head.push(byte[0]);
        // The greeting of TLS, which this one does not speak.
        if head[0] == 0x16 {
            return;
        }
    }
    let head = String::from_utf8(head).unwrap();
    let path = head.split(' ').nth(1).unwrap().to_owned();
    let request = Request { path, head };
    seen.lock().unwrap().push(request.clone());
    if answer(&request, &mut stream) {
        return;
    }
    match content.get(&request.path) {
        Some(bytes) => send(&mut stream, "200 OK", "", bytes),
        None => send(&mut stream, "404 Not Found", "", b""),
    }
}

/// Sends an answer. Who hung up has seen enough.
fn send(stream: &mut TcpStream, status: &str, headers: &str, body: &[u8]) {
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n{headers}\r\n",
        body.len()
    );
    let _ = stream.write_all(head.as_bytes());
    let _ = stream.write_all(body);
}

fn anonymous() -> PullOptions {
    let mut options = PullOptions::default();
    options.credentials = Some(Credentials::Anonymous);
    options
}

fn count(path: &Path) -> usize {
    std::fs::read_dir(path).unwrap().count()
}

/// A store in a directory of its own.
fn store() -> (tempfile::TempDir, Images) {
    let home = tempfile::tempdir().unwrap();
    let images = Images::open(&home.path().join("images")).unwrap();
    (home, images)
}

/// Nothing half-made is there, and no name.
fn is_without_image(images: &Images) {
    assert_eq!(images.list().unwrap().len(), 0);
    assert_eq!(count(&images.path().join("tmp")), 0);
    assert_eq!(images.verify(&Context::default()).unwrap(), []);
}

#[test]
fn other_bytes_than_promised_are_refused() {
    let made = Made::here();
    let mut wrong = made.layers[0].clone();
    wrong[600_000] ^= 1;
    let path = format!("/blobs/{}", Digest::of(&made.layers[0]));
    let server = Server::start(
        &made,
        Box::new(move |request, stream| {
            let mine = request.path.ends_with(&path);
            if mine {
                send(stream, "200 OK", "", &wrong);
            }
            mine
        }),
    );
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
