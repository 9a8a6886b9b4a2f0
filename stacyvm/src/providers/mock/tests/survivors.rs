use futures_util::StreamExt;

use super::super::{Mock, Script};
use super::{bench, bench_on, code, drain, secs, settle};
use crate::error::ErrorKind;
use crate::provider::Provider;
use crate::sandbox::exec::{AttachOptions, ExecEvent, ExecSpec, ExitStatus, SignalScope};

const REPLAY: AttachOptions = AttachOptions {
    stdin: false,
    replay: true,
};

fn background(line: &str) -> ExecSpec {
    let mut spec = ExecSpec::shell(line);
    spec.background = true;
    spec
}

#[tokio::test(start_paused = true)]
async fn survivors_are_listed_signalled_and_their_output_is_kept() {
    let bench = bench().await;
    let spec = ExecSpec::shell("(sleep 5; echo late; sleep 1000000) & echo first");
    let ran = bench.run(&spec).await.unwrap();
    assert_eq!((ran.out.as_str(), ran.status), ("first\n", code(0)));
    tokio::time::sleep(secs(10)).await;

    let infos = bench.mock.list_execs(&bench.cx, &bench.id).await.unwrap();
    assert_eq!(infos[0].exited, code(0));
    assert!(infos[0].processes > 0, "{infos:?}");

    let session = bench
        .mock
        .attach(&bench.cx, &bench.id, &spec.exec, REPLAY)
        .await
        .unwrap();
    let ran = drain(session).await.unwrap();
    assert_eq!((ran.out.as_str(), ran.status), ("late\n", code(0)));

    let kill = bench
        .mock
        .signal_exec(&bench.cx, &bench.id, &spec.exec, 9, SignalScope::Tree);
    kill.await.unwrap();
    assert_eq!(bench.processes().await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_background_command_outlives_its_caller_and_is_waited_for() {
    let bench = bench().await;
    let spec = background("echo one; sleep 5; echo two; exit 9");
    drop(bench.start(&spec).await.unwrap());
    settle().await;
    assert!(!bench.processes().await.is_empty());
    let session = bench
        .mock
        .attach(&bench.cx, &bench.id, &spec.exec, REPLAY)
        .await
        .unwrap();
    let ran = drain(session).await.unwrap();
    assert_eq!((ran.out.as_str(), ran.status), ("one\ntwo\n", code(9)));
    // It is remembered, and what it wrote with it.
    let again = bench
        .mock
        .attach(&bench.cx, &bench.id, &spec.exec, REPLAY)
        .await
        .unwrap();
    let ran = drain(again).await.unwrap();
    assert_eq!((ran.out.as_str(), ran.status), ("one\ntwo\n", code(9)));
}

#[tokio::test(start_paused = true)]
async fn a_ring_is_bounded_and_counts_what_it_lost() {
    let talk = |_: &super::super::Call| {
        let mut script = Script::new();
        for line in 0..1000 {
            script = script.out(format!("{line:07}\n"));
        }
        script.err("end\n")
    };
    let mock = Mock::builder()
        .ring_bytes(1024)
        .command("talk", talk)
        .build();
    let bench = bench_on(mock).await;
    let mut spec = ExecSpec::new(["talk"]);
    spec.background = true;
    drop(bench.start(&spec).await.unwrap());
    tokio::time::sleep(secs(1)).await;
    let session = bench
        .mock
        .attach(&bench.cx, &bench.id, &spec.exec, REPLAY)
        .await
        .unwrap();
    let ran = drain(session).await.unwrap();
    assert_eq!(ran.out.len() + ran.err.len(), 1024);
    assert_eq!(ran.lost, (8000 - ran.out.len() as u64, 0));
    assert!(ran.out.ends_with("0000999\n"), "the newest is kept");
}

#[tokio::test(start_paused = true)]
async fn without_replay_only_new_output_comes() {
    let bench = bench().await;
    let spec = background("echo old; sleep 5; echo new");
    drop(bench.start(&spec).await.unwrap());
    tokio::time::sleep(secs(1)).await;
    let options = AttachOptions::default();
    let session = bench
        .mock
        .attach(&bench.cx, &bench.id, &spec.exec, options)
        .await
        .unwrap();
    assert_eq!(drain(session).await.unwrap().out, "new\n");
}

#[tokio::test(start_paused = true)]
async fn a_second_follower_takes_over() {
    let bench = bench().await;
    let spec = background("echo a; sleep 5; echo b");
    let mut first = bench.start(&spec).await.unwrap();
    let event = first.events.next().await.unwrap().unwrap();
    assert_eq!(event, ExecEvent::Stdout("a\n".into()));
    let second = bench
        .mock
        .attach(&bench.cx, &bench.id, &spec.exec, REPLAY)
        .await
        .unwrap();
    let error = first.events.next().await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert!(first.events.next().await.is_none());
    drop(first);
    let ran = drain(second).await.unwrap();
    assert_eq!((ran.out.as_str(), ran.status), ("a\nb\n", code(0)));
}

#[tokio::test]
async fn an_unknown_command_is_not_found() {
    let bench = bench().await;
    let other = ExecSpec::new(["true"]).exec;
    let error = bench
        .mock
        .attach(&bench.cx, &bench.id, &other, REPLAY)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let error = bench
        .mock
        .signal_exec(&bench.cx, &bench.id, &other, 15, SignalScope::Tree)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn finished_commands_are_remembered_up_to_a_bound() {
    let bench = bench().await;
    for _ in 0..300 {
        bench.run(&ExecSpec::new(["true"])).await.unwrap();
    }
    let infos = bench.mock.list_execs(&bench.cx, &bench.id).await.unwrap();
    assert!((200..=260).contains(&infos.len()), "{}", infos.len());
    assert!(
        infos
            .iter()
            .all(|i| i.exited == Some(ExitStatus::Code { code: 0 }))
    );
}
