//! Create to first command without root, beside root, turn by turn.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use stacyvm::SandboxSpec;
use stacyvm::config::Config;
use stacyvm::engine::Engine;
use stacyvm::sandbox::spec::Lifetime;

use crate::Plan;
use crate::measures::{Outcome, text};
use crate::stats::{Samples, print_ratio, print_samples};

/// What the program is called with to be one of the subjects.
pub(crate) const SUBJECT: &str = "--cold";
/// The most that a user without root may take, as a share of root's time.
const BAR: f64 = 1.3;

/// Prints times in microseconds, one a line, of this user.
pub(crate) async fn subject(count: usize) -> Outcome {
    let state = tempfile::tempdir().map_err(text)?;
    let engine = Engine::open(Config::for_state_dir(state.path()))
        .await
        .map_err(text)?;
    for turn in 0..=count {
        let start = Instant::now();
        let spec = SandboxSpec::host().lifetime(Lifetime::Attached);
        let sandbox = engine.create(spec).await.map_err(text)?;
        let output = sandbox.exec(["/bin/true"]).output().await.map_err(text)?;
        let taken = start.elapsed();
        if !output.status.success() {
            return Err(output.status.to_string());
        }
        sandbox.kill().await.map_err(text)?;
        // The first one finds nothing parked, as it does once in each process.
        if turn > 0 {
            println!("{}", taken.as_micros());
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    Ok(())
}

pub(crate) fn rootless(plan: &Plan) -> Outcome {
    let program = std::env::current_exe().map_err(text)?;
    let mut subjects = [
        ("root", None, Samples::default()),
        ("a user with a range", Some("--range"), Samples::default()),
        ("a user without one", Some("--single"), Samples::default()),
    ];
    for _ in 0..plan.blocks {
        for (name, user, samples) in &mut subjects {
            let mut command = match user {
                Some(user) => {
                    let mut command = Command::new("scripts/rootless.sh");
                    command.arg(user).arg(&program);
                    command
                }
                None => Command::new(&program),
            };
            command
                .args([SUBJECT, &plan.block.to_string()])
                .stdin(Stdio::null())
                .stderr(Stdio::inherit());
            let output = tokio::task::block_in_place(|| command.output()).map_err(text)?;
            if !output.status.success() {
                return Err(format!("{name} ended with {}", output.status));
            }
            let lines = String::from_utf8_lossy(&output.stdout).into_owned();
            for line in lines.lines() {
                samples.push(Duration::from_micros(line.parse().map_err(text)?));
            }
        }
    }
    let measure = "create+exec, 30 ms apart";
    let [root, others @ ..] = &subjects;
    for (name, _, samples) in &subjects {
        print_samples(measure, name, samples);
    }
    for (name, _, samples) in others {
        let ours = format!("create+exec of {name}");
        print_ratio(&ours, "root", samples.p50(), root.2.p50(), Some(BAR));
    }
    Ok(())
}
