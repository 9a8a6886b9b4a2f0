//! The exec contract, on a real agent without a container.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod agent_support;

use agent_support::{Agent, Host, config, eventually, exec, lives, shell};
use minicbor::bytes::ByteVec;
use stacyvm_agent::protocol::message::{self, *};
use stacyvm_agent::protocol::{INITIAL_CREDIT, Kind};

fn signal(host: &mut Host, stream: u32, id: &str, signal: u8, scope: Scope) -> Kind {
    let request = SignalRequest {
        exec: id.into(),
        signal,
        scope,
    };
    host.ask(stream, Kind::Signal, &request).0
}

fn attach(id: &str) -> AttachRequest {
    AttachRequest {
        exec: id.into(),
        stdin: false,
        replay: true,
    }
}

#[test]
fn a_command_gets_its_arguments_and_gives_output_and_code() {
    let agent = Agent::start(config());
    let mut host = agent.connect();
    let out = host.run(1, &exec("a", &["printf", "%s|", "a b", "*", ""]));
    assert_eq!((out.text().as_str(), out.code()), ("a b|*||", 0));
    let out = host.run(2, &shell("b", "echo out; echo err >&2; exit 7"));
    assert_eq!(out.code(), 7);
    assert_eq!(
        (out.stdout, out.stderr),
        (b"out\n".to_vec(), b"err\n".to_vec())
    );
    let out = host.run(3, &shell("c", "kill -9 $$"));
    let exited = out.exited.unwrap();
    assert_eq!((exited.reason, exited.value), (EndReason::Signal, 9));
}

#[test]
fn workdir_user_environment_and_stdin_are_those_asked_for() {
    let agent = Agent::start(config());
    let mut host = agent.connect();
    let mut request = shell(
        "a",
        "pwd; id -u; echo $HOME $USER $X ${TERM-none} $LANG; cat; umask; grep -E 'Cap(Bnd|Eff|Prm|Inh|Amb)|NoNewPrivs|SigIgn|SigBlk' /proc/self/status; ls /proc/self/fd | wc -l",
    );
    request.workdir = Some(ByteVec::from(b"/usr".to_vec()));
    request.user = Some("nobody".into());
    request.env = vec![Variable {
        name: ByteVec::from(b"X".to_vec()),
        value: ByteVec::from(b"y z".to_vec()),
    }];
    let text = host.run(1, &request).text();
    assert!(
        text.starts_with("/usr\n65534\n/nonexistent nobody y z none C.UTF-8\n0022\n"),
        "{text}"
    );
    for line in [
        "CapBnd", "CapEff", "CapPrm", "CapInh", "CapAmb", "SigIgn", "SigBlk",
    ] {
        assert!(
            text.contains(&format!("{line}:\t0000000000000000")),
            "{text}"
        );
    }
    assert!(text.contains("NoNewPrivs:\t1"), "{text}");
    // 0, 1, 2 and the directory that ls reads.
    assert!(text.ends_with("\n4\n"), "{text}");
    // Root has no more.
    let text = host
        .run(2, &shell("b", "id -u; grep CapEff /proc/self/status"))
        .text();
    assert!(text.contains("0\nCapEff:\t0000000000000000"), "{text}");
    let mut reserved = shell("c", "true");
    reserved.user = Some("65533".into());
    let failure = host.run(3, &reserved).failure.unwrap();
    assert_eq!(failure.kind, FailureKind::PermissionDenied);
    for words in ["65533", "expected another", "run the command as another"] {
        assert!(failure.message.contains(words), "{failure:?}");
    }
}

#[test]
fn variables_come_later_once_where_the_sandbox_waits_for_them() {
    let bring = |name: &str, value: &str| EnvironmentRequest {
        env: vec![Variable {
            name: ByteVec::from(name.as_bytes().to_vec()),
            value: ByteVec::from(value.as_bytes().to_vec()),
        }],
    };
    let agent = Agent::start(AgentConfig {
        waits: Some(true),
        ..config()
    });
    let mut host = agent.connect();
    // What no command can have is refused, and changes nothing.
    let (kind, _) = host.ask(1, Kind::SetEnvironment, &bring("A=B", "x"));
    assert_eq!(kind, Kind::Failure);
    let (kind, _) = host.ask(2, Kind::SetEnvironment, &bring("LATE", "once"));
    assert_eq!(kind, Kind::Done);
    // Whoever asks: another connection, with another command.
    let mut other = agent.connect();
    let (kind, failure) = other.ask(1, Kind::SetEnvironment, &bring("LATE", "twice"));
    let failure: Failure = message::decode(&failure).unwrap();
    assert_eq!(
        (kind, failure.kind),
        (Kind::Failure, FailureKind::AlreadyExists)
    );
    assert_eq!(other.run(2, &shell("a", "echo $LATE")).text(), "once\n");

    let agent = Agent::start(config());
    let mut host = agent.connect();
    let (kind, _) = host.ask(1, Kind::SetEnvironment, &bring("LATE", "never"));
    assert_eq!(kind, Kind::Failure);
    assert_eq!(
        host.run(2, &shell("a", "echo ${LATE-none}")).text(),
        "none\n"
    );
}

#[test]
fn a_command_that_cannot_start_says_why() {
    let agent = Agent::start(config());
    let mut host = agent.connect();
    let mut kind = |stream, request: &ExecRequest| host.run(stream, request).failure.unwrap().kind;
    assert_eq!(
        kind(1, &exec("a", &["no-such-command"])),
        FailureKind::CommandNotFound
    );
    assert_eq!(
        kind(2, &exec("b", &["/no/such"])),
        FailureKind::CommandNotFound
    );
    assert_eq!(
        kind(3, &exec("c", &["/etc/passwd"])),
        FailureKind::CommandNotExecutable
    );
    assert_eq!(
        kind(4, &exec("d", &["/tmp"])),
        FailureKind::CommandNotExecutable
    );
    assert_eq!(kind(5, &exec("e", &[])), FailureKind::Invalid);
    assert_eq!(kind(6, &exec("f", &["a\0b"])), FailureKind::Invalid);
    let mut request = exec("g", &["true"]);
    request.workdir = Some(ByteVec::from(b"/no/such".to_vec()));
    assert_eq!(kind(7, &request), FailureKind::BadWorkdir);
    let mut request = exec("h", &["true"]);
    request.user = Some("nobody-at-all".into());
    assert_eq!(kind(8, &request), FailureKind::NotFound);
    assert!(host.execs(9).is_empty());
}

#[test]
fn standard_input_is_streamed_and_ends() {
    let agent = Agent::start(config());
    let mut host = agent.connect();
    let mut request = exec("a", &["wc", "-c"]);
    request.stdin = Stdin::Stream;
    host.say(1, Kind::Exec, &request);
    host.started(1);
    let chunk = vec![b'x'; 200_000];
    let mut credit = i64::from(INITIAL_CREDIT);
    for _ in 0..20 {
        while credit < 200_000 {
            let (kind, payload) = host.of(1);
            assert_eq!(kind, Kind::Credit);
            credit += i64::from(message::decode::<Credit>(&payload).unwrap().bytes);
        }
        host.frame(1, Kind::Data, &chunk);
        credit -= 200_000;
    }
    host.frame(1, Kind::End, &[]);
    let out = host.finish(1);
    assert_eq!(out.text().trim(), "4000000");
}

#[test]
fn a_process_in_the_background_does_not_hold_the_end_up() {
    let agent = Agent::start(config());
    let mut host = agent.connect();
    let out = host.run(1, &shell("a", "sleep 1000 & echo $!"));
    assert_eq!(out.code(), 0);
    assert_eq!(out.exited.as_ref().unwrap().survivors, 1);
    let pid: u32 = out.text().trim().parse().unwrap();
    assert!(lives(pid));
    let listed = host.execs(2);
    assert_eq!((listed.len(), listed[0].processes), (1, 1));
    assert_eq!(signal(&mut host, 3, "a", 9, Scope::Process), Kind::Failure);
    assert_eq!(signal(&mut host, 4, "a", 9, Scope::Tree), Kind::Done);
    assert!(!lives(pid));
    assert_eq!(host.execs(5)[0].processes, 0);
}

#[test]
fn a_survivor_that_writes_without_end_does_not_hold_the_end_up() {
    let agent = Agent::start(config());
    let mut host = agent.connect();
    let out = host.run(1, &shell("a", "yes & sleep 0.2; echo over"));
    assert_eq!(out.code(), 0);
    // What it writes later goes to the ring, which loses what nobody reads.
    eventually("loss", || {
        host.say(2, Kind::Attach, &attach("a"));
        host.finish(2).lost.0 > 0
    });
    assert_eq!(signal(&mut host, 3, "a", 9, Scope::Tree), Kind::Done);
}

#[test]
fn the_whole_tree_dies_at_the_deadline_on_cancel_and_with_the_connection() {
    let agent = Agent::start(config());
    let script = "(setsid sh -c '(sleep 1000 & echo $!; exec sleep 1000) & wait' &) ; \
                  setsid sleep 1000 & echo $!; wait; sleep 1000";
    let read_pids = |host: &mut Host| {
        let mut text = Vec::new();
        while text.split(|byte| *byte == b'\n').count() < 3 {
            text.extend(host.of(1).1);
        }
        let text = String::from_utf8(text).unwrap();
        text.lines()
            .map(|line| line.parse().unwrap())
            .collect::<Vec<u32>>()
    };
    for how in ["deadline", "cancel", "connection"] {
        let mut host = agent.connect();
        let mut request = shell(how, script);
        if how == "deadline" {
            request.timeout_ms = Some(1500);
        }
        host.say(1, Kind::Exec, &request);
        host.started(1);
        let pids = read_pids(&mut host);
        let expected = match how {
            "deadline" => Some(EndReason::TimedOut),
            "cancel" => {
                assert!(pids.iter().all(|pid| lives(*pid)));
                host.frame(1, Kind::Cancel, &[]);
                Some(EndReason::Cancelled)
            }
            _ => None,
        };
        if let Some(expected) = expected {
            let exited = host.finish(1).exited.unwrap();
            assert_eq!((exited.reason, exited.sandbox_ended), (expected, false));
            assert!(pids.iter().all(|pid| !lives(*pid)), "{how}");
        } else {
            drop(host);
            eventually("death", || pids.iter().all(|pid| !lives(*pid)));
        }
    }
}

#[test]
fn what_runs_on_after_its_first_thread_has_ended_dies_too() {
    // The kernel tells its state as that of one which has ended.
    let program = "import ctypes, threading, time\n\
        def on():\n\
        \u{20}time.sleep(0.2)\n\
        \u{20}print('on', flush=True)\n\
        \u{20}time.sleep(1000)\n\
        threading.Thread(target=on).start()\n\
        ctypes.CDLL(None).pthread_exit(None)";
    if std::process::Command::new("python3")
        .arg("-V")
        .output()
        .is_err()
    {
        println!("not run: no python3");
        return;
    }
    let agent = Agent::start(config());
    let mut host = agent.connect();
    for (number, how) in (1..).zip(["deadline", "cancel", "signal"]) {
        let mut request = exec(how, &["python3", "-c", program]);
        if how == "deadline" {
            request.timeout_ms = Some(1500);
        }
        host.say(number, Kind::Exec, &request);
        host.started(number);
        assert_eq!(host.of(number).1, b"on\n");
        match how {
            "cancel" => host.frame(number, Kind::Cancel, &[]),
            "signal" => {
                let done = signal(&mut host, 10, how, 15, Scope::Tree);
                assert_eq!(done, Kind::Done);
            }
            _ => {}
        }
        let exited = host.finish(number).exited.unwrap();
        assert!(!exited.sandbox_ended, "{how}: the sandbox ended");
        let expected = match how {
            "deadline" => EndReason::TimedOut,
            "cancel" => EndReason::Cancelled,
            _ => EndReason::Signal,
        };
        assert_eq!(exited.reason, expected);
    }
}

#[test]
fn a_deadline_during_the_start_is_told_as_such() {
    let agent = Agent::start(config());
    let mut host = agent.connect();
    let mut timed_out = 0;
    for number in 1..=200 {
        // Without a pause most end before the first millisecond is over.
        let mut request = shell(&number.to_string(), "sleep 0.002; exit 3");
        request.timeout_ms = Some(u64::from(number % 4));
        host.say(number, Kind::Exec, &request);
        host.started(number);
        let exited = host.finish(number).exited.unwrap();
        assert!(!exited.sandbox_ended);
        match exited.reason {
            EndReason::TimedOut => timed_out += 1,
            EndReason::Code => assert_eq!(exited.value, 3),
            other => panic!("{other:?}"),
        }
    }
    assert!(timed_out > 0, "no deadline was early enough");
}

#[test]
fn a_slow_reader_slows_the_process() {
    let agent = Agent::start(config());
    let mut host = agent.connect();
    host.say(
        1,
        Kind::Exec,
        &shell("a", "head -c 8000000 /dev/zero; echo done >&2"),
    );
    host.started(1);
    let mut got = 0;
    while got < INITIAL_CREDIT as usize {
        let (kind, payload) = host.of(1);
        assert_eq!(kind, Kind::Data);
        got += payload.len();
    }
    assert_eq!(got, INITIAL_CREDIT as usize);
    // Others are not slowed, and nothing more of this one comes.
    assert_eq!(host.run(2, &shell("b", "echo hi")).text(), "hi\n");
    assert_eq!(host.waiting(1), 0);
    host.say(
        1,
        Kind::Credit,
        &Credit {
            bytes: INITIAL_CREDIT,
        },
    );
    let out = host.finish(1);
    assert_eq!(got + out.stdout.len(), 8_000_000);
    assert_eq!(out.stderr, b"done\n");
}

#[test]
fn a_background_command_is_followed_again_from_another_connection() {
    let agent = Agent::start(config());
    let mut first = agent.connect();
    let mut request = shell("a", "echo one; read line; echo got $line; exit 3");
    request.background = true;
    request.stdin = Stdin::Stream;
    first.say(1, Kind::Exec, &request);
    first.started(1);
    assert_eq!(first.of(1).1, b"one\n");
    drop(first);
    let mut second = agent.connect();
    let mut again = attach("a");
    again.stdin = true;
    second.say(5, Kind::Attach, &again);
    second.started(5);
    second.frame(5, Kind::Data, b"text\n");
    let out = second.finish(5);
    // The first host may not have read what it was sent.
    assert_eq!((out.text().as_str(), out.code()), ("one\ngot text\n", 3));
    // And once more, after its end.
    second.say(6, Kind::Attach, &attach("a"));
    assert_eq!(second.finish(6).code(), 3);
    second.say(7, Kind::Attach, &attach("none"));
    assert_eq!(
        second.finish(7).failure.unwrap().kind,
        FailureKind::NotFound
    );
}

#[test]
fn the_ring_keeps_the_newest_output_and_counts_the_rest() {
    let agent = Agent::start(config());
    let mut host = agent.connect();
    let mut request = shell("a", "read x; head -c 100000 /dev/zero; printf END");
    request.background = true;
    request.stdin = Stdin::Stream;
    host.say(1, Kind::Exec, &request);
    host.started(1);
    host.frame(1, Kind::Data, b"\n");
    host.frame(1, Kind::Detach, &[]);
    let mut stream = 10;
    eventually("end", || {
        stream += 1;
        host.execs(stream)[0].exited.is_some()
    });
    host.say(2, Kind::Attach, &attach("a"));
    let out = host.finish(2);
    assert!(out.stdout.ends_with(b"END"));
    // What was on its way before the detachment is neither lost nor kept.
    assert!(
        out.lost.0 > 0 && out.stdout.len() == 64 * 1024,
        "{:?}",
        out.lost
    );
}

#[test]
fn a_second_host_takes_a_command_over() {
    let agent = Agent::start(config());
    let (mut first, mut second) = (agent.connect(), agent.connect());
    first.say(1, Kind::Exec, &shell("a", "sleep 1000"));
    first.started(1);
    second.say(1, Kind::Attach, &attach("a"));
    second.started(1);
    assert_eq!(
        first.finish(1).failure.unwrap().kind,
        FailureKind::Cancelled
    );
    assert_eq!(signal(&mut second, 2, "a", 15, Scope::Group), Kind::Done);
    let exited = second.finish(1).exited.unwrap();
    assert_eq!((exited.reason, exited.value), (EndReason::Signal, 15));
}

#[test]
fn a_command_may_close_its_terminal_and_open_it_again() {
    let agent = Agent::start(config());
    let mut host = agent.connect();
    // More than a terminal keeps for its reader, so that somebody must read it.
    let line = "echo first; exec <&- >&- 2>&-; sleep 0.3; echo back >/dev/tty; sleep 0.1; \
                head -c 100000 /dev/zero >/dev/tty; exit 7";
    let mut request = shell("a", line);
    request.tty = Some(Size {
        rows: 24,
        columns: 80,
    });
    host.say(1, Kind::Exec, &request);
    host.started(1);
    let out = host.finish(1);
    assert_eq!(out.code(), 7);
    let zeros = out.text().matches('\0').count();
    assert_eq!(zeros, 100_000);
    assert_eq!(out.text().replace('\0', ""), "first\r\nback\r\n");
}

#[test]
fn a_terminal_has_a_size_signals_and_an_end_of_input() {
    let agent = Agent::start(config());
    let mut host = agent.connect();
    let mut request = shell(
        "a",
        "stty size; tty; echo $TERM; trap 'stty size; exit 5' WINCH; cat; echo ended; while :; do sleep 0.05; done",
    );
    request.tty = Some(Size {
        rows: 33,
        columns: 101,
    });
    host.say(1, Kind::Exec, &request);
    host.started(1);
    let mut text = String::new();
    while !text.contains("xterm") {
        text += &String::from_utf8_lossy(&host.of(1).1);
    }
    host.frame(1, Kind::Data, b"typed\n");
    host.frame(1, Kind::End, &[]);
    while !text.contains("ended") {
        text += &String::from_utf8_lossy(&host.of(1).1);
    }
    assert!(
        text.starts_with("33 101\r\n/dev/pts/") && text.contains("xterm-256color"),
        "{text}"
    );
    assert_eq!(text.matches("typed").count(), 2, "echo and cat: {text}");
    let resize = ResizeRequest {
        exec: "a".into(),
        size: Size {
            rows: 5,
            columns: 6,
        },
    };
    assert_eq!(host.ask(2, Kind::Resize, &resize).0, Kind::Done);
    let out = host.finish(1);
    assert_eq!((out.text().as_str(), out.code()), ("5 6\r\n", 5));
    // The interrupt character reaches the foreground group.
    let mut request = exec("b", &["sleep", "1000"]);
    request.tty = Some(Size {
        rows: 1,
        columns: 1,
    });
    host.say(3, Kind::Exec, &request);
    host.started(3);
    host.frame(3, Kind::Data, &[3]);
    let exited = host.finish(3).exited.unwrap();
    assert_eq!((exited.reason, exited.value), (EndReason::Signal, 2));
}

#[test]
fn many_commands_run_at_once_up_to_the_limit() {
    let mut limited = config();
    limited.max_execs = 20;
    let agent = Agent::start(limited);
    let mut host = agent.connect();
    for number in 0..20 {
        host.say(
            number + 1,
            Kind::Exec,
            &exec(&format!("e{number}"), &["sleep", "1000"]),
        );
    }
    for number in 0..20 {
        host.started(number + 1);
    }
    let failure = host.run(99, &exec("more", &["true"])).failure.unwrap();
    assert_eq!(failure.kind, FailureKind::Exhausted);
    let same = host.run(98, &exec("e3", &["true"])).failure.unwrap();
    assert_eq!(same.kind, FailureKind::AlreadyExists);
    assert_eq!(signal(&mut host, 97, "e3", 64, Scope::Process), Kind::Done);
    let exited = host.finish(4).exited.unwrap();
    assert_eq!((exited.reason, exited.value), (EndReason::Signal, 64));
}

#[test]
fn lack_of_memory_is_told_only_when_the_count_rose() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "low 0\noom_kill 4\n").unwrap();
    let counter = std::fs::File::open(file.path()).unwrap().into();
    let agent = Agent::start_counting(config(), Some(&counter));
    let mut host = agent.connect();
    let exited = host.run(1, &shell("a", "kill -9 $$")).exited.unwrap();
    assert_eq!(exited.reason, EndReason::Signal);
    host.say(2, Kind::Exec, &shell("b", "echo up; read x"));
    let mut request = shell("c", "read x; kill -9 $$");
    request.stdin = Stdin::Stream;
    host.say(3, Kind::Exec, &request);
    host.started(3);
    std::fs::write(file.path(), "low 0\noom_kill 5\n").unwrap();
    host.frame(3, Kind::Data, b"\n");
    let exited = host.finish(3).exited.unwrap();
    assert_eq!((exited.reason, exited.value), (EndReason::OutOfMemory, 9));
}

#[test]
fn no_command_signals_or_traces_the_agent_or_its_supervisor() {
    let agent = Agent::start(config());
    let mut host = agent.connect();
    let text = host
        .run(1, &shell("a", "kill -9 $PPID; echo $?; cat /proc/$PPID/environ >/dev/null; echo $?; readlink /proc/$PPID/fd/0; echo $?; awk '/^Uid/{print $2,$3,$4}' /proc/$PPID/status"))
        .text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines, ["1", "1", "1", "65533 65533 65533"], "{text}");
}

#[test]
fn processes_and_usage_leave_the_agent_out() {
    let agent = Agent::start(config());
    let mut host = agent.connect();
    host.say(1, Kind::Exec, &exec("a", &["sleep", "1000"]));
    let pid = host.started(1);
    host.frame(2, Kind::Processes, &[]);
    let (kind, payload) = host.of(2);
    assert_eq!(kind, Kind::ProcessList);
    let list: ProcessList = message::decode(&payload).unwrap();
    assert_eq!(list.processes.len(), 1, "{list:?}");
    let process = &list.processes[0];
    assert_eq!((process.pid, process.exec.as_deref()), (pid, Some("a")));
    assert_eq!(process.argv[0].as_slice(), b"sleep");
    host.frame(3, Kind::Usage, &[]);
    let (kind, payload) = host.of(3);
    assert_eq!(kind, Kind::UsageReport);
    let usage: UsageReport = message::decode(&payload).unwrap();
    assert!(usage.processes == 1 && usage.disk_total_bytes > 0 && usage.resident_bytes > 0);
}
