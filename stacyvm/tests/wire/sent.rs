//! What a client sends, what it keeps to itself, and what it makes of the rest.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use stacyvm::provider::{Provider as _, Pull, PullRequest};
use stacyvm::providers::http::{HttpConfig, HttpProvider};
use stacyvm::providers::mock::Mock;
use stacyvm::sandbox::files::{
    ExportRequest, GuestPath, ImportRequest, ReadRequest, WatchRequest, WriteMode, WriteRequest,
};
use stacyvm::sandbox::spec::{Lifetime, Source};
use stacyvm::server::Server;
use stacyvm::wire::error::ErrorBody;
use stacyvm::{
    Context, ErrorKind, ExecEvent, ExecSpec, ExitStatus, SandboxId, SandboxSpec, SignalScope,
};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

use crate::lies::{frame, frames, id, json, liar, switched};
use crate::served::{Served, engine, request, served};

/// Within ten seconds.
async fn soon<T>(work: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(Duration::from_secs(10), work).await;
    done.expect("it is a matter of moments")
}

/// A server, a client of it, and a sandbox.
async fn made() -> (Served, Arc<HttpProvider>, SandboxId) {
    let served = served().await;
    let client = served.client().await;
    let request = request(SandboxSpec::image("scratch"));
    client.create(&Context::default(), &request).await.unwrap();
    (served, client, request.id)
}

#[tokio::test]
async fn a_list_is_asked_for_as_a_server_has_it() {
    let (_served, client, id) = made().await;
    let cx = Context::default();
    assert_eq!(client.list(&cx, None, 0).await.unwrap(), []);
    let all = client.list(&cx, None, u32::MAX).await.unwrap();
    assert_eq!(all[0].id, id);
    assert_eq!(client.list(&cx, Some(&id), 9).await.unwrap(), []);
}

#[tokio::test]
async fn what_is_only_wished_or_not_carried_is_not_sent() {
    let (_served, client, _) = made().await;
    let cx = Context::default();
    let mut wish = request(SandboxSpec::image("scratch"));
    (wish.open_files_preferred, wish.spec.resources.open_files) = (true, Some(1024));
    client.create(&cx, &wish).await.unwrap();
    let mut waits = request(SandboxSpec::image("scratch"));
    waits.waits = true;
    let error = client.create(&cx, &waits).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    client.inspect(&cx, &waits.id).await.unwrap_err();

    let provider = liar(json("200 OK", "{}"), false).await;
    let import = ImportRequest {
        user: None,
        path: GuestPath::new("/a").unwrap(),
        parents: false,
        keep_owner: false,
    };
    let data = stream::empty().boxed();
    let imported = provider.import_tar(&cx, &id(), &import, data).await;
    assert_eq!(imported.unwrap_err().kind(), ErrorKind::Unsupported);
}

#[tokio::test]
async fn when_to_pull_is_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let heard = tokio::spawn(async move {
        let mut bodies = Vec::new();
        for answer in [json("200 OK", crate::lies::PROVIDER), json("200 OK", "{}")] {
            let (mut stream, _) = listener.accept().await.unwrap();
            bodies.push(crate::lies::whole_request(&mut stream).await);
            stream.write_all(&answer).await.unwrap();
        }
        bodies.remove(1)
    });
    let client = HttpProvider::open(HttpConfig::new(url)).await.unwrap();
    let pull = PullRequest {
        source: Source::Image("x".to_owned()),
        when: Pull::Never,
        observer: None,
    };
    client.pull(&Context::default(), &pull).await.unwrap();
    let heard = soon(heard).await.unwrap();
    assert!(heard.contains(r#""when":"never""#), "{heard}");
}

#[tokio::test]
async fn a_session_that_begins_with_an_error_is_that_error() {
    let provider = liar(switched(&[frame(4, br#"{"kind":"no_space"}"#)]), true).await;
    let spec = ExecSpec::new(["true"]);
    let error = provider.exec(&Context::default(), &id(), &spec).await;
    assert_eq!(error.err().unwrap().kind(), ErrorKind::NoSpace);
}

#[tokio::test]
async fn items_and_data_are_not_taken_for_each_other() {
    let cx = Context::default();
    let watch = WatchRequest {
        user: None,
        path: GuestPath::new("/a").unwrap(),
        recursive: false,
    };
    let change = frame(2, br#"{"kind":"created","path":"b"}"#);
    let provider = liar(frames(&[change, frame(3, b"")]), false).await;
    let changes = provider.watch(&cx, &id(), &watch).await.unwrap();
    let seen: Vec<_> = changes.collect().await;
    let error = seen[0].as_ref().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol);
}

#[tokio::test]
async fn what_an_archive_leaves_out_is_told() {
    let end = frame(3, br#"{"names":["socket"],"more":2}"#);
    let provider = liar(frames(&[frame(2, b"tar"), end]), false).await;
    let export = ExportRequest {
        user: None,
        path: GuestPath::new("/a").unwrap(),
        contents: true,
        follow: false,
    };
    let (cx, id) = (Context::default(), id());
    let mut archive = provider.export_tar(&cx, &id, &export).await.unwrap();
    while let Some(piece) = archive.next().await {
        piece.unwrap();
    }
    let left = archive.left_out();
    assert_eq!((left.names, left.more), (vec![b"socket".to_vec()], 2));
}

#[tokio::test]
async fn an_owner_is_told_in_a_head() {
    for (kind, expected) in [(1, None), (5, Some(ErrorKind::Protocol))] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let head = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n\
                 upgrade: stacyvm-owner/1\r\n\r\n";
            let owner = frame(kind, br#"{"owner":"o1"}"#);
            let mut open = Vec::new();
            for answer in [
                json("200 OK", crate::lies::PROVIDER),
                [head.as_bytes(), &owner].concat(),
                json("200 OK", r#"{"id":"s1","state":"running"}"#),
            ] {
                let (mut stream, _) = listener.accept().await.unwrap();
                crate::lies::whole_request(&mut stream).await;
                stream.write_all(&answer).await.unwrap();
                if !open.is_empty() || answer.starts_with(b"HTTP/1.1 101") {
                    open.push(stream);
                }
            }
        });
        let provider = HttpProvider::open(HttpConfig::new(url)).await.unwrap();
        let mut request = request(SandboxSpec::image("scratch").lifetime(Lifetime::Attached));
        request.id = id();
        let cx = Context::default();
        let failed = soon(provider.create(&cx, &request))
            .await
            .err()
            .map(|error| error.kind());
        assert_eq!(failed, expected);
    }
}

#[tokio::test]
async fn facts_that_this_client_does_not_know_are_kept() {
    let text = r#"{"kind":"timeout","retry":"never","context":[["brand_new","fact"]]}"#;
    let body: ErrorBody = serde_json::from_str(text).unwrap();
    assert_eq!(body.into_error().fact("detail"), Some("brand_new: fact"));
}

#[tokio::test]
async fn what_is_asked_of_a_command_that_ended_says_so() {
    let (_served, client, id) = made().await;
    let cx = Context::default();
    let mut spec = ExecSpec::new(["true"]);
    spec.stdin = true;
    let mut session = client.exec(&cx, &id, &spec).await.unwrap();
    let ended = soon(session.events.next()).await.unwrap().unwrap();
    assert_eq!(ended, ExecEvent::Exited(ExitStatus::Code { code: 0 }));
    soon(session.control.close_stdin()).await.unwrap();
    let empty = soon(session.control.write_stdin(Bytes::new())).await;
    assert_eq!(empty.unwrap_err().kind(), ErrorKind::Conflict);

    // Of one that nobody follows nothing is known.
    let session = client.exec(&cx, &id, &ExecSpec::new(["sleep", "60"])).await;
    let session = session.unwrap();
    drop(session.events);
    let sent = soon(session.control.signal(9, SignalScope::Tree)).await;
    assert_eq!(sent.unwrap_err().kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn input_that_was_given_up_holds_its_place() {
    let (_served, client, id) = made().await;
    let mut spec = ExecSpec::new(["sleep", "60"]);
    spec.stdin = true;
    let session = client.exec(&Context::default(), &id, &spec).await.unwrap();
    let (mut events, control) = (session.events, session.control);
    let piece = Bytes::from(vec![b'x'; 64 << 10]);
    // Until nobody reads it, and twice more.
    for _ in 0..3 {
        let writing = async { while control.write_stdin(piece.clone()).await.is_ok() {} };
        let done = tokio::time::timeout(Duration::from_millis(300), writing).await;
        assert!(done.is_err(), "input is refused");
    }
    soon(control.signal(9, SignalScope::Tree)).await.unwrap();
    let ended = soon(events.next()).await.unwrap().unwrap();
    assert_eq!(ended, ExecEvent::Exited(ExitStatus::Signal { signal: 9 }));
}

#[tokio::test]
async fn an_upload_that_is_given_up_is_no_file() {
    let (_served, client, id) = made().await;
    let cx = Context::default();
    let path = GuestPath::new("/tmp/a").unwrap();
    let target = WriteRequest {
        user: None,
        path: path.clone(),
        how: WriteMode::Replace,
        mode: None,
        parents: false,
    };
    let begun = stream::iter([Ok(Bytes::from_static(b"abc"))]);
    let data = begun.chain(stream::pending()).boxed();
    let writing = client.write_file(&cx, &id, &target, data);
    let done = tokio::time::timeout(Duration::from_millis(300), writing).await;
    assert!(done.is_err(), "it ended without its data");
    tokio::time::sleep(Duration::from_millis(300)).await;
    let read = ReadRequest {
        user: None,
        path,
        offset: 0,
        length: None,
    };
    let error = client.read_file(&cx, &id, &read).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn an_owner_whose_connection_was_lost_is_another_one() {
    let engine = engine(Arc::new(Mock::default())).await;
    let any = std::net::SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, 0));
    let first = Server::bind(engine.clone(), None, any).await.unwrap();
    let (address, url) = (first.address(), first.url());
    let first = tokio::spawn(first.run());
    let client = HttpProvider::open(HttpConfig::new(url)).await.unwrap();
    let cx = Context::default();
    let attached = || request(SandboxSpec::image("scratch").lifetime(Lifetime::Attached));
    client.create(&cx, &attached()).await.unwrap();
    first.abort();
    // It is gone, and with it the port is free.
    let _ = first.await;
    let second = Server::bind(engine, None, address).await.unwrap();
    let second = tokio::spawn(second.run());
    tokio::time::sleep(Duration::from_millis(200)).await;
    client.create(&cx, &attached()).await.unwrap();
    second.abort();
}
