//! A server over the mock, and requests to it by hand.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use stacyvm::id::InstanceId;
use stacyvm::provider::{CreateRequest, Secrets};
use stacyvm::providers::http::{HttpConfig, HttpProvider};
use stacyvm::providers::mock::Mock;
use stacyvm::server::Server;
use stacyvm::{Engine, SandboxId, SandboxSpec};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

pub(crate) struct Served {
    pub(crate) engine: Engine,
    pub(crate) address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(crate) async fn engine(mock: Arc<Mock>) -> Engine {
    Engine::builder()
        .provider("mock", mock)
        .reconcile_every(Duration::ZERO)
        .build()
        .await
        .unwrap()
}

pub(crate) async fn serve(engine: Engine) -> Served {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let server = Server::bind(engine.clone(), None, any).await.unwrap();
    Served {
        engine,
        address: server.address(),
        task: tokio::spawn(server.run()),
    }
}

pub(crate) async fn served() -> Served {
    serve(engine(Arc::new(Mock::default())).await).await
}

/// A create of this spec, under an id of its own.
pub(crate) fn request(spec: SandboxSpec) -> CreateRequest {
    CreateRequest {
        id: SandboxId::random(),
        instance: InstanceId::random(),
        spec,
        open_files_preferred: false,
        ends: None,
        secrets: Secrets::default(),
        waits: false,
    }
}

impl Served {
    pub(crate) async fn client(&self) -> Arc<HttpProvider> {
        let config = HttpConfig::new(format!("http://{}", self.address));
        Arc::new(HttpProvider::open(config).await.unwrap())
    }

    /// Sends bytes, and gives the status, the headers and the body of the answer.
    pub(crate) async fn raw(&self, request: impl AsRef<[u8]>) -> Answer {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        // The server may answer and close before it has read everything.
        let _ = stream.write_all(request.as_ref()).await;
        let mut all = Vec::new();
        let reading = stream.read_to_end(&mut all);
        tokio::time::timeout(Duration::from_secs(20), reading)
            .await
            .expect("an answer within 20 s")
            .unwrap();
        Answer::of(&all)
    }

    /// A request with a body in JSON.
    pub(crate) async fn json(&self, method: &str, path: &str, body: &str) -> Answer {
        self.raw(with_body(method, path, "application/json", body.as_bytes()))
            .await
    }
}

pub(crate) fn with_body(method: &str, path: &str, kind: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let mut all = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
         content-type: {kind}\r\ncontent-length: {length}\r\n\r\n"
    )
    .into_bytes();
    all.extend_from_slice(body);
    all
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Value,
}

impl Answer {
    fn of(all: &[u8]) -> Self {
        let text = String::from_utf8_lossy(all);
        let (head, body) = text.split_once("\r\n\r\n").expect("a whole head");
        Self {
            status: head.split(' ').nth(1).unwrap().parse().unwrap(),
            head: head.to_ascii_lowercase(),
            body: serde_json::from_str(body).unwrap_or(Value::Null),
        }
    }

    /// Expects an error of this kind about this field.
    pub(crate) fn refused(&self, status: u16, kind: &str, field: &str) {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.body["kind"], kind, "{self:?}");
        let facts = self.body["context"].as_array().cloned().unwrap_or_default();
        let named = facts.iter().any(|f| f[0] == "field" && f[1] == field);
        assert!(field.is_empty() || named, "{field}: {self:?}");
    }
}
