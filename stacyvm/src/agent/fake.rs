//! A scripted agent for tests: it sends what it is told to.

use std::time::Duration;

use minicbor::Encode;
use stacyvm_agent::protocol::message::{self, Credit, Exited, Hello, Started, Welcome};
use stacyvm_agent::protocol::{GENERATION, HEADER_BYTES, Header, Kind, OLDEST_GENERATION};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::{AgentClient, ConnectOptions};
use crate::sandbox::exec::{ExecSession, ExecSpec};

/// The agent's end of a connection.
pub(super) struct Fake {
    pub(super) stream: DuplexStream,
}

/// A frame that the host sent.
#[derive(Debug)]
pub(super) struct Got {
    pub(super) stream: u32,
    pub(super) kind: Kind,
    pub(super) payload: Vec<u8>,
}

impl Fake {
    /// A client and its agent, past the handshake.
    pub(super) async fn connected() -> (AgentClient, Self) {
        Self::connected_as(GENERATION).await
    }

    /// The same, with an agent that speaks up to this generation.
    pub(super) async fn connected_as(generation: u32) -> (AgentClient, Self) {
        let (host, agent) = duplex(64 * 1024);
        let mut fake = Self { stream: agent };
        let (client, ()) = tokio::join!(
            AgentClient::connect(host, ConnectOptions::default()),
            fake.welcome_as(generation)
        );
        (client.unwrap(), fake)
    }

    /// Plays the agent's part of a handshake without a key.
    pub(super) async fn welcome(&mut self) {
        self.welcome_as(GENERATION).await;
    }

    async fn welcome_as(&mut self, generation: u32) {
        let newest = Hello {
            newest: generation,
            ..hello()
        };
        self.send(0, Kind::Hello, &newest).await;
        assert_eq!(self.next().await.kind, Kind::Hello);
        let welcome = Welcome {
            generation,
            proof: Vec::new(),
            can_switch_user: true,
            kernel: None,
        };
        self.send(0, Kind::Welcome, &welcome).await;
    }

    pub(super) async fn send<T: Encode<()>>(&mut self, stream: u32, kind: Kind, message: &T) {
        self.raw(stream, kind, &message::encode(message)).await;
    }

    pub(super) async fn raw(&mut self, stream: u32, kind: Kind, payload: &[u8]) {
        // A client that closed is what a hostile script expects.
        let _ = self.stream.write_all(&frame(stream, kind, payload)).await;
    }

    pub(super) async fn started(&mut self, stream: u32) {
        self.send(stream, Kind::Started, &Started { pid: 7 }).await;
    }

    /// Starts a command for a client; it has stream 1 on a fresh connection.
    pub(super) async fn start(&mut self, client: &AgentClient, spec: &ExecSpec) -> ExecSession {
        let serve = async {
            let got = self.expect(Kind::Exec).await;
            self.started(got.stream).await;
        };
        tokio::join!(client.exec(spec), serve).0.unwrap()
    }

    pub(super) async fn exited(&mut self, stream: u32, reason: message::EndReason, value: i32) {
        let exited = Exited {
            reason,
            value,
            survivors: 0,
            sandbox_ended: false,
        };
        self.send(stream, Kind::Exited, &exited).await;
    }

    pub(super) async fn credit(&mut self, stream: u32, bytes: u32) {
        self.send(stream, Kind::Credit, &Credit { bytes }).await;
    }

    /// The host's next frame; `None` at its end.
    pub(super) async fn try_next(&mut self) -> Option<Got> {
        let read = async {
            let mut head = [0; HEADER_BYTES];
            self.stream.read_exact(&mut head).await.ok()?;
            let header = Header::decode(&head).unwrap();
            let mut payload = vec![0; header.length as usize];
            self.stream.read_exact(&mut payload).await.ok()?;
            Some(Got {
                stream: header.stream,
                kind: header.kind,
                payload,
            })
        };
        tokio::time::timeout(Duration::from_secs(20), read)
            .await
            .expect("the host sent nothing for 20 seconds")
    }

    pub(super) async fn next(&mut self) -> Got {
        self.try_next().await.expect("the host closed")
    }

    /// The host's next frame, which must be of this kind.
    pub(super) async fn expect(&mut self, kind: Kind) -> Got {
        let got = self.next().await;
        assert_eq!(got.kind, kind, "{got:?}");
        got
    }
}

pub(super) fn hello() -> Hello {
    Hello {
        oldest: OLDEST_GENERATION,
        newest: GENERATION,
        version: "test".into(),
        nonce: Vec::new(),
        proof: Vec::new(),
    }
}

pub(super) fn frame(stream: u32, kind: Kind, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Header {
        length: u32::try_from(payload.len()).unwrap(),
        stream,
        kind,
    }
    .encode()
    .to_vec();
    bytes.extend_from_slice(payload);
    bytes
}
