//! More connections than are served at once.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use stacyvm::SandboxSpec;
use stacyvm::provider::OperationKind;
use stacyvm::providers::mock::{Fault, FaultPlan, Mock, When};
use stacyvm::server::Server;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::served::engine;

const PROBE: &[u8] = b"GET /v1/probe HTTP/1.1\r\nhost: localhost\r\n\r\n";

/// A matter of moments, and less than what a connection without a request may take.
const SOON: Duration = Duration::from_secs(10);

/// Ends the server.
struct Task(tokio::task::JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A server of so many connections, and the path of a sandbox of it.
async fn serving(most: usize) -> (Task, SocketAddr, String) {
    let engine = engine(Arc::new(Mock::default())).await;
    let sandbox = engine.create(SandboxSpec::image("scratch")).await.unwrap();
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let server = Server::bind(engine, None, any).await.unwrap();
    let server = server.connections(most);
    let address = server.address();
    let path = format!("/v1/sandboxes/{}", sandbox.id());
    (Task(tokio::spawn(server.run())), address, path)
}

async fn connected(address: SocketAddr, sent: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(sent).await.unwrap();
    stream
}

/// The first bytes that come, which are none at the end.
async fn first(stream: &mut TcpStream) -> String {
    let mut bytes = [0; 4096];
    let read = timeout(SOON, stream.read(&mut bytes)).await;
    let read = read.expect("an answer or an end").unwrap_or(0);
    String::from_utf8_lossy(&bytes[..read]).into_owned()
}

/// Waits until the server has taken what was connected.
async fn taken() {
    tokio::time::sleep(Duration::from_millis(200)).await;
}

#[tokio::test]
async fn who_asks_for_nothing_makes_room_for_who_comes() {
    let (_task, address, _) = serving(3).await;
    // Nothing, half a request, and one that was answered.
    let mut silent = connected(address, b"").await;
    let mut half = connected(address, &PROBE[..20]).await;
    let mut kept = connected(address, PROBE).await;
    assert!(first(&mut kept).await.starts_with("HTTP/1.1 200 "));
    let mut others = Vec::new();
    for gone in [&mut silent, &mut half] {
        let mut new = connected(address, PROBE).await;
        assert!(first(&mut new).await.starts_with("HTTP/1.1 200 "));
        assert_eq!(first(gone).await, "", "the one that is idle longest");
        // It has the place now, and is idle for the shortest time.
        others.push(new);
    }
    kept.write_all(PROBE).await.unwrap();
    assert!(first(&mut kept).await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn who_is_being_served_makes_no_room_until_that_has_ended() {
    let (_task, address, sandbox) = serving(1).await;
    let body = r#"{"path":"/tmp","recursive":false}"#;
    let watch = format!(
        "POST {sandbox}/files/watch HTTP/1.1\r\nhost: localhost\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut served = connected(address, watch.as_bytes()).await;
    let begun = first(&mut served).await;
    assert!(begun.starts_with("HTTP/1.1 200 "), "{begun}");
    let mut waits = connected(address, PROBE).await;
    let mut byte = [0];
    let early = timeout(Duration::from_secs(2), waits.read(&mut byte)).await;
    assert!(early.is_err(), "it is served beyond the limit");
    drop(served);
    assert!(first(&mut waits).await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn what_was_begun_when_room_was_wanted_is_served_to_its_end() {
    let fault = Fault::Delay(Duration::from_secs(1));
    let plan = FaultPlan::default().rule(OperationKind::Probe, When::Always, fault);
    let mock = Mock::builder().faults(plan).build();
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let server = Server::bind(engine(Arc::new(mock)).await, None, any).await;
    let server = server.unwrap().connections(1);
    let address = server.address();
    let _task = Task(tokio::spawn(server.run()));
    let mut begun = connected(address, &PROBE[..20]).await;
    taken().await;
    let mut waits = connected(address, PROBE).await;
    // It has been told by now, and asks all the same.
    tokio::time::sleep(Duration::from_millis(30)).await;
    begun.write_all(&PROBE[20..]).await.unwrap();
    for stream in [&mut begun, &mut waits] {
        let answer = first(stream).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
}

#[tokio::test]
async fn a_session_too_many_is_refused_before_its_command() {
    let (_task, address, sandbox) = serving(1).await;
    let start = |exec: &str| {
        let body = format!(r#"{{"exec":"{exec}","argv":["sleep","60"]}}"#);
        format!(
            "POST {sandbox}/execs HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\n\
             upgrade: stacyvm-exec/1\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let mut one = connected(address, start("x1").as_bytes()).await;
    assert!(first(&mut one).await.starts_with("HTTP/1.1 101 "));
    let mut two = connected(address, start("x2").as_bytes()).await;
    let refused = first(&mut two).await;
    assert!(refused.starts_with("HTTP/1.1 429 "), "{refused}");
    assert!(refused.contains("1 sessions are open"), "{refused}");
}
