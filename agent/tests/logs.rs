//! What is kept of output is read again, and nobody is disturbed by it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod agent_support;

use agent_support::{Agent, Host, config, eventually, shell};
use stacyvm_agent::protocol::message::*;
use stacyvm_agent::protocol::{INITIAL_CREDIT, Kind};

fn log(exec: &str, follow: bool, age_ms: Option<u64>) -> LogRequest {
    LogRequest {
        exec: exec.into(),
        follow,
        age_ms,
    }
}

/// Starts a command in the background that nobody follows.
fn start(host: &mut Host, id: &str, script: &str) {
    let mut request = shell(id, script);
    request.background = true;
    host.say(900, Kind::Exec, &request);
    host.started(900);
    host.frame(900, Kind::Detach, &[]);
}

/// Waits until a command has ended and nothing of it runs.
fn ended(host: &mut Host, id: &str) {
    let mut stream = 10_000;
    eventually("its end", || {
        stream += 1;
        let all = host.execs(stream);
        all.iter()
            .any(|exec| exec.exec == id && exec.exited.is_some())
    });
}

#[test]
fn kept_output_is_read_in_the_order_of_its_writing() {
    let agent = Agent::start(config());
    let mut host = agent.connect();
    start(&mut host, "a", "echo one; echo two >&2; echo three; exit 4");
    ended(&mut host, "a");
    for stream in [1, 2] {
        host.say(stream, Kind::Logs, &log("a", false, None));
        let out = host.finish(stream);
        assert_eq!(out.code(), 4);
        assert_eq!(
            (out.text().as_str(), &out.stderr[..]),
            ("one\nthree\n", &b"two\n"[..])
        );
    }
    host.say(3, Kind::Logs, &log("none", false, None));
    let failure = host.finish(3).failure.unwrap();
    assert_eq!(failure.kind, FailureKind::NotFound);
}

#[test]
fn a_command_that_runs_is_read_without_waiting_for_its_end() {
    let agent = Agent::start(config());
    let mut host = agent.connect();
    start(&mut host, "a", "echo up; sleep 1000");
    let mut stream = 1;
    eventually("its output", || {
        stream += 1;
        host.say(stream, Kind::Logs, &log("a", false, None));
        let out = host.finish(stream);
        assert!(out.exited.is_none() && out.failure.is_none(), "{out:?}");
        out.text() == "up\n"
    });
}

#[test]
fn readers_and_the_follower_do_not_disturb_each_other() {
    let agent = Agent::start(config());
    let (mut owner, mut reader) = (agent.connect(), agent.connect());
    let mut request = shell("a", "read x; head -c 3000000 /dev/zero; echo END");
    request.stdin = Stdin::Stream;
    owner.say(1, Kind::Exec, &request);
    owner.started(1);
    // One that follows and gives no credit, one that gave up.
    reader.say(1, Kind::Logs, &log("a", true, None));
    reader.started(1);
    reader.say(2, Kind::Logs, &log("a", true, None));
    reader.started(2);
    reader.frame(2, Kind::Cancel, &[]);
    assert_eq!(
        reader.finish(2).failure.unwrap().kind,
        FailureKind::Cancelled
    );
    owner.frame(1, Kind::Data, b"\n");
    // The follower gets all of it, though a reader stands still.
    let out = owner.finish(1);
    assert_eq!((out.stdout.len(), out.lost), (3_000_004, (0, 0)));
    // The reader gets what it had credit for, is told what it lost, and gets the newest.
    let out = reader.finish(1);
    assert_eq!(out.code(), 0);
    assert!(out.stdout.ends_with(b"END\n"));
    assert_eq!(out.stdout.len() as u64 + out.lost.0, 3_000_004);
    assert!(
        out.lost.0 > 0,
        "it had no credit for more than {INITIAL_CREDIT}"
    );
    // A follower that stops stops the command, whoever reads.
    let mut request = shell("b", "head -c 3000000 /dev/zero; echo END");
    request.background = true;
    owner.say(2, Kind::Exec, &request);
    owner.started(2);
    reader.say(3, Kind::Logs, &log("b", false, None));
    assert!(reader.finish(3).exited.is_none());
    assert!(
        owner
            .execs(3)
            .iter()
            .any(|e| e.exec == "b" && e.exited.is_none())
    );
    assert_eq!(owner.finish(2).stdout.len(), 3_000_004);
}

#[test]
fn a_foreground_command_leaves_the_newest_of_its_output() {
    let mut config = config();
    config.ring_bytes = 256 * 1024;
    let agent = Agent::start(config);
    let (mut owner, mut reader) = (agent.connect(), agent.connect());
    let mut request = shell(
        "a",
        "echo up; read x; head -c 100000 /dev/zero; (sleep 1; echo late) &",
    );
    request.stdin = Stdin::Stream;
    owner.say(1, Kind::Exec, &request);
    owner.started(1);
    assert_eq!(owner.of(1).1, b"up\n");
    reader.say(1, Kind::Logs, &log("a", false, None));
    assert_eq!(reader.finish(1).text(), "up\n");
    owner.frame(1, Kind::Data, b"\n");
    assert_eq!(owner.finish(1).stdout.len(), 100_000);
    // What its caller got is not replayed; what a survivor writes is.
    reader.say(
        2,
        Kind::Attach,
        &AttachRequest {
            exec: "a".into(),
            stdin: false,
            replay: true,
        },
    );
    let out = reader.finish(2);
    assert_eq!((out.text().as_str(), out.lost), ("", (0, 0)));
    reader.say(3, Kind::Logs, &log("a", true, None));
    let out = reader.finish(3);
    let kept = 64 * 1024;
    assert_eq!(out.lost, (100_003 - kept, 0));
    assert_eq!(out.stdout.len() as u64, kept + 5);
    assert!(out.stdout.ends_with(b"late\n"));
}

#[test]
fn ended_foreground_commands_never_push_out_background_ones() {
    let mut config = config();
    config.ring_bytes = 1024 * 1024;
    let agent = Agent::start(config);
    let mut host = agent.connect();
    start(&mut host, "kept", "head -c 1000000 /dev/zero");
    ended(&mut host, "kept");
    for number in 0..40 {
        let id = format!("f{number}");
        let out = host.run(100 + number, &shell(&id, "head -c 65536 /dev/zero"));
        assert_eq!(out.code(), 0);
    }
    let mut lost = 0;
    for number in 0..40 {
        host.say(
            200 + number,
            Kind::Logs,
            &log(&format!("f{number}"), false, None),
        );
        lost += host.finish(200 + number).lost.0;
    }
    // A MiB of them is kept, and the last ones, whose ends were just told.
    assert!((20..=24).contains(&(lost / 65_536)), "{lost}");
    host.say(1, Kind::Logs, &log("kept", false, None));
    assert_eq!(host.finish(1).stdout.len(), 1_000_000);
}

#[test]
fn only_what_was_written_since_a_moment_is_read() {
    let agent = Agent::start(config());
    let mut host = agent.connect();
    start(
        &mut host,
        "a",
        "echo old; echo older >&2; sleep 3; echo new; sleep 1000",
    );
    let mut stream = 1;
    eventually("the new output", || {
        stream += 1;
        host.say(stream, Kind::Logs, &log("a", false, None));
        host.finish(stream).text().ends_with("new\n")
    });
    host.say(1000, Kind::Logs, &log("a", false, Some(2000)));
    let out = host.finish(1000);
    // On a machine that stood still for a while, even the new one is too old.
    assert!(matches!(out.text().as_str(), "new\n" | ""), "{out:?}");
    assert_eq!((out.stderr, out.lost), (Vec::new(), (0, 0)));
    host.say(1001, Kind::Logs, &log("a", false, Some(3_600_000)));
    let out = host.finish(1001);
    assert_eq!(
        (out.text().as_str(), &out.stderr[..]),
        ("old\nnew\n", &b"older\n"[..])
    );
}
