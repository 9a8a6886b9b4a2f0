//! The client against a scripted agent.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "small numbers of tests"
)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use stacyvm_agent::protocol::message::{
    self, Accepted, EndReason, Failure, FailureKind, Hello, Listening, UsageReport, Welcome,
};
use stacyvm_agent::protocol::{AGENT_STREAM, GENERATION, INITIAL_CREDIT, Kind};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use super::fake::{Fake, hello};
use super::{AgentClient, AgentPool, ConnectOptions, SandboxKey};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{ExecId, SandboxId};
use crate::sandbox::exec::{AttachOptions, ExecEvent, ExecSpec, ExitStatus, LogOptions};
use crate::sandbox::files::{GuestPath, WriteMode, WriteRequest};

fn spec() -> ExecSpec {
    ExecSpec::new(["cmd"])
}

fn stdout(bytes: &'static [u8]) -> ExecEvent {
    ExecEvent::Stdout(Bytes::from_static(bytes))
}

#[tokio::test]
async fn a_command_yields_its_output_and_one_end() {
    let (client, mut fake) = Fake::connected().await;
    let mut session = fake.start(&client, &spec()).await;
    assert_eq!(session.pid, Some(7));
    fake.raw(1, Kind::Data, b"out").await;
    fake.raw(1, Kind::DataErr, b"err").await;
    fake.exited(1, EndReason::Code, 3).await;
    let events: Vec<_> = session.events.by_ref().map(Result::unwrap).collect().await;
    assert_eq!(
        events,
        [
            stdout(b"out"),
            ExecEvent::Stderr(Bytes::from_static(b"err")),
            ExecEvent::Exited(ExitStatus::Code { code: 3 }),
        ]
    );
    // What ended is not cancelled.
    drop(session);
    drop(client);
    assert!(fake.try_next().await.is_none());
}

#[tokio::test]
async fn a_failure_keeps_its_cause_and_subject() {
    let (client, mut fake) = Fake::connected().await;
    let command = spec();
    let (result, ()) = tokio::join!(client.exec(&command), async {
        let failure = Failure {
            kind: FailureKind::CommandNotFound,
            message: "no such command".into(),
            subject: Some(b"cm\x07d".to_vec().into()),
            errno: Some(2),
        };
        fake.expect(Kind::Exec).await;
        fake.send(1, Kind::Failure, &failure).await;
    });
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CommandNotFound);
    assert_eq!(error.fact("subject"), Some("cm\\u{7}d"));
    assert!(!client.is_closed());
}

#[tokio::test]
async fn dropping_a_stream_gives_up_what_it_stands_for() {
    let (client, mut fake) = Fake::connected().await;
    drop(fake.start(&client, &spec()).await);
    assert_eq!(fake.expect(Kind::Cancel).await.stream, 1);
    // The agent may still send, and then ends the stream; both are ignored.
    fake.raw(1, Kind::Data, b"late").await;
    fake.exited(1, EndReason::Cancelled, 0).await;

    let mut background = spec();
    background.background = true;
    drop(fake.start(&client, &background).await);
    assert_eq!(fake.expect(Kind::Detach).await.stream, 2);
    fake.raw(2, Kind::Data, b"under way").await;

    let exec = spec().exec;
    let follow = client.attach(&exec, AttachOptions::default());
    let (session, ()) = tokio::join!(follow, async {
        let got = fake.expect(Kind::Attach).await;
        fake.started(got.stream).await;
    });
    drop(session.unwrap());
    assert_eq!(fake.expect(Kind::Detach).await.stream, 3);

    // A call dropped before its answer.
    {
        let command = spec();
        let mut exec = Box::pin(client.exec(&command));
        tokio::select! {
            _ = &mut exec => panic!("nobody answered"),
            _ = fake.expect(Kind::Exec) => {}
        }
    }
    assert_eq!(fake.expect(Kind::Cancel).await.stream, 4);
    assert!(!client.is_closed());
}

#[tokio::test]
async fn the_last_cancel_is_sent_although_everybody_is_gone() {
    let (client, mut fake) = Fake::connected().await;
    let session = fake.start(&client, &spec()).await;
    drop(client);
    drop(session);
    fake.expect(Kind::Cancel).await;
    assert!(fake.try_next().await.is_none());
}

#[tokio::test]
async fn a_lost_connection_ends_a_command_once_and_fails_calls() {
    let (client, mut fake) = Fake::connected().await;
    let mut session = fake.start(&client, &spec()).await;
    fake.raw(1, Kind::Data, b"last words").await;
    let (usage, command) = (client.clone(), client.clone());
    let pending = tokio::spawn(async move { usage.usage().await });
    let unstarted = tokio::spawn(async move { command.exec(&spec()).await });
    fake.next().await;
    fake.next().await;
    drop(fake);
    let events: Vec<_> = session.events.by_ref().map(Result::unwrap).collect().await;
    assert_eq!(
        events,
        [
            stdout(b"last words"),
            ExecEvent::Exited(ExitStatus::SandboxGone)
        ]
    );
    let gone = ErrorKind::SandboxGone;
    assert_eq!(pending.await.unwrap().unwrap_err().kind(), gone);
    assert_eq!(unstarted.await.unwrap().unwrap_err().kind(), gone);
    assert_eq!(client.exec(&spec()).await.unwrap_err().kind(), gone);
    let input = session.control.write_stdin(Bytes::from_static(b"x")).await;
    assert_eq!(input.unwrap_err().kind(), ErrorKind::InvalidArgument);
    client.closed().await;
}

#[tokio::test(start_paused = true)]
async fn a_frozen_agent_does_not_hang_a_command_with_a_deadline() {
    let (client, mut fake) = Fake::connected().await;
    let mut command = spec();
    command.timeout = Some(Duration::from_secs(1));
    let mut session = fake.start(&client, &command).await;
    let began = tokio::time::Instant::now();
    let error = session.events.next().await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(
        error.message().contains("the end of the command"),
        "{error:?}"
    );
    // Its own second and the ten of the agent, on a clock that stands still
    // between events.
    assert_eq!(began.elapsed().as_secs(), 11);
    assert!(session.events.next().await.is_none());
    assert!(client.is_closed());
    assert_eq!(
        client.usage().await.unwrap_err().kind(),
        ErrorKind::Unavailable
    );

    let (client, _silent) = Fake::connected().await;
    let error = client.exec(&command).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(
        error.message().contains("the start of the command"),
        "{error:?}"
    );
    assert!(client.is_closed());
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_is_not_taken_for_a_frozen_agent() {
    let (client, mut fake) = Fake::connected().await;
    let mut command = spec();
    command.timeout = Some(Duration::from_secs(1));
    let mut session = fake.start(&client, &command).await;
    fake.raw(1, Kind::Data, b"a").await;
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_eq!(session.events.next().await.unwrap().unwrap(), stdout(b"a"));
    let (event, ()) = tokio::join!(session.events.next(), async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        fake.exited(1, EndReason::TimedOut, 0).await;
    });
    assert!(matches!(event.unwrap().unwrap(), ExecEvent::Exited(_)));
    assert!(!client.is_closed());
}

#[tokio::test]
async fn a_stalled_reader_gets_no_credit_and_blocks_nobody() {
    let (client, mut fake) = Fake::connected().await;
    let mut stalled = fake.start(&client, &spec()).await;
    let piece = vec![b'x'; 64 * 1024];
    for _ in 0..INITIAL_CREDIT as usize / piece.len() {
        fake.raw(1, Kind::Data, &piece).await;
    }
    // Another stream goes on, and no credit was given before its request.
    let report = UsageReport {
        processes: 5,
        ..UsageReport::default()
    };
    let (usage, ()) = tokio::join!(client.usage(), async {
        let got = fake.expect(Kind::Usage).await;
        fake.send(got.stream, Kind::UsageReport, &report).await;
    });
    assert_eq!(usage.unwrap().processes, Some(5));
    // Reading half of it gives half of it back.
    let mut read = 0;
    while read < INITIAL_CREDIT as usize / 2 {
        match stalled.events.next().await.unwrap().unwrap() {
            ExecEvent::Stdout(bytes) => read += bytes.len(),
            other => panic!("{other:?}"),
        }
    }
    let credit = fake.expect(Kind::Credit).await;
    assert_eq!(credit.stream, 1);
    let credit: message::Credit = message::decode(&credit.payload).unwrap();
    assert_eq!(credit.bytes as usize, read);
}

#[tokio::test]
async fn tiny_frames_are_joined_and_keep_their_order() {
    let (client, mut fake) = Fake::connected().await;
    let mut session = fake.start(&client, &spec()).await;
    for n in 0..20_000_u32 {
        let kind = [Kind::Data, Kind::DataErr][n as usize % 2];
        fake.raw(1, kind, &[(n / 2 % 251) as u8]).await;
    }
    fake.exited(1, EndReason::Code, 0).await;
    let (mut out, mut err, mut pieces) = (Vec::new(), Vec::new(), 0);
    while let Some(event) = session.events.next().await {
        pieces += 1;
        match event.unwrap() {
            ExecEvent::Stdout(bytes) => out.extend_from_slice(&bytes),
            ExecEvent::Stderr(bytes) => err.extend_from_slice(&bytes),
            ExecEvent::Lost { .. } => panic!("nothing is lost"),
            ExecEvent::Exited(_) => {}
        }
    }
    let expected: Vec<u8> = (0..10_000_u32).map(|n| (n % 251) as u8).collect();
    assert!(out == expected && err == expected);
    assert!(pieces < 10_000, "{pieces} pieces for 20000 tiny frames");
}

#[tokio::test]
async fn input_waits_for_credit_and_a_cancel_overtakes_it() {
    let (client, mut fake) = Fake::connected().await;
    let mut command = spec();
    command.stdin = true;
    let session = fake.start(&client, &command).await;
    let control = session.control.clone();
    let window = INITIAL_CREDIT as usize;
    let writer = tokio::spawn(async move {
        control.write_stdin(vec![b'i'; window + 10].into()).await?;
        control.close_stdin().await?;
        control.close_stdin().await?;
        control.write_stdin(Bytes::from_static(b"late")).await
    });
    let mut got = 0;
    while got < window {
        got += fake.expect(Kind::Data).await.payload.len();
    }
    assert_eq!(got, window);
    tokio::task::yield_now().await;
    assert!(!writer.is_finished());
    fake.credit(1, 10).await;
    assert_eq!(fake.expect(Kind::Data).await.payload, b"iiiiiiiiii");
    fake.expect(Kind::End).await;
    let late = writer.await.unwrap().unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Conflict);
    drop(session);
    fake.expect(Kind::Cancel).await;

    // The agent reads nothing: input fills every buffer, and the cancel of
    // another command still goes out ahead of what waits.
    let filled = fake.start(&client, &command).await;
    let other = fake.start(&client, &spec()).await;
    let control = filled.control.clone();
    let writer = tokio::spawn(async move { control.write_stdin(vec![b'i'; window].into()).await });
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
    drop(other);
    let mut before = 0;
    loop {
        let got = fake.next().await;
        match got.kind {
            Kind::Data => before += got.payload.len(),
            Kind::Cancel => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(before < window, "the cancel came after all input");
    writer.abort();
}

#[tokio::test]
async fn both_directions_full_do_not_dead_lock() {
    let (client, mut fake) = Fake::connected().await;
    let port = tokio::join!(client.dial(80), async {
        fake.expect(Kind::Dial).await;
        fake.raw(1, Kind::Done, &[]).await;
    })
    .0
    .unwrap();
    let total = 8 * 1024 * 1024_usize;
    // The agent echoes, within the credit of both sides.
    let echo = tokio::spawn(async move {
        let mut done = 0;
        let mut credit = i64::from(INITIAL_CREDIT);
        let mut waiting = Vec::new();
        while done < total {
            let got = fake.next().await;
            match got.kind {
                Kind::Data => waiting.extend(got.payload),
                Kind::Credit => {
                    let given: message::Credit = message::decode(&got.payload).unwrap();
                    credit += i64::from(given.bytes);
                }
                Kind::End => {}
                other => panic!("{other:?}"),
            }
            let count = waiting.len().min(usize::try_from(credit).unwrap());
            if count > 0 {
                let back: Vec<u8> = waiting.drain(..count).collect();
                for piece in back.chunks(60_000) {
                    fake.raw(1, Kind::Data, piece).await;
                }
                credit -= count as i64;
                done += count;
                fake.credit(1, u32::try_from(count).unwrap()).await;
            }
        }
        fake.raw(1, Kind::End, &[]).await;
        fake
    });
    let (mut reader, mut writer) = tokio::io::split(port);
    let writing = tokio::spawn(async move {
        let mut sent = 0_usize;
        while sent < total {
            let piece: Vec<u8> = (sent..sent + 32 * 1024).map(|n| (n % 253) as u8).collect();
            writer.write_all(&piece).await.unwrap();
            sent += piece.len();
        }
        writer.shutdown().await.unwrap();
    });
    let mut back = Vec::new();
    reader.read_to_end(&mut back).await.unwrap();
    writing.await.unwrap();
    assert_eq!(back.len(), total);
    assert!(
        back.iter()
            .enumerate()
            .all(|(n, byte)| *byte == (n % 253) as u8)
    );
    drop(echo.await.unwrap());
    client.closed().await;
}

#[tokio::test]
async fn a_listener_hands_over_connections_and_refuses_what_nobody_takes() {
    let (client, mut fake) = Fake::connected().await;
    let mut listener = tokio::join!(client.listen(0), async {
        fake.expect(Kind::Listen).await;
        fake.send(1, Kind::Listening, &Listening { port: 4000 })
            .await;
    })
    .0
    .unwrap();
    assert_eq!(listener.port, 4000);
    for n in 0..129 {
        let accepted = Accepted { listener: 1 };
        fake.send(AGENT_STREAM | n, Kind::Accepted, &accepted).await;
    }
    // One more than may wait.
    assert_eq!(fake.expect(Kind::Cancel).await.stream, AGENT_STREAM | 128);
    let mut first = listener.incoming.next().await.unwrap().unwrap();
    fake.raw(AGENT_STREAM, Kind::Data, b"GET /").await;
    fake.raw(AGENT_STREAM, Kind::End, &[]).await;
    let mut request = Vec::new();
    first.read_to_end(&mut request).await.unwrap();
    assert_eq!(request, b"GET /");
    first.write_all(b"200").await.unwrap();
    first.shutdown().await.unwrap();
    assert_eq!(fake.expect(Kind::Data).await.payload, b"200");
    assert_eq!(fake.expect(Kind::End).await.stream, AGENT_STREAM);
    // Both sides ended: nothing to cancel, and late credit is no violation.
    drop(first);
    fake.credit(AGENT_STREAM, 3).await;
    drop(listener);
    let mut cancelled = 0;
    while cancelled < 128 {
        fake.expect(Kind::Cancel).await;
        cancelled += 1;
    }
    assert!(!client.is_closed());
}

fn write_request() -> WriteRequest {
    WriteRequest {
        user: None,
        path: GuestPath::new("/a").unwrap(),
        how: WriteMode::Replace,
        mode: None,
        parents: false,
    }
}

#[tokio::test]
async fn a_failing_source_cancels_the_write_and_an_early_failure_ends_it() {
    let (client, mut fake) = Fake::connected().await;
    let broken = stream::iter([
        Ok(Bytes::from_static(b"half")),
        Err(Error::new(ErrorKind::Internal, "the source broke")),
    ]);
    let error = client
        .write_file(&write_request(), Box::pin(broken))
        .await
        .unwrap_err();
    assert_eq!(error.message(), "the source broke");

    let endless = stream::repeat_with(|| Ok(Bytes::from(vec![0; 100_000])));
    let request = write_request();
    let (written, ()) = tokio::join!(client.write_file(&request, Box::pin(endless)), async {
        loop {
            let got = fake.next().await;
            if got.stream == 2 && got.kind == Kind::Data {
                break;
            }
        }
        let full = Failure {
            kind: FailureKind::NoSpace,
            message: "the disk is full".into(),
            subject: None,
            errno: Some(28),
        };
        fake.send(2, Kind::Failure, &full).await;
    });
    assert_eq!(written.unwrap_err().kind(), ErrorKind::NoSpace);
    assert!(!client.is_closed());
}

#[tokio::test]
async fn keys_are_proved_both_ways() {
    for (agent_key, expected) in [(9, None), (8, Some(ErrorKind::Unauthenticated))] {
        let (host, agent) = duplex(4096);
        let mut fake = Fake { stream: agent };
        let right = SandboxKey::from_bytes([9; 32]);
        let theirs = SandboxKey::from_bytes([agent_key; 32]);
        let options = ConnectOptions {
            key: Some(right.clone()),
            ..ConnectOptions::default()
        };
        let (connected, ()) = tokio::join!(AgentClient::connect(host, options), async {
            let nonce = vec![4; 32];
            let greeting = Hello {
                nonce: nonce.clone(),
                ..hello()
            };
            fake.send(0, Kind::Hello, &greeting).await;
            let got = fake.expect(Kind::Hello).await;
            let answer: Hello = message::decode(&got.payload).unwrap();
            assert_eq!(answer.proof, right.host_proof(&nonce, &answer.nonce));
            let welcome = Welcome {
                generation: GENERATION,
                proof: theirs.agent_proof(&answer.nonce, &nonce),
                can_switch_user: false,
                kernel: None,
            };
            fake.send(0, Kind::Welcome, &welcome).await;
        });
        assert_eq!(connected.err().map(|e| e.kind()), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn silence_is_noticed_at_the_greeting_and_later() {
    let (host, _silent) = duplex(4096);
    let error = AgentClient::connect(host, ConnectOptions::default())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);

    let (host, agent) = duplex(4096);
    let mut fake = Fake { stream: agent };
    let options = ConnectOptions {
        heartbeat: true,
        ..ConnectOptions::default()
    };
    let (client, ()) = tokio::join!(AgentClient::connect(host, options), fake.welcome());
    let client = client.unwrap();
    for _ in 0..5 {
        fake.expect(Kind::Ping).await;
        fake.raw(0, Kind::Pong, &[]).await;
    }
    assert!(!client.is_closed());
    fake.expect(Kind::Ping).await;
    client.closed().await;
    let error = client.usage().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn an_agent_of_the_last_generation_is_driven_and_what_it_lacks_is_refused() {
    let (client, mut fake) = Fake::connected_as(1).await;
    let spec = ExecSpec::new(["true"]);
    let error = client
        .read_log(&spec.exec, LogOptions::default())
        .await
        .err()
        .unwrap();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("generation 1, this needs 2"));
    assert!(error.fact("remedy").unwrap().contains("older stacyvm"));
    // Nothing of it was sent, and the connection goes on.
    let mut session = fake.start(&client, &spec).await;
    fake.exited(1, EndReason::Code, 0).await;
    let end = session.events.next().await.unwrap().unwrap();
    assert_eq!(end, ExecEvent::Exited(ExitStatus::Code { code: 0 }));
}

#[tokio::test]
async fn kept_output_ends_with_the_command_or_where_nothing_more_is_wanted() {
    let (client, mut fake) = Fake::connected().await;
    let exec = ExecId::random();
    for (last, ends) in [(Kind::Exited, true), (Kind::Done, false)] {
        let serve = async {
            let got = fake.expect(Kind::Logs).await;
            fake.started(got.stream).await;
            fake.raw(got.stream, Kind::DataErr, b"x").await;
            match last {
                Kind::Exited => fake.exited(got.stream, EndReason::Code, 3).await,
                last => fake.raw(got.stream, last, &[]).await,
            }
        };
        let options = LogOptions::default();
        let (log, ()) = tokio::join!(client.read_log(&exec, options), serve);
        let events: Vec<_> = log.unwrap().map(Result::unwrap).collect().await;
        let mut expected = vec![ExecEvent::Stderr("x".into())];
        if ends {
            expected.push(ExecEvent::Exited(ExitStatus::Code { code: 3 }));
        }
        assert_eq!(events, expected);
    }
}

#[tokio::test]
async fn a_pool_dials_once_and_again_after_the_end() {
    let pool = AgentPool::new();
    let id = SandboxId::random();
    let dials = AtomicUsize::new(0);
    let fakes = tokio::sync::Mutex::new(Vec::new());
    let dial = || async {
        dials.fetch_add(1, Ordering::SeqCst);
        tokio::task::yield_now().await;
        let (client, fake) = Fake::connected().await;
        fakes.lock().await.push(fake);
        Ok(client)
    };
    let (a, b, c) = tokio::join!(
        pool.get(&id, dial),
        pool.get(&id, dial),
        pool.get(&id, dial)
    );
    assert!(a.is_ok() && b.is_ok() && c.is_ok());
    assert_eq!(dials.load(Ordering::SeqCst), 1);
    fakes.lock().await.clear();
    a.unwrap().closed().await;
    let client = pool.get(&id, dial).await.unwrap();
    assert!(!client.is_closed());
    assert_eq!(dials.load(Ordering::SeqCst), 2);

    // A failed dial is not kept.
    let other = SandboxId::random();
    let failed = pool
        .get(&other, || async {
            Err(Error::new(ErrorKind::Unavailable, "no"))
        })
        .await;
    assert!(failed.is_err());
    let ended = pool.get(&other, dial).await.unwrap();
    pool.remove(&id);
    drop(client);

    // The other end is there still, and nobody waits for it to go.
    pool.end(&other);
    assert!(ended.is_closed());
    let error = ended.processes().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SandboxGone);
}
