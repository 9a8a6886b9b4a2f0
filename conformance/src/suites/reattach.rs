//! A second engine over the same provider, as after a restart or in another process.

use std::time::Duration;

use stacyvm::sandbox::spec::{Lifetime, SandboxSpec};
use stacyvm::{ErrorKind, ExecEvent, Filter, Phase, Sandbox, SignalScope};

use super::cases;
use super::common::{GONE, ms, signal, soon, until};
use crate::case::{Case, Checked, Failure, Level};
use crate::fixture::{Fixture, refused};
use crate::harness::Subject;
use crate::{ensure, ensure_eq};

pub(super) const CASES: &[Case] = cases! {
    Must "reattach.another_engine_finds_it_and_runs_in_it" ["E5.6"] => finds_and_runs;
    Must "reattach.another_engine_sees_what_the_first_sees" ["T3.4"] => sees;
    Must "reattach.another_engine_reads_and_writes_its_files" ["N1.23"] needs(FILES) => files;
    Must "reattach.another_engine_follows_a_command" ["E5.2" "E5.6"] needs(BACKGROUND, REATTACH) => follows;
    Must "reattach.another_engine_ends_a_command" ["E5.6"] needs(BACKGROUND) => ends_a_command;
    Must "reattach.another_engine_ends_it" ["N1.23"] => ends_it;
    Must "reattach.two_end_it_at_once" ["N1.1" "N1.23"] => both_end_it;
    Must "reattach.another_engine_moves_its_end" ["N1.24"] needs(TTL) => moves_its_end;
    Must "reattach.what_one_paused_another_resumes" [] needs(PAUSE) => resumes;
    Must "reattach.it_goes_on_when_its_engine_is_gone" ["N1.24"] needs(BACKGROUND) => outlives_its_engine;
    Must "reattach.another_engine_finds_it_by_its_labels" ["T3.4"] => labels;
    Must "reattach.one_key_in_two_engines_is_one_sandbox" ["N1.3"] => one_key;
};

/// One that no engine's end takes along.
fn lasting(f: &Fixture) -> SandboxSpec {
    let spec = f.spec().lifetime(Lifetime::Detached);
    match f.claims().ttl {
        stacyvm::provider::Level::Absent => spec,
        _ => spec.ttl(Duration::from_mins(3)),
    }
}

/// A sandbox, and the same one as a second engine finds it. That engine comes with it.
async fn in_two(f: &Fixture) -> Checked<(Sandbox, Sandbox, Subject)> {
    let other = f.reopen().await?;
    let first = f.make(lasting(f)).await?;
    let second = other.engine().get(first.id()).await?;
    Ok((first, second, other))
}

async fn finds_and_runs(f: &Fixture) -> Checked {
    let (first, second, _other) = in_two(f).await?;
    for sandbox in [&second, &first, &second] {
        let output = f.shell(sandbox, "echo here").await?;
        ensure_eq!(output.stdout_text(), "here\n", "what it says");
    }
    Ok(())
}

async fn sees(f: &Fixture) -> Checked {
    let (first, second, other) = in_two(f).await?;
    let seen = other.provider().inspect(f.context(), first.id()).await?;
    ensure_eq!(seen.id, *first.id(), "the id");
    let (mine, its) = (first.info().await?, second.info().await?);
    ensure_eq!(its.phase, Phase::Running, "the phase");
    // It may be told as what is left of it, on another clock.
    let ends = mine.ends.zip(its.ends);
    let apart = ends.map(|(a, b)| a.duration_since(b).unwrap_or_else(|error| error.duration()));
    ensure!(
        mine.ends.is_some() == its.ends.is_some() && apart.unwrap_or_default() < ms(1000),
        "its ends are {:?} and {:?}",
        mine.ends,
        its.ends
    );
    ensure_eq!(its.effective, mine.effective, "what is in force");
    let listed = other.provider().list(f.context(), None, 1000).await?;
    ensure!(
        listed.iter().any(|one| one.id == *first.id()),
        "it is not listed"
    );
    Ok(())
}

async fn files(f: &Fixture) -> Checked {
    let (first, second, _other) = in_two(f).await?;
    first.files().write(f.path("a"), "first").await?;
    let read = second.files().read(f.path("a")).await?;
    ensure_eq!(&read[..], b"first", "what the second one reads");
    second.files().write(f.path("a"), "second").await?;
    let read = first.files().read(f.path("a")).await?;
    ensure_eq!(&read[..], b"second", "what the first one reads");
    Ok(())
}

async fn follows(f: &Fixture) -> Checked {
    let (first, second, _other) = in_two(f).await?;
    let line = "echo begun; sleep 60";
    let id = first.shell(line).background().start().await?.detach()?;
    let listed = second.execs().await?;
    let info = listed.iter().find(|info| info.exec == id);
    ensure!(
        info.is_some_and(|info| info.background && info.exited.is_none()),
        "the command is listed as {info:?}"
    );
    let mut again = second.attach(&id).await?;
    until(&mut again, "begun").await?;
    second.signal(&id, 15, SignalScope::Tree).await?;
    let status = soon("its end", again.wait()).await??;
    ensure_eq!(status, signal(15), "its end");
    Ok(())
}

async fn ends_a_command(f: &Fixture) -> Checked {
    let (first, second, _other) = in_two(f).await?;
    let mut process = first
        .shell("echo begun; sleep 60")
        .background()
        .start()
        .await?;
    until(&mut process, "begun").await?;
    second.signal(process.id(), 9, SignalScope::Tree).await?;
    let status = soon("its end", process.wait()).await??;
    ensure_eq!(status, signal(9), "the end that the first one is told");
    Ok(())
}

async fn ends_it(f: &Fixture) -> Checked {
    let (first, second, other) = in_two(f).await?;
    let mut process = first.shell("echo begun; sleep 60").start().await?;
    until(&mut process, "begun").await?;
    second.kill().await?;
    loop {
        match soon("the end of its command", process.next_event()).await? {
            Ok(Some(ExecEvent::Exited(status))) => {
                ensure!(!status.success(), "its command ended with {status}");
                break;
            }
            Ok(Some(_)) => {}
            Ok(None) => return Err(Failure::broken("its command's events ended without an end")),
            Err(error) => {
                ensure!(
                    GONE.contains(&error.kind()),
                    "its command failed with {error}"
                );
                break;
            }
        }
    }
    let run = first.exec(["true"]).output().await;
    refused(run, &GONE, "a command in what another engine ended")?;
    ensure_eq!(
        first.info().await?.phase,
        Phase::Ended,
        "the phase for the first"
    );
    let seen = other.provider().inspect(f.context(), first.id()).await;
    refused(seen, &GONE, "a look at what ended")?;
    first.kill().await?;
    Ok(())
}

async fn both_end_it(f: &Fixture) -> Checked {
    let (first, second, _other) = in_two(f).await?;
    let (one, two) = tokio::join!(first.kill(), second.kill());
    one?;
    two?;
    ensure_eq!(second.info().await?.phase, Phase::Ended, "the phase");
    Ok(())
}

async fn moves_its_end(f: &Fixture) -> Checked {
    let (first, second, _other) = in_two(f).await?;
    let before = first.info().await?.ends;
    second.extend(Duration::from_mins(10)).await?;
    let after = first.info().await?.ends;
    let (Some(before), Some(after)) = (before, after) else {
        return Err(Failure::broken(format!(
            "its ends are {before:?} and {after:?}"
        )));
    };
    let by = after.duration_since(before).unwrap_or_default();
    ensure!(
        by > Duration::from_secs(500),
        "the first one sees an end that is {by:?} later, expected 600 s"
    );
    Ok(())
}

async fn resumes(f: &Fixture) -> Checked {
    let (first, second, _other) = in_two(f).await?;
    first.pause().await?;
    ensure_eq!(
        second.info().await?.phase,
        Phase::Paused,
        "the phase for the second"
    );
    second.resume().await?;
    f.shell(&first, "true").await?;
    ensure_eq!(
        first.info().await?.phase,
        Phase::Running,
        "the phase for the first"
    );
    Ok(())
}

async fn outlives_its_engine(f: &Fixture) -> Checked {
    let other = f.reopen().await?;
    let create = other.engine().create(lasting(f)).id(f.mint());
    let made = create.provider(f.provider_name()).await?;
    let id = made.id().clone();
    let exec = made
        .exec(["sleep", "60"])
        .background()
        .start()
        .await?
        .detach()?;
    drop(made);
    other.end().await?;
    let found = f.engine().get(&id).await?;
    f.shell(&found, "true").await?;
    let all = found.execs().await?;
    let info = all.iter().find(|info| info.exec == exec);
    ensure!(
        info.is_some_and(|info| info.exited.is_none()),
        "its background command is {info:?} after its engine was gone"
    );
    Ok(())
}

async fn labels(f: &Fixture) -> Checked {
    let other = f.reopen().await?;
    let value = stacyvm::SandboxId::random().to_string();
    let spec = lasting(f).label("case", &value).label("of", "two");
    let first = f.make(spec).await?;
    f.make(lasting(f).label("of", "two")).await?;
    let mut filter = Filter::default();
    filter.labels.insert("case".to_owned(), value.clone());
    filter.labels.insert("of".to_owned(), "two".to_owned());
    let found = other.engine().list(filter.clone()).await?;
    let ids: Vec<_> = found.iter().map(|info| info.id.clone()).collect();
    ensure_eq!(ids, [first.id().clone()], "those with both labels");
    ensure_eq!(found[0].labels.get("case"), Some(&value), "the label");
    filter.labels.insert("of".to_owned(), "three".to_owned());
    let found = other.engine().list(filter).await?;
    ensure!(
        found.is_empty(),
        "one is found by a label that it has not: {found:?}"
    );
    Ok(())
}

async fn one_key(f: &Fixture) -> Checked {
    let other = f.reopen().await?;
    let key = stacyvm::SandboxId::random().to_string();
    let one = f
        .engine()
        .create(lasting(f))
        .id(f.mint())
        .provider(f.provider_name());
    let one = one.idempotency_key(&key).await?;
    let two = other
        .engine()
        .create(lasting(f))
        .provider(f.provider_name());
    let two = two.idempotency_key(&key).await?;
    ensure_eq!(two.id(), one.id(), "the sandbox of the second call");
    let third = lasting(f).label("case", "other");
    let third = other
        .engine()
        .create(third)
        .id(f.mint())
        .provider(f.provider_name());
    let third = third.idempotency_key(&key).await;
    refused(
        third,
        &[ErrorKind::Conflict],
        "the same key with another spec",
    )?;
    Ok(())
}
