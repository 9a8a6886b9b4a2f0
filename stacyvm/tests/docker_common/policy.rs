//! An engine whose policy forbids added Linux capabilities: a proxy in front of the
//! real one's socket, which answers as an authorisation plug-in has the engine answer.

#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    reason = "a part of a test program"
)]

use std::path::Path;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

pub struct Policy {
    pub host: String,
    accepting: JoinHandle<()>,
}

impl Policy {
    pub fn before(engine: &str, place: &Path) -> Self {
        let path = place.join("policy.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let engine = engine.to_owned();
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let engine = engine.clone();
                // One that is closed under us is nobody's failure here.
                tokio::spawn(async move { serve(client, &engine).await.ok() });
            }
        });
        Self {
            host: format!("unix://{}", path.display()),
            accepting,
        }
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// One request for each connection: the answers say that it closes.
async fn serve(mut client: UnixStream, engine: &str) -> std::io::Result<()> {
    let mut seen = Vec::new();
    let end = loop {
        if let Some(at) = seen.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        if client.read_buf(&mut seen).await? == 0 {
            return Ok(());
        }
    };
    let head = String::from_utf8_lossy(&seen[..end]).into_owned();
    let lower = head.to_ascii_lowercase();
    if head.starts_with("POST ") && head.contains("/containers/create") {
        let length = lower.split("content-length:").nth(1);
        let length = length.and_then(|rest| rest.lines().next()?.trim().parse().ok());
        let whole = end + length.unwrap_or(0);
        while seen.len() < whole {
            client.read_buf(&mut seen).await?;
        }
        let body: serde_json::Value = serde_json::from_slice(&seen[end..]).unwrap_or_default();
        let added = body["HostConfig"]["CapAdd"].as_array();
        if added.is_some_and(|added| !added.is_empty()) {
            let said = r#"{"message":"authorization denied by plugin policy: no capabilities"}"#;
            let answer = format!(
                "HTTP/1.1 403 Forbidden\r\nContent-Type: application/json\r\n\
                 Content-Length: {}\r\nConnection: close\r\n\r\n{said}",
                said.len()
            );
            return client.write_all(answer.as_bytes()).await;
        }
    }
    let mut real = UnixStream::connect(engine).await?;
    let head = if lower.contains("\r\nupgrade:") {
        head
    } else {
        head.replacen("\r\n", "\r\nConnection: close\r\n", 1)
    };
    real.write_all(head.as_bytes()).await?;
    real.write_all(&seen[end..]).await?;
    tokio::io::copy_bidirectional(&mut client, &mut real)
        .await
        .map(drop)
}
