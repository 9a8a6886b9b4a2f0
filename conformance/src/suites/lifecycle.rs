//! Making, finding and ending sandboxes.

use std::time::{Duration, SystemTime};

use stacyvm::engine::Create;
use stacyvm::sandbox::state::ObservedState;
use stacyvm::{ErrorKind, Filter, Phase, SandboxId, SandboxSpec};

use super::cases;
use crate::case::{Case, Checked, Failure, Level};
use crate::fixture::{Fixture, eventually, refused};
use crate::{ensure, ensure_eq};

const GONE: [ErrorKind; 2] = [ErrorKind::SandboxGone, ErrorKind::NotFound];

pub(super) const CASES: &[Case] = cases! {
    Must "lifecycle.a_command_runs_when_create_returns" ["N1.1"] => a_command_runs;
    Must "lifecycle.the_id_is_the_caller_s" [] => callers_id;
    Must "lifecycle.what_is_there_is_seen_running" [] => seen;
    Must "lifecycle.what_is_there_is_listed_in_order" [] => listed;
    Must "lifecycle.a_list_is_read_in_pages" [] => pages;
    Must "lifecycle.a_second_handle_is_the_same_sandbox" ["E5.6"] needs(FILES) => second_handle;
    Must "lifecycle.env_of_the_spec_reaches_every_command" ["E1.2"] needs(ENV) => spec_env;
    Must "lifecycle.workdir_of_the_spec_is_the_default" ["E1.2"] => spec_workdir;
    Must "lifecycle.user_of_the_spec_is_the_default" ["E1.2"] needs(USERS) => spec_user;
    Must "lifecycle.labels_are_kept_and_found_by" [] => labels;
    Must "lifecycle.a_sandbox_begins_empty" [] needs(FILES) => begins_empty;
    Must "lifecycle.nothing_of_one_is_seen_in_another" ["N1.1"] needs(FILES) => apart;
    Must "lifecycle.destroy_may_be_repeated" ["N1.1"] => destroy_may_be_repeated;
    Must "lifecycle.destroys_at_once_all_succeed" ["N1.1"] => destroys_at_once;
    Must "lifecycle.destroy_of_one_leaves_the_others" ["N1.1"] => others_stay;
    Must "lifecycle.destroy_takes_what_runs_inside" ["E3.5" "N1.1"] => destroy_takes_commands;
    Must "lifecycle.what_ended_is_not_seen_running" ["N1.1"] => ended_is_not_seen;
    Must "lifecycle.an_unknown_id_is_not_found" [] => unknown;
    Must "lifecycle.a_create_that_is_dropped_leaves_nothing_after_destroy" ["N1.1"] => dropped_create;
    Must "lifecycle.the_same_key_gives_the_same_sandbox" [] => same_key;
    Must "lifecycle.the_same_key_with_another_spec_is_a_conflict" [] => other_spec;
    Must "lifecycle.the_same_key_at_once_makes_one" [] => keys_at_once;
    Must "lifecycle.a_life_ends_by_itself" [] needs(TTL) => ttl;
    Must "lifecycle.an_end_is_moved" [] needs(TTL) => moved;
    Must "lifecycle.an_end_is_taken_away" [] needs(TTL) => endless;
    Must "lifecycle.pause_stops_and_resume_goes_on" [] needs(PAUSE) else pause_declined => pause;
    Must "lifecycle.what_is_paused_stands_still" ["E6.3"] needs(PAUSE, FILES, BACKGROUND) => stands_still;
};

async fn a_command_runs(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    f.shell(&sandbox, "true").await?;
    let info = sandbox.info().await?;
    ensure_eq!(info.phase, Phase::Running, "the phase");
    Ok(())
}

async fn callers_id(f: &Fixture) -> Checked {
    let id = f.mint();
    let create = f.engine().create(f.spec()).id(id.clone());
    let sandbox = create.provider(f.provider_name()).await?;
    ensure_eq!(*sandbox.id(), id, "the id");
    let seen = f.provider().inspect(f.context(), &id).await?;
    ensure_eq!(seen.id, id, "the id that the provider sees");
    Ok(())
}

async fn seen(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let seen = f.provider().inspect(f.context(), sandbox.id()).await?;
    ensure_eq!(seen.state, ObservedState::Running, "the state");
    if let Some(created) = seen.created {
        let now = SystemTime::now();
        let off = now.duration_since(created).unwrap_or_else(|e| e.duration());
        ensure!(off < Duration::from_mins(2), "made {off:?} from now");
    }
    Ok(())
}

async fn listed(f: &Fixture) -> Checked {
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(f.sandbox().await?.id().clone());
    }
    ids.sort();
    let all = f.provider().list(f.context(), None, 1000).await?;
    let known: Vec<SandboxId> = all.iter().map(|o| o.id.clone()).collect();
    ensure!(
        known.is_sorted(),
        "the list is not in the order of ids: {known:?}"
    );
    let found: Vec<SandboxId> = known.into_iter().filter(|id| ids.contains(id)).collect();
    ensure_eq!(found, ids, "those that were made");
    Ok(())
}

async fn pages(f: &Fixture) -> Checked {
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(f.sandbox().await?.id().clone());
    }
    ids.sort();
    let (mut after, mut found) = (None, Vec::new());
    for _ in 0..1000 {
        let page = f.provider().list(f.context(), after.as_ref(), 1).await?;
        ensure!(page.len() <= 1, "a page of at most 1 has {}", page.len());
        let Some(one) = page.into_iter().next() else {
            found.retain(|id| ids.contains(id));
            ensure_eq!(found, ids, "those that were made");
            return Ok(());
        };
        ensure!(
            after.as_ref().is_none_or(|a| *a < one.id),
            "a page goes back"
        );
        after = Some(one.id.clone());
        found.push(one.id);
    }
    Err(crate::Failure::broken("the pages do not end"))
}

async fn second_handle(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    sandbox.files().write(f.path("a"), "x").await?;
    let again = f.engine().get(sandbox.id()).await?;
    let read = again.files().read(f.path("a")).await?;
    ensure_eq!(&read[..], b"x", "the file");
    Ok(())
}

async fn spec_env(f: &Fixture) -> Checked {
    let sandbox = f.make(f.spec().env("ONE", "a b")).await?;
    for _ in 0..2 {
        let output = f.shell(&sandbox, "echo \"$ONE\"").await?;
        ensure_eq!(output.stdout_text(), "a b\n", "the variable");
    }
    Ok(())
}

async fn spec_workdir(f: &Fixture) -> Checked {
    let mut spec = f.spec();
    spec.workdir = Some("/tmp".to_owned());
    let sandbox = f.make(spec).await?;
    let output = f.shell(&sandbox, "pwd").await?;
    ensure_eq!(output.stdout_text(), "/tmp\n", "the directory");
    Ok(())
}

async fn spec_user(f: &Fixture) -> Checked {
    let mut spec = f.spec();
    spec.user = Some("root".to_owned());
    let sandbox = f.make(spec).await?;
    let output = sandbox.exec(["id", "-u"]).output().await?;
    ensure_eq!(output.stdout_text(), "0\n", "the user");
    Ok(())
}

async fn labels(f: &Fixture) -> Checked {
    let value = SandboxId::random().to_string();
    let sandbox = f.make(f.spec().label("case", &value)).await?;
    f.sandbox().await?;
    let info = sandbox.info().await?;
    ensure_eq!(info.labels.get("case"), Some(&value), "the label");
    let mut filter = Filter::default();
    filter.labels.insert("case".to_owned(), value);
    let found = f.engine().list(filter).await?;
    let ids: Vec<&SandboxId> = found.iter().map(|info| &info.id).collect();
    ensure_eq!(ids, vec![sandbox.id()], "those with the label");
    Ok(())
}

async fn begins_empty(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    sandbox.files().write(f.path("a"), "x").await?;
    sandbox.kill().await?;
    let sandbox = f.sandbox().await?;
    let read = sandbox.files().read(f.path("a")).await;
    refused(read, &[ErrorKind::NotFound], "a file of another sandbox")?;
    Ok(())
}

async fn apart(f: &Fixture) -> Checked {
    let (one, two) = (f.sandbox().await?, f.sandbox().await?);
    one.files().write(f.path("a"), "one").await?;
    let read = two.files().read(f.path("a")).await;
    refused(read, &[ErrorKind::NotFound], "a file of another sandbox")?;
    two.files().write(f.path("a"), "two").await?;
    let output = f.shell(&one, &format!("cat {}", f.path("a"))).await?;
    ensure_eq!(output.stdout_text(), "one", "the file of the first");
    Ok(())
}

async fn destroy_may_be_repeated(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    sandbox.kill().await?;
    sandbox.kill().await?;
    f.provider().destroy(f.context(), sandbox.id()).await?;
    let ended = sandbox.exec(["true"]).output().await;
    refused(ended, &GONE, "exec after destroy")?;
    Ok(())
}

async fn destroys_at_once(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let all = (0..4).map(|_| f.provider().destroy(f.context(), sandbox.id()));
    for done in futures_util::future::join_all(all).await {
        done?;
    }
    Ok(())
}

async fn others_stay(f: &Fixture) -> Checked {
    let (one, two) = (f.sandbox().await?, f.sandbox().await?);
    one.kill().await?;
    let output = f.shell(&two, "echo here").await?;
    ensure_eq!(output.stdout_text(), "here\n", "what the other says");
    Ok(())
}

async fn destroy_takes_commands(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let mut process = sandbox.exec(["sleep", "60"]).start().await?;
    let (ended, killed) = tokio::join!(process.wait(), sandbox.kill());
    killed?;
    match ended {
        Ok(status) => ensure!(
            matches!(
                status,
                stacyvm::ExitStatus::SandboxGone | stacyvm::ExitStatus::Signal { .. }
            ),
            "the command ended with {status}, expected the end of the sandbox"
        ),
        Err(error) => ensure!(
            GONE.contains(&error.kind()),
            "the command failed with {error}"
        ),
    }
    Ok(())
}

async fn ended_is_not_seen(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    sandbox.kill().await?;
    let seen = f.provider().inspect(f.context(), sandbox.id()).await;
    refused(seen, &GONE, "inspect of one that ended")?;
    ensure_eq!(sandbox.info().await?.phase, Phase::Ended, "the phase");
    let listed = f.engine().list(Filter::default()).await?;
    ensure!(
        listed.iter().all(|i| i.id != *sandbox.id()),
        "it is still listed"
    );
    Ok(())
}

async fn unknown(f: &Fixture) -> Checked {
    let id = SandboxId::random();
    let seen = f.provider().inspect(f.context(), &id).await;
    refused(seen, &GONE, "inspect of an unknown id")?;
    f.provider().destroy(f.context(), &id).await?;
    refused(
        f.engine().get(&id).await,
        &[ErrorKind::NotFound],
        "get of an unknown id",
    )?;
    Ok(())
}

async fn dropped_create(f: &Fixture) -> Checked {
    for wait in [0, 1, 5, 20] {
        let id = f.mint();
        let create = f.engine().create(f.spec()).id(id.clone());
        let create = create.provider(f.provider_name());
        let limit = Duration::from_millis(wait);
        // Either is fine: made in time, or given up.
        drop(tokio::time::timeout(limit, create.into_future()).await);
        match f.engine().get(&id).await {
            Ok(sandbox) => drop(sandbox.kill().await?),
            Err(error) => ensure_eq!(error.kind(), ErrorKind::NotFound, "get of one given up"),
        }
        f.provider().destroy(f.context(), &id).await?;
        let seen = f.provider().inspect(f.context(), &id).await;
        refused(seen, &GONE, "inspect of a create that was given up")?;
    }
    Ok(())
}

/// A create with a key, of the provider under test.
fn keyed(f: &Fixture, spec: SandboxSpec, key: &str) -> Create {
    let create = f.engine().create(spec).id(f.mint());
    create.provider(f.provider_name()).idempotency_key(key)
}

async fn same_key(f: &Fixture) -> Checked {
    let key = SandboxId::random().to_string();
    let one = keyed(f, f.spec(), &key).await?;
    let two = keyed(f, f.spec(), &key).await?;
    ensure_eq!(two.id(), one.id(), "the sandbox of the second call");
    Ok(())
}

async fn other_spec(f: &Fixture) -> Checked {
    let key = SandboxId::random().to_string();
    let one = keyed(f, f.spec(), &key).await?;
    let two = keyed(f, f.spec().label("case", "other"), &key).await;
    refused(
        two,
        &[ErrorKind::Conflict],
        "the same key with another spec",
    )?;
    f.shell(&one, "true").await?;
    Ok(())
}

async fn keys_at_once(f: &Fixture) -> Checked {
    let key = SandboxId::random().to_string();
    let calls = (0..4).map(|_| keyed(f, f.spec(), &key).into_future());
    let mut ids = Vec::new();
    for made in futures_util::future::join_all(calls).await {
        ids.push(made?.id().clone());
    }
    ids.dedup();
    ensure_eq!(
        ids.len(),
        1,
        "how many sandboxes four calls with one key made"
    );
    Ok(())
}

/// Whether nothing runs any more; something may still be left to take away.
async fn has_ended(f: &Fixture, id: &SandboxId) -> Checked<bool> {
    match f.provider().inspect(f.context(), id).await {
        Ok(seen) => Ok(seen.state == ObservedState::Ended),
        Err(error) if GONE.contains(&error.kind()) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

async fn ttl(f: &Fixture) -> Checked {
    let sandbox = f.make(f.spec().ttl(Duration::from_secs(1))).await?;
    let seen = f.provider().inspect(f.context(), sandbox.id()).await?;
    ensure!(seen.ends.is_some(), "no end is seen");
    eventually("its life has ended", || async {
        has_ended(f, sandbox.id()).await
    })
    .await
}

async fn moved(f: &Fixture) -> Checked {
    let sandbox = f.make(f.spec().ttl(Duration::from_mins(10))).await?;
    let ends = || async {
        let seen = f.provider().inspect(f.context(), sandbox.id()).await?;
        let ends = seen.ends;
        ends.ok_or_else(|| crate::Failure::broken("no end is seen"))
    };
    let first = ends().await?;
    sandbox.extend(Duration::from_mins(10)).await?;
    let later = ends().await?.duration_since(first).unwrap_or_default();
    ensure!(
        later > Duration::from_secs(500),
        "moved by {later:?}, expected 600 s"
    );
    sandbox.set_ttl(Some(Duration::from_secs(1))).await?;
    eventually("its life has ended", || async {
        has_ended(f, sandbox.id()).await
    })
    .await
}

async fn endless(f: &Fixture) -> Checked {
    // Long enough for a busy host to come to the next line before it ends.
    let sandbox = f.make(f.spec().ttl(Duration::from_secs(3))).await?;
    sandbox.set_ttl(None).await?;
    tokio::time::sleep(Duration::from_millis(3500)).await;
    f.shell(&sandbox, "true").await?;
    ensure_eq!(sandbox.info().await?.ends, None, "the end");
    Ok(())
}

async fn pause(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    sandbox.pause().await?;
    sandbox.pause().await?;
    ensure_eq!(sandbox.info().await?.phase, Phase::Paused, "the phase");
    sandbox.resume().await?;
    sandbox.resume().await?;
    f.shell(&sandbox, "true").await?;
    Ok(())
}

async fn pause_declined(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let paused = f.provider().pause(f.context(), sandbox.id()).await;
    refused(paused, &[ErrorKind::Unsupported], "pause")?;
    f.shell(&sandbox, "true").await?;
    Ok(())
}

async fn stands_still(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    // Of a clock that goes on meanwhile, the first sleep may have passed; not the second.
    let path = f.path("woke");
    let line = format!("sleep 1; sleep 1; echo x > {path}; sleep 60");
    sandbox.shell(line).background().start().await?;
    sandbox.pause().await?;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    sandbox.resume().await?;
    let resumed = std::time::Instant::now();
    let read = sandbox.files().read(&path).await;
    if resumed.elapsed() > Duration::from_millis(800) {
        let fact = "an answer within 0.8 s after the sandbox went on";
        return Err(Failure::NotRun(fact.to_owned()));
    }
    refused(
        read,
        &[ErrorKind::NotFound],
        "what a paused command would have written",
    )?;
    eventually("the command went on", || async {
        Ok(sandbox.files().read(&path).await.is_ok())
    })
    .await
}
