//! What the agent tells of a sandbox's use.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod agent_support;

use agent_support::{Agent, config, exec, shell};
use stacyvm_agent::protocol::Kind;
use stacyvm_agent::protocol::control::ControlMessage;
use stacyvm_agent::protocol::message::*;

fn hears(agent: &Agent, in_use: bool) {
    assert_eq!(agent.hear(), ControlMessage::Use { in_use });
}

#[test]
fn use_is_told_when_it_begins_and_ends() {
    let mut counted = config();
    counted.idle_ms = Some(60_000);
    let agent = Agent::start(counted);
    let mut host = agent.connect();
    // Looks are no use: the next word is that of a command.
    host.execs(1);
    host.frame(2, Kind::Processes, &[]);
    assert_eq!(host.of(2).0, Kind::ProcessList);
    assert_eq!(host.run(3, &exec("a", &["true"])).code(), 0);
    hears(&agent, true);
    hears(&agent, false);
    host.say(
        4,
        Kind::Logs,
        &LogRequest {
            exec: "a".into(),
            follow: false,
            age_ms: None,
        },
    );
    assert_eq!(host.finish(4).code(), 0);
    // A process that a command left is use until it ends.
    let out = host.run(5, &shell("b", "sleep 1000 & echo $!"));
    hears(&agent, true);
    let signal = SignalRequest {
        exec: "b".into(),
        signal: 9,
        scope: Scope::Tree,
    };
    assert!(out.text().trim().parse::<u32>().is_ok());
    assert_eq!(host.ask(6, Kind::Signal, &signal).0, Kind::Done);
    hears(&agent, false);
    // A watch is use for as long as somebody has it open.
    let watch = WatchRequest {
        user: None,
        path: minicbor::bytes::ByteVec::from(b"/tmp".to_vec()),
        recursive: false,
    };
    assert_eq!(host.ask(7, Kind::Watch, &watch).0, Kind::Done);
    hears(&agent, true);
    host.frame(7, Kind::Cancel, &[]);
    hears(&agent, false);
    // A connection to a port is, its listener alone is not.
    let (kind, payload) = host.ask(8, Kind::Listen, &PortRequest { port: 0 });
    assert_eq!(kind, Kind::Listening);
    let port = decode::<Listening>(&payload).unwrap().port;
    assert_eq!(host.ask(9, Kind::Dial, &PortRequest { port }).0, Kind::Done);
    hears(&agent, true);
}

#[test]
fn nothing_is_told_where_nobody_counts() {
    let agent = Agent::start(config());
    let mut host = agent.connect();
    assert_eq!(host.run(1, &exec("a", &["true"])).code(), 0);
    host.say(2, Kind::SetDeadline, &DeadlineRequest { in_ms: Some(7) });
    // The first word is about the deadline.
    assert_eq!(agent.hear(), ControlMessage::Deadline { in_ms: Some(7) });
}
