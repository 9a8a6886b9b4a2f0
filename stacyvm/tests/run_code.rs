//! Code in interpreters that keep their state, on the embedded provider.
#![cfg(all(target_os = "linux", feature = "oci"))]
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod common;

use std::time::Duration;

use common::{eventually, soon};
use stacyvm::sandbox::code::{CodeEvent, CodeRun, Execution};
use stacyvm::{ErrorKind, Sandbox};

macro_rules! sandbox {
    ($sandbox:ident) => {
        let Some(host) = common::embedded().await else {
            return;
        };
        let $sandbox = host.sandbox().await;
        if !has_python(&$sandbox).await {
            println!("not run: no python3 on this host");
            return;
        }
    };
}

async fn has_python(sandbox: &Sandbox) -> bool {
    let output = sandbox.exec(["python3", "-c", "1"]).output().await;
    output.is_ok_and(|output| output.status.success())
}

async fn run(run: CodeRun) -> Execution {
    soon(run.output()).await.unwrap()
}

#[tokio::test]
async fn state_is_kept_and_the_last_expression_is_the_result() {
    sandbox!(sandbox);
    let first = run(sandbox.run_code("import math\nx = 20\nprint('hi')\nx + 1")).await;
    assert_eq!((first.text(), first.stdout.as_str()), (Some("21"), "hi\n"));
    assert_eq!(
        run(sandbox.run_code("math.floor(x / 3)")).await.text(),
        Some("6")
    );
    let nothing = run(sandbox.run_code("x = 5")).await;
    assert!(nothing.results.is_empty() && nothing.error.is_none());
    // A clone of the handle has the same interpreter.
    assert_eq!(run(sandbox.clone().run_code("x")).await.text(), Some("5"));
}

#[tokio::test]
async fn both_streams_come_from_the_code_and_from_what_it_starts() {
    sandbox!(sandbox);
    let code = "import os, sys\nprint('out')\nprint('err', file=sys.stderr)\nos.system('echo sub; echo suberr >&2')\nos.write(1, b'\\xc3'); os.write(1, b'\\xa4');None";
    for _ in 0..20 {
        let done = run(sandbox.run_code(code)).await;
        assert_eq!(done.stdout, "out\nsub\nä");
        assert_eq!(done.stderr, "err\nsuberr\n");
    }
}

#[tokio::test]
async fn what_the_code_raises_is_told_with_its_lines() {
    sandbox!(sandbox);
    let done = run(sandbox.run_code("def f():\n    return 1 / 0\nprint('before')\nf()")).await;
    let error = done.error.unwrap();
    assert_eq!(
        (error.name.as_str(), error.value.as_str()),
        ("ZeroDivisionError", "division by zero")
    );
    assert!(
        error.traceback.contains("return 1 / 0"),
        "{}",
        error.traceback
    );
    assert!(!error.traceback.contains("execute"), "{}", error.traceback);
    assert_eq!(done.stdout, "before\n");
    for (code, name) in [
        ("x =", "SyntaxError"),
        ("import sys; sys.exit(3)", "SystemExit"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    ] {
        let done = run(sandbox.run_code(code)).await;
        assert_eq!(done.error.unwrap().name, name);
    }
    assert_eq!(
        run(sandbox.run_code("f.__name__")).await.text(),
        Some("'f'")
    );
}

#[tokio::test]
async fn rich_results_come_in_their_forms() {
    sandbox!(sandbox);
    let code = "class Picture:\n    def _repr_png_(self): return b'\\x89PNG'\n    def _repr_html_(self): return '<b>x</b>'\ndisplay(Picture())\n{'a': [1, None]}";
    let done = run(sandbox.run_code(code)).await;
    let [picture, json] = done.results.as_slice() else {
        panic!("{done:?}");
    };
    assert_eq!(picture.data["image/png"], "iVBORw==");
    assert_eq!(picture.data["text/html"], "<b>x</b>");
    assert!(!picture.is_main_result && json.is_main_result);
    assert_eq!(json.data["application/json"], r#"{"a": [1, null]}"#);
    assert_eq!(done.text(), Some("{'a': [1, None]}"));
}

#[tokio::test]
async fn contexts_know_nothing_of_each_other() {
    sandbox!(sandbox);
    let one = sandbox.code_context("python", Some("/tmp".into())).unwrap();
    let two = sandbox.code_context("python", None).unwrap();
    run(sandbox.run_code("x = 1").context(&one.id)).await;
    let done = run(sandbox.run_code("x").context(&two.id)).await;
    assert_eq!(done.error.unwrap().name, "NameError");
    let done = run(sandbox.run_code("import os; os.getcwd()").context(&one.id)).await;
    assert_eq!(done.text(), Some("'/tmp'"));
    assert_eq!(sandbox.code_contexts().len(), 2);
    sandbox.remove_code_context(&one.id);
    let error = sandbox
        .run_code("x")
        .context(&one.id)
        .output()
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let error = sandbox
        .run_code("x")
        .language("cobol")
        .output()
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.fact("field")),
        (ErrorKind::Unsupported, Some("language"))
    );
}

#[tokio::test]
async fn code_that_is_late_is_interrupted_and_its_state_stays() {
    sandbox!(sandbox);
    run(sandbox.run_code("import time\nx = 1")).await;
    let late = sandbox
        .run_code("x = 2\ntime.sleep(60)")
        .timeout(Duration::from_millis(300));
    assert_eq!(
        soon(late.output()).await.unwrap_err().kind(),
        ErrorKind::Timeout
    );
    assert_eq!(run(sandbox.run_code("x")).await.text(), Some("2"));
    let deaf = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\ntime.sleep(60)";
    let deaf = sandbox.run_code(deaf).timeout(Duration::from_millis(300));
    assert_eq!(
        soon(deaf.output()).await.unwrap_err().kind(),
        ErrorKind::Timeout
    );
    let done = run(sandbox.run_code("x")).await;
    assert_eq!(done.error.unwrap().name, "NameError");
}

#[tokio::test]
async fn an_interpreter_that_ends_or_lies_is_replaced() {
    sandbox!(sandbox);
    for (code, kind) in [
        ("import os; os._exit(7)", ErrorKind::Unavailable),
        ("import os; os.kill(os.getpid(), 9)", ErrorKind::Unavailable),
        (
            "import os\nfor fd in range(3, 64):\n    try: os.write(fd, b'nonsense\\n')\n    except OSError: pass\nimport time; time.sleep(60)",
            ErrorKind::Protocol,
        ),
    ] {
        run(sandbox.run_code("x = 1")).await;
        let error = soon(sandbox.run_code(code).output()).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{code}: {error}");
        let done = run(sandbox.run_code("x")).await;
        assert_eq!(done.error.unwrap().name, "NameError", "{code}");
    }
    eventually("interpreters left", async || {
        let all = sandbox.processes().await.unwrap();
        all.iter()
            .filter(|p| p.argv.first().is_some_and(|a| a == "python3"))
            .count()
            == 1
    })
    .await;
}

#[tokio::test]
async fn children_that_the_code_forks_answer_nothing() {
    sandbox!(sandbox);
    let fork = "import os\nchild = os.fork()\n'forked'";
    for n in 0..3 {
        assert_eq!(run(sandbox.run_code(fork)).await.text(), Some("'forked'"));
        let next = run(sandbox.run_code(format!("{n} + 40"))).await;
        assert_eq!(next.text(), Some((n + 40).to_string().as_str()));
    }
    let reaped = run(sandbox.run_code("os.waitpid(child, 0)[1]")).await;
    assert_eq!(reaped.text(), Some("0"));
}

#[tokio::test]
async fn values_that_no_text_can_say_leave_the_interpreter_as_it_is() {
    sandbox!(sandbox);
    run(sandbox.run_code("kept = 1")).await;
    let code = "class Mute(Exception):\n def __str__(self): raise ValueError\nraise Mute";
    let mute = run(sandbox.run_code(code)).await.error.unwrap();
    assert_eq!(
        (mute.name.as_str(), mute.value.as_str()),
        ("Mute", "<exception str() failed>")
    );
    let lone = run(sandbox.run_code("raise ValueError('a\\ud800b')")).await;
    assert_eq!(lone.error.unwrap().value, "a\\ud800b");
    let shown =
        "class Shown:\n def __repr__(self): return '\\udcff'\n _repr_html_ = __repr__\nShown()";
    assert_eq!(run(sandbox.run_code(shown)).await.text(), Some("\\udcff"));
    assert_eq!(run(sandbox.run_code("kept")).await.text(), Some("1"));
}

#[tokio::test]
async fn files_of_the_working_directory_are_the_codes_to_import_alone() {
    sandbox!(sandbox);
    let names = ["types", "json", "select", "own"];
    for name in names {
        let path = format!("/workspace/{name}.py");
        sandbox
            .files()
            .write(path, "raise SystemExit('taken')")
            .await
            .unwrap();
    }
    sandbox
        .files()
        .write("/workspace/own.py", "x = 7")
        .await
        .unwrap();
    let own = sandbox.run_code("import own; own.x");
    let context = sandbox
        .code_context("python", Some("/workspace".into()))
        .unwrap();
    assert_eq!(run(own.context(context.id)).await.text(), Some("7"));
}

#[tokio::test]
async fn code_that_waits_for_its_turn_waits_no_longer_than_it_may() {
    sandbox!(sandbox);
    let mut first = soon(
        sandbox
            .run_code("print(1, flush=True); import time; time.sleep(600)")
            .start(),
    )
    .await
    .unwrap();
    soon(first.next_event()).await.unwrap();
    let inner = sandbox.run_code("2").timeout(Duration::from_millis(100));
    let error = soon(inner.output()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.to_string().contains("other code ran"), "{error}");
}

#[tokio::test]
async fn code_that_has_ended_keeps_nobody_waiting() {
    sandbox!(sandbox);
    let mut first = soon(sandbox.run_code("x = 1").start()).await.unwrap();
    assert_eq!(soon(first.next_event()).await.unwrap(), None);
    // `first` is still there.
    assert_eq!(run(sandbox.run_code("x")).await.text(), Some("1"));
    assert_eq!(soon(first.next_event()).await.unwrap(), None);
    let late = sandbox.run_code("import time; time.sleep(60)");
    let mut late = soon(late.timeout(Duration::from_millis(100)).start())
        .await
        .unwrap();
    while soon(late.next_event()).await.is_ok() {}
    assert_eq!(run(sandbox.run_code("x")).await.text(), Some("1"));
}

#[tokio::test]
async fn an_interpreter_that_went_with_its_sandbox_says_so() {
    sandbox!(sandbox);
    run(sandbox.run_code("1")).await;
    sandbox.kill().await.unwrap();
    let error = soon(sandbox.run_code("2").output()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SandboxGone, "{error}");
}

#[tokio::test]
async fn a_call_that_is_given_up_leaves_no_code_behind() {
    sandbox!(sandbox);
    let code = "import subprocess\nsubprocess.run(['sleep', '4721'])";
    let gave_up = tokio::time::timeout(Duration::from_millis(500), sandbox.run_code(code).output());
    assert!(gave_up.await.is_err());
    eventually("code left", async || {
        let all = sandbox.processes().await.unwrap();
        !all.iter().any(|p| p.argv.iter().any(|a| a == "4721"))
    })
    .await;
    assert_eq!(run(sandbox.run_code("1 + 1")).await.text(), Some("2"));
}

#[tokio::test]
async fn output_comes_while_the_code_runs() {
    sandbox!(sandbox);
    let code = "print('first', flush=True)\nimport time; time.sleep(0.2)\nprint('second')";
    let mut running = soon(sandbox.run_code(code).start()).await.unwrap();
    let first = soon(running.next_event()).await.unwrap();
    assert_eq!(first, Some(CodeEvent::Stdout("first\n".into())));
    let second = soon(running.next_event()).await.unwrap();
    assert_eq!(second, Some(CodeEvent::Stdout("second\n".into())));
    assert_eq!(soon(running.next_event()).await.unwrap(), None);
    assert_eq!(soon(running.next_event()).await.unwrap(), None);
}

#[tokio::test]
async fn calls_at_once_in_a_context_run_one_after_the_other() {
    sandbox!(sandbox);
    run(sandbox.run_code("n = 0")).await;
    let calls = (0..8).map(|_| {
        let code = "m = n\nimport time; time.sleep(0.01)\nn = m + 1";
        run(sandbox.run_code(code))
    });
    futures_util::future::join_all(calls).await;
    assert_eq!(run(sandbox.run_code("n")).await.text(), Some("8"));
}

#[tokio::test]
async fn much_output_is_kept_to_a_limit() {
    sandbox!(sandbox);
    let done = run(sandbox.run_code("print('x' * (80 << 20))")).await;
    assert_eq!(
        done.stdout.len() as u64 + done.truncated_bytes,
        (80 << 20) + 1
    );
    assert_eq!(done.stdout.len(), 64 << 20);
}
