//! What a hostile agent sends ends its own connection, as a protocol error,
//! and nothing else.
#![allow(
    clippy::cast_possible_truncation,
    clippy::large_stack_arrays,
    reason = "small numbers of tests"
)]

use std::time::Duration;

use futures_util::StreamExt;
use stacyvm_agent::protocol::message::{
    self, Accepted, Credit, EndReason, Entries, Exited, Failure, FailureKind, Listening, Lost,
    Started,
};
use stacyvm_agent::protocol::{AGENT_STREAM, GENERATION, INITIAL_CREDIT, Kind};
use tokio::io::{AsyncWriteExt, duplex};

use super::fake::{Fake, frame, hello};
use super::{AgentClient, ConnectOptions};
use crate::error::ErrorKind;
use crate::sandbox::exec::{ExecEvent, ExecSpec};
use crate::sandbox::files::{FileOperation, FileReply, FileRequest, GuestPath, ReadRequest};

/// What the host does before the script plays.
#[derive(Clone, Copy, Debug)]
enum Call {
    Exec,
    ExecTty,
    List,
    Stat,
    Read,
    Export,
    Dial,
    Listen,
    ListExecs,
}

/// Does a call to its end; the kind of its error, if it failed.
async fn call(client: &AgentClient, call: Call) -> Option<ErrorKind> {
    let path = || GuestPath::new("/a").unwrap();
    let request = |operation| FileRequest {
        user: None,
        operation,
    };
    let done = match call {
        Call::Exec | Call::ExecTty => {
            let mut spec = ExecSpec::new(["true"]);
            spec.tty = matches!(call, Call::ExecTty).then(Default::default);
            match client.exec(&spec).await {
                Err(error) => Err(error),
                Ok(mut session) => loop {
                    match session.events.next().await {
                        Some(Err(error)) => break Err(error),
                        Some(Ok(ExecEvent::Exited(_))) => {
                            // A violation after the last event shows on the connection.
                            client.closed().await;
                            break client.usage().await.map(drop);
                        }
                        Some(Ok(_)) => {}
                        None => break Ok(()),
                    }
                },
            }
        }
        Call::List => match client
            .file(&request(FileOperation::List {
                path: path(),
                depth: 1,
            }))
            .await
        {
            Ok(FileReply::Entries(mut entries)) => loop {
                match entries.next().await {
                    Some(Err(error)) => break Err(error),
                    Some(Ok(_)) => {}
                    None => break Ok(()),
                }
            },
            other => other.map(drop),
        },
        Call::Stat => client
            .file(&request(FileOperation::Stat {
                path: path(),
                follow: false,
            }))
            .await
            .map(drop),
        Call::Read => {
            let request = ReadRequest {
                user: None,
                path: path(),
                offset: 0,
                length: Some(4),
            };
            match client.read_file(&request).await {
                Ok((_, mut bytes)) => loop {
                    match bytes.next().await {
                        Some(Err(error)) => break Err(error),
                        Some(Ok(_)) => {}
                        None => break Ok(()),
                    }
                },
                Err(error) => Err(error),
            }
        }
        Call::Export => {
            let request = crate::sandbox::files::ExportRequest {
                user: None,
                path: path(),
                contents: false,
                follow: false,
            };
            client.export_tar(&request).await.map(drop)
        }
        Call::Dial => {
            let dialled = client.dial(80).await;
            client.closed().await;
            match dialled {
                Ok(_) => client.usage().await.map(drop),
                Err(error) => Err(error),
            }
        }
        Call::Listen => {
            let listener = client.listen(0).await;
            client.closed().await;
            match listener {
                Ok(_) => client.usage().await.map(drop),
                Err(error) => Err(error),
            }
        }
        Call::ListExecs => client.list_execs().await.map(drop),
    };
    done.err().map(|error| error.kind())
}

fn started() -> Vec<u8> {
    frame(1, Kind::Started, &message::encode(&Started { pid: 1 }))
}

fn exited(reason: EndReason, value: i32) -> Vec<u8> {
    let exited = Exited {
        reason,
        value,
        survivors: 0,
        sandbox_ended: false,
    };
    frame(1, Kind::Exited, &message::encode(&exited))
}

fn ended() -> Vec<u8> {
    exited(EndReason::Code, 0)
}

fn of<T: minicbor::Encode<()>>(stream: u32, kind: Kind, payload: &T) -> Vec<u8> {
    frame(stream, kind, &message::encode(payload))
}

fn entry() -> message::Entry {
    message::Entry {
        path: b"a".to_vec().into(),
        kind: message::FileKind::File,
        size: u64::MAX,
        mode: 0,
        uid: 0,
        gid: 0,
        modified_s: i64::MIN,
        modified_ns: u32::MAX,
        target: None,
        user: None,
        group: None,
    }
}

fn left_out() -> message::LeftOut {
    message::LeftOut {
        names: vec![b"s".to_vec().into()],
        more: 0,
    }
}

fn listening() -> Vec<u8> {
    of(1, Kind::Listening, &Listening { port: 80 })
}

fn accepted(stream: u32, listener: u32) -> Vec<u8> {
    of(stream, Kind::Accepted, &Accepted { listener })
}

fn header(length: u32, stream: u32, kind: u8) -> Vec<u8> {
    let mut bytes = length.to_le_bytes().to_vec();
    bytes.extend(stream.to_le_bytes());
    bytes.extend([kind, 0, 0, 0]);
    bytes
}

fn scripts() -> Vec<(&'static str, Call, Vec<Vec<u8>>)> {
    use Call::{Dial, Exec, ExecTty, Export, List, ListExecs, Listen, Read, Stat};
    let big = vec![0; 1024 * 1024];
    let data = |bytes: &[u8]| frame(1, Kind::Data, bytes);
    let err = |bytes: &[u8]| frame(1, Kind::DataErr, bytes);
    let done = || frame(1, Kind::Done, &[]);
    let agent = AGENT_STREAM | 1;
    let entries = Entries {
        entries: vec![entry()],
    };
    vec![
        ("an unknown kind", Exec, vec![header(0, 1, 200)]),
        ("kind zero", Exec, vec![header(0, 1, 0)]),
        (
            "a length beyond all bounds",
            Exec,
            vec![header(u32::MAX, 1, 80)],
        ),
        (
            "a length just beyond",
            Exec,
            vec![header(1024 * 1024 + 1, 1, 80)],
        ),
        (
            "a stream that was never opened",
            Exec,
            vec![frame(99, Kind::Data, b"x")],
        ),
        (
            "an agent stream that was never opened",
            Exec,
            vec![frame(agent, Kind::Data, b"x")],
        ),
        ("data before started", Exec, vec![data(b"x")]),
        ("exited before started", Exec, vec![ended()]),
        ("started twice", Exec, vec![started(), started()]),
        (
            "started after exited",
            Exec,
            vec![started(), ended(), started()],
        ),
        ("exited twice", Exec, vec![started(), ended(), ended()]),
        (
            "data after exited",
            Exec,
            vec![started(), ended(), data(b"x")],
        ),
        (
            "failure after exited",
            Exec,
            vec![
                started(),
                ended(),
                of(
                    1,
                    Kind::Failure,
                    &Failure {
                        kind: FailureKind::Internal,
                        message: String::new(),
                        subject: None,
                        errno: None,
                    },
                ),
            ],
        ),
        (
            "credit after exited",
            Exec,
            vec![
                started(),
                ended(),
                of(1, Kind::Credit, &Credit { bytes: 1 }),
            ],
        ),
        ("a request of a host", Exec, vec![frame(1, Kind::Exec, &[])]),
        (
            "a cancel",
            Exec,
            vec![started(), frame(1, Kind::Cancel, &[])],
        ),
        (
            "a detach",
            Exec,
            vec![started(), frame(1, Kind::Detach, &[])],
        ),
        (
            "an end of a command",
            Exec,
            vec![started(), frame(1, Kind::End, &[])],
        ),
        ("an answer of another request", Exec, vec![done()]),
        (
            "an entry to a command",
            Exec,
            vec![of(1, Kind::Entry, &entry())],
        ),
        ("a second hello", Exec, vec![of(0, Kind::Hello, &hello())]),
        (
            "a second welcome",
            Exec,
            vec![frame(0, Kind::Welcome, &[0xa0])],
        ),
        (
            "data on the connection itself",
            Exec,
            vec![frame(0, Kind::Data, b"x")],
        ),
        (
            "a hello on a stream",
            Exec,
            vec![of(1, Kind::Hello, &hello())],
        ),
        (
            "a ping with a huge payload",
            Exec,
            vec![frame(0, Kind::Ping, &[0; 65])],
        ),
        (
            "a pong with a huge payload",
            Exec,
            vec![frame(0, Kind::Pong, &[0; 5000])],
        ),
        (
            "unreadable started",
            Exec,
            vec![frame(1, Kind::Started, &[0xff])],
        ),
        ("empty started", Exec, vec![frame(1, Kind::Started, &[])]),
        (
            "unreadable exited",
            Exec,
            vec![started(), frame(1, Kind::Exited, b"\x9f\x9f\x9f")],
        ),
        (
            "unreadable failure",
            Exec,
            vec![frame(1, Kind::Failure, b"\xbf\x00")],
        ),
        (
            "unreadable lost",
            Exec,
            vec![started(), frame(1, Kind::Lost, &[0x1b; 9])],
        ),
        (
            "an exit code of 256",
            Exec,
            vec![started(), exited(EndReason::Code, 256)],
        ),
        (
            "a negative exit code",
            Exec,
            vec![started(), exited(EndReason::Code, -1)],
        ),
        (
            "signal 0",
            Exec,
            vec![started(), exited(EndReason::Signal, 0)],
        ),
        (
            "signal 65",
            Exec,
            vec![started(), exited(EndReason::Signal, 65)],
        ),
        (
            "standard error of a terminal",
            ExecTty,
            vec![started(), err(b"x")],
        ),
        (
            "credit without input",
            Exec,
            vec![started(), of(1, Kind::Credit, &Credit { bytes: 1 })],
        ),
        (
            "unreadable credit",
            Exec,
            vec![started(), frame(1, Kind::Credit, &[0x61])],
        ),
        (
            "a nested bomb",
            Exec,
            vec![frame(1, Kind::Started, &vec![0x9f; 100_000])],
        ),
        (
            "a map that promises 2^60 keys",
            Exec,
            vec![frame(1, Kind::Started, b"\xbb\x10\0\0\0\0\0\0\0")],
        ),
        (
            "a list that promises 2^60 commands",
            ListExecs,
            vec![frame(1, Kind::Execs, b"\xa1\x00\x9b\x10\0\0\0\0\0\0\0")],
        ),
        (
            "a command by a bad id",
            ListExecs,
            vec![of(
                1,
                Kind::Execs,
                &message::Execs {
                    execs: vec![message::ExecInfo {
                        exec: "../../etc".into(),
                        argv: Vec::new(),
                        pid: 1,
                        started_ms: u64::MAX,
                        exited: None,
                        tty: false,
                        background: false,
                        processes: 0,
                    }],
                },
            )],
        ),
        (
            "entries to a stat",
            Stat,
            vec![of(1, Kind::Entries, &entries)],
        ),
        ("done to a stat", Stat, vec![done()]),
        (
            "an entry to a listing",
            List,
            vec![of(1, Kind::Entry, &entry())],
        ),
        (
            "entries after done",
            List,
            vec![of(1, Kind::Entries, &entries), frame(99, Kind::Done, &[])],
        ),
        (
            "unreadable entries",
            List,
            vec![frame(1, Kind::Entries, &[0xff; 40])],
        ),
        ("bytes before the entry", Read, vec![data(b"x")]),
        (
            "two entries of a file",
            Read,
            vec![of(1, Kind::Entry, &entry()), of(1, Kind::Entry, &entry())],
        ),
        ("done before the entry", Read, vec![done()]),
        (
            "more of a file than was asked for",
            Read,
            vec![of(1, Kind::Entry, &entry()), data(b"12345")],
        ),
        (
            "standard error of a file",
            Read,
            vec![of(1, Kind::Entry, &entry()), err(b"x")],
        ),
        (
            "an entry to an export",
            Export,
            vec![of(1, Kind::Entry, &entry())],
        ),
        (
            "two reports of what was left out",
            Export,
            vec![
                of(1, Kind::LeftOut, &left_out()),
                of(1, Kind::LeftOut, &left_out()),
            ],
        ),
        (
            "what was left out of a file",
            Read,
            vec![
                of(1, Kind::Entry, &entry()),
                of(1, Kind::LeftOut, &left_out()),
            ],
        ),
        ("data before a port is open", Dial, vec![data(b"x")]),
        (
            "data after the end",
            Dial,
            vec![done(), frame(1, Kind::End, &[]), data(b"x")],
        ),
        (
            "two ends",
            Dial,
            vec![done(), frame(1, Kind::End, &[]), frame(1, Kind::End, &[])],
        ),
        (
            "more than the credit of a port",
            Dial,
            vec![done(), data(&big), data(b"x")],
        ),
        (
            "credit that overflows",
            Dial,
            vec![done(), of(1, Kind::Credit, &Credit { bytes: u32::MAX })],
        ),
        (
            "port 0",
            Listen,
            vec![of(1, Kind::Listening, &Listening { port: 0 })],
        ),
        ("data of a listener", Listen, vec![listening(), data(b"x")]),
        (
            "a connection before listening",
            Listen,
            vec![accepted(agent, 1)],
        ),
        (
            "a connection of a command",
            Exec,
            vec![started(), accepted(agent, 1)],
        ),
        (
            "a connection of nobody",
            Listen,
            vec![listening(), accepted(agent, 7)],
        ),
        (
            "a connection with a host's number",
            Listen,
            vec![listening(), accepted(2, 1)],
        ),
        (
            "a connection on the connection",
            Listen,
            vec![listening(), accepted(0, 1)],
        ),
        (
            "the same connection twice",
            Listen,
            vec![listening(), accepted(agent, 1), accepted(agent, 1)],
        ),
        (
            "an unreadable connection",
            Listen,
            vec![listening(), frame(agent, Kind::Accepted, &[9])],
        ),
        ("a hundred thousand connections", Listen, {
            let mut script = vec![listening()];
            script.extend((1..=100_000).map(|n| accepted(AGENT_STREAM | n, 1)));
            script
        }),
    ]
}

#[tokio::test]
async fn every_hostile_script_ends_its_connection_as_a_protocol_error() {
    let (other, mut other_fake) = Fake::connected().await;
    let scripts = scripts();
    assert!(scripts.len() >= 30);
    for (name, what, script) in scripts {
        let (client, fake) = Fake::connected().await;
        let (mut reader, mut writer) = tokio::io::split(fake.stream);
        let drain = tokio::spawn(async move {
            let _ = tokio::io::copy(&mut reader, &mut tokio::io::sink()).await;
        });
        let play = async {
            for bytes in script {
                if writer.write_all(&bytes).await.is_err() {
                    break;
                }
            }
            // The connection ends over what was sent, not over our hanging up.
            client.closed().await;
        };
        // The request goes first: the script answers stream 1.
        let both = async { tokio::join!(call(&client, what), play).0 };
        let seen = tokio::time::timeout(Duration::from_secs(20), both)
            .await
            .unwrap_or_else(|_| panic!("{name}: the host hangs"));
        assert_eq!(seen, Some(ErrorKind::Protocol), "{name}");
        assert!(client.is_closed(), "{name}");
        let later = client.usage().await.unwrap_err();
        assert_eq!(later.kind(), ErrorKind::Protocol, "{name}");
        drain.await.unwrap();
    }
    // Another sandbox has noticed nothing.
    let (listed, ()) = tokio::join!(other.list_execs(), async {
        let got = other_fake.expect(Kind::ListExecs).await;
        let none = message::Execs { execs: Vec::new() };
        other_fake.send(got.stream, Kind::Execs, &none).await;
    });
    assert!(listed.unwrap().is_empty());
}

#[tokio::test]
async fn data_beyond_the_credit_ends_the_connection() {
    let (client, mut fake) = Fake::connected().await;
    let mut session = fake.start(&client, &ExecSpec::new(["yes"])).await;
    // Nobody reads: exactly the window is accepted.
    for _ in 0..INITIAL_CREDIT / 65_536 {
        fake.raw(1, Kind::Data, &[b'y'; 65_536]).await;
    }
    fake.raw(1, Kind::Data, b"z").await;
    client.closed().await;
    let mut bytes = 0;
    let error = loop {
        match session.events.next().await.unwrap() {
            Ok(ExecEvent::Stdout(data)) => bytes += data.len(),
            Ok(other) => panic!("{other:?}"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::Protocol);
    assert_eq!(bytes, INITIAL_CREDIT as usize);
    assert!(session.events.next().await.is_none());
}

#[tokio::test]
async fn a_listing_beyond_the_credit_ends_the_connection() {
    let (client, mut fake) = Fake::connected().await;
    let request = FileRequest {
        user: None,
        operation: FileOperation::List {
            path: GuestPath::new("/a").unwrap(),
            depth: 1,
        },
    };
    let (reply, ()) = tokio::join!(client.file(&request), async {
        let got = fake.expect(Kind::File).await;
        let batch = message::encode(&Entries {
            entries: vec![entry(); 500],
        });
        let mut sent = 0;
        // Nobody reads: exactly the window is accepted.
        while sent + batch.len() <= INITIAL_CREDIT as usize {
            fake.raw(got.stream, Kind::Entries, &batch).await;
            sent += batch.len();
        }
        fake.raw(got.stream, Kind::Entries, &batch).await;
    });
    client.closed().await;
    let FileReply::Entries(mut entries) = reply.unwrap() else {
        panic!("a listing gives entries");
    };
    let mut count = 0;
    let error = loop {
        match entries.next().await.unwrap() {
            Ok(_) => count += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::Protocol);
    assert!(count > 0 && count % 500 == 0, "{count}");
}

#[tokio::test]
async fn endless_messages_without_credit_are_bounded() {
    let (client, mut fake) = Fake::connected().await;
    let _session = fake.start(&client, &ExecSpec::new(["x"])).await;
    let lost = frame(
        1,
        Kind::Lost,
        &message::encode(&Lost {
            stdout: 1,
            stderr: 1,
        }),
    );
    let flood = async {
        while !client.is_closed() {
            let _ = fake.stream.write_all(&lost.repeat(100)).await;
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), flood)
        .await
        .expect("the flood has no bound");
    assert_eq!(
        client.usage().await.unwrap_err().kind(),
        ErrorKind::Protocol
    );
}

/// A small generator, so that a failing run can be repeated.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

#[tokio::test]
async fn random_bytes_and_mutated_frames_do_no_harm() {
    let mut random = Random(0x5eed_0001);
    let scripts = scripts();
    for round in 0..400 {
        let mut bytes = Vec::new();
        if round % 2 == 0 {
            let (_, _, script) = &scripts[random.next() as usize % (scripts.len() - 1)];
            bytes.extend(started());
            bytes.extend(script.iter().flatten().take(4096));
            for _ in 0..=random.next() % 8 {
                let at = random.next() as usize % bytes.len();
                bytes[at] = random.next() as u8;
            }
        } else {
            bytes.extend((0..random.next() % 600).map(|_| random.next() as u8));
        }
        let (client, mut fake) = Fake::connected().await;
        let play = async {
            let _ = fake.stream.write_all(&bytes).await;
            let _ = fake.stream.shutdown().await;
            while fake.try_next().await.is_some() {}
        };
        let both = async { tokio::join!(call(&client, Call::Exec), play).0 };
        let seen = tokio::time::timeout(Duration::from_secs(20), both)
            .await
            .unwrap_or_else(|_| panic!("round {round}: the host hangs"));
        assert!(seen.is_some(), "round {round}: garbage is no success");
    }
}

#[tokio::test]
async fn bad_handshakes_are_refused() {
    let newer = message::Hello {
        oldest: 1000,
        newest: 1001,
        ..hello()
    };
    let welcome = |generation| {
        of(
            0,
            Kind::Welcome,
            &message::Welcome {
                generation,
                ..Default::default()
            },
        )
    };
    let greet = || of(0, Kind::Hello, &hello());
    let cases: Vec<(&str, Vec<u8>, ErrorKind)> = vec![
        (
            "a newer agent",
            of(0, Kind::Hello, &newer),
            ErrorKind::Incompatible,
        ),
        (
            "no generation",
            of(0, Kind::Hello, &message::Hello::default()),
            ErrorKind::Incompatible,
        ),
        (
            "another frame",
            frame(0, Kind::Pong, &[]),
            ErrorKind::Protocol,
        ),
        ("welcome first", welcome(1), ErrorKind::Protocol),
        (
            "a huge hello",
            frame(0, Kind::Hello, &[0; 5000]),
            ErrorKind::Protocol,
        ),
        (
            "a hello on a stream",
            of(1, Kind::Hello, &hello()),
            ErrorKind::Protocol,
        ),
        ("garbage", vec![0xff; 64], ErrorKind::Protocol),
        ("nothing", vec![], ErrorKind::Unavailable),
        (
            "half a hello",
            greet()[..9].to_vec(),
            ErrorKind::Unavailable,
        ),
        (
            "another generation",
            [greet(), welcome(GENERATION + 1)].concat(),
            ErrorKind::Protocol,
        ),
    ];
    for (name, bytes, kind) in cases {
        let (host, mut agent) = duplex(64 * 1024);
        agent.write_all(&bytes).await.unwrap();
        agent.shutdown().await.unwrap();
        let error = AgentClient::connect(host, ConnectOptions::default())
            .await
            .unwrap_err();
        assert_eq!(error.kind(), kind, "{name}: {error:?}");
    }
}
