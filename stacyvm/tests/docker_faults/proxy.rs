//! An engine that misbehaves: a proxy in front of the real one's socket, which
//! knows of HTTP only where a request's head and body end.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

/// What is done to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// An error of the engine's own, without asking it.
    Status500,
    /// An error whose body is no JSON.
    Html502,
    /// The engine's answer, cut in the middle of its body.
    Truncated,
    /// 200 with half a JSON document that claims to be whole.
    HalfJson,
    /// 200 with JSON of another form.
    WrongJson,
    /// Bytes that are no HTTP.
    Garbage,
    /// Header lines without an end.
    EndlessHeaders,
    /// A body without an end.
    EndlessBody,
    /// The request is taken and never answered.
    Stalled,
    /// A head that promises a body, which never comes.
    StalledBody,
    /// The connection is closed without an answer, and the engine never asked.
    Closed,
    /// The engine does it; its answer is lost.
    Lost,
    /// The answer comes byte by byte.
    Slow,
    /// The connection becomes a stream on which nothing ever comes.
    StalledUpgrade,
    /// The connection becomes a stream and closes.
    ClosedUpgrade,
    /// The connection becomes a stream of bytes that are no frames.
    GarbageUpgrade,
    /// The connection becomes a stream of frames without an end.
    EndlessUpgrade,
    /// The stream closes after its first bytes.
    CutUpgrade,
}

/// Which requests: a method and parts of the path, in their order, with `*` between.
pub(super) type Which = (&'static str, &'static str);

#[derive(Default)]
struct Rules {
    which: Option<Which>,
    fault: Option<Fault>,
    /// Requests that are let through before.
    pass: usize,
    hits: usize,
}

/// A socket that behaves like the engine's until it is told not to.
pub(super) struct Proxy {
    pub(super) host: String,
    rules: Arc<Mutex<Rules>>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    pub(super) fn before(engine: &str, place: &Path) -> Self {
        let path = place.join("proxy.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let rules: Arc<Mutex<Rules>> = Arc::default();
        let (engine, shared) = (engine.to_owned(), Arc::clone(&rules));
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (engine, rules) = (engine.clone(), Arc::clone(&shared));
                // One that is closed under us is nobody's failure here.
                tokio::spawn(async move { serve(client, &engine, &rules).await.ok() });
            }
        });
        Self {
            host: format!("unix://{}", path.display()),
            rules,
            accepting,
        }
    }

    /// From now on these requests fail so, after `pass` of them.
    pub(super) fn fail(&self, which: Which, fault: Fault, pass: usize) {
        *self.rules.lock().unwrap() = Rules {
            which: Some(which),
            fault: Some(fault),
            pass,
            hits: 0,
        };
    }

    /// How often the fault came; it comes no more.
    pub(super) fn heal(&self) -> usize {
        std::mem::take(&mut *self.rules.lock().unwrap()).hits
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|w| w == what)
}

fn has(path: &str, parts: &str) -> bool {
    let path = path.split('?').next().unwrap_or(path);
    let mut rest = Some(path);
    for part in parts.split('*') {
        rest = match rest {
            // An empty part is the rest.
            Some(_) if part.is_empty() => Some(""),
            Some(rest) => rest.split_once(part).map(|(_, after)| after),
            None => None,
        };
    }
    rest == Some("")
}

/// One request for each connection: the answers say that it closes.
async fn serve(mut client: UnixStream, engine: &str, rules: &Mutex<Rules>) -> std::io::Result<()> {
    let mut head = Vec::new();
    let end = loop {
        if let Some(at) = find(&head, b"\r\n\r\n") {
            break at + 4;
        }
        if client.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    };
    let rest = head.split_off(end);
    let text = String::from_utf8_lossy(&head).into_owned();
    let mut words = text.split(' ');
    let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let fault = {
        let mut rules = rules.lock().unwrap();
        let hit = rules
            .which
            .is_some_and(|(m, parts)| m == method && has(path, parts));
        if hit && rules.pass == 0 {
            rules.hits += 1;
            rules.fault
        } else {
            rules.pass = rules.pass.saturating_sub(usize::from(hit));
            None
        }
    };
    let upgrade = text.to_ascii_lowercase().contains("\r\nupgrade:");
    let Some(fault) = fault else {
        return forward(client, engine, &text, rest, upgrade, None).await;
    };
    let json = |status: &str, length: usize, body: &str| {
        format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        )
    };
    let upgraded = "HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n";
    let forever = Duration::from_hours(1);
    match fault {
        Fault::Status500 => {
            let body = r#"{"message":"the engine had an accident"}"#;
            let answer = json("500 Internal Server Error", body.len(), body);
            client.write_all(answer.as_bytes()).await?;
        }
        Fault::Html502 => {
            let body = "<html><h1>Bad Gateway</h1></html>";
            let answer = json("502 Bad Gateway", body.len(), body);
            client.write_all(answer.as_bytes()).await?;
        }
        Fault::HalfJson => {
            let body = r#"{"Id":"abc","Sta"#;
            let answer = json("200 OK", body.len(), body);
            client.write_all(answer.as_bytes()).await?;
        }
        Fault::WrongJson => {
            let body = r#"[{"Id":7,"State":"x"},3,null]"#;
            let answer = json("200 OK", body.len(), body);
            client.write_all(answer.as_bytes()).await?;
        }
        Fault::Garbage => client.write_all(&[0xF7; 4096]).await?,
        Fault::EndlessHeaders => {
            client.write_all(b"HTTP/1.1 200 OK\r\n").await?;
            loop {
                client.write_all(b"X-More: and more\r\n").await?;
            }
        }
        Fault::EndlessBody => {
            client
                .write_all(json("200 OK", 1 << 50, "[").as_bytes())
                .await?;
            // Not all at once: nothing but the time bounds it.
            let more = vec![b' '; 16 * 1024];
            loop {
                client.write_all(&more).await?;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        Fault::Stalled => tokio::time::sleep(forever).await,
        Fault::StalledBody => {
            let answer = json("200 OK", 1000, "{\"Id\":");
            client.write_all(answer.as_bytes()).await?;
            tokio::time::sleep(forever).await;
        }
        Fault::Closed => {}
        Fault::Truncated | Fault::Lost | Fault::Slow | Fault::CutUpgrade => {
            return forward(client, engine, &text, rest, upgrade, Some(fault)).await;
        }
        Fault::StalledUpgrade => {
            client.write_all(upgraded.as_bytes()).await?;
            tokio::time::sleep(forever).await;
        }
        Fault::ClosedUpgrade => client.write_all(upgraded.as_bytes()).await?,
        Fault::GarbageUpgrade => {
            client.write_all(upgraded.as_bytes()).await?;
            client.write_all(&[0xF7; 4096]).await?;
        }
        Fault::EndlessUpgrade => {
            client.write_all(upgraded.as_bytes()).await?;
            // Frames of standard error, which no protocol is on.
            let mut frame = vec![2, 0, 0, 0, 0, 0, 0x40, 0];
            frame.resize(8 + 0x4000, b'x');
            loop {
                client.write_all(&frame).await?;
            }
        }
    }
    Ok(())
}

/// Has the engine answer, as a whole or in part.
async fn forward(
    mut client: UnixStream,
    engine: &str,
    head: &str,
    rest: Vec<u8>,
    upgrade: bool,
    fault: Option<Fault>,
) -> std::io::Result<()> {
    let mut real = UnixStream::connect(engine).await?;
    if upgrade {
        real.write_all(head.as_bytes()).await?;
        real.write_all(&rest).await?;
        if fault == Some(Fault::CutUpgrade) {
            let (mut from_client, mut to_client) = client.split();
            let (mut from_real, mut to_real) = real.split();
            let mut head = vec![0; 4096];
            let count = from_real.read(&mut head).await?;
            to_client.write_all(&head[..count]).await?;
            // A frame's header and a part of what is in it.
            let mut first = from_real.take(12);
            let cut = tokio::io::copy(&mut first, &mut to_client);
            return tokio::select! {
                done = cut => done.map(drop),
                gone = tokio::io::copy(&mut from_client, &mut to_real) => gone.map(drop),
            };
        }
        tokio::io::copy_bidirectional(&mut client, &mut real).await?;
        return Ok(());
    }
    let head = head.replacen("\r\n", "\r\nConnection: close\r\n", 1);
    real.write_all(head.as_bytes()).await?;
    real.write_all(&rest).await?;
    let (mut from_client, mut to_client) = client.split();
    let (mut from_real, mut to_real) = real.split();
    let body = async {
        tokio::io::copy(&mut from_client, &mut to_real).await?;
        // It has gone away.
        Ok::<(), std::io::Error>(())
    };
    let answer = async {
        match fault {
            None => {
                tokio::io::copy(&mut from_real, &mut to_client).await?;
            }
            Some(Fault::Lost) => {
                from_real.read_to_end(&mut Vec::new()).await?;
            }
            Some(Fault::Truncated) => {
                let mut whole = Vec::new();
                from_real.read_to_end(&mut whole).await?;
                let body = find(&whole, b"\r\n\r\n").map_or(0, |at| at + 4);
                let half = body + (whole.len() - body) / 2;
                to_client.write_all(&whole[..half]).await?;
            }
            Some(_) => {
                let mut whole = Vec::new();
                from_real.read_to_end(&mut whole).await?;
                for piece in whole.chunks(whole.len().div_ceil(40)) {
                    to_client.write_all(piece).await?;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        }
        Ok::<(), std::io::Error>(())
    };
    tokio::select! {
        done = answer => done,
        gone = body => gone,
    }
}
