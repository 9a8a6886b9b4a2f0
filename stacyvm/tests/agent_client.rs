//! The client against the real program of a sandbox, without a sandbox. The
//! program takes other users, so these tests need root and do nothing without.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test that panics has failed"
)]

use std::io::{IoSlice, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags,
    SocketType, recv, sendmsg, socketpair,
};
use stacyvm::agent::{AgentClient, ConnectOptions};
use stacyvm::sandbox::exec::{AttachOptions, ExecSession, SignalScope, TtySize};
use stacyvm::sandbox::files::{GuestPath, ReadRequest, WriteMode, WriteRequest};
use stacyvm::{ErrorKind, ExecEvent, ExecSpec, ExitStatus};
use stacyvm_agent::protocol::control::ControlMessage;
use stacyvm_agent::protocol::message::{self, AgentConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

struct Agent {
    child: Child,
    control: OwnedFd,
    _directory: tempfile::TempDir,
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = rustix::net::shutdown(&self.control, rustix::net::Shutdown::Both);
        let _ = self.child.wait();
    }
}

impl Agent {
    fn start() -> Option<Self> {
        if stacyvm_agent::AGENT.is_empty() || !rustix::process::geteuid().is_root() {
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("stacyvm-agent");
        let mut file = std::fs::File::create(&program).unwrap();
        file.write_all(stacyvm_agent::AGENT).unwrap();
        drop(file);
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let (control, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        let child = Command::new("sh")
            .args(["-c", "exec \"$0\" 3<&0 0</dev/null"])
            .arg(&program)
            .stdin(Stdio::from(theirs))
            .spawn()
            .unwrap();
        let agent = Self {
            child,
            control,
            _directory: directory,
        };
        let config = AgentConfig {
            user: "root".into(),
            workdir: b"/tmp".to_vec().into(),
            env: Vec::new(),
            key: Vec::new(),
            deadline_ms: None,
            ring_bytes: 64 * 1024,
            max_execs: 64,
            open_files: None,
            supervisor_uid: 65_533,
            can_switch_user: true,
            idle_ms: None,
            spare_supervisors: Some(3),
            waits: None,
            namespaced_root: None,
            places: None,
            socket: None,
        };
        agent.tell(
            &ControlMessage::Config {
                config,
                commands: 0,
            },
            None,
        );
        let mut bytes = vec![0; 65_536];
        let (_, count) = recv(&agent.control, &mut bytes, RecvFlags::empty()).unwrap();
        let ready: ControlMessage = message::decode(&bytes[..count]).unwrap();
        assert_eq!(ready, ControlMessage::Ready {});
        Some(agent)
    }

    fn tell(&self, say: &ControlMessage, fd: Option<&OwnedFd>) {
        let bytes = message::encode(say);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let fds = fd.map(|fd| [fd.as_fd()]);
        if let Some(fds) = &fds {
            ancillary.push(SendAncillaryMessage::ScmRights(fds));
        }
        let bytes = [IoSlice::new(&bytes)];
        sendmsg(&self.control, &bytes, &mut ancillary, SendFlags::NOSIGNAL).unwrap();
    }

    async fn client(&self) -> AgentClient {
        let (ours, theirs) = UnixStream::pair().unwrap();
        self.tell(&ControlMessage::Connection {}, Some(&theirs.into()));
        ours.set_nonblocking(true).unwrap();
        let stream = tokio::net::UnixStream::from_std(ours).unwrap();
        AgentClient::connect(stream, ConnectOptions::default())
            .await
            .unwrap()
    }
}

async fn finish(mut session: ExecSession) -> (Vec<u8>, ExitStatus) {
    let mut output = Vec::new();
    let mut ended = None;
    let read = async {
        while let Some(event) = session.events.next().await {
            assert!(ended.is_none(), "an event after the end");
            match event.unwrap() {
                ExecEvent::Stdout(bytes) | ExecEvent::Stderr(bytes) => {
                    output.extend_from_slice(&bytes);
                }
                ExecEvent::Lost { .. } => {}
                ExecEvent::Exited(status) => ended = Some(status),
            }
        }
    };
    tokio::time::timeout(Duration::from_mins(1), read)
        .await
        .expect("the command does not end");
    (output, ended.expect("no end"))
}

async fn run(client: &AgentClient, spec: ExecSpec) -> (Vec<u8>, ExitStatus) {
    finish(client.exec(&spec).await.unwrap()).await
}

/// Waits until no command of the agent has processes.
async fn wait_for_no_processes(client: &AgentClient) {
    for _ in 0..600 {
        let execs = client.list_execs().await.unwrap();
        if execs.iter().all(|exec| exec.processes == 0) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("processes are left: {:?}", client.list_execs().await);
}

const DONE: ExitStatus = ExitStatus::Code { code: 0 };

#[tokio::test]
async fn commands_end_as_they_ended() {
    let Some(agent) = Agent::start() else { return };
    let client = agent.client().await;
    let (output, status) = run(&client, ExecSpec::shell("echo out; echo err >&2; exit 3")).await;
    assert_eq!(status, ExitStatus::Code { code: 3 });
    assert_eq!(output.len(), 8);
    let (_, status) = run(&client, ExecSpec::shell("kill -9 $$")).await;
    assert_eq!(status, ExitStatus::Signal { signal: 9 });
    let missing = client.exec(&ExecSpec::new(["no-such-command"])).await;
    assert_eq!(missing.unwrap_err().kind(), ErrorKind::CommandNotFound);
    let mut elsewhere = ExecSpec::new(["true"]);
    elsewhere.workdir = Some("/no/such".into());
    let error = client.exec(&elsewhere).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let mut late = ExecSpec::shell("setsid sleep 1000 & sleep 1000");
    late.timeout = Some(Duration::from_millis(300));
    let (_, status) = run(&client, late).await;
    assert!(matches!(status, ExitStatus::TimedOut { .. }), "{status:?}");
    wait_for_no_processes(&client).await;
}

#[tokio::test]
async fn dropping_a_session_kills_the_whole_tree() {
    let Some(agent) = Agent::start() else { return };
    let client = agent.client().await;
    let spec = ExecSpec::shell("setsid sh -c 'sleep 1000 & sleep 1000' & echo up; sleep 1000");
    let mut session = client.exec(&spec).await.unwrap();
    assert!(session.events.next().await.unwrap().is_ok());
    drop(session);
    wait_for_no_processes(&client).await;
}

#[tokio::test]
async fn input_output_and_terminal() {
    let Some(agent) = Agent::start() else { return };
    let client = agent.client().await;
    let mut cat = ExecSpec::new(["cat"]);
    cat.stdin = true;
    let session = client.exec(&cat).await.unwrap();
    let control = session.control.clone();
    let sent: Vec<u8> = (0..5_000_000_u32).map(|n| (n % 251) as u8).collect();
    let data = Bytes::from(sent.clone());
    let feed = async {
        control.write_stdin(data).await.unwrap();
        control.close_stdin().await.unwrap();
    };
    let ((output, status), ()) = tokio::join!(finish(session), feed);
    assert_eq!(status, DONE);
    assert!(output == sent, "{} of {} bytes", output.len(), sent.len());

    let mut tty = ExecSpec::shell("stty size; read x; stty size");
    tty.tty = Some(TtySize {
        rows: 33,
        columns: 99,
    });
    tty.stdin = true;
    let session = client.exec(&tty).await.unwrap();
    let size = TtySize {
        rows: 44,
        columns: 88,
    };
    session.control.resize(size).await.unwrap();
    let enter = Bytes::from_static(b"\n");
    session.control.write_stdin(enter).await.unwrap();
    let (output, status) = finish(session).await;
    assert_eq!(status, DONE);
    assert!(String::from_utf8_lossy(&output).contains("44 88"));
}

#[tokio::test]
async fn a_stalled_reader_slows_its_command_and_nobody_else() {
    let Some(agent) = Agent::start() else { return };
    let client = agent.client().await;
    let stalled = client
        .exec(&ExecSpec::shell("head -c 20000000 /dev/zero"))
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let (output, status) = run(&client, ExecSpec::new(["echo", "hi"])).await;
    assert_eq!((output.as_slice(), status), (b"hi\n".as_slice(), DONE));
    let listed = client.list_execs().await.unwrap();
    let own = listed.iter().find(|exec| exec.exec == stalled.exec);
    assert_eq!(own.unwrap().exited, None, "20 MB went nowhere");
    let (output, status) = finish(stalled).await;
    assert_eq!((output.len(), status), (20_000_000, DONE));
}

#[tokio::test]
async fn a_background_command_outlives_its_connection() {
    let Some(agent) = Agent::start() else { return };
    let first = agent.client().await;
    let mut spec = ExecSpec::shell("echo before; sleep 1000");
    spec.background = true;
    drop(first.exec(&spec).await.unwrap());
    drop(first);
    let client = agent.client().await;
    let options = AttachOptions {
        stdin: false,
        replay: true,
    };
    let session = client.attach(&spec.exec, options).await.unwrap();
    client
        .signal_exec(&spec.exec, 15, SignalScope::Tree)
        .await
        .unwrap();
    let (output, status) = finish(session).await;
    assert_eq!(status, ExitStatus::Signal { signal: 15 });
    assert!(output.is_empty() || output == b"before\n");
}

#[tokio::test]
async fn the_end_of_the_agent_ends_its_commands_once() {
    let Some(mut agent) = Agent::start() else {
        return;
    };
    let client = agent.client().await;
    let session = client
        .exec(&ExecSpec::new(["sleep", "1000"]))
        .await
        .unwrap();
    agent.child.kill().unwrap();
    let (_, status) = finish(session).await;
    assert_eq!(status, ExitStatus::SandboxGone);
    let error = client.usage().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SandboxGone);
}

#[tokio::test]
async fn files_and_ports() {
    let Some(agent) = Agent::start() else { return };
    let client = agent.client().await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a").to_str().unwrap().to_owned();
    let path = GuestPath::new(path).unwrap();
    let pieces = (0..100).map(|n| Ok(Bytes::from(vec![n; 50_000])));
    let write = WriteRequest {
        user: None,
        path: path.clone(),
        how: WriteMode::Replace,
        mode: Some(0o600),
        parents: false,
    };
    let source = Box::pin(stream::iter(pieces));
    let entry = client.write_file(&write, source).await.unwrap();
    assert_eq!(entry.size, 5_000_000);
    let read = ReadRequest {
        user: None,
        path,
        offset: 49_999,
        length: Some(2),
    };
    let (_, bytes) = client.read_file(&read).await.unwrap();
    let bytes: Vec<Bytes> = bytes.map(Result::unwrap).collect().await;
    assert_eq!(bytes.concat(), [0, 1]);

    let mut listener = client.listen(0).await.unwrap();
    let mut dialled = client.dial(listener.port).await.unwrap();
    let mut accepted = listener.incoming.next().await.unwrap().unwrap();
    dialled.write_all(b"ping").await.unwrap();
    dialled.shutdown().await.unwrap();
    let mut got = Vec::new();
    accepted.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, b"ping");
    accepted.write_all(b"pong").await.unwrap();
    accepted.shutdown().await.unwrap();
    got.clear();
    dialled.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, b"pong");
    assert!(client.usage().await.is_ok() && client.processes().await.is_ok());
}
