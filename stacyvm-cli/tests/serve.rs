//! `serve`: one process has the sandboxes, others use them by HTTP.
#![cfg(target_os = "linux")]
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that panics has failed, and ends are polled"
)]

mod support;

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::time::Duration;

use support::{Cli, cli, shown};

/// A server, and its URL.
struct Server {
    child: Child,
    url: String,
}

fn serve(cli: &Cli) -> Server {
    let mut child = cli
        .command()
        .args(["serve", "--listen", "127.0.0.1:0"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut url = String::new();
    let mut told = BufReader::new(child.stdout.take().unwrap());
    told.read_line(&mut url).unwrap();
    let url = url.trim().to_owned();
    assert!(url.starts_with("http://127.0.0.1:"), "{url}");
    Server { child, url }
}

impl Server {
    fn end(&mut self) -> Option<i32> {
        let id = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(id, rustix::process::Signal::TERM);
        self.child.wait().unwrap().code()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A command line whose default provider is the server.
fn client(url: &str) -> Cli {
    let client = cli();
    // A directory that has something in it becomes no state directory.
    client.ok(&["ls"]);
    let directory = client.state.path().join("config/stacyvm");
    std::fs::create_dir_all(&directory).unwrap();
    let text = format!(
        "default_provider: shared\nproviders:\n  shared:\n    kind: http\n    url: {url}\n"
    );
    std::fs::write(directory.join("stacyvm.yaml"), text).unwrap();
    client
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..500 {
        if holds() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("after ten seconds still not: {what}");
}

#[test]
fn others_use_what_is_served_and_all_is_on_record_there() {
    let own = cli();
    let mut server = serve(&own);
    let client = client(&server.url);
    let out = client.ok(&["run", "--", "sh", "-c", "echo $((6 * 7))"]);
    assert_eq!(out, "42\n");
    assert_eq!(own.sandboxes(), Vec::<String>::new());

    let id = client.create(&["--label", "a=b"]);
    assert_eq!(own.sandboxes(), [id.as_str()]);
    assert_eq!(client.ok(&["exec", &id, "echo", "hi"]), "hi\n");
    // The server's own command line is another way to the same.
    assert_eq!(own.ok(&["exec", &id, "echo", "here"]), "here\n");
    let leaks = client.run(&["leaks"]);
    assert!(leaks.status.success(), "{}", shown(&leaks));
    client.ok(&["kill", &id]);
    assert_eq!(own.sandboxes(), Vec::<String>::new());
    assert_eq!(server.end(), Some(0));

    let error = client.run(&["run", "--", "true"]);
    assert_eq!(error.status.code(), Some(125), "{}", shown(&error));
    let text = String::from_utf8_lossy(&error.stderr).into_owned();
    assert!(text.contains("stacyvm serve"), "{text}");
}

#[test]
fn what_a_killed_client_ran_ends() {
    let own = cli();
    let server = serve(&own);
    let client = client(&server.url);
    let mut running = client
        .command()
        .args(["run", "--", "sleep", "600"])
        .spawn()
        .unwrap();
    eventually("it is there", || own.sandboxes().len() == 1);
    running.kill().unwrap();
    running.wait().unwrap();
    eventually("it is gone", || own.sandboxes().is_empty());
}

#[test]
fn an_address_that_others_reach_is_refused() {
    let own = cli();
    for (listen, word) in [
        ("0.0.0.0:0", "loopback"),
        ("192.0.2.1:7070", "loopback"),
        ("localhost", "127.0.0.1:7070"),
    ] {
        let error = own.run(&["serve", "--listen", listen]);
        assert_eq!(error.status.code(), Some(125), "{}", shown(&error));
        let text = String::from_utf8_lossy(&error.stderr).into_owned();
        assert!(text.contains("listen") && text.contains(word), "{text}");
    }
}

#[test]
fn a_server_in_the_configuration_needs_its_url_and_others_have_none() {
    for (settings, word) in [
        ("{kind: http}", "providers.shared.url"),
        (
            "{kind: oci, url: 'http://127.0.0.1:1'}",
            "providers.shared.url",
        ),
        ("{kind: http, url: 'http://10.0.0.1:1'}", "loopback"),
        (
            "{kind: http, url: 'https://127.0.0.1:1'}",
            "http://HOST:PORT",
        ),
    ] {
        let client = client("http://127.0.0.1:1");
        let file = client.state.path().join("config/stacyvm/stacyvm.yaml");
        let text = format!("default_provider: shared\nproviders:\n  shared: {settings}\n");
        std::fs::write(file, text).unwrap();
        let error = client.run(&["create"]);
        assert_eq!(error.status.code(), Some(125), "{}", shown(&error));
        let text = String::from_utf8_lossy(&error.stderr).into_owned();
        assert!(text.contains(word), "{settings}: {text}");
    }
}

#[test]
fn idle_connections_that_use_up_its_files_keep_nobody_out() {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};
    use std::io::{Read as _, Write as _};
    use std::net::TcpStream;

    let own = cli();
    let server = serve(&own);
    let address = server.url.strip_prefix("http://").unwrap();
    let few = Rlimit {
        current: Some(64),
        maximum: Some(64),
    };
    prlimit(Some(Pid::from_child(&server.child)), Resource::Nofile, few).unwrap();
    let connect = || TcpStream::connect(address).unwrap();
    let _idle: Vec<TcpStream> = (0..300).map(|_| connect()).collect();
    let mut asks = connect();
    // Less than what a connection without a request may take.
    asks.set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    asks.write_all(b"GET /v1/probe HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .unwrap();
    let mut answer = [0; 15];
    asks.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200 OK");
}
