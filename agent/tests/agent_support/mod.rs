//! A small blocking host, and a real agent without a container.
#![allow(dead_code, unreachable_pub, reason = "each test program uses its part")]

use std::collections::BTreeMap;
use std::io::{IoSlice, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use minicbor::bytes::ByteVec;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags,
    SocketType, recv, sendmsg, socketpair,
};
use stacyvm_agent::protocol::control::ControlMessage;
use stacyvm_agent::protocol::message::{self, *};
use stacyvm_agent::protocol::{HEADER_BYTES, Header, Kind};

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_stacyvm-agent");
/// How long a test waits before it calls something lost.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// More than any command of a test says.
const MOST_OUTPUT: usize = 1 << 30;

pub fn config() -> AgentConfig {
    AgentConfig {
        user: "root".into(),
        workdir: ByteVec::from(b"/tmp".to_vec()),
        env: Vec::new(),
        key: Vec::new(),
        deadline_ms: None,
        ring_bytes: 64 * 1024,
        max_execs: 64,
        open_files: Some(256),
        supervisor_uid: 65_533,
        can_switch_user: true,
        idle_ms: None,
        spare_supervisors: Some(3),
        waits: None,
        namespaced_root: None,
        places: None,
        socket: None,
    }
}

pub struct Agent {
    pub child: Child,
    pub control: OwnedFd,
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = rustix::net::shutdown(&self.control, rustix::net::Shutdown::Both);
        let _ = self.child.wait();
    }
}

impl Agent {
    pub fn start(config: AgentConfig) -> Self {
        Self::start_counting(config, None)
    }

    pub fn start_counting(config: AgentConfig, counter: Option<&OwnedFd>) -> Self {
        let (control, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        let child = Command::new("sh")
            .args(["-c", "exec \"$0\" 3<&0 0</dev/null", PROGRAM])
            .stdin(Stdio::from(theirs))
            .spawn()
            .unwrap();
        let agent = Self { child, control };
        agent.tell(
            &ControlMessage::Config {
                config,
                commands: 0,
            },
            counter,
        );
        assert_eq!(agent.hear(), ControlMessage::Ready {});
        agent
    }

    fn tell(&self, say: &ControlMessage, fd: Option<&OwnedFd>) {
        let bytes = message::encode(say);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let fds = fd.map(|fd| [fd.as_fd()]);
        if let Some(fds) = &fds {
            ancillary.push(SendAncillaryMessage::ScmRights(fds));
        }
        sendmsg(
            &self.control,
            &[IoSlice::new(&bytes)],
            &mut ancillary,
            SendFlags::NOSIGNAL,
        )
        .unwrap();
    }

    pub fn hear(&self) -> ControlMessage {
        let mut bytes = vec![0; 65_536];
        let (_, count) = recv(&self.control, &mut bytes, RecvFlags::empty()).unwrap();
        message::decode(&bytes[..count]).unwrap()
    }

    /// A connection after its handshake.
    pub fn connect(&self) -> Host {
        let mut host = self.connect_raw();
        assert_eq!(host.next().1, Kind::Hello);
        host.say(
            0,
            Kind::Hello,
            &Hello {
                oldest: 1,
                newest: 1,
                ..Hello::default()
            },
        );
        let (_, kind, payload) = host.next();
        assert_eq!(kind, Kind::Welcome);
        assert_eq!(message::decode::<Welcome>(&payload).unwrap().generation, 1);
        host
    }

    /// A connection before its handshake.
    pub fn connect_raw(&self) -> Host {
        let (ours, theirs) = UnixStream::pair().unwrap();
        self.tell(&ControlMessage::Connection {}, Some(&theirs.into()));
        Host::new(ours)
    }
}

pub struct Host {
    pub stream: UnixStream,
    waiting: BTreeMap<u32, Vec<(Kind, Vec<u8>)>>,
}

/// What a command gave until its last frame.
#[derive(Debug, Default)]
pub struct Outcome {
    pub pid: u32,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub lost: (u64, u64),
    pub exited: Option<Exited>,
    pub failure: Option<Failure>,
}

impl Outcome {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    pub fn code(&self) -> i32 {
        let exited = self.exited.as_ref().expect("the command ended");
        assert_eq!(exited.reason, EndReason::Code, "{self:?}");
        exited.value
    }
}

impl Host {
    pub fn new(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self {
            stream,
            waiting: BTreeMap::new(),
        }
    }

    pub fn frame(&mut self, stream: u32, kind: Kind, payload: &[u8]) {
        let header = Header {
            length: u32::try_from(payload.len()).unwrap(),
            stream,
            kind,
        };
        self.stream.write_all(&header.encode()).unwrap();
        self.stream.write_all(payload).unwrap();
    }

    pub fn say<T: minicbor::Encode<()>>(&mut self, stream: u32, kind: Kind, payload: &T) {
        self.frame(stream, kind, &message::encode(payload));
    }

    pub fn next(&mut self) -> (u32, Kind, Vec<u8>) {
        self.try_next().expect("a frame")
    }

    pub fn try_next(&mut self) -> std::io::Result<(u32, Kind, Vec<u8>)> {
        let mut header = [0; HEADER_BYTES];
        self.stream.read_exact(&mut header)?;
        let header = Header::decode(&header).unwrap();
        let mut payload = vec![0; header.length as usize];
        self.stream.read_exact(&mut payload)?;
        Ok((header.stream, header.kind, payload))
    }

    /// The next frame of one stream; others wait.
    pub fn of(&mut self, stream: u32) -> (Kind, Vec<u8>) {
        if let Some(list) = self.waiting.get_mut(&stream)
            && !list.is_empty()
        {
            return list.remove(0);
        }
        loop {
            let (number, kind, payload) = self.next();
            if number == stream {
                return (kind, payload);
            }
            self.waiting
                .entry(number)
                .or_default()
                .push((kind, payload));
        }
    }

    /// How many frames of a stream came while another was read.
    pub fn waiting(&self, stream: u32) -> usize {
        self.waiting.get(&stream).map_or(0, Vec::len)
    }

    /// The next stream that the agent opens.
    pub fn accepted(&mut self) -> (u32, Vec<u8>) {
        loop {
            let known = self.waiting.iter_mut().find(|(_, list)| {
                list.first()
                    .is_some_and(|(kind, _)| *kind == Kind::Accepted)
            });
            if let Some((stream, list)) = known {
                return (*stream, list.remove(0).1);
            }
            let (stream, kind, payload) = self.next();
            self.waiting
                .entry(stream)
                .or_default()
                .push((kind, payload));
        }
    }

    pub fn started(&mut self, stream: u32) -> u32 {
        let (kind, payload) = self.of(stream);
        assert!(
            kind != Kind::Failure,
            "{:?}",
            message::decode::<Failure>(&payload)
        );
        assert_eq!(kind, Kind::Started);
        message::decode::<Started>(&payload).unwrap().pid
    }

    /// Reads a command's stream to its end, with credit for what came.
    pub fn finish(&mut self, stream: u32) -> Outcome {
        let mut outcome = Outcome::default();
        loop {
            let (kind, payload) = self.of(stream);
            match kind {
                Kind::Started => outcome.pid = message::decode::<Started>(&payload).unwrap().pid,
                Kind::Data | Kind::DataErr => {
                    let bytes = u32::try_from(payload.len()).unwrap();
                    if kind == Kind::Data {
                        outcome.stdout.extend(payload);
                    } else {
                        outcome.stderr.extend(payload);
                    }
                    // Whoever waits for the end of an endless stream fails here.
                    assert!(outcome.stdout.len() <= MOST_OUTPUT, "it does not end");
                    self.say(stream, Kind::Credit, &Credit { bytes });
                }
                Kind::Lost => {
                    let lost: Lost = message::decode(&payload).unwrap();
                    outcome.lost.0 += lost.stdout;
                    outcome.lost.1 += lost.stderr;
                }
                Kind::Credit => {}
                // A log of a command that goes on.
                Kind::Done => return outcome,
                Kind::Exited => {
                    outcome.exited = Some(message::decode(&payload).unwrap());
                    return outcome;
                }
                Kind::Failure => {
                    outcome.failure = Some(message::decode(&payload).unwrap());
                    return outcome;
                }
                other => panic!("unexpected {other:?}"),
            }
        }
    }

    pub fn run(&mut self, stream: u32, request: &ExecRequest) -> Outcome {
        self.say(stream, Kind::Exec, request);
        self.finish(stream)
    }

    /// The one answer of a request.
    pub fn ask<T: minicbor::Encode<()>>(
        &mut self,
        stream: u32,
        kind: Kind,
        request: &T,
    ) -> (Kind, Vec<u8>) {
        self.say(stream, kind, request);
        self.of(stream)
    }

    pub fn execs(&mut self, stream: u32) -> Vec<ExecInfo> {
        self.frame(stream, Kind::ListExecs, &[]);
        let (kind, payload) = self.of(stream);
        assert_eq!(kind, Kind::Execs);
        message::decode::<Execs>(&payload).unwrap().execs
    }

    /// Whether the agent closes the connection, whatever it says before.
    pub fn is_closed(&mut self) -> bool {
        loop {
            match self.try_next() {
                Ok(_) => {}
                Err(error) => {
                    return !matches!(
                        error.kind(),
                        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                    );
                }
            }
        }
    }
}

pub fn exec(id: &str, argv: &[&str]) -> ExecRequest {
    ExecRequest {
        exec: id.into(),
        argv: argv
            .iter()
            .map(|part| ByteVec::from(part.as_bytes().to_vec()))
            .collect(),
        env: Vec::new(),
        workdir: None,
        user: None,
        stdin: Stdin::Null,
        tty: None,
        timeout_ms: None,
        background: false,
    }
}

pub fn shell(id: &str, script: &str) -> ExecRequest {
    exec(id, &["sh", "-c", script])
}

/// Whether a process is there and no zombie.
pub fn lives(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        stat.rsplit(')')
            .next()
            .is_some_and(|rest| !rest.trim_start().starts_with('Z'))
    })
}

/// Waits, with a bound, until something is so.
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..3000 {
        if is_so() {
            return;
        }
        let pause = rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: 10_000_000,
        };
        let _ = rustix::event::poll(&mut [], Some(&pause));
    }
    panic!("{what} did not happen");
}
