//! What a client believes of a server.

use std::net::SocketAddr;

use futures_util::StreamExt as _;
use stacyvm::error::Retry;
use stacyvm::id::SnapshotId;
use stacyvm::provider::Provider;
use stacyvm::providers::http::{HttpConfig, HttpProvider};
use stacyvm::sandbox::files::{GuestPath, ReadRequest, WatchRequest, WriteMode, WriteRequest};
use stacyvm::{Context, ErrorKind, ExecEvent, ExecSpec, SandboxId};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

pub(crate) const PROVIDER: &str = r#"{"info":{"name":"liar","runtime":"none","versions":{}},"capabilities":{"dial":true,"listen":true,"claim":true}}"#;

pub(crate) fn json(status: &str, body: &str) -> Vec<u8> {
    answer(status, "application/json", body.as_bytes())
}

fn answer(status: &str, kind: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head =
        format!("HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n");
    [head.as_bytes(), body].concat()
}

pub(crate) fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length, &[kind][..], payload].concat()
}

pub(crate) fn frames(all: &[Vec<u8>]) -> Vec<u8> {
    answer("200 OK", "application/vnd.stacyvm.frames", &all.concat())
}

/// What a session says after the switch.
pub(crate) fn switched(all: &[Vec<u8>]) -> Vec<u8> {
    let head = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: stacyvm-exec/1\r\n\r\n";
    [head.as_bytes(), &all.concat()].concat()
}

/// Answers the first question as a server does, and every later one with these bytes;
/// then it closes the connection, unless it is to stay.
pub(crate) async fn liar(lie: Vec<u8>, stays: bool) -> HttpProvider {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut open = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let asked = request(&mut stream).await;
            let first = asked.starts_with("GET /v1/provider ");
            let text = if first {
                json("200 OK", PROVIDER)
            } else {
                lie.clone()
            };
            // A client that has had enough may be gone.
            let _ = stream.write_all(&text).await;
            let _ = stream.flush().await;
            if stays && !first {
                open.push(stream);
            }
        }
    });
    HttpProvider::open(HttpConfig::new(format!("http://{address}")))
        .await
        .unwrap()
}

/// Reads a head, and the body that it announces; gives the head.
async fn request(stream: &mut TcpStream) -> String {
    let whole = whole_request(stream).await;
    let head = whole.split_inclusive("\r\n\r\n").next();
    head.unwrap_or_default().to_owned()
}

/// A head with the body that it announces.
pub(crate) async fn whole_request(stream: &mut TcpStream) -> String {
    let mut all = Vec::new();
    while !all.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => all.push(byte),
            Err(_) => break,
        }
    }
    let text = String::from_utf8(all).unwrap();
    let length = text
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    let _ = stream.read_exact(&mut body).await;
    text + &String::from_utf8_lossy(&body)
}

pub(crate) fn id() -> SandboxId {
    SandboxId::new("s1").unwrap()
}

#[tokio::test]
async fn replies_about_something_else_are_refused() {
    let cx = Context::default();
    let other = r#"{"id":"s2","state":"running"}"#;
    for body in [
        other,
        r#"{"id":"S/../1","state":"running"}"#,
        r#"{"id":"s1","state":"dancing"}"#,
        r#"{"id":"s1","state":"running","ends":{"seconds":1,"nanoseconds":4000000000}}"#,
        "[]",
        "",
    ] {
        let provider = liar(json("200 OK", body), false).await;
        let error = provider.inspect(&cx, &id()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol, "{body}: {error:?}");
    }
    for ids in [["s2", "s1"], ["s1", "s1"], ["a1", "s3"]] {
        let [one, two] = ids.map(|id| format!(r#"{{"id":"{id}","state":"running"}}"#));
        let body = format!(r#"{{"sandboxes":[{one},{two}]}}"#);
        let provider = liar(json("200 OK", &body), false).await;
        let after = SandboxId::new("b1").unwrap();
        let error = provider.list(&cx, Some(&after), 2).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol, "{ids:?}");
    }
    let body = r#"{"id":"p2","memory":false}"#;
    let provider = liar(json("200 OK", body), false).await;
    let asked = SnapshotId::new("p1").unwrap();
    let error = provider.snapshot(&cx, &id(), &asked).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol, "another snapshot");
    let body = format!(r#"{{"sandboxes":[{other},{}]}}"#, other.replace("s2", "s3"));
    let provider = liar(json("200 OK", &body), false).await;
    let error = provider.list(&cx, None, 1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol, "more than asked for");
}

#[tokio::test]
async fn what_is_no_server_of_this_api_is_told_as_such() {
    let cx = Context::default();
    for (bytes, kind) in [
        (json("500 Oops", "<html>"), ErrorKind::Protocol),
        (json("302 Found", ""), ErrorKind::Protocol),
        (b"SSH-2.0-OpenSSH\r\n".to_vec(), ErrorKind::Unavailable),
        (Vec::new(), ErrorKind::Unavailable),
        (
            json("400 Bad", r#"{"kind":"on_fire","message":"a\u001b[2Jb"}"#),
            ErrorKind::Internal,
        ),
        (
            json("404 No", r#"{"kind":"not_found","message":"no such"}"#),
            ErrorKind::NotFound,
        ),
    ] {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let provider = liar(bytes, false).await;
        let error = provider.inspect(&cx, &id()).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{text}: {error:?}");
        assert!(!error.to_string().contains('\x1b'));
        let again = matches!(error.retryable(), Retry::Maybe { .. });
        assert_eq!(again, kind == ErrorKind::Unavailable, "{text}");
    }
}

#[tokio::test]
async fn what_the_wire_does_not_carry_is_not_claimed() {
    let provider = liar(Vec::new(), false).await;
    let claims = provider.capabilities();
    assert!(claims.dial && !claims.listen && !claims.claim);
    let cx = Context::default();
    let error = provider.listen(&cx, &id(), 1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[tokio::test]
async fn a_reply_without_end_is_given_up() {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n[";
    let mut lie = head.as_bytes().to_vec();
    lie.resize(33 << 20, b' ');
    let provider = liar(lie, true).await;
    let error = provider
        .usage(&Context::default(), &id())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol, "{error:?}");
}

#[tokio::test]
async fn a_session_is_believed_within_its_bounds() {
    let cx = Context::default();
    let spec = ExecSpec::new(["true"]);
    let head = |exec: &str| frame(1, format!(r#"{{"exec":"{exec}","pid":1}}"#).as_bytes());
    let own = head(spec.exec.as_str());
    let exited = frame(19, br#"{"reason":"code","code":0}"#);

    for first in [
        head("x2"),
        frame(16, b"out"),
        exited.clone(),
        frame(1, b"{"),
    ] {
        let provider = liar(switched(&[first]), true).await;
        let error = provider.exec(&cx, &id(), &spec).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol, "{error:?}");
    }
    let head = |status: &str, protocol: &str| {
        format!("HTTP/1.1 {status}\r\nconnection: upgrade\r\nupgrade: {protocol}\r\n\r\n")
    };
    let all = [own.clone(), exited.clone()].concat();
    let switch = |head: String| [head.as_bytes(), &all].concat();
    for lie in [
        json("200 OK", "{}"),
        switch(head("200 OK", "stacyvm-exec/1")),
        switch(head("101 Switching Protocols", "stacyvm-exec/2")),
    ] {
        let provider = liar(lie, true).await;
        let error = provider.exec(&cx, &id(), &spec).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol, "no switch: {error:?}");
    }

    let much = frame(16, &vec![b'x'; 1 << 20]);
    let lies: Vec<(&str, ErrorKind, Vec<Vec<u8>>, bool)> = vec![
        ("cut before an event", ErrorKind::Unavailable, vec![], false),
        (
            "cut after output",
            ErrorKind::Unavailable,
            vec![frame(16, b"out")],
            false,
        ),
        (
            "cut in a frame",
            ErrorKind::Unavailable,
            vec![exited[..7].to_vec()],
            false,
        ),
        (
            "4 GiB",
            ErrorKind::Protocol,
            vec![vec![0xff, 0xff, 0xff, 0xff, 16]],
            true,
        ),
        (
            "an unknown kind",
            ErrorKind::Protocol,
            vec![frame(99, b"")],
            true,
        ),
        (
            "output beyond credit",
            ErrorKind::Protocol,
            vec![much.clone(), much],
            true,
        ),
        (
            "an answer to no call",
            ErrorKind::Protocol,
            vec![frame(37, &[0, 0, 0, 9])],
            true,
        ),
        (
            "a call",
            ErrorKind::Protocol,
            vec![frame(32, &[0, 0, 0, 9])],
            true,
        ),
        (
            "a code that is none",
            ErrorKind::Protocol,
            vec![frame(19, br#"{"reason":"code","code":-1}"#)],
            true,
        ),
        (
            "an error",
            ErrorKind::NotFound,
            vec![frame(4, br#"{"kind":"not_found","message":"gone"}"#)],
            true,
        ),
    ];
    for (what, kind, rest, stays) in lies {
        let all = [vec![own.clone()], rest].concat();
        let provider = liar(switched(&all), stays).await;
        let mut session = provider.exec(&cx, &id(), &spec).await.unwrap();
        let mut last = None;
        while let Some(event) = session.events.next().await {
            assert!(
                !matches!(event, Ok(ExecEvent::Exited(_))),
                "{what}: {event:?}"
            );
            last = Some(event);
        }
        let error = last.expect(what).unwrap_err();
        assert_eq!(error.kind(), kind, "{what}: {error:?}");
    }
    // Nothing is believed after the end, and nothing hangs.
    let all = [own, exited.clone(), exited, frame(16, b"more")];
    let provider = liar(switched(&all), true).await;
    let mut spec = spec;
    spec.stdin = true;
    let session = provider.exec(&cx, &id(), &spec).await.unwrap();
    let events: Vec<_> = session.events.collect().await;
    assert_eq!(events.len(), 1, "{events:?}");
    let signal = session.control.signal(9, stacyvm::SignalScope::Tree);
    assert_eq!(signal.await.unwrap_err().kind(), ErrorKind::NotFound);
    let input = session.control.write_stdin("x".into());
    assert_eq!(input.await.unwrap_err().kind(), ErrorKind::Conflict);
    session.control.close_stdin().await.unwrap();
}

/// So that a server without a claim need not know how to refuse.
#[tokio::test]
async fn what_is_not_claimed_or_not_asked_for_is_not_sent() {
    let cx = Context::default();
    let provider = liar(json("200 OK", "{}"), false).await;
    let request = WriteRequest {
        user: None,
        path: GuestPath::new("/a").unwrap(),
        how: WriteMode::Replace,
        mode: None,
        parents: false,
    };
    let data = futures_util::stream::empty().boxed();
    let written = provider.write_file(&cx, &id(), &request, data).await;
    assert_eq!(written.unwrap_err().kind(), ErrorKind::Unsupported);

    let spec = ExecSpec::new(["true"]);
    let own = frame(1, format!(r#"{{"exec":"{}"}}"#, spec.exec).as_bytes());
    let provider = liar(switched(&[own]), true).await;
    let session = provider.exec(&cx, &id(), &spec).await.unwrap();
    let input = session.control.write_stdin("x".into());
    let input = tokio::time::timeout(std::time::Duration::from_secs(5), input).await;
    let error = input.expect("it was sent").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
}

#[tokio::test]
async fn a_stream_that_is_cut_is_never_a_short_success() {
    let cx = Context::default();
    let path = GuestPath::new("/a").unwrap();
    let entry = br#"{"path":"/a","kind":"file","size":3,"mode":420,"uid":0,"gid":0,"modified":{"seconds":0,"nanoseconds":0}}"#;
    let request = ReadRequest {
        user: None,
        path: path.clone(),
        offset: 0,
        length: None,
    };
    for (rest, kind) in [
        (vec![], ErrorKind::Unavailable),
        (vec![frame(2, b"abc")], ErrorKind::Unavailable),
        (vec![frame(5, b"{}")], ErrorKind::Protocol),
        (
            vec![frame(2, b"abc"), frame(4, br#"{"kind":"no_space"}"#)],
            ErrorKind::NoSpace,
        ),
    ] {
        let all = [vec![frame(1, entry)], rest].concat();
        let provider = liar(frames(&all), false).await;
        let (_, bytes) = provider.read_file(&cx, &id(), &request).await.unwrap();
        let read: Vec<_> = bytes.collect().await;
        let error = read.last().unwrap().as_ref().unwrap_err();
        assert_eq!(error.kind(), kind, "{error:?}");
    }
    let whole = [frame(1, entry), frame(2, b"abc"), frame(3, b"")];
    let provider = liar(frames(&whole), false).await;
    let (_, bytes) = provider.read_file(&cx, &id(), &request).await.unwrap();
    assert!(bytes.all(|piece| async move { piece.is_ok() }).await);

    let watch = WatchRequest {
        user: None,
        path,
        recursive: false,
    };
    let change = frame(5, br#"{"kind":"created","path":"b"}"#);
    let provider = liar(frames(&[change]), false).await;
    let seen: Vec<_> = provider
        .watch(&cx, &id(), &watch)
        .await
        .unwrap()
        .collect()
        .await;
    assert!(seen[0].is_ok() && seen[1].is_err(), "{seen:?}");
}

#[tokio::test]
async fn a_server_that_answers_without_end_is_given_up() {
    for (first, then) in [
        (&b""[..], &b""[..]),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n", b" "),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            request(&mut stream).await;
            stream.write_all(first).await.unwrap();
            // Until the client has gone.
            while stream.write_all(then).await.is_ok() {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        });
        let mut config = HttpConfig::new(&url);
        config.answer_within = std::time::Duration::from_millis(200);
        let opening = HttpProvider::open(config);
        let limit = std::time::Duration::from_secs(20);
        let opened = tokio::time::timeout(limit, opening).await;
        let error = opened.expect("an end").expect_err("no provider");
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().contains(&url), "{error}");
        assert!(error.fact("remedy").is_some(), "{error:?}");
        server.abort();
    }
}
