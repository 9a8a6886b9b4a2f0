//! The whole way through, over the mock.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;

use super::until;
use crate::engine::Engine;
use crate::error::ErrorKind;
use crate::providers::mock::Mock;
use crate::sandbox::exec::{ExecEvent, ExitStatus};
use crate::sandbox::handle::Sandbox;
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
