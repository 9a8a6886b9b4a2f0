//! What a server refuses.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use stacyvm::providers::mock::Mock;
use stacyvm::server::Server;
use stacyvm::{Engine, ErrorKind, Policy, SandboxId};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::served::{engine, serve, served, with_body};

const CREATE: &str = r#"{"id":"s1","spec":{"source":{"image":"scratch"}}}"#;

#[tokio::test]
async fn it_listens_on_loopback_addresses_alone() {
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
        let engine = engine(Arc::new(Mock::default())).await;
        let address: SocketAddr = address.parse().unwrap();
        let error = Server::bind(engine, None, address).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert_eq!(error.fact("field"), Some("listen"));
        assert!(error.to_string().contains("identities"), "{error}");
    }
}

#[tokio::test]
async fn browsers_and_other_names_of_this_host_are_refused() {
    let served = served().await;
    let get =
        |headers: &str| format!("GET /v1/provider HTTP/1.1\r\nconnection: close\r\n{headers}\r\n");
    let fine = served.raw(get("host: 127.0.0.1:80\r\n")).await;
    assert_eq!(
        (fine.status, &fine.body["info"]["name"]),
        (200, &"mock".into())
    );
    for (headers, field) in [
        ("host: evil.example\r\n", "host"),
        ("host: 127.0.0.1.evil.example\r\n", "host"),
        ("host: localhost\r\nhost: evil.example\r\n", "host"),
        ("host: localhost\r\norigin: http://localhost\r\n", "origin"),
        ("host: localhost\r\norigin: null\r\n", "origin"),
        (
            "host: localhost\r\nsec-fetch-site: same-origin\r\n",
            "sec-fetch-site",
        ),
    ] {
        let answer = served.raw(get(headers)).await;
        answer.refused(403, "permission_denied", field);
    }
    // Nothing is done before that is looked at.
    let mut create = with_body(
        "POST",
        "/v1/sandboxes",
        "application/json",
        CREATE.as_bytes(),
    );
    create.splice(0..0, []);
    let create = String::from_utf8(create).unwrap();
    let create = create.replace("host: localhost", "host: evil.example");
    served
        .raw(create)
        .await
        .refused(403, "permission_denied", "host");
    let listed = served
        .raw(get("host: localhost\r\n").replace("provider", "sandboxes"))
        .await;
    assert_eq!(listed.body["sandboxes"], serde_json::json!([]));
}

#[tokio::test]
async fn what_a_request_should_not_have_is_named() {
    let served = served().await;
    let post = |body| served.json("POST", "/v1/sandboxes", body);
    post(r#"{"id":"s1","spec":{"memory":1}}"#)
        .await
        .refused(400, "invalid_argument", "memory");
    post(r#"{"id":"S 1","spec":{}}"#)
        .await
        .refused(400, "invalid_argument", "body");
    let secret = r#"{"id":"s1","spec":{},"secrets":{"A":["hunter2"]}}"#;
    let answer = post(secret).await;
    answer.refused(400, "invalid_argument", "body");
    assert!(!answer.body.to_string().contains("hunter2"), "{answer:?}");
    post(r#"{"id":"s1","spec":{"resources":{"memory_mib":1}}}"#)
        .await
        .refused(400, "invalid_argument", "memory_mib");
    post(r#"{"id":"s1","spec":{"lifetime":"attached"}}"#)
        .await
        .refused(400, "invalid_argument", "owner");
    post(r#"{"id":"s1","spec":{"lifetime":"attached"},"owner":"o1"}"#)
        .await
        .refused(404, "not_found", "owner");

    let path = "/v1/sandboxes/s1";
    let made = served.json("POST", "/v1/sandboxes", CREATE).await;
    assert_eq!(made.status, 200, "{made:?}");
    let get = |path: &str| with_body("GET", path, "application/json", b"");
    served
        .raw(get("/v1/sandboxes/S!"))
        .await
        .refused(400, "invalid_argument", "sandbox");
    served
        .raw(get("/v1/sandboxes?limit=0"))
        .await
        .refused(400, "invalid_argument", "limit");
    served
        .raw(get("/v1/sandboxes?colour=red"))
        .await
        .refused(400, "invalid_argument", "query");
    served
        .raw(get(&format!("{path}/ports/70000/endpoint")))
        .await
        .refused(400, "invalid_argument", "port");
    served
        .raw(get("/v2/provider"))
        .await
        .refused(404, "not_found", "");
    served
        .raw(get("/v1/sandboxes/../provider"))
        .await
        .refused(404, "not_found", "");
    let answer = served.json("PATCH", path, "{}").await;
    answer.refused(405, "invalid_argument", "method");
    assert!(answer.head.contains("allow: get, delete"), "{answer:?}");
    // Without an upgrade nothing is begun.
    served
        .json(
            "POST",
            &format!("{path}/execs"),
            r#"{"exec":"x1","argv":["true"]}"#,
        )
        .await
        .refused(400, "invalid_argument", "upgrade");
}

#[tokio::test]
async fn bodies_have_their_type_and_an_end() {
    let served = served().await;
    let of = |kind: &str, body: &[u8]| with_body("POST", "/v1/sandboxes", kind, body);
    for kind in ["text/plain", "application/x-www-form-urlencoded", ""] {
        let answer = served.raw(of(kind, CREATE.as_bytes())).await;
        answer.refused(400, "invalid_argument", "content-type");
    }
    let long = vec![b' '; (4 << 20) + 1];
    let answer = served.raw(of("application/json", &long)).await;
    answer.refused(400, "invalid_argument", "body");
    let answer = served
        .raw(of("application/json; charset=utf-8", CREATE.as_bytes()))
        .await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let head = format!(
        "GET /v1/provider HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n",
        "y".repeat(100_000)
    );
    assert_eq!(served.raw(head).await.status, 431);
}

#[tokio::test]
async fn nothing_of_the_host_is_looked_at_outside_the_mount_roots() {
    let root = tempfile::tempdir().unwrap();
    let inside = root.path().to_str().unwrap();
    let policy = Policy {
        mount_roots: Some(vec![root.path().to_owned()]),
        ..Policy::default()
    };
    let engine = Engine::builder().provider("mock", Arc::new(Mock::default()));
    let served = serve(engine.policy(policy).build().await.unwrap()).await;
    let climbing = format!("{inside}/../../etc/shadow");
    // What is there and what is not are refused alike.
    for path in [
        "/etc/shadow",
        "/root",
        "/no/such",
        "docker-archive:/etc/shadow",
        &climbing,
    ] {
        let source = format!(r#"{{"image":"{path}"}}"#);
        let spec = format!(r#"{{"source":{source}}}"#);
        for (route, body) in [
            ("/v1/origin", format!(r#"{{"spec":{spec}}}"#)),
            (
                "/v1/pull",
                format!(r#"{{"source":{source},"when":"missing"}}"#),
            ),
            ("/v1/sandboxes", format!(r#"{{"id":"s1","spec":{spec}}}"#)),
        ] {
            let answer = served.json("POST", route, &body).await;
            answer.refused(403, "permission_denied", "spec.source.image");
        }
        if path.starts_with('/') {
            let mounts = format!(r#"[{{"target":"/m","source":{{"host":"{path}"}}}}]"#);
            let body = format!(r#"{{"spec":{{"mounts":{mounts}}}}}"#);
            let answer = served.json("POST", "/v1/origin", &body).await;
            answer.refused(403, "permission_denied", "spec.mounts");
        }
    }
    let body = format!(r#"{{"spec":{{"source":{{"image":"{inside}"}}}}}}"#);
    let answer = served.json("POST", "/v1/origin", &body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[tokio::test]
async fn what_is_not_asked_for_is_refused() {
    let served = served().await;
    let answer = served.json("POST", "/v1/origin", "[{}]").await;
    answer.refused(400, "invalid_argument", "body");
    let two = "GET /v1/provider HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nstacyvm-tenant: a\r\nstacyvm-tenant: b\r\n\r\n";
    let answer = served.raw(two).await;
    answer.refused(400, "invalid_argument", "stacyvm-tenant");
    let query = "GET /v1/provider?force=1 HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let answer = served.raw(query).await;
    answer.refused(400, "invalid_argument", "query");
}

#[tokio::test]
async fn nothing_of_the_host_is_had_without_mount_roots() {
    let served = served().await;
    for (spec, field) in [
        (r#"{"source":{"image":"/etc"}}"#, "spec.source.image"),
        (r#"{"source":{"image":"oci:/tmp/x"}}"#, "spec.source.image"),
        (
            r#"{"mounts":[{"target":"/m","source":{"host":"/etc"}}]}"#,
            "spec.mounts",
        ),
    ] {
        let body = format!(r#"{{"id":"s1","spec":{spec}}}"#);
        let answer = served.json("POST", "/v1/sandboxes", &body).await;
        answer.refused(403, "permission_denied", field);
        let body = format!(r#"{{"spec":{spec}}}"#);
        let answer = served.json("POST", "/v1/origin", &body).await;
        answer.refused(403, "permission_denied", field);
    }
    let body = r#"{"source":{"image":"docker-archive:/etc/x"},"when":"missing"}"#;
    let answer = served.json("POST", "/v1/pull", body).await;
    answer.refused(403, "permission_denied", "spec.source.image");
    let body = r#"{"id":"s1","spec":{"secrets":{"A":{"env":"HOME"}}}}"#;
    let answer = served.json("POST", "/v1/sandboxes", body).await;
    answer.refused(400, "invalid_argument", "spec.secrets.A");
    let claims = served.client().await;
    let claims = stacyvm::provider::Provider::capabilities(&*claims);
    assert!(!claims.mount_host && !claims.image_directory);
}

/// Starts a command by hand; gives the connection after the answer's head.
pub(crate) async fn session(address: SocketAddr, argv: &str) -> TcpStream {
    let body = format!(
        r#"{{"exec":"x{}","argv":{argv},"stdin":true}}"#,
        SandboxId::random()
    );
    let length = body.len();
    let request = format!(
        "POST /v1/sandboxes/s1/execs HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\n\
         upgrade: stacyvm-exec/1\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n{body}"
    );
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    assert!(
        head.starts_with(b"HTTP/1.1 101 "),
        "{:?}",
        String::from_utf8_lossy(&head)
    );
    stream
}

#[tokio::test]
async fn a_session_that_breaks_the_protocol_ends_with_its_command() {
    let served = served().await;
    let made = served.json("POST", "/v1/sandboxes", CREATE).await;
    assert_eq!(made.status, 200, "{made:?}");
    let frame = |kind: u8, payload: &[u8]| {
        let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes().to_vec();
        frame.push(kind);
        frame.extend_from_slice(payload);
        frame
    };
    let credit = |bytes: u32| frame(36, &bytes.to_be_bytes());
    let breaks: [(&str, Vec<u8>); 10] = [
        ("a frame of 4 GiB", vec![0xff, 0xff, 0xff, 0xff, 32]),
        ("an unknown kind", frame(99, b"")),
        ("a frame of the server", frame(16, b"x")),
        ("a call without a number", frame(32, b"abc")),
        ("a frame of no session", frame(5, b"\0\0\0\x01{}")),
        ("a credit that is too short", frame(36, b"a")),
        ("a credit that is too long", frame(36, b"\0\0\0\x01\0")),
        ("credit beyond the window", credit(u32::MAX)),
        (
            "credit beyond the window in two",
            [credit(262_144), credit(1)].concat(),
        ),
        (
            "input before the answer",
            [
                frame(32, &vec![0; 1 << 20]),
                frame(32, b"\0\0\0\x01b"),
                frame(32, b"\0\0\0\x02b"),
            ]
            .concat(),
        ),
    ];
    for (what, bytes) in breaks {
        let mut stream = session(served.address, r#"["sleep","60"]"#).await;
        let _ = stream.write_all(&bytes).await;
        let mut rest = Vec::new();
        let reading = stream.read_to_end(&mut rest);
        let ended = tokio::time::timeout(Duration::from_secs(10), reading).await;
        assert!(ended.is_ok(), "{what}: the connection goes on");
        none_runs(&served.engine, what).await;
    }
    // Half a frame, and then nobody.
    let mut stream = session(served.address, r#"["sleep","60"]"#).await;
    stream.write_all(&[0, 0]).await.unwrap();
    drop(stream);
    none_runs(&served.engine, "half a frame").await;
}

async fn none_runs(engine: &stacyvm::Engine, what: &str) {
    let sandbox = engine.get("s1").await.unwrap();
    for _ in 0..200 {
        let all = sandbox.execs().await.unwrap();
        if all.iter().all(|exec| exec.exited.is_some()) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{what}: the command runs on");
}
