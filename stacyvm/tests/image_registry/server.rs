//! A registry of these tests.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use stacyvm::Context;
use stacyvm::image::{Credentials, Digest, Images, PullOptions};

use super::made::Made;

/// A request: its path, its whole head, and its body.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) path: String,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

pub(crate) type Answer = Box<dyn Fn(&Request, &mut TcpStream) -> bool + Send + Sync>;

/// A registry without TLS. Its answer is asked first; where that is none, it
/// serves the image.
pub(crate) struct Server {
    pub(crate) host: String,
    pub(crate) seen: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    pub(crate) fn start(made: &Made, answer: Answer) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").unwrap(), made, answer)
    }

    /// Serves whoever comes there.
    pub(crate) fn on(listener: TcpListener, made: &Made, answer: Answer) -> Self {
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

    pub(crate) fn reference(&self) -> stacyvm::image::Reference {
        format!("{}/app:1", self.host).parse().unwrap()
    }

    pub(crate) fn count(&self, part: &str) -> usize {
        let seen = self.seen.lock().unwrap();
        seen.iter().filter(|one| one.path.contains(part)).count()
    }
}

/// The head of a request; `None` where there is none, or the greeting of TLS.
pub(crate) fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).unwrap_or(0) == 0 || (head.is_empty() && byte[0] == 0x16) {
            return None;
        }
        head.push(byte[0]);
    }
    Some(String::from_utf8(head).unwrap())
}

/// Serves other bytes where a path ends so.
pub(crate) fn other_bytes(path: String, bytes: Vec<u8>) -> Answer {
    Box::new(move |request, stream| {
        let mine = request.path.ends_with(&path);
        if mine {
            send(stream, "200 OK", "", &bytes);
        }
        mine
    })
}

fn serve(
    mut stream: TcpStream,
    content: &HashMap<String, Vec<u8>>,
    answer: &Answer,
    seen: &Mutex<Vec<Request>>,
) {
    let Some(head) = read_head(&mut stream) else {
        return;
    };
    let path = head.split(' ').nth(1).unwrap().to_owned();
    let body = String::new();
    let mut request = Request { path, head, body };
    let long = request.header("content-length").unwrap_or("0");
    let mut body = vec![0; long.parse().unwrap()];
    stream.read_exact(&mut body).unwrap();
    request.body = String::from_utf8(body).unwrap();
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
pub(crate) fn send(stream: &mut TcpStream, status: &str, headers: &str, body: &[u8]) {
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n{headers}\r\n",
        body.len()
    );
    let _ = stream.write_all(head.as_bytes());
    let _ = stream.write_all(body);
}

pub(crate) fn anonymous() -> PullOptions {
    let mut options = PullOptions::default();
    options.credentials = Some(Credentials::Anonymous);
    options
}

pub(crate) fn count(path: &Path) -> usize {
    std::fs::read_dir(path).unwrap().count()
}

/// A store in a directory of its own.
pub(crate) fn store() -> (tempfile::TempDir, Images) {
    let home = tempfile::tempdir().unwrap();
    let images = Images::open(&home.path().join("images")).unwrap();
    (home, images)
}

/// Nothing half-made is there, and no name.
pub(crate) fn is_without_image(images: &Images) {
    assert_eq!(images.list().unwrap().len(), 0);
    assert_eq!(count(&images.path().join("tmp")), 0);
    assert_eq!(images.verify(&Context::default()).unwrap(), []);
}
