//! The agent, which is the container's first process, is killed from the host: what
//! is in flight ends in time and says so, and nothing is left.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use rustix::process::Signal;
use stacyvm::engine::Filter;
use stacyvm::error::ErrorKind;
use stacyvm::sandbox::spec::Lifetime;
use stacyvm::{ExitStatus, Result, Sandbox};
use tokio::io::AsyncReadExt;

use super::machine::{Machine, Options, signal};
use super::residue::Watch;
use super::{Random, create, eventually, open, rounds, soon};

/// What is in flight.
const DEEDS: &[&str] = &[
    "nothing",
    "run quiet",
    "run loud",
    "run fed",
    "follow",
    "write",
    "read",
    "list",
    "export",
    "dial",
    "listen",
    "pause",
    "kill",
    "create",
];

/// How long a call may go on after the agent is dead.
const SOON: Duration = Duration::from_secs(5);

async fn act(sandbox: &Sandbox, deed: &str) -> Result<Option<ExitStatus>> {
    let files = sandbox.files();
    match deed {
        "run quiet" => {
            let output = sandbox.exec(["sleep", "300"]).output().await?;
            Ok(Some(output.status))
        }
        "run loud" => {
            let output = sandbox.exec(["yes"]).max_output(1024).output().await?;
            Ok(Some(output.status))
        }
        "run fed" => {
            let mut process = sandbox.exec(["cat"]).stdin_pipe().start().await?;
            process.write_stdin("in").await?;
            process.wait().await.map(Some)
        }
        "follow" => {
            let line = "while sleep 0.1; do echo tick; done";
            let process = sandbox.shell(line).background().start().await?;
            let exec = process.detach()?;
            let mut process = sandbox.attach(&exec).await?;
            process.wait().await.map(Some)
        }
        "write" => {
            let piece = bytes::Bytes::from(vec![7; 64 * 1024]);
            let pieces = futures_util::stream::repeat_with(move || Ok(piece.clone()));
            let write = files.write_stream("/workspace/file", Box::pin(pieces.take(1 << 16)));
            write.await.map(|_| None)
        }
        "read" => {
            sandbox
                .shell("head -c 200m /dev/zero >/workspace/big")
                .output()
                .await?;
            loop {
                let (_, mut data) = files.read_stream("/workspace/big").await?;
                while let Some(piece) = data.next().await {
                    piece?;
                }
            }
        }
        "list" => loop {
            let mut entries = files.list_depth("/", 3).await?;
            while let Some(entry) = entries.next().await {
                entry?;
            }
        },
        "export" => {
            sandbox
                .shell("head -c 200m /dev/zero >/workspace/big")
                .output()
                .await?;
            loop {
                let mut archive = files.export_tar("/workspace", true).await?;
                while let Some(piece) = archive.next().await {
                    piece?;
                }
            }
        }
        "dial" => {
            sandbox
                .shell("nc -l -p 4321 -e cat >/dev/null 2>&1 &")
                .output()
                .await?;
            let mut connection = loop {
                match sandbox.dial(4321).await {
                    Ok(connection) => break connection,
                    Err(error) if error.kind() == ErrorKind::SandboxGone => return Err(error),
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            };
            // An end of file or an error: there is no other word for it.
            let _ = connection.read_to_end(&mut Vec::new()).await;
            Ok(Some(ExitStatus::SandboxGone))
        }
        "listen" => {
            let mut listener = sandbox.listen(4322).await?;
            while let Some(Ok(_)) = listener.incoming.next().await {}
            Ok(Some(ExitStatus::SandboxGone))
        }
        other => panic!("no deed {other}"),
    }
}

struct Scene {
    machine: Machine,
    _place: tempfile::TempDir,
    state: std::path::PathBuf,
    engine: stacyvm::engine::Engine,
    watch: Watch,
}

impl Scene {
    async fn agent(&self, sandbox: &Sandbox) -> u32 {
        let inside = sandbox.info().await.unwrap().host_pid.unwrap();
        self.machine.outside(inside).expect("the agent runs")
    }

    async fn round(&self, deed: &str, after: Duration) -> Vec<String> {
        let at = format!("{deed} after {after:?}");
        let mut wrong = Vec::new();
        if deed == "create" {
            self.create_without(&at, after, &mut wrong).await;
        } else {
            let sandbox = soon(create(&self.engine, Lifetime::Detached))
                .await
                .unwrap();
            let agent = self.agent(&sandbox).await;
            match deed {
                "nothing" => signal(agent, Signal::KILL),
                "pause" => {
                    sandbox.pause().await.unwrap();
                    signal(agent, Signal::KILL);
                }
                "kill" => {
                    signal(agent, Signal::KILL);
                    let killed = tokio::time::timeout(SOON, sandbox.kill()).await;
                    if !matches!(killed, Ok(Ok(_))) {
                        wrong.push(format!("{at}: {killed:?}"));
                    }
                }
                _ => {
                    let work = act(&sandbox, deed);
                    tokio::pin!(work);
                    let early = tokio::time::timeout(after, &mut work).await;
                    if let Ok(early) = early {
                        wrong.push(format!("{at}: it ended before: {early:?}"));
                        soon(sandbox.kill()).await.unwrap();
                        return wrong;
                    }
                    signal(agent, Signal::KILL);
                    let begun = Instant::now();
                    match tokio::time::timeout(SOON, &mut work).await {
                        Ok(Ok(Some(ExitStatus::SandboxGone))) => {}
                        Ok(Err(error)) if error.kind() == ErrorKind::SandboxGone => {}
                        other => {
                            let took = begun.elapsed();
                            wrong.push(format!("{at}: it ended so after {took:?}: {other:?}"));
                        }
                    }
                }
            }
            if deed != "kill" && deed != "pause" {
                let next = tokio::time::timeout(SOON, sandbox.exec(["true"]).output()).await;
                let gone = |kind| matches!(kind, ErrorKind::SandboxGone | ErrorKind::NotFound);
                if !matches!(&next, Ok(Err(error)) if gone(error.kind())) {
                    wrong.push(format!("{at}: a command after it: {next:?}"));
                }
            }
            if deed == "pause" {
                soon(sandbox.kill()).await.unwrap();
            }
        }
        // One that is just ending is not listed, and not taken away.
        let mut left = BTreeSet::new();
        let settled = eventually(async || {
            self.engine.reconcile().await.unwrap();
            left = self.watch.changed(&self.machine, &self.state).await;
            left.is_empty()
        });
        if !settled.await {
            wrong.push(format!("{at}: {left:?}"));
        }
        let listed = self.engine.list(Filter::default()).await.unwrap();
        if !listed.is_empty() {
            wrong.push(format!("{at}: it is still listed: {listed:?}"));
        }
        wrong
    }

    /// Kills the agent of a create at this moment after it came to be.
    async fn create_without(&self, at: &str, after: Duration, wrong: &mut Vec<String>) {
        let mut making = Box::pin(create(&self.engine, Lifetime::Detached));
        let find = async {
            loop {
                let all = self.machine.processes();
                if let Some(agent) = all.iter().find(|p| p.title == "stacyvm-agent") {
                    tokio::time::sleep(after / 20).await;
                    signal(agent.pid, Signal::KILL);
                    return;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let made = tokio::select! {
            made = &mut making => Some(made),
            () = find => None,
        };
        let made = match made {
            Some(made) => made,
            None => soon(making).await,
        };
        match made {
            Ok(sandbox) => {
                // It was made just before.
                soon(sandbox.kill()).await.unwrap();
            }
            Err(error) => {
                let kinds = [ErrorKind::Unavailable, ErrorKind::SandboxGone];
                if !kinds.contains(&error.kind()) {
                    wrong.push(format!("{at}: {error:?}"));
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_in_flight() {
    let Some(machine) = Machine::start("agent", Options::default()) else {
        return;
    };
    let place = tempfile::tempdir().unwrap();
    let state = place.path().join("state");
    let engine = open(&state, &machine.host).await;
    let first = soon(create(&engine, Lifetime::Detached)).await.unwrap();
    first.kill().await.unwrap();
    let watch = Watch::begin(&machine, &state).await;
    let scene = Scene {
        machine,
        _place: place,
        state,
        engine,
        watch,
    };
    let mut random = Random::seeded(1);
    let mut deeds = DEEDS.to_vec();
    let mut wrong = Vec::new();
    for _ in 0..rounds().unwrap_or(1) {
        random.shuffle(&mut deeds);
        for deed in &deeds {
            let after = Duration::from_millis(100 + random.below(400));
            let begun = Instant::now();
            let new = scene.round(deed, after).await;
            println!("{deed}: {:?}, wrong: {new:?}", begun.elapsed());
            wrong.extend(new);
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
