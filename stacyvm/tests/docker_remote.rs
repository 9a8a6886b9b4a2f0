//! Engines over TCP and TLS: a relay in front of the engine that
//! `STACYVM_TEST_DOCKER_HOST` names, which ends TLS as a remote engine does.
#![cfg(all(feature = "docker", unix))]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use stacyvm::id::{InstanceId, SandboxId, TenantId};
use stacyvm::provider::{CreateRequest, Provider, Secrets};
use stacyvm::providers::docker::{DockerConfig, DockerProvider, DockerTls};
use stacyvm::sandbox::spec::SandboxSpec;
use stacyvm::{Context, ErrorKind, ExecEvent, ExecSpec};
use tokio::net::{TcpListener, UnixStream};
use tokio_rustls::TlsAcceptor;

const IMAGE: &str = "stacyvm-test/busybox";

/// The socket of the engine.
fn engine() -> Option<String> {
    let engine = std::env::var_os("STACYVM_TEST_DOCKER_HOST");
    let engine = engine.and_then(|engine| engine.into_string().ok());
    let socket = engine.and_then(|engine| Some(engine.strip_prefix("unix://")?.to_owned()));
    if socket.is_none() {
        println!("not run: no docker engine at a local socket");
    }
    socket
}

/// Listens, and passes on to the engine what comes; returns the address.
async fn relay(socket: String, tls: Option<TlsAcceptor>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (socket, tls) = (socket.clone(), tls.clone());
            tokio::spawn(async move {
                let mut engine = UnixStream::connect(socket).await?;
                match tls {
                    Some(tls) => {
                        let mut stream = tls.accept(stream).await?;
                        tokio::io::copy_bidirectional(&mut stream, &mut engine).await
                    }
                    None => tokio::io::copy_bidirectional(&mut stream, &mut engine).await,
                }
            });
        }
    });
    address
}

fn openssl(home: &Path, arguments: &[&str]) {
    let output = Command::new("openssl")
        .args(arguments)
        .current_dir(home)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

const KEY: [&str; 5] = [
    "-newkey",
    "ec",
    "-pkeyopt",
    "ec_paramgen_curve:P-256",
    "-nodes",
];

/// An authority, and a certificate of it for each of the names.
fn certificates(home: &Path, names: &[(&str, &str)]) {
    let authority = ["req", "-x509", "-days", "2", "-subj", "/CN=authority"];
    let files = ["-keyout", "ca.key", "-out", "ca.pem"];
    openssl(home, &[&authority[..], &files, &KEY].concat());
    for (name, extensions) in names {
        std::fs::write(home.join("extensions"), extensions).unwrap();
        let (key, request) = (format!("{name}-key.pem"), format!("{name}.csr"));
        let asked = [
            "req", "-new", "-subj", "/CN=x", "-keyout", &key, "-out", &request,
        ];
        openssl(home, &[&asked[..], &KEY].concat());
        let signed = format!("{name}.pem");
        let signing = [
            "x509", "-req", "-days", "2", "-in", &request, "-out", &signed,
        ];
        let by = [
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-extfile",
            "extensions",
        ];
        openssl(home, &[&signing[..], &by].concat());
    }
}

/// What `DOCKER_CERT_PATH` names: the authority, and a client's certificate.
fn directory(home: &Path, authority: &Path, client: bool) -> DockerTls {
    std::fs::create_dir_all(home).unwrap();
    std::fs::copy(authority.join("ca.pem"), home.join("ca.pem")).unwrap();
    if client {
        std::fs::copy(authority.join("client.pem"), home.join("cert.pem")).unwrap();
        std::fs::copy(authority.join("client-key.pem"), home.join("key.pem")).unwrap();
    }
    DockerTls::directory(home).unwrap()
}

fn pem(path: &Path) -> Vec<CertificateDer<'static>> {
    let all = CertificateDer::pem_file_iter(path).unwrap();
    all.collect::<Result<_, _>>().unwrap()
}

/// A server of this certificate, which wants one of its clients of the same authority.
fn acceptor(home: &Path, name: &str) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    for one in pem(&home.join("ca.pem")) {
        roots.add(one).unwrap();
    }
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let key = PrivateKeyDer::from_pem_file(home.join(format!("{name}-key.pem"))).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(clients.build().unwrap())
        .with_single_cert(pem(&home.join(format!("{name}.pem"))), key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

const SERVER: &str = "subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage=serverAuth\n";
const CLIENT: &str = "extendedKeyUsage=clientAuth\n";

struct Store {
    state: tempfile::TempDir,
    instance: InstanceId,
}

impl Store {
    fn new() -> Self {
        Self {
            state: tempfile::tempdir().unwrap(),
            instance: InstanceId::random(),
        }
    }

    fn config(&self, host: &str) -> DockerConfig {
        DockerConfig::new(self.state.path(), self.instance.clone()).host(host)
    }

    /// A command, data both ways, and the end of a sandbox.
    async fn works(&self, config: DockerConfig) {
        let cx = Context::new(TenantId::default());
        let provider = DockerProvider::open(config).await.unwrap();
        let request = CreateRequest {
            id: SandboxId::random(),
            instance: self.instance.clone(),
            spec: SandboxSpec::image(IMAGE),
            open_files_preferred: false,
            ends: None,
            secrets: Secrets::default(),
            waits: false,
        };
        provider.create(&cx, &request).await.unwrap();
        let data: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
        let mut spec = ExecSpec::new(["cat"]);
        spec.stdin = true;
        let mut session = provider.exec(&cx, &request.id, &spec).await.unwrap();
        let control = Arc::clone(&session.control);
        let input = Bytes::from(data.clone());
        let feed = tokio::spawn(async move {
            for at in (0..input.len()).step_by(100_000) {
                let piece = input.slice(at..input.len().min(at + 100_000));
                control.write_stdin(piece).await.unwrap();
            }
            control.close_stdin().await.unwrap();
        });
        let mut back = Vec::new();
        while let Some(event) = session.events.next().await {
            if let ExecEvent::Stdout(bytes) = event.unwrap() {
                back.extend_from_slice(&bytes);
            }
        }
        feed.await.unwrap();
        assert!(back == data, "{} bytes of {}", back.len(), data.len());
        provider.destroy(&cx, &request.id).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_over_tcp_is_used_like_a_local_one() {
    let Some(socket) = engine() else { return };
    let address = relay(socket, None).await;
    let store = Store::new();
    store.works(store.config(&format!("tcp://{address}"))).await;
    // To such a port TLS is spoken in vain.
    let error = DockerProvider::open(store.config(&format!("https://{address}"))).await;
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_with_tls_is_used_where_both_prove_who_they_are() {
    let Some(socket) = engine() else { return };
    if Command::new("openssl").arg("version").output().is_err() {
        println!("not run: openssl is not installed");
        return;
    }
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let elsewhere = "subjectAltName=IP:127.0.0.2\nextendedKeyUsage=serverAuth\n";
    certificates(
        ours.path(),
        &[
            ("server", SERVER),
            ("elsewhere", elsewhere),
            ("client", CLIENT),
        ],
    );
    certificates(theirs.path(), &[("client", CLIENT)]);
    let address = relay(socket.clone(), Some(acceptor(ours.path(), "server"))).await;
    let whole = directory(&ours.path().join("certs"), ours.path(), true);
    let host = format!("tcp://{address}");
    let store = Store::new();
    store.works(store.config(&host).tls(whole.clone())).await;
    store
        .works(
            store
                .config(&format!("https://{address}"))
                .tls(whole.clone()),
        )
        .await;

    let refused = async |host: &str, tls: Option<&DockerTls>| {
        let mut config = store.config(host);
        config.tls = tls.cloned();
        let error = DockerProvider::open(config).await.unwrap_err();
        println!("{error}");
        error
    };
    // An authority that is not the engine's: with and without the right client.
    let mut wrong = whole.clone();
    wrong.ca = Some(theirs.path().join("ca.pem"));
    let error = refused(&host, Some(&wrong)).await;
    assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error:?}");
    assert!(
        error.to_string().contains("does not prove who it is"),
        "{error}"
    );
    // What the system trusts is not trusted beside it, nor the other way round.
    let error = refused(&format!("https://{address}"), None).await;
    assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error:?}");
    // A client of another authority, and one that shows nothing.
    let mut stranger = whole.clone();
    stranger.client = directory(&theirs.path().join("certs"), theirs.path(), true).client;
    let error = refused(&host, Some(&stranger)).await;
    assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error:?}");
    assert!(
        error.to_string().contains("refuses this client's"),
        "{error}"
    );
    let silent = directory(&ours.path().join("silent"), ours.path(), false);
    let error = refused(&host, Some(&silent)).await;
    assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error:?}");
    assert!(error.to_string().contains("wants a certificate"), "{error}");
    // A certificate for another address.
    let moved = relay(socket, Some(acceptor(ours.path(), "elsewhere"))).await;
    let error = refused(&format!("tcp://{moved}"), Some(&whole)).await;
    assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error:?}");
    // And without TLS.
    let error = refused(&host, None).await;
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error:?}");
    assert!(error.fact("remedy").unwrap().contains("DOCKER_CERT_PATH"));
}
