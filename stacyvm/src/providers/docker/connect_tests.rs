//! What stands in the way of an engine is told with its remedy.

use super::*;
use crate::id::InstanceId;
use crate::providers::docker::DockerTls;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// A server that gives each connection the same answer, and the requests it had.
async fn server(answer: Vec<u8>) -> (String, tokio::sync::mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (asked, requests) = tokio::sync::mpsc::channel(16);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = asked.send(serve(stream, &answer).await).await;
        }
    });
    (address, requests)
}

async fn serve(mut stream: TcpStream, answer: &[u8]) -> String {
    let mut bytes = vec![0; 4096];
    let count = stream.read(&mut bytes).await.unwrap_or_default();
    let _ = stream.write_all(answer).await;
    let line = String::from_utf8_lossy(&bytes[..count]).into_owned();
    line.lines().next().unwrap_or_default().to_owned()
}

fn http(status: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}")
        .into()
}

fn config(host: &str) -> DockerConfig {
    DockerConfig::new("/nowhere", InstanceId::random()).host(host)
}

async fn refused(config: &DockerConfig) -> Error {
    let tried = tokio::time::timeout(Duration::from_secs(20), connect(config)).await;
    let error = tried.expect("hangs").unwrap_err();
    assert_eq!(error.fact("host"), Some(config.host.as_str()));
    error
}

#[tokio::test]
async fn every_request_names_the_version_that_both_speak() {
    let ours = bollard::API_DEFAULT_VERSION.to_string();
    for (theirs, oldest, spoken) in [
        ("1.41", "1.12", "1.41"),
        ("1.44", "1.24", "1.44"),
        ("1.99", "1.44", ours.as_str()),
    ] {
        let body = format!(r#"{{"ApiVersion":"{theirs}","MinAPIVersion":"{oldest}"}}"#);
        let (address, mut requests) = server(http("200 OK", &body)).await;
        let docker = connect(&config(&format!("tcp://{address}"))).await.unwrap();
        let _ = docker.inspect_volume("a b").await;
        assert_eq!(requests.recv().await.unwrap(), "GET /version HTTP/1.1");
        let expected = format!("GET /v{spoken}/volumes/a%20b HTTP/1.1");
        assert_eq!(requests.recv().await.unwrap(), expected);
    }
}

#[tokio::test]
async fn an_engine_of_another_time_and_what_is_none_are_told_apart() {
    for (body, words) in [
        (r#"{"ApiVersion":"1.40","MinAPIVersion":"1.12"}"#, "1.40"),
        (
            r#"{"ApiVersion":"9.1","MinAPIVersion":"9.0"}"#,
            "9.0 and newer",
        ),
        (r#"{"ApiVersion":"new"}"#, "names no version"),
        ("{}", "names no version"),
        ("words", "not of the form"),
    ] {
        let (address, _requests) = server(http("200 OK", body)).await;
        let error = refused(&config(&format!("tcp://{address}"))).await;
        assert_eq!(error.kind(), ErrorKind::Incompatible, "{body}: {error}");
        assert!(error.to_string().contains(words), "{body}: {error}");
    }
    let error = agree(Some("1.40"), None).unwrap_err();
    assert!(error.to_string().contains("Docker Engine 20.10"), "{error}");
    let error = agree(Some("1.99"), Some("1.98")).unwrap_err();
    assert!(error.to_string().contains("update stacyvm"), "{error}");
}

#[tokio::test]
async fn a_wrong_kind_of_port_is_told_with_what_to_change() {
    // As Go's server says it, and as others answer: with an alert of TLS.
    let go = http(
        "400 Bad Request",
        "Client sent an HTTP request to an HTTPS server.\n",
    );
    for answer in [go, b"\x15\x03\x01\x00\x02\x02\x46".to_vec()] {
        let (address, _requests) = server(answer).await;
        let error = refused(&config(&format!("tcp://{address}"))).await;
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
        assert_eq!(error.fact("field"), Some("docker.host"));
        assert!(error.fact("remedy").unwrap().contains("DOCKER_TLS_VERIFY"));
    }
    let (address, _requests) = server(http("400 Bad Request", "")).await;
    let error = refused(&config(&format!("https://{address}"))).await;
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    assert!(error.fact("remedy").unwrap().contains("leave"), "{error}");
}

#[tokio::test]
async fn where_nobody_listens_the_remedy_is_to_start_an_engine() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    for scheme in ["tcp", "https"] {
        let error = refused(&config(&format!("{scheme}://{address}"))).await;
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(
            error.to_string().contains("nobody listens at 127"),
            "{error}"
        );
    }
    let error = refused(&config("tcp://no-such-host.invalid:1")).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("cannot be reached"), "{error}");
}

#[cfg(unix)]
#[tokio::test]
async fn what_is_wrong_with_a_socket_is_told() {
    let home = tempfile::tempdir().unwrap();
    let at = |name: &str| home.path().join(name);
    let host = |name: &str| format!("unix://{}", at(name).display());
    let error = refused(&config(&host("absent"))).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(
        error.to_string().contains("systemctl start docker"),
        "{error}"
    );
    std::fs::write(at("file"), "").unwrap();
    let error = refused(&config(&host("file"))).await;
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    // Left by an engine that does not run.
    drop(std::os::unix::net::UnixListener::bind(at("dead")).unwrap());
    let error = refused(&config(&host("dead"))).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("nobody listens"), "{error}");
}

#[test]
fn who_may_not_use_a_socket_is_told_which_group_may() {
    let target = Target::Socket("/run/docker.sock".into());
    let failed = Failed::IOError {
        err: io::Error::from(io::ErrorKind::PermissionDenied),
    };
    let error = unreachable(&target, failed);
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert!(error.to_string().contains("--groups docker"), "{error}");
    assert!(error.to_string().contains("/run/docker.sock"), "{error}");
}

#[tokio::test]
async fn what_named_the_engine_is_told() {
    let mut config = config("tcp://127.0.0.1:0");
    config.found_by = Some("DOCKER_HOST".to_owned());
    let error = refused(&config).await;
    assert_eq!(error.fact("from"), Some("DOCKER_HOST"));
    config = config.host("http://a:1").tls(DockerTls::default());
    let error = refused(&config).await;
    assert_eq!(error.fact("from"), None);
}
