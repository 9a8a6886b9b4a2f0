//! Measures how fast output reaches a caller, and what an idle connection
//! costs: a thread plays the agent on a Unix socket pair and sends standard
//! output within its credit.
//!
//! `cargo run --release -p stacyvm --example agent_throughput [frame bytes]`

#![allow(clippy::cast_precision_loss, reason = "rates are shown roughly")]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use futures_util::StreamExt;
use stacyvm::agent::{AgentClient, ConnectOptions};
use stacyvm::{ExecEvent, ExecSpec};
use stacyvm_agent::protocol::message::{self, Credit, EndReason, Exited, Hello, Started, Welcome};
use stacyvm_agent::protocol::{
    GENERATION, HEADER_BYTES, Header, INITIAL_CREDIT, Kind, OLDEST_GENERATION,
};

const TOTAL: usize = 4 << 30;

fn frame(stream: u32, kind: Kind, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame is short");
    let mut bytes = Header {
        length,
        stream,
        kind,
    }
    .encode()
    .to_vec();
    bytes.extend_from_slice(payload);
    bytes
}

fn read(socket: &mut UnixStream) -> std::io::Result<(u32, Kind, Vec<u8>)> {
    let mut head = [0; HEADER_BYTES];
    socket.read_exact(&mut head)?;
    let header = Header::decode(&head).map_err(std::io::Error::other)?;
    let mut payload = vec![0; header.length as usize];
    socket.read_exact(&mut payload)?;
    Ok((header.stream, header.kind, payload))
}

/// Plays the agent: `yes` sends `TOTAL` bytes, everything else ends at once.
fn agent(mut socket: UnixStream, size: usize) -> std::io::Result<()> {
    let hello = Hello {
        oldest: OLDEST_GENERATION,
        newest: GENERATION,
        ..Hello::default()
    };
    socket.write_all(&frame(0, Kind::Hello, &message::encode(&hello)))?;
    read(&mut socket)?;
    let welcome = Welcome {
        generation: GENERATION,
        ..Welcome::default()
    };
    socket.write_all(&frame(0, Kind::Welcome, &message::encode(&welcome)))?;
    let exited = message::encode(&Exited {
        reason: EndReason::Code,
        value: 0,
        survivors: 0,
        sandbox_ended: false,
    });
    loop {
        let (stream, kind, payload) = read(&mut socket)?;
        if kind != Kind::Exec {
            continue;
        }
        let request: message::ExecRequest =
            message::decode(&payload).map_err(std::io::Error::other)?;
        socket.write_all(&frame(
            stream,
            Kind::Started,
            &message::encode(&Started { pid: 2 }),
        ))?;
        if request.argv[0].as_slice() == b"yes" {
            let data = frame(stream, Kind::Data, &vec![b'y'; size]);
            let mut credit = INITIAL_CREDIT as usize;
            let mut sent = 0;
            while sent < TOTAL {
                while credit < size {
                    let (_, kind, payload) = read(&mut socket)?;
                    if kind == Kind::Credit {
                        let given: Credit =
                            message::decode(&payload).map_err(std::io::Error::other)?;
                        credit += given.bytes as usize;
                    }
                }
                socket.write_all(&data)?;
                credit -= size;
                sent += size;
            }
        }
        socket.write_all(&frame(stream, Kind::Exited, &exited))?;
    }
}

fn resident_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[tokio::main(flavor = "current_thread")]
#[expect(clippy::print_stdout, reason = "an example reports what it measured")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let size = std::env::args()
        .nth(1)
        .map_or(Ok(256 * 1024), |a| a.parse())?;
    let (host, inside) = UnixStream::pair()?;
    std::thread::spawn(move || agent(inside, size));
    host.set_nonblocking(true)?;
    let stream = tokio::net::UnixStream::from_std(host)?;
    let client = AgentClient::connect(stream, ConnectOptions::default()).await?;

    let mut times = Vec::new();
    for _ in 0..2000 {
        let began = Instant::now();
        let mut session = client.exec(&ExecSpec::new(["true"])).await?;
        while session.events.next().await.is_some() {}
        times.push(began.elapsed());
    }
    times.sort_unstable();
    println!(
        "round trip: p50 {:?}, p99 {:?}",
        times[times.len() / 2],
        times[times.len() * 99 / 100]
    );

    let before = resident_kib();
    let mut session = client.exec(&ExecSpec::new(["yes"])).await?;
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    println!(
        "a reader that waits: {before:?} -> {:?} KiB resident",
        resident_kib()
    );
    let began = Instant::now();
    let mut bytes = 0_usize;
    while let Some(event) = session.events.next().await {
        if let ExecEvent::Stdout(data) = event? {
            bytes += data.len();
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "frames of {size}: {bytes} bytes in {seconds:.2} s, {:.2} GB/s",
        bytes as f64 / seconds / 1e9
    );

    let mut idle = Vec::new();
    let mut ends = Vec::new();
    let before = resident_kib();
    for _ in 0..200 {
        let (host, inside) = UnixStream::pair()?;
        ends.push(inside.try_clone()?);
        let thread = std::thread::Builder::new()
            .stack_size(64 * 1024)
            .spawn(move || agent(inside, 1));
        host.set_nonblocking(true)?;
        let stream = tokio::net::UnixStream::from_std(host)?;
        idle.push(AgentClient::connect(stream, ConnectOptions::default()).await?);
        drop(thread);
    }
    println!(
        "200 idle connections (with a thread each): {before:?} -> {:?} KiB resident",
        resident_kib()
    );
    Ok(())
}
