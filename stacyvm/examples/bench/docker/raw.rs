//! The engine's API without a library: requests on one connection that is kept.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;

use serde_json::{Value, json};

use crate::measures::text;
use crate::peers::Blocked;

/// The oldest version that all engines of the last years speak.
const VERSION: &str = "v1.41";

/// A connection to the engine.
pub(super) struct Raw {
    socket: String,
    kept: BufReader<UnixStream>,
}

impl Raw {
    pub(super) fn connect(socket: &str) -> Result<Self, Blocked> {
        Ok(Self {
            socket: socket.to_owned(),
            kept: BufReader::new(UnixStream::connect(socket).map_err(text)?),
        })
    }

    fn call(&mut self, method: &str, path: &str, body: Option<&Value>) -> Result<Value, Blocked> {
        ask(&mut self.kept, method, path, body)?;
        let head = Head::read(&mut self.kept)?;
        let body = head.body(&mut self.kept)?;
        if head.status >= 400 {
            let said = String::from_utf8_lossy(&body);
            return Err(format!("{method} {path}: {} {said}", head.status));
        }
        Ok(serde_json::from_slice(&body).unwrap_or_default())
    }

    /// Makes and starts a container without a network.
    pub(super) fn start(
        &mut self,
        image: &str,
        runtime: &str,
        argv: &[&str],
    ) -> Result<String, Blocked> {
        let body = json!({
            "Image": image,
            "Cmd": argv,
            "HostConfig": { "NetworkMode": "none", "Runtime": runtime },
        });
        let made = self.call("POST", "/containers/create", Some(&body))?;
        let id = made["Id"].as_str().unwrap_or_default().to_owned();
        self.call("POST", &format!("/containers/{id}/start"), None)?;
        Ok(id)
    }

    /// Waits for the end of a container's command.
    pub(super) fn wait(&mut self, id: &str) -> Result<(), Blocked> {
        let end = self.call("POST", &format!("/containers/{id}/wait"), None)?;
        ended_well(&end["StatusCode"])
    }

    /// Runs a command in a container and counts what it writes.
    pub(super) fn exec(&mut self, id: &str, argv: &[&str]) -> Result<u64, Blocked> {
        let body = json!({ "AttachStdout": true, "AttachStderr": true, "Cmd": argv });
        let made = self.call("POST", &format!("/containers/{id}/exec"), Some(&body))?;
        let exec = made["Id"].as_str().unwrap_or_default().to_owned();
        // The streams take a connection with them.
        let mut streams =
            BufReader::with_capacity(256 * 1024, UnixStream::connect(&self.socket).map_err(text)?);
        let body = json!({ "Detach": false, "Tty": false });
        let path = format!("/exec/{exec}/start");
        ask(&mut streams, "POST", &path, Some(&body))?;
        Head::read(&mut streams)?;
        let mut bytes = 0;
        let mut header = [0; 8];
        while streams.read_exact(&mut header).is_ok() {
            let [_, _, _, _, length @ ..] = header;
            let length = u64::from(u32::from_be_bytes(length));
            let taken = std::io::copy(&mut (&mut streams).take(length), &mut std::io::sink());
            bytes += taken.map_err(text)?;
        }
        let end = self.call("GET", &format!("/exec/{exec}/json"), None)?;
        ended_well(&end["ExitCode"])?;
        Ok(bytes)
    }

    pub(super) fn remove(&mut self, id: &str) -> Result<(), Blocked> {
        self.call("DELETE", &format!("/containers/{id}?force=1&v=1"), None)
            .map(drop)
    }
}

fn ended_well(code: &Value) -> Result<(), Blocked> {
    match code.as_i64() {
        Some(0) => Ok(()),
        _ => Err(format!("the command ended with {code}")),
    }
}

fn ask(
    stream: &mut BufReader<UnixStream>,
    method: &str,
    path: &str,
    body: Option<&Value>,
) -> Result<(), Blocked> {
    let body = body.map(Value::to_string).unwrap_or_default();
    let request = format!(
        "{method} /{VERSION}{path} HTTP/1.1\r\nHost: docker\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.get_mut().write_all(request.as_bytes()).map_err(text)
}

/// What comes before the body of an answer.
struct Head {
    status: u16,
    length: usize,
    chunked: bool,
}

impl Head {
    fn read(stream: &mut BufReader<UnixStream>) -> Result<Self, Blocked> {
        let first = line(stream)?;
        let status = first.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.ok_or_else(|| format!("an answer begins with {first:?}"))?;
        let (mut length, mut chunked) = (0, false);
        loop {
            let header = line(stream)?.to_ascii_lowercase();
            match header.split_once(':') {
                Some(("content-length", value)) => length = value.trim().parse().map_err(text)?,
                Some(("transfer-encoding", value)) => chunked = value.trim() == "chunked",
                Some(_) => {}
                None => break,
            }
        }
        Ok(Self {
            status,
            length,
            chunked,
        })
    }

    fn body(&self, stream: &mut BufReader<UnixStream>) -> Result<Vec<u8>, Blocked> {
        if !self.chunked {
            let mut body = vec![0; self.length];
            stream.read_exact(&mut body).map_err(text)?;
            return Ok(body);
        }
        let mut body = Vec::new();
        loop {
            let length = usize::from_str_radix(&line(stream)?, 16).map_err(text)?;
            let start = body.len();
            body.resize(start + length, 0);
            stream.read_exact(&mut body[start..]).map_err(text)?;
            line(stream)?;
            if length == 0 {
                return Ok(body);
            }
        }
    }
}

fn line(stream: &mut BufReader<UnixStream>) -> Result<String, Blocked> {
    let mut line = String::new();
    if stream.read_line(&mut line).map_err(text)? == 0 {
        return Err("the engine closed the connection".into());
    }
    Ok(line.trim_end().to_owned())
}
