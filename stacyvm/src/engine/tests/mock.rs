//! The whole way through, over the mock.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;

use super::until;
use crate::engine::Engine;
use crate::error::ErrorKind;
use crate::id::ExecId;
use crate::providers::mock::Mock;
use crate::sandbox::exec::{ExecEvent, ExecSpec, ExitStatus};
use crate::sandbox::handle::Sandbox;
use crate::sandbox::logs::{LogEvent, LogsRequest};
use crate::sandbox::spec::SandboxSpec;

async fn sandbox() -> (Arc<Mock>, Sandbox) {
    let mock = Arc::new(Mock::default());
    let engine = Engine::builder()
        .provider("mock", Arc::clone(&mock) as _)
        .build()
        .await
        .unwrap();
    let sandbox = engine.create(SandboxSpec::host()).await.unwrap();
    (mock, sandbox)
}

#[tokio::test]
async fn given_input_arrives_whole_while_output_is_read() {
    let (_mock, sandbox) = sandbox().await;
    let input: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
    let exec = sandbox.exec(["cat"]).stdin(input.clone());
    let output = exec.output().await.unwrap();
    assert!(output.stdout == input, "{} bytes", output.stdout.len());
    assert!(output.status.success());
}

#[tokio::test]
async fn more_output_than_is_kept_is_drained() {
    let (_mock, sandbox) = sandbox().await;
    let exec = sandbox.exec(["cat"]).stdin(vec![1; 300_000]);
    let output = exec.max_output(1_000).output().await.unwrap();
    assert_eq!(output.stdout.len(), 1_000);
    assert_eq!(output.stdout_truncated_bytes, 299_000);
}

#[tokio::test]
async fn by_default_64_mib_of_a_stream_are_kept() {
    let (_mock, sandbox) = sandbox().await;
    let input = vec![1; (64 << 20) + 7];
    let output = sandbox.exec(["cat"]).stdin(input).output().await.unwrap();
    assert_eq!(output.stdout.len(), 64 << 20);
    assert_eq!(output.stdout_truncated_bytes, 7);
}

#[tokio::test]
async fn a_command_that_fails_is_a_result_and_one_that_never_ran_an_error() {
    let (_mock, sandbox) = sandbox().await;
    let output = sandbox
        .shell("echo bad >&2; exit 3")
        .output()
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(output.stderr_text(), "bad\n");
    let error = sandbox.exec(["no-such-tool"]).output().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CommandNotFound);
    assert_eq!(error.failed_provider(), Some("mock"));
}

#[tokio::test]
async fn a_deadline_and_a_dropped_output_end_a_command() {
    let (_mock, sandbox) = sandbox().await;
    let exec = sandbox.exec(["sleep", "600"]);
    let output = exec.timeout(Duration::from_millis(20)).output().await;
    let status = output.unwrap().status;
    assert!(matches!(status, ExitStatus::TimedOut { .. }), "{status}");

    let other = sandbox.clone();
    let task = tokio::spawn(async move { other.exec(["sleep", "600"]).output().await });
    until(async || !sandbox.processes().await.unwrap().is_empty()).await;
    task.abort();
    until(async || sandbox.processes().await.unwrap().is_empty()).await;
}

#[tokio::test]
async fn a_background_command_is_followed_again() {
    let (_mock, sandbox) = sandbox().await;
    let exec = sandbox.shell("echo one; sleep 600").background();
    let id = exec.start().await.unwrap().detach().unwrap();
    let mut process = sandbox.attach(&id).await.unwrap();
    let event = process.next_event().await.unwrap();
    assert_eq!(event, Some(ExecEvent::Stdout("one\n".into())));
    let listed = sandbox.execs().await.unwrap();
    assert!(listed.iter().any(|info| info.exec == id && info.background));
    process.kill().await.unwrap();
    assert_eq!(
        process.wait().await.unwrap(),
        ExitStatus::Signal { signal: 9 }
    );
}

#[tokio::test]
async fn files_do_what_they_say() {
    let (_mock, sandbox) = sandbox().await;
    let files = sandbox.files();
    files.write("/workspace/a/b.txt", "one").await.unwrap();
    files.append("/workspace/a/b.txt", " two").await.unwrap();
    assert_eq!(
        files.read_text("/workspace/a/b.txt").await.unwrap(),
        "one two"
    );
    let (_, mut part) = files
        .read_range("/workspace/a/b.txt", 4, Some(2))
        .await
        .unwrap();
    assert_eq!(part.next().await.unwrap().unwrap(), "tw");
    files.chmod("/workspace/a/b.txt", 0o600).await.unwrap();
    let entry = files.stat("/workspace/a/b.txt").await.unwrap();
    assert_eq!((entry.size, entry.mode & 0o777), (7, 0o600));
    files.link("b.txt", "/workspace/a/link").await.unwrap();
    files.make_dir("/workspace/a/dir").await.unwrap();
    let names: Vec<_> = files.list("/workspace/a").await.unwrap();
    let names: Vec<_> = names.iter().map(|e| e.path.as_slice()).collect();
    assert_eq!(names, [b"b.txt".as_slice(), b"dir", b"link"]);
    let found = files.glob("/workspace/**/*.txt").await.unwrap();
    assert_eq!(found.len(), 1);
    files.rename("/workspace/a", "/workspace/c").await.unwrap();
    assert!(!files.exists("/workspace/a/b.txt").await.unwrap());
    let tar = files.export_tar("/workspace/c", true).await.unwrap();
    files
        .import_tar("/workspace/d", Box::pin(tar))
        .await
        .unwrap();
    assert_eq!(files.read("/workspace/d/b.txt").await.unwrap(), "one two");
    files.remove("/workspace/c").await.unwrap();
    let error = files.remove("/workspace/c").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let error = files.read("relative").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
}

#[tokio::test]
async fn a_killed_sandbox_leaves_nothing_and_says_so() {
    let (mock, sandbox) = sandbox().await;
    assert_eq!(mock.leftovers().len(), 1);
    sandbox.kill().await.unwrap();
    assert!(mock.leftovers().is_empty());
    let error = sandbox.exec(["true"]).output().await.unwrap_err();
    let gone = [ErrorKind::NotFound, ErrorKind::SandboxGone];
    assert!(gone.contains(&error.kind()), "{error}");
}

/// What a log says of each command, in order; `!` for what is lost, `.` for the end.
async fn read(sandbox: &Sandbox, request: LogsRequest) -> Vec<(ExecId, String)> {
    let mut logs = sandbox.logs(request).await.unwrap();
    let mut all: Vec<(ExecId, String)> = Vec::new();
    while let Some(LogEvent { exec, event }) = logs.next().await.unwrap() {
        if all.last().is_none_or(|(last, _)| *last != exec) {
            all.push((exec, String::new()));
        }
        let text = &mut all.last_mut().unwrap().1;
        match event {
            ExecEvent::Stdout(bytes) | ExecEvent::Stderr(bytes) => {
                text.push_str(&String::from_utf8_lossy(&bytes));
            }
            ExecEvent::Lost { .. } => text.push('!'),
            ExecEvent::Exited(_) => text.push('.'),
        }
    }
    all
}

#[tokio::test(start_paused = true)]
async fn logs_show_what_commands_wrote_and_whose_it_is() {
    let (_mock, sandbox) = sandbox().await;
    let spec = ExecSpec::shell("echo one; echo two >&2");
    let foreground = spec.exec.clone();
    sandbox.exec_spec(spec).output().await.unwrap();
    let second = sandbox.shell("echo up; sleep 5; echo late").background();
    let second = second.start().await.unwrap().detach().unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let all = read(&sandbox, LogsRequest::default()).await;
    let expected = [(&foreground, "one\ntwo\n."), (&second, "up\n")];
    assert_eq!(all.len(), 2, "{all:?}");
    for ((exec, text), expected) in all.iter().zip(expected) {
        assert_eq!((exec, text.as_str()), expected);
    }
    // By the beginning of its id, and with what comes.
    let request = LogsRequest {
        exec: Some(ExecId::new(&second.as_str()[..8]).unwrap()),
        follow: true,
        since: None,
    };
    assert_eq!(
        read(&sandbox, request).await,
        [(second.clone(), "up\nlate\n.".to_owned())]
    );
    let unknown = LogsRequest {
        exec: Some(ExecId::new("none").unwrap()),
        ..LogsRequest::default()
    };
    let error = sandbox.logs(unknown).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(error.fact("field"), Some("process"));
}

#[tokio::test(start_paused = true)]
async fn logs_that_are_followed_show_new_commands_and_end_with_the_sandbox() {
    let (_mock, sandbox) = sandbox().await;
    let request = LogsRequest {
        follow: true,
        ..LogsRequest::default()
    };
    let mut logs = sandbox.logs(request).await.unwrap();
    let later = sandbox.clone();
    let work = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(3)).await;
        later.shell("echo hello").output().await.unwrap();
        tokio::time::sleep(Duration::from_secs(3)).await;
        later.kill().await.unwrap();
    });
    let event = logs.next().await.unwrap().unwrap().event;
    assert_eq!(event, ExecEvent::Stdout("hello\n".into()));
    let event = logs.next().await.unwrap().unwrap().event;
    assert_eq!(event, ExecEvent::Exited(ExitStatus::Code { code: 0 }));
    match logs.next().await {
        Ok(None) => {}
        // The record is gone before the provider says so.
        Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound),
        Ok(Some(event)) => panic!("{event:?}"),
    }
    work.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn logs_since_now_show_all_of_a_command_that_starts_while_they_are_followed() {
    let (_mock, sandbox) = sandbox().await;
    sandbox.shell("echo before").output().await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let request = LogsRequest {
        follow: true,
        since: Some(std::time::SystemTime::now()),
        exec: None,
    };
    let mut logs = sandbox.logs(request).await.unwrap();
    // What is old is not shown, and its end is.
    let event = logs.next().await.unwrap().unwrap().event;
    assert_eq!(event, ExecEvent::Exited(ExitStatus::Code { code: 0 }));
    let later = sandbox.clone();
    let work = tokio::spawn(async move {
        // Between two looks, so that the output is older than the second one.
        tokio::time::sleep(Duration::from_millis(700)).await;
        later.shell("echo first; sleep 9").output().await.unwrap();
    });
    let event = logs.next().await.unwrap().unwrap().event;
    assert_eq!(event, ExecEvent::Stdout("first\n".into()));
    work.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn logs_remember_no_more_commands_than_the_sandbox() {
    let (_mock, sandbox) = sandbox().await;
    let request = LogsRequest {
        follow: true,
        ..LogsRequest::default()
    };
    let mut logs = sandbox.logs(request).await.unwrap();
    for _ in 0..700 {
        let exec = sandbox.shell("echo x").output().await.unwrap();
        assert!(exec.status.success());
        let mut ended = false;
        while !ended {
            let event = logs.next().await.unwrap().unwrap().event;
            ended = matches!(event, ExecEvent::Exited(_));
        }
    }
    let known = sandbox.execs().await.unwrap().len();
    assert!(known < 600, "{known}");
    assert!(logs.commands().len() <= known + 1, "{logs:?}");
}
