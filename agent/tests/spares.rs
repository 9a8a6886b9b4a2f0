//! Supervisors that wait for commands, on a real agent without a container.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that cannot go on panics; that nothing happens takes time"
)]

mod agent_support;

use agent_support::{Agent, Host, config, eventually, exec, lives, shell};
use minicbor::bytes::ByteVec;
use stacyvm_agent::protocol::Kind;
use stacyvm_agent::protocol::message::{self, *};

fn children(of: u32) -> Vec<u32> {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let mut rest = stat.rsplit(')').next().unwrap_or_default().split(' ');
        rest.nth(2) == Some(&of.to_string()) && lives(*pid)
    })
    .collect()
}

/// The supervisors that wait, each with its child, once they are there.
fn waiting(agent: &Agent) -> Vec<(u32, u32)> {
    let mut found = Vec::new();
    eventually("supervisors wait", || {
        let supervisors = children(agent.child.id());
        found = supervisors
            .iter()
            .filter_map(|pid| Some((*pid, *children(*pid).first()?)))
            .collect();
        found.len() == 3 && supervisors.len() == 3
    });
    found
}

fn processes(host: &mut Host, stream: u32) -> usize {
    host.frame(stream, Kind::Processes, &[]);
    let (kind, payload) = host.of(stream);
    assert_eq!(kind, Kind::ProcessList);
    let list: ProcessList = message::decode(&payload).unwrap();
    host.frame(stream + 1, Kind::Usage, &[]);
    let (kind, payload) = host.of(stream + 1);
    assert_eq!(kind, Kind::UsageReport);
    let usage: UsageReport = message::decode(&payload).unwrap();
    assert_eq!(list.processes.len(), usage.processes as usize);
    list.processes.len()
}

#[test]
fn they_are_no_processes_of_the_sandbox_and_go_when_no_command_comes() {
    let agent = Agent::start(config());
    let mut host = agent.connect();
    assert!(children(agent.child.id()).is_empty());
    assert_eq!(host.run(1, &exec("a", &["true"])).code(), 0);
    waiting(&agent);
    assert_eq!(processes(&mut host, 2), 0);
    let text = host.run(4, &shell("b", "cat /proc/$PPID/status")).text();
    assert!(text.contains("Uid:\t65533\t"), "{text}");
    eventually("all of them go", || children(agent.child.id()).is_empty());
}

#[test]
fn one_waits_with_a_sandbox_that_waits_and_gets_the_variables_of_its_claim() {
    let agent = Agent::start(AgentConfig {
        waits: Some(true),
        ..config()
    });
    let mut host = agent.connect();
    let first = std::cell::Cell::new(0);
    eventually("one waits", || {
        let all = children(agent.child.id());
        first.set(all.first().copied().unwrap_or(0));
        all.len() == 1 && children(first.get()).len() == 1
    });
    // However long it takes.
    std::thread::sleep(std::time::Duration::from_millis(2_500));
    assert_eq!(children(agent.child.id()), [first.get()]);
    assert_eq!(processes(&mut host, 1), 0);
    let request = EnvironmentRequest {
        env: vec![Variable {
            name: b"LATE".to_vec().into(),
            value: b"here".to_vec().into(),
        }],
    };
    assert_eq!(host.ask(3, Kind::SetEnvironment, &request).0, Kind::Done);
    let text = host.run(4, &shell("a", "echo $PPID $LATE")).text();
    assert_eq!(text, format!("{} here\n", first.get()));
    // From here on it is as everywhere.
    let text = host.run(5, &shell("b", "echo $LATE")).text();
    assert_eq!(text, "here\n");
    eventually("all of them go", || children(agent.child.id()).is_empty());
}

#[test]
fn variables_that_no_packet_takes_arrive_too() {
    let agent = Agent::start(AgentConfig {
        waits: Some(true),
        ..config()
    });
    let mut host = agent.connect();
    eventually("one waits", || !children(agent.child.id()).is_empty());
    let variable = |number: u8| Variable {
        name: format!("LATE{number}").into_bytes().into(),
        value: vec![b'x'; 100_000].into(),
    };
    let env = (0..8).map(variable).collect();
    let request = EnvironmentRequest { env };
    assert_eq!(host.ask(1, Kind::SetEnvironment, &request).0, Kind::Done);
    let text = host.run(2, &shell("a", "echo ${#LATE0} ${#LATE7}")).text();
    assert_eq!(text, "100000 100000\n");
}

#[test]
fn what_they_run_is_as_what_a_new_one_runs() {
    let agent = Agent::start(config());
    let mut host = agent.connect();
    let look = "id; pwd; env | sort; umask; nice; ulimit -n; ls -l /proc/self/fd | wc -l; \
        grep -vE '^(Pid|Tgid|NSpid|NStgid|NSpgid|NSsid|PPid|Vm|Rss|.*ctxt|.*threads|Name|SigQ)' /proc/self/status";
    let first = host.run(1, &shell("a", look)).text();
    for round in 0..20 {
        if round % 2 == 0 {
            waiting_or_more(&agent);
        }
        let id = format!("b{round}");
        let text = host.run(2 + round, &shell(&id, look)).text();
        assert_eq!(text, first);
    }
}

/// The supervisor of a command of this id.
fn supervisor_of(host: &mut Host, stream: u32, id: &str) -> u32 {
    let out = host.run(stream, &shell(id, "echo $PPID"));
    out.text().trim().parse().unwrap()
}

#[test]
fn one_whose_command_is_over_gets_another() {
    let agent = Agent::start(AgentConfig {
        spare_supervisors: Some(1),
        ..config()
    });
    let mut host = agent.connect();
    let first = supervisor_of(&mut host, 1, "a");
    for stream in 2..30 {
        assert_eq!(supervisor_of(&mut host, stream, &stream.to_string()), first);
    }
}

#[test]
fn one_whose_command_left_processes_keeps_them_and_gets_none() {
    let agent = Agent::start(config());
    let mut host = agent.connect();
    let out = host.run(1, &shell("a", "sleep 600 >/dev/null 2>&1 & echo $PPID $!"));
    let text = out.text();
    let (supervisor, survivor) = text.trim().split_once(' ').unwrap();
    assert_eq!(out.exited.as_ref().unwrap().survivors, 1);
    for stream in 2..12 {
        let other = supervisor_of(&mut host, stream, &stream.to_string());
        assert_ne!(other, supervisor.parse::<u32>().unwrap());
    }
    let survivor: u32 = survivor.parse().unwrap();
    assert!(lives(survivor));
    // Free now, and as good as any.
    kill(survivor);
    eventually("it is over", || !lives(survivor));
    for stream in 12..22 {
        supervisor_of(&mut host, stream, &stream.to_string());
    }
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

/// An order may be under way when its command ends by itself.
#[test]
fn an_order_to_one_command_never_reaches_the_next() {
    let agent = Agent::start(AgentConfig {
        spare_supervisors: Some(1),
        ..config()
    });
    let mut host = agent.connect();
    for round in 0..150 {
        let (id, next) = (format!("a{round}"), format!("b{round}"));
        let stream = 10 * round + 1;
        host.say(stream, Kind::Exec, &shell(&id, "exit 3"));
        host.started(stream);
        let signal = SignalRequest {
            exec: id,
            signal: 15,
            scope: Scope::Tree,
        };
        host.say(stream + 1, Kind::Signal, &signal);
        let exited = host.finish(stream).exited.unwrap();
        assert!(
            (exited.reason, exited.value) == (EndReason::Code, 3)
                || (exited.reason, exited.value) == (EndReason::Signal, 15),
            "{exited:?}"
        );
        let out = host.run(stream + 2, &shell(&next, "sleep 0.005; echo here"));
        assert_eq!((out.text().as_str(), out.code()), ("here\n", 0), "{round}");
    }
}

fn waiting_or_more(agent: &Agent) {
    eventually("a supervisor waits", || {
        let supervisors = children(agent.child.id());
        supervisors.iter().any(|pid| !children(*pid).is_empty())
    });
}

#[test]
fn one_that_was_killed_is_not_missed() {
    let agent = Agent::start(config());
    let mut host = agent.connect();
    assert_eq!(host.run(1, &exec("a", &["true"])).code(), 0);
    let killed = waiting(&agent);
    for (supervisor, _) in &killed {
        let pid = rustix::process::Pid::from_raw(i32::try_from(*supervisor).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }
    eventually("they and their children end", || {
        killed.iter().all(|(a, b)| !lives(*a) && !lives(*b))
    });
    // Until the agent has heard of it, too.
    for (stream, id) in [(2, "b"), (3, "c"), (4, "d")] {
        let out = host.run(stream, &shell(id, "echo here"));
        assert_eq!((out.text().as_str(), out.code()), ("here\n", 0));
    }
}

#[test]
fn one_that_hangs_holds_no_deadline_up() {
    let agent = Agent::start(config());
    let mut host = agent.connect();
    assert_eq!(host.run(1, &exec("a", &["true"])).code(), 0);
    let stopped: Vec<_> = waiting(&agent)
        .iter()
        .filter_map(|(pid, _)| rustix::process::Pid::from_raw(i32::try_from(*pid).unwrap()))
        .collect();
    let signal_all = |signal| {
        for pid in &stopped {
            // At the end some have ended.
            let _ = rustix::process::kill_process(*pid, signal);
        }
    };
    signal_all(rustix::process::Signal::STOP);
    let mut request = exec("b", &["true"]);
    request.timeout_ms = Some(100);
    host.say(2, Kind::Exec, &request);
    // No process of it is known, but its end comes after its start.
    assert_eq!(host.started(2), 0);
    let exited = host.finish(2).exited.unwrap();
    assert_eq!(exited.reason, EndReason::TimedOut);
    assert!(exited.sandbox_ended);
    // No sandbox ends them here.
    signal_all(rustix::process::Signal::KILL);
}

#[test]
fn a_request_that_is_too_long_for_one_runs_all_the_same() {
    let agent = Agent::start(config());
    let mut host = agent.connect();
    let mut request = exec("long", &["sh", "-c", "echo ${#A} ${#B} ${#C} ${#D} ${#E}"]);
    request.env = ["A", "B", "C", "D", "E"]
        .map(|name| Variable {
            name: ByteVec::from(name.as_bytes().to_vec()),
            value: ByteVec::from(vec![b'x'; 100_000]),
        })
        .to_vec();
    assert_eq!(host.run(1, &exec("a", &["true"])).code(), 0);
    waiting(&agent);
    let out = host.run(2, &request);
    assert_eq!(
        out.text(),
        "100000 100000 100000 100000 100000\n",
        "{out:?}"
    );
    assert_eq!(host.run(3, &exec("b", &["true"])).code(), 0);
}

#[test]
fn failures_to_start_are_told_as_those_of_a_new_one() {
    let agent = Agent::start(config());
    let mut host = agent.connect();
    let mut nowhere = exec("", &["true"]);
    nowhere.workdir = Some(ByteVec::from(b"/nowhere".to_vec()));
    let mut nobody = exec("", &["true"]);
    nobody.user = Some("no-such-user".into());
    let requests = [
        exec("", &["/no/such"]),
        exec("", &["/etc"]),
        nowhere,
        nobody,
    ];
    let ask = |host: &mut Host, stream: u32, request: &ExecRequest| {
        let mut request = request.clone();
        request.exec = stream.to_string();
        host.run(stream, &request).failure.unwrap()
    };
    let new: Vec<Failure> = (1..)
        .zip(&requests)
        .map(|(stream, request)| ask(&mut host, stream, request))
        .collect();
    let mut stream = 10;
    assert_eq!(host.run(stream, &exec("a", &["true"])).code(), 0);
    for (request, before) in requests.iter().zip(new) {
        waiting_or_more(&agent);
        stream += 1;
        let now = ask(&mut host, stream, request);
        assert_eq!((now.kind, now.message), (before.kind, before.message));
        stream += 1;
        let good = exec(&stream.to_string(), &["true"]);
        assert_eq!(host.run(stream, &good).code(), 0);
    }
}

#[test]
fn none_outlives_its_agent() {
    let mut agent = Agent::start(config());
    let mut host = agent.connect();
    assert_eq!(host.run(1, &exec("a", &["true"])).code(), 0);
    let all = waiting(&agent);
    agent.child.kill().unwrap();
    agent.child.wait().unwrap();
    eventually("they end", || {
        all.iter().all(|(a, b)| !lives(*a) && !lives(*b))
    });
}
