//! Handshakes, keys, ports, files and abuse, on a real agent without a container.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod agent_support;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use agent_support::{Agent, Host, PROGRAM, config, eventually, exec, lives, shell};
use hmac::{Hmac, KeyInit as _, Mac as _};
use minicbor::bytes::ByteVec;
use sha2::Sha256;
use stacyvm_agent::protocol::control::ControlMessage;
use stacyvm_agent::protocol::message::{self, *};
use stacyvm_agent::protocol::{INITIAL_CREDIT, Kind};

#[test]
fn a_host_of_another_generation_is_told_why() {
    let agent = Agent::start(config());
    let mut host = agent.connect_raw();
    assert_eq!(host.next().1, Kind::Hello);
    let hello = Hello {
        oldest: 9,
        newest: 12,
        ..Hello::default()
    };
    host.say(0, Kind::Hello, &hello);
    let (_, kind, payload) = host.next();
    assert_eq!(kind, Kind::Failure);
    let failure: Failure = message::decode(&payload).unwrap();
    assert_eq!(failure.kind, FailureKind::Unsupported);
    assert!(host.is_closed());
}

#[test]
fn requests_may_follow_the_hello_at_once() {
    let agent = Agent::start(config());
    let mut host = agent.connect_raw();
    let hello = Hello {
        oldest: 1,
        newest: 3,
        ..Hello::default()
    };
    host.say(0, Kind::Hello, &hello);
    host.say(1, Kind::Exec, &exec("a", &["true"]));
    host.frame(0, Kind::Ping, b"beat");
    assert_eq!(host.next().1, Kind::Hello);
    assert_eq!(host.next().1, Kind::Welcome);
    assert_eq!(host.of(0), (Kind::Pong, b"beat".to_vec()));
    assert_eq!(host.finish(1).code(), 0);
}

#[test]
fn abuse_ends_the_connection_and_its_commands_alone() {
    let agent = Agent::start(config());
    let mut bystander = agent.connect();
    let abuses: [fn(&mut Host); 7] = [
        |host| {
            host.stream
                .write_all(&[0, 0, 0, 0, 9, 0, 0, 0, 255, 0, 0, 0])
                .unwrap();
        },
        |host| host.stream.write_all(&[255; 12]).unwrap(),
        |host| host.say(1, Kind::Exec, &exec("again", &["true"])),
        |host| host.frame(2, Kind::Exec, b"no cbor"),
        |host| host.frame(0x8000_0002, Kind::ListExecs, &[]),
        |host| host.frame(2, Kind::Started, &[]),
        |host| {
            for _ in 0..=INITIAL_CREDIT / 65_536 {
                host.frame(1, Kind::Data, &vec![0; 65_536]);
            }
        },
    ];
    for (number, abuse) in abuses.into_iter().enumerate() {
        let mut host = agent.connect();
        let mut request = exec(&format!("a{number}"), &["sleep", "1000"]);
        request.stdin = Stdin::Stream;
        host.say(1, Kind::Exec, &request);
        let pid = host.started(1);
        abuse(&mut host);
        assert!(host.is_closed(), "abuse {number}");
        eventually("death", || !lives(pid));
    }
    assert_eq!(bystander.run(1, &exec("b", &["true"])).code(), 0);
}

#[test]
fn a_port_inside_is_dialled_and_listened_on() {
    let agent = Agent::start(config());
    let mut host = agent.connect();
    let (kind, payload) = host.ask(1, Kind::Listen, &PortRequest { port: 0 });
    assert_eq!(kind, Kind::Listening);
    let port = message::decode::<Listening>(&payload).unwrap().port;
    assert_eq!(host.ask(2, Kind::Dial, &PortRequest { port }).0, Kind::Done);
    let (inbound, payload) = host.accepted();
    assert_eq!(message::decode::<Accepted>(&payload).unwrap().listener, 1);
    host.frame(2, Kind::Data, b"there");
    host.frame(2, Kind::End, &[]);
    assert_eq!(host.of(inbound), (Kind::Data, b"there".to_vec()));
    assert_eq!(host.of(inbound).0, Kind::End);
    host.frame(inbound, Kind::Data, b"back");
    host.frame(inbound, Kind::End, &[]);
    assert_eq!(host.of(2), (Kind::Data, b"back".to_vec()));
    assert_eq!(host.of(2).0, Kind::End);
    host.frame(1, Kind::Cancel, &[]);
    assert_eq!(host.of(1).0, Kind::Failure);
    let (kind, payload) = host.ask(3, Kind::Dial, &PortRequest { port });
    assert_eq!(kind, Kind::Failure);
    assert_eq!(
        message::decode::<Failure>(&payload).unwrap().kind,
        FailureKind::Refused
    );
}

#[test]
fn a_file_is_written_and_read_through_workers() {
    let agent = Agent::start(config());
    let mut host = agent.connect();
    let folder = tempfile::tempdir().unwrap();
    let path = ByteVec::from(
        folder
            .path()
            .join("a")
            .to_str()
            .unwrap()
            .as_bytes()
            .to_vec(),
    );
    let write = WriteRequest {
        user: None,
        path: path.clone(),
        how: WriteMode::Replace,
        mode: None,
        parents: false,
    };
    host.say(1, Kind::WriteFile, &write);
    let bytes: Vec<u8> = (0..900_000_u32).map(|n| (n % 251) as u8).collect();
    for chunk in bytes.chunks(100_000) {
        host.frame(1, Kind::Data, chunk);
    }
    host.frame(1, Kind::End, &[]);
    loop {
        match host.of(1).0 {
            Kind::Credit => {}
            kind => break assert_eq!(kind, Kind::Entry),
        }
    }
    let read = ReadRequest {
        user: None,
        path,
        offset: 0,
        length: None,
    };
    assert_eq!(host.ask(2, Kind::ReadFile, &read).0, Kind::Entry);
    let mut back = Vec::new();
    loop {
        match host.of(2) {
            (Kind::Data, payload) => back.extend(payload),
            (kind, _) => break assert_eq!(kind, Kind::Done),
        }
    }
    assert!(back == bytes);
    // A watch that its host gives up.
    let watch = WatchRequest {
        user: None,
        path: ByteVec::from(b"/tmp".to_vec()),
        recursive: false,
    };
    assert_eq!(host.ask(3, Kind::Watch, &watch).0, Kind::Done);
    host.frame(3, Kind::Cancel, &[]);
    while host.of(3).0 != Kind::Failure {}
}

#[test]
fn the_helper_hears_of_deadlines_and_the_end() {
    let mut agent = Agent::start(config());
    let mut host = agent.connect();
    host.say(1, Kind::Exec, &shell("a", "setsid sleep 1000 & sleep 1000"));
    let pid = host.started(1);
    let request = DeadlineRequest { in_ms: Some(777) };
    assert_eq!(host.ask(2, Kind::SetDeadline, &request).0, Kind::Done);
    assert_eq!(agent.hear(), ControlMessage::Deadline { in_ms: Some(777) });
    host.frame(3, Kind::Terminate, &[]);
    assert!(matches!(agent.hear(), ControlMessage::EndSandbox { .. }));
    assert!(agent.child.wait().unwrap().success());
    assert!(!lives(pid));
}

const KEY: [u8; 32] = [7; 32];

struct Keyed {
    child: Child,
    /// By its standard streams.
    maker: Option<Host>,
    path: std::path::PathBuf,
    _folder: tempfile::TempDir,
}

impl Drop for Keyed {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Not `std::io::copy`: the kernel's `splice` keeps others from a pipe while it waits.
fn carry(from: &mut impl Read, to: &mut impl Write) {
    let mut bytes = vec![0; 65_536];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        if to.write_all(&bytes[..count]).is_err() {
            return;
        }
    }
}

fn keyed(change: impl FnOnce(&mut AgentConfig)) -> Keyed {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("private/agent.sock");
    let mut config = config();
    config.key = KEY.to_vec();
    config.socket = Some(ByteVec::from(path.to_str().unwrap().as_bytes().to_vec()));
    change(&mut config);
    let mut child = Command::new(PROGRAM)
        .arg("--stdin")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let bytes = message::encode(&config);
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdin
        .write_all(&u32::try_from(bytes.len()).unwrap().to_le_bytes())
        .unwrap();
    stdin.write_all(&bytes).unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut back = theirs.try_clone().unwrap();
    std::thread::spawn(move || carry(&mut { theirs }, &mut stdin));
    std::thread::spawn(move || {
        carry(&mut stdout, &mut back);
        let _ = back.shutdown(std::net::Shutdown::Both);
    });
    eventually("socket", || UnixStream::connect(&path).is_ok());
    Keyed {
        child,
        maker: Some(Host::new(ours)),
        path,
        _folder: folder,
    }
}

fn mac(key: &[u8], role: &[u8], other: &[u8], own: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(&[role, other, own].concat());
    mac.finalize().into_bytes().to_vec()
}

/// Says hello with a proof by `key`; the agent's nonce, or one of an earlier connection.
fn prove(host: &mut Host, key: &[u8], replayed: Option<&Hello>) -> Hello {
    let (_, kind, payload) = host.next();
    assert_eq!(kind, Kind::Hello);
    let theirs: Hello = message::decode(&payload).unwrap();
    assert_eq!(theirs.nonce.len(), 32);
    let hello = replayed.cloned().unwrap_or_else(|| Hello {
        oldest: 1,
        newest: 1,
        version: String::new(),
        nonce: vec![5; 32],
        proof: mac(key, b"stacyvm host", &theirs.nonce, &[5; 32]),
    });
    host.say(0, Kind::Hello, &hello);
    if replayed.is_none() && key == KEY {
        let (_, kind, payload) = host.next();
        assert_eq!(kind, Kind::Welcome);
        let welcome: Welcome = message::decode(&payload).unwrap();
        assert_eq!(
            welcome.proof,
            mac(key, b"stacyvm agent", &[5; 32], &theirs.nonce)
        );
    }
    hello
}

#[test]
fn a_keyed_agent_serves_only_who_holds_the_key() {
    use std::os::unix::fs::PermissionsExt as _;
    let agent = keyed(|_| {});
    let mode =
        |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(
        (mode(&agent.path), mode(agent.path.parent().unwrap())),
        (0o600, 0o700)
    );
    let connect = || Host::new(UnixStream::connect(&agent.path).unwrap());
    let mut good = connect();
    let hello = prove(&mut good, &KEY, None);
    assert_eq!(good.run(1, &shell("a", "echo in")).text(), "in\n");
    let mut wrong = connect();
    prove(&mut wrong, &[8; 32], None);
    assert!(wrong.try_next().is_err());
    let mut replayed = connect();
    prove(&mut replayed, &KEY, Some(&hello));
    assert!(replayed.try_next().is_err());
    let mut unproven = connect();
    assert_eq!(unproven.next().1, Kind::Hello);
    unproven.frame(1, Kind::ListExecs, &[]);
    assert!(unproven.try_next().is_err());
    // Silence is ended by the agent.
    let mut silent = connect();
    assert_eq!(silent.next().1, Kind::Hello);
    assert!(silent.is_closed());
}

#[test]
fn whoever_made_it_is_served_by_its_standard_streams_once() {
    let mut agent = keyed(|_| {});
    let mut maker = agent.maker.take().unwrap();
    prove(&mut maker, &KEY, None);
    let out = maker.run(1, &shell("a", "cat; head -c 3000000 /dev/zero"));
    assert_eq!((out.stdout.len(), out.code()), (3_000_000, 0));
    // Both ways full at once: nothing is lost, and others are served meanwhile.
    let mut request = shell("b", "head -c 3000000 /dev/zero; wc -c");
    request.stdin = Stdin::Stream;
    maker.say(2, Kind::Exec, &request);
    maker.started(2);
    for _ in 0..8 {
        maker.frame(2, Kind::Data, &vec![1; 65_536]);
    }
    maker.frame(2, Kind::End, &[]);
    let mut other = Host::new(UnixStream::connect(&agent.path).unwrap());
    prove(&mut other, &KEY, None);
    assert_eq!(other.run(1, &shell("c", "echo in")).text(), "in\n");
    maker.say(2, Kind::Credit, &Credit { bytes: 1 << 30 });
    let out = maker.finish(2);
    assert_eq!(out.stdout[3_000_000..], *b"524288\n");
    // Half a frame is all that a maker leaves that is killed.
    maker.stream.write_all(&[9, 0, 0]).unwrap();
    drop(maker);
    assert_eq!(other.run(2, &shell("d", "echo on")).text(), "on\n");
    assert!(agent.child.try_wait().unwrap().is_none());
}

#[test]
fn an_agent_that_nobody_tells_anything_ends() {
    let mut agent = Command::new(PROGRAM)
        .arg("--stdin")
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It stays open.
    let input = agent.stdin.take();
    let output = agent.wait_with_output().unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("nobody told the configuration"), "{said}");
    drop(input);
}

#[test]
fn who_lacks_the_key_gets_nothing_by_the_standard_streams() {
    let mut agent = keyed(|_| {});
    let mut maker = agent.maker.take().unwrap();
    prove(&mut maker, &[8; 32], None);
    assert!(maker.is_closed());
    let mut other = Host::new(UnixStream::connect(&agent.path).unwrap());
    prove(&mut other, &KEY, None);
    assert_eq!(other.run(1, &shell("c", "echo in")).text(), "in\n");
}

#[test]
fn strangers_are_few() {
    let agent = keyed(|_| {});
    let strangers: Vec<UnixStream> = (0..40)
        .map(|_| UnixStream::connect(&agent.path).unwrap())
        .collect();
    // Those too many are closed without a word.
    let served = strangers
        .into_iter()
        .filter_map(|mut stranger| stranger.read(&mut [0; 64]).ok())
        .filter(|count| *count > 0)
        .count();
    assert!((1..=16).contains(&served), "{served}");
}

#[test]
fn a_bridge_carries_a_connection() {
    let agent = keyed(|_| {});
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut bridge = Command::new(PROGRAM)
        .arg("bridge")
        .arg(&agent.path)
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(
            theirs.try_clone().unwrap(),
        )))
        .stdout(Stdio::from(std::os::fd::OwnedFd::from(theirs)))
        .spawn()
        .unwrap();
    let mut host = Host::new(ours);
    prove(&mut host, &KEY, None);
    let out = host.run(1, &shell("a", "head -c 3000000 /dev/zero"));
    assert_eq!((out.stdout.len(), out.code()), (3_000_000, 0));
    drop(host);
    assert!(bridge.wait().unwrap().success());
}

#[test]
fn a_keyed_agent_ends_at_its_deadline() {
    let mut agent = keyed(|config| config.deadline_ms = Some(1000));
    assert!(agent.child.wait().unwrap().success());
}

/// A directory whose listing is larger than the credit of a stream.
fn crowd() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for number in 0..6000 {
        let name = format!("{number:04}-{}", "n".repeat(200));
        std::fs::write(directory.path().join(name), "").unwrap();
    }
    directory
}

#[test]
fn a_listing_waits_for_credit() {
    let crowd = crowd();
    let agent = Agent::start(config());
    let mut host = agent.connect();
    let request = FileRequest {
        user: None,
        operation: FileOperation::List {
            path: ByteVec::from(crowd.path().as_os_str().as_encoded_bytes().to_vec()),
            depth: 1,
        },
    };
    host.say(1, Kind::File, &request);
    // The answer to the next request shows that nothing more comes by itself.
    let (mut bytes, mut count) = (0, 0);
    let mut take = |payload: &[u8]| {
        bytes += payload.len();
        count += message::decode::<Entries>(payload).unwrap().entries.len();
        (bytes, count)
    };
    while take(&host.of(1).1).0 + 64 * 1024 < INITIAL_CREDIT as usize {}
    let mut stream = 10;
    for _ in 0..50 {
        stream += 1;
        host.execs(stream);
    }
    let mut waiting = host.waiting(1);
    while waiting > 0 {
        assert!(take(&host.of(1).1).0 <= INITIAL_CREDIT as usize);
        waiting -= 1;
    }
    assert!(count < 6000, "the credit is smaller than the listing");
    host.say(1, Kind::Credit, &Credit { bytes: 1 << 30 });
    loop {
        match host.of(1) {
            (Kind::Entries, payload) => {
                count += message::decode::<Entries>(&payload).unwrap().entries.len();
            }
            (kind, _) => {
                assert_eq!(kind, Kind::Done);
                break;
            }
        }
    }
    assert_eq!(count, 6000);
}

#[test]
fn watch_events_wait_for_credit() {
    let place = tempfile::tempdir().unwrap();
    let agent = Agent::start(config());
    let mut host = agent.connect();
    let request = WatchRequest {
        user: None,
        path: ByteVec::from(place.path().as_os_str().as_encoded_bytes().to_vec()),
        recursive: false,
    };
    assert_eq!(host.ask(1, Kind::Watch, &request).0, Kind::Done);
    // Each name gives a creation and a removal, some 1.8 MiB in all.
    for number in 0..4000 {
        let path = place
            .path()
            .join(format!("{number:04}-{}", "n".repeat(230)));
        std::fs::write(&path, "").unwrap();
        std::fs::remove_file(&path).unwrap();
    }
    let mut bytes = 0;
    while bytes + 1024 < INITIAL_CREDIT as usize {
        let (kind, payload) = host.of(1);
        assert_eq!(kind, Kind::WatchEvent);
        bytes += payload.len();
    }
    let mut stream = 10;
    for _ in 0..50 {
        stream += 1;
        host.execs(stream);
    }
    for _ in 0..host.waiting(1) {
        bytes += host.of(1).1.len();
    }
    assert!(bytes <= INITIAL_CREDIT as usize, "{bytes} without credit");
    host.say(1, Kind::Credit, &Credit { bytes: 1 << 30 });
    assert_eq!(host.of(1).0, Kind::WatchEvent);
    host.frame(1, Kind::Cancel, &[]);
}
