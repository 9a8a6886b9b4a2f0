//! What a registry with TLS says must not lead away from it.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use stacyvm::image::{Credentials, PullOptions, Reference, Secret};
use stacyvm::{Context, ErrorKind};

use super::certificates::{has, make_certificates};
use super::made::Made;
use super::server::{Server, is_without_image, store};

/// A server with TLS that answers each path with a file: what `openssl` has.
struct Files {
    home: tempfile::TempDir,
    child: Child,
    host: String,
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Files {
    /// Answers a request for the manifest with this.
    fn start(answer: &str) -> Option<Self> {
        if !has("openssl") {
            eprintln!("not run: openssl is not installed");
            return None;
        }
        let home = tempfile::tempdir().unwrap();
        make_certificates(home.path());
        let manifests = home.path().join("v2/app/manifests");
        std::fs::create_dir_all(&manifests).unwrap();
        std::fs::write(manifests.join("1"), answer).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = port.local_addr().unwrap().to_string();
        drop(port);
        let mut child = Command::new("openssl")
            .args(["s_server", "-HTTP", "-accept", &host])
            .args(["-cert", "server.pem", "-key", "server.key"])
            .current_dir(home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = lines.any(|line| line.is_ok_and(|line| line.contains("ACCEPT")));
        assert!(ready, "the server did not start");
        std::thread::spawn(move || lines.for_each(drop));
        Some(Self { home, child, host })
    }

    fn reference(&self) -> Reference {
        format!("{}/app:1", self.host).parse().unwrap()
    }

    fn options(&self) -> PullOptions {
        let mut options = PullOptions::default();
        options.ca_files.push(self.home.path().join("ca.pem"));
        options.credentials = Some(Credentials::Password {
            user: "ann".into(),
            password: Secret::new("hush-4711"),
        });
        options
    }
}

#[test]
fn nothing_leads_from_https_to_http() {
    let plain = Server::start(&Made::here(), Box::new(|_, _| false));
    let host = &plain.host;
    for answer in [
        format!(
            "HTTP/1.1 307 Temporary Redirect\r\nLocation: http://{host}/v2/app/manifests/1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        ),
        format!(
            "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer realm=\"http://{host}/token\",service=\"s\"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        ),
    ] {
        let Some(files) = Files::start(&answer) else {
            return;
        };
        let (_home, images) = store();
        let pulled = images.pull(&Context::default(), &files.reference(), &files.options());
        let error = pulled.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol, "{answer}: {error:?}");
        let text = format!("{error:?}");
        assert!(text.contains("http") || text.contains("TLS"), "{text}");
        assert!(!text.contains("4711"), "{text}");
        is_without_image(&images);
    }
    assert_eq!(
        plain.seen.lock().unwrap().len(),
        0,
        "the other host was asked"
    );
}
