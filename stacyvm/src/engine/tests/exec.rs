//! Commands through the handle.

use std::time::Duration;

use bytes::Bytes;

use super::{World, until};
use crate::context::Context;
use crate::engine::testing::{Scripted, all_capabilities};
use crate::error::ErrorKind;
use crate::provider::{Capabilities, OperationKind, Users};
use crate::sandbox::exec::{ExecEvent, ExitStatus, TtySize};
use crate::sandbox::handle::Sandbox;
use crate::sandbox::spec::SandboxSpec;
use crate::store::Store as _;

const DONE: ExecEvent = ExecEvent::Exited(ExitStatus::Code { code: 3 });

async fn saying(events: Vec<ExecEvent>) -> (World, Sandbox) {
    let world = World::new(Scripted::new()).await;
    let sandbox = world.engine.create(SandboxSpec::host()).await.unwrap();
    world.provider.say(events);
    (world, sandbox)
}

#[tokio::test]
async fn output_is_gathered_and_what_is_not_kept_is_counted() {
    let out = |bytes: &'static [u8]| ExecEvent::Stdout(Bytes::from_static(bytes));
    let err = |bytes: &'static [u8]| ExecEvent::Stderr(Bytes::from_static(bytes));
    let lost = ExecEvent::Lost {
        stdout: 5,
        stderr: 7,
    };
    let (_world, sandbox) = saying(vec![
        out(b"abc"),
        err(b"x"),
        out(b"def"),
        lost,
        out(b"g"),
        DONE,
    ])
    .await;
    let output = sandbox.exec(["tool"]).max_output(4).output().await.unwrap();
    assert_eq!(output.stdout, b"abcd");
    assert_eq!(output.stdout_truncated_bytes, 2 + 5 + 1);
    assert_eq!(output.stderr, b"x");
    assert_eq!(output.stderr_truncated_bytes, 7);
    assert_eq!(output.status, ExitStatus::Code { code: 3 });
}

#[tokio::test]
async fn a_stream_without_an_end_is_an_error_and_not_an_exit() {
    let (_world, sandbox) = saying(vec![ExecEvent::Stdout(Bytes::from_static(b"abc"))]).await;
    let error = sandbox.exec(["tool"]).output().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol);
}

#[tokio::test]
async fn a_process_yields_its_events_and_then_nothing() {
    let (_world, sandbox) = saying(vec![DONE]).await;
    let mut process = sandbox.exec(["tool"]).start().await.unwrap();
    assert_eq!(process.next_event().await.unwrap(), Some(DONE));
    assert_eq!(process.next_event().await.unwrap(), None);
    assert_eq!(process.wait().await.unwrap(), ExitStatus::Code { code: 3 });
    process.kill().await.unwrap();
    assert_eq!(process.detach().unwrap_err().kind(), ErrorKind::Conflict);
}

#[tokio::test]
async fn input_that_nobody_reads_does_not_hold_up_the_exit() {
    let (_world, sandbox) = saying(vec![DONE]).await;
    let input = vec![9_u8; 200_000];
    let output = sandbox.exec(["tool"]).stdin(input).output().await.unwrap();
    assert_eq!(output.status, ExitStatus::Code { code: 3 });
}

#[tokio::test]
async fn piped_input_is_written_by_the_caller() {
    let (world, sandbox) = saying(Vec::new()).await;
    let exec = sandbox.exec(["tool"]).stdin_pipe();
    let process = exec.start().await.unwrap();
    process.write_stdin("abc").await.unwrap();
    process.control().write_stdin("def".into()).await.unwrap();
    process.close_stdin().await.unwrap();
    assert_eq!(world.provider.stdin(), b"abcdef");
}

#[tokio::test]
async fn a_command_that_cannot_be_served_is_refused_before_it_starts() {
    type Change = fn(&mut Capabilities);
    let cases: [(&str, Change); 4] = [
        ("exec_tty", |c| c.exec_tty = false),
        ("exec_stdin", |c| c.exec_stdin = false),
        ("users", |c| c.users = Users::One),
        ("exec_background", |c| c.exec_background = false),
    ];
    for (need, change) in cases {
        let mut capabilities = all_capabilities();
        change(&mut capabilities);
        let world = World::new(Scripted::with(capabilities)).await;
        let sandbox = world.engine.create(SandboxSpec::host()).await.unwrap();
        let exec = sandbox.exec(["tool"]);
        let exec = match need {
            "exec_tty" => exec.tty(TtySize::default()),
            "exec_stdin" => exec.stdin("x"),
            "users" => exec.user("nobody"),
            _ => exec.background(),
        };
        let error = exec.start().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert_eq!(error.fact("need"), Some(need));
        assert_eq!(world.provider.count(OperationKind::Exec), 0);
    }
}

#[tokio::test]
async fn a_bad_command_is_refused_before_it_starts() {
    let (world, sandbox) = saying(vec![DONE]).await;
    for exec in [
        sandbox.exec(Vec::<&str>::new()),
        sandbox.exec(["a\0b"]),
        sandbox.exec(["a"]).workdir("tmp"),
        sandbox.exec(["a"]).timeout(Duration::ZERO),
    ] {
        let error = exec.output().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    }
    assert_eq!(world.provider.count(OperationKind::Exec), 0);
}

#[tokio::test]
async fn background_commands_are_on_record_and_others_are_not() {
    let (world, sandbox) = saying(vec![DONE]).await;
    sandbox
        .exec(["tool", "--password=x"])
        .output()
        .await
        .unwrap();
    let process = sandbox
        .exec(["server", "--password=x"])
        .background()
        .start()
        .await
        .unwrap();
    let exec = process.detach().unwrap();
    let context = Context::default();
    let listed = async || {
        let page = world
            .store
            .list_execs(&context, sandbox.id(), None, 10)
            .await;
        page.unwrap().items
    };
    until(async || !listed().await.is_empty()).await;
    let records = listed().await;
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].exec, exec);
    assert_eq!(
        (records[0].program.as_str(), records[0].arguments),
        ("server", 1)
    );
}
