//! Background commands and survivors: found, followed and ended again.

use futures_util::StreamExt as _;
use stacyvm::sandbox::exec::{AttachOptions, ExecInfo, LogOptions};
use stacyvm::{ErrorKind, ExecEvent, ExecId, ExecSpec, ExitStatus, Sandbox, SignalScope};

use super::cases;
use super::common::{
    Seen, code, declined, ended, follow, holds_soon, ms, pattern, same_bytes, signal, soon, until,
};
use crate::case::{Case, Checked, Failure, Level};
use crate::fixture::{Fixture, refused};
use crate::{ensure, ensure_eq};

pub(super) const CASES: &[Case] = cases! {
    Must "background.a_command_is_listed_as_it_is" ["E5.1" "E5.2"] needs(BACKGROUND) else background_declined => listed;
    Must "background.a_command_outlives_its_caller_and_tells_its_end" ["E5.2"] needs(BACKGROUND, REATTACH) else background_declined => outlives;
    Must "background.a_dropped_process_leaves_it_alone" ["E5.2"] needs(BACKGROUND, REATTACH) => dropped;
    Must "background.a_foreground_command_cannot_be_detached" ["E4.2"] => foreground_detached;
    Must "background.another_handle_finds_follows_and_ends_it" ["E5.6"] needs(BACKGROUND, REATTACH) => another_handle;
    Must "background.a_later_follower_gets_what_was_written" ["E5.4"] needs(BACKGROUND, REATTACH) => replayed;
    Must "background.a_follower_without_replay_gets_what_comes" ["E5.4"] needs(BACKGROUND, REATTACH) => not_replayed;
    Must "background.an_ended_command_is_remembered" ["E5.2" "E5.4"] needs(BACKGROUND, REATTACH) => remembered;
    Must "background.a_second_follower_takes_over_and_the_first_is_told" ["E5.5"] needs(BACKGROUND, REATTACH) => taken_over;
    Must "background.what_nobody_read_is_kept_or_counted" ["E5.3"] needs(BACKGROUND, REATTACH, FILES) => counted;
    Must "background.a_survivor_is_listed_under_its_command" ["E5.1"] needs(REATTACH) => survivor;
    Must "background.a_survivor_is_ended_by_the_id_of_its_command" ["E5.1"] needs(TREE) => survivor_ended;
    Must "background.what_is_kept_is_read_while_it_runs_and_after_the_end" ["E5.4"] needs(BACKGROUND, REATTACH) => logs;
    Must "background.a_reader_of_what_is_kept_disturbs_nobody" ["E5.4" "E5.5"] needs(BACKGROUND, REATTACH) => quiet_reader;
    Must "background.an_id_is_used_as_given_and_once" ["E5.6"] => given_id;
    Must "background.a_command_that_is_unknown_is_not_found" ["E5.6"] needs(REATTACH) else reattach_declined => unknown;
    Must "background.input_may_come_from_a_later_follower" ["E5.2"] needs(BACKGROUND, REATTACH, STDIN) => later_input;
    Must "background.a_deadline_holds_without_a_follower" ["E4.1" "E5.2"] needs(BACKGROUND) => deadline;
    Must "background.the_end_of_the_sandbox_is_told_to_its_follower" ["E3.5"] needs(BACKGROUND) => sandbox_gone;
};

const REPLAY: AttachOptions = AttachOptions {
    stdin: false,
    replay: true,
};

async fn start(sandbox: &Sandbox, line: &str) -> Checked<ExecId> {
    Ok(sandbox.shell(line).background().start().await?.detach()?)
}

async fn info(sandbox: &Sandbox, exec: &ExecId) -> Checked<ExecInfo> {
    let all = sandbox.execs().await?;
    let found = all.iter().find(|info| info.exec == *exec).cloned();
    found.ok_or_else(|| {
        let ids: Vec<&ExecId> = all.iter().map(|info| &info.exec).collect();
        Failure::broken(format!("{exec} is not listed; listed are {ids:?}"))
    })
}

async fn until_ended(sandbox: &Sandbox, exec: &ExecId) -> Checked {
    holds_soon!(
        "the command is listed as ended",
        info(sandbox, exec).await?.exited.is_some()
    );
    Ok(())
}

async fn listed(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let background = sandbox.exec(["sleep", "33"]).background().start().await?;
    let pid = background.pid();
    let exec = background.detach()?;
    let foreground = sandbox.exec(["sleep", "34"]).start().await?;
    let seen = info(&sandbox, &exec).await?;
    ensure_eq!(seen.argv, ["sleep", "33"], "its arguments");
    ensure_eq!(
        (
            seen.background,
            seen.tty,
            seen.exited,
            seen.processes,
            seen.pid
        ),
        (true, false, None, 1, pid),
        "whether it runs in the background, has a terminal, its end, its processes, its number"
    );
    ensure!(seen.started.is_some(), "it has no time of start");
    let seen = info(&sandbox, foreground.id()).await?;
    ensure_eq!(
        (seen.background, seen.exited),
        (false, None),
        "whether the other one runs in the background, and its end"
    );
    Ok(())
}

async fn background_declined(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    if f.claims().exec_background {
        return reattach_declined(f).await;
    }
    let path = f.path("ran");
    let mut spec = ExecSpec::shell(format!("echo x > {path}; sleep 1"));
    spec.background = true;
    let call = f.provider().exec(f.context(), sandbox.id(), &spec);
    declined(f, &sandbox, "a background command", call).await?;
    let ran = sandbox.exec(["cat", &path]).output().await?;
    ensure!(!ran.status.success(), "what was refused ran");
    Ok(())
}

async fn reattach_declined(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let process = sandbox.exec(["sleep", "5"]).start().await?;
    let call = f
        .provider()
        .attach(f.context(), sandbox.id(), process.id(), REPLAY);
    declined(f, &sandbox, "following a command again", call).await
}

async fn outlives(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let line = "sleep 0.3; echo done; echo err >&2; exit 5";
    let exec = start(&sandbox, line).await?;
    tokio::time::sleep(ms(100)).await;
    let mut again = sandbox.attach(&exec).await?;
    ensure_eq!(again.id(), &exec, "the id of what is followed");
    let seen = follow(&mut again).await?;
    ensure_eq!(
        (seen.text(), seen.err.as_slice(), seen.lost),
        ("done\n".to_owned(), b"err\n".as_slice(), 0),
        "what it wrote and what was lost"
    );
    ended(&seen, code(5), line)
}

async fn dropped(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let line = "echo begun; sleep 0.4; echo done; exit 6";
    let mut process = sandbox.shell(line).background().start().await?;
    let exec = process.id().clone();
    until(&mut process, "begun\n").await?;
    drop(process);
    let mut again = sandbox.attach(&exec).await?;
    let seen = follow(&mut again).await?;
    ensure!(
        seen.text().ends_with("done\n"),
        "it wrote {:?}, expected `done` at the end",
        seen.text()
    );
    ended(&seen, code(6), line)
}

async fn foreground_detached(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let path = f.path("alive");
    let line = format!("echo ready; sleep 0.8; echo alive > {path}");
    let mut process = sandbox.shell(line).start().await?;
    until(&mut process, "ready\n").await?;
    refused(process.detach(), &[ErrorKind::Conflict], "detach")?;
    tokio::time::sleep(ms(1200)).await;
    let alive = sandbox.exec(["cat", &path]).output().await?;
    ensure!(!alive.status.success(), "it went on, expected its end");
    Ok(())
}

async fn another_handle(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let exec = start(&sandbox, "echo first; sleep 40").await?;
    let found = f.engine().get(sandbox.id()).await?;
    info(&found, &exec).await?;
    let mut again = found.attach(&exec).await?;
    until(&mut again, "first\n").await?;
    // And by those who know the ids alone.
    let all = f.provider().list_execs(f.context(), sandbox.id()).await?;
    ensure!(
        all.iter().any(|one| one.exec == exec),
        "the provider does not list {exec}"
    );
    let ending = f
        .provider()
        .signal_exec(f.context(), sandbox.id(), &exec, 9, SignalScope::Tree);
    ending.await?;
    let end = soon("the end by another handle", again.wait()).await??;
    ensure_eq!(end, signal(9), "the end");
    Ok(())
}

async fn replayed(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let line = "echo one; echo err >&2; sleep 0.4; echo two; exit 2";
    let exec = start(&sandbox, line).await?;
    tokio::time::sleep(ms(200)).await;
    for _ in 0..2 {
        let mut again = sandbox.attach(&exec).await?;
        until(&mut again, "one\n").await?;
    }
    let seen = follow(&mut sandbox.attach(&exec).await?).await?;
    ensure_eq!(
        (seen.text(), seen.err.as_slice(), seen.lost),
        ("one\ntwo\n".to_owned(), b"err\n".as_slice(), 0),
        "what the third follower got, and what was lost"
    );
    ended(&seen, code(2), line)
}

async fn not_replayed(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let line = "echo old; sleep 0.6; echo new; exit 2";
    let exec = start(&sandbox, line).await?;
    tokio::time::sleep(ms(250)).await;
    let options = AttachOptions::default();
    let seen = follow(&mut sandbox.attach_with(&exec, options).await?).await?;
    ensure_eq!(seen.text(), "new\n", "what a follower without replay got");
    ended(&seen, code(2), line)
}

async fn remembered(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let line = "echo said; exit 9";
    let exec = start(&sandbox, line).await?;
    until_ended(&sandbox, &exec).await?;
    let seen = info(&sandbox, &exec).await?;
    ensure_eq!(
        (seen.exited, seen.processes),
        (Some(code(9)), 0),
        "its end and its processes"
    );
    for _ in 0..2 {
        let seen = follow(&mut sandbox.attach(&exec).await?).await?;
        ensure_eq!(seen.text(), "said\n", "what it wrote");
        ended(&seen, code(9), line)?;
    }
    Ok(())
}

async fn taken_over(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let line = "echo one; sleep 0.5; echo two; exit 3";
    let exec = start(&sandbox, line).await?;
    let mut first = sandbox.attach(&exec).await?;
    until(&mut first, "one\n").await?;
    let mut second = sandbox.attach(&exec).await?;
    let told = soon("what the first follower is told", first.next_event()).await?;
    refused(
        told,
        &[ErrorKind::Cancelled, ErrorKind::Conflict],
        "the next event of a follower that was replaced",
    )?;
    drop(first);
    let seen = follow(&mut second).await?;
    ensure!(
        seen.text().ends_with("two\n"),
        "the second follower got {:?}, expected `two` at the end",
        seen.text()
    );
    ended(&seen, code(3), line)
}

async fn counted(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let part = pattern(1 << 20);
    let path = f.path("part");
    sandbox.files().write(&path, part.clone()).await?;
    let line = format!("cat{}", format!(" {path}").repeat(20));
    let exec = start(&sandbox, &line).await?;
    until_ended(&sandbox, &exec).await?;
    let seen = follow(&mut sandbox.attach(&exec).await?).await?;
    ensure_eq!(
        seen.lost + seen.out.len() as u64,
        20 << 20,
        "the bytes that were lost ({}) and read",
        seen.lost
    );
    ensure!(!seen.out.is_empty(), "nothing was kept");
    // The newest are kept.
    let tail = seen.out.len().min(part.len());
    same_bytes(
        &seen.out[seen.out.len() - tail..],
        &part[part.len() - tail..],
        "the end of what was kept",
    )?;
    ended(&seen, code(0), &line)
}

async fn survivor(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let mut process = sandbox
        .shell("(sleep 0.4; echo late; sleep 40) & echo early; exit 4")
        .start()
        .await?;
    let exec = process.id().clone();
    let seen = follow(&mut process).await?;
    ensure_eq!(seen.text(), "early\n", "what came before the end");
    let listed = info(&sandbox, &exec).await?;
    ensure_eq!(listed.exited, Some(code(4)), "the end of its first process");
    ensure!(
        listed.processes >= 1,
        "it has {} processes, expected its survivor",
        listed.processes
    );
    holds_soon!("what the survivor wrote is kept", {
        let seen = read(f, &sandbox, &exec, false).await?;
        seen.text().ends_with(
            "late
",
        )
    });
    Ok(())
}

async fn survivor_ended(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let path = f.path("late");
    let line = format!(
        "(sleep 0.9; echo a >> {path}) & (setsid sh -c 'sleep 0.9; echo b >> {path}' &); sleep 0.1"
    );
    let mut process = sandbox.shell(&line).start().await?;
    let exec = process.id().clone();
    ended(&follow(&mut process).await?, code(0), &line)?;
    sandbox.signal(&exec, 9, SignalScope::Tree).await?;
    tokio::time::sleep(ms(1300)).await;
    let late = f
        .shell(&sandbox, &format!("cat {path} 2> /dev/null; true"))
        .await?;
    ensure_eq!(late.stdout_text(), "", "which survivors went on");
    let gone = sandbox.execs().await?;
    let left = gone.iter().find(|one| one.exec == exec);
    ensure_eq!(
        left.map_or(0, |one| one.processes),
        0,
        "the processes of the command"
    );
    Ok(())
}

async fn read(f: &Fixture, sandbox: &Sandbox, exec: &ExecId, wait: bool) -> Checked<Seen> {
    let options = LogOptions {
        follow: wait,
        age: None,
    };
    let mut log = f
        .provider()
        .read_log(f.context(), sandbox.id(), exec, options)
        .await?;
    let mut seen = Seen::default();
    while let Some(event) = soon("the next of what is kept", log.next()).await? {
        ensure!(seen.ends.is_empty(), "{event:?} came after the end");
        seen.take(event?);
    }
    Ok(seen)
}

async fn logs(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let line = "echo one; echo err >&2; sleep 0.7; echo two; exit 3";
    let exec = start(&sandbox, line).await?;
    tokio::time::sleep(ms(250)).await;
    let seen = read(f, &sandbox, &exec, false).await?;
    ensure_eq!(
        (seen.text(), seen.err.as_slice(), seen.ends.as_slice()),
        (
            "one
"
            .to_owned(),
            b"err\n".as_slice(),
            &[] as &[ExitStatus]
        ),
        "what is read while it runs"
    );
    for wait in [true, false, false] {
        let seen = read(f, &sandbox, &exec, wait).await?;
        ensure_eq!(
            seen.text(),
            "one\ntwo\n",
            "what is read to its end and after it"
        );
        ended(&seen, code(3), line)?;
    }
    Ok(())
}

async fn quiet_reader(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let line = "echo one; sleep 0.4; echo two; exit 3";
    let mut process = sandbox.shell(line).background().start().await?;
    let exec = process.id().clone();
    until(&mut process, "one\n").await?;
    for _ in 0..3 {
        let seen = read(f, &sandbox, &exec, false).await?;
        ensure_eq!(seen.text(), "one\n", "what the reader got");
    }
    let seen = follow(&mut process).await?;
    ensure_eq!(seen.text(), "two\n", "what the follower got after it");
    ended(&seen, code(3), line)
}

async fn given_id(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let exec = ExecId::random();
    let line = "echo ready; sleep 0.6; exit 8";
    let mut process = sandbox.shell(line).id(exec.clone()).start().await?;
    ensure_eq!(process.id(), &exec, "the id of the command");
    until(&mut process, "ready\n").await?;
    info(&sandbox, &exec).await?;
    let again = sandbox
        .shell(format!("echo x > {}", f.path("again")))
        .id(exec.clone());
    refused(
        again.output().await,
        &[ErrorKind::AlreadyExists, ErrorKind::Conflict],
        "a second command of the same id",
    )?;
    ended(&follow(&mut process).await?, code(8), line)?;
    let ran = sandbox.exec(["cat", &f.path("again")]).output().await?;
    ensure!(!ran.status.success(), "the second one ran");
    Ok(())
}

async fn unknown(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let exec = ExecId::random();
    let attached = sandbox.attach(&exec).await;
    refused(attached, &[ErrorKind::NotFound], "following an unknown id")?;
    let read = f
        .provider()
        .read_log(f.context(), sandbox.id(), &exec, LogOptions::default())
        .await;
    refused(
        read.map(|_| "a log"),
        &[ErrorKind::NotFound],
        "reading of an unknown id",
    )?;
    Ok(())
}

async fn later_input(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let command = sandbox.exec(["cat"]).stdin_pipe().background();
    let exec = command.start().await?.detach()?;
    let writes = AttachOptions {
        stdin: true,
        replay: true,
    };
    let mut again = sandbox.attach_with(&exec, writes).await?;
    again.write_stdin("from a later one\n").await?;
    until(&mut again, "from a later one\n").await?;
    again.close_stdin().await?;
    ended(&follow(&mut again).await?, code(0), "cat")
}

async fn deadline(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let command = sandbox.exec(["sleep", "30"]).background();
    let exec = command.timeout(ms(300)).start().await?.detach()?;
    until_ended(&sandbox, &exec).await?;
    let expected = ExitStatus::TimedOut {
        sandbox_ended: false,
    };
    let seen = info(&sandbox, &exec).await?;
    ensure_eq!(seen.exited, Some(expected), "its end");
    Ok(())
}

async fn sandbox_gone(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let command = sandbox.shell("echo ready; sleep 30").background();
    let mut process = command.start().await?;
    until(&mut process, "ready\n").await?;
    sandbox.kill().await?;
    let event = soon("the end of the sandbox", process.next_event()).await??;
    ensure_eq!(
        event,
        Some(ExecEvent::Exited(ExitStatus::SandboxGone)),
        "what a follower is told"
    );
    Ok(())
}
