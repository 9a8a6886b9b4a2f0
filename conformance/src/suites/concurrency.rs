//! Many at once.

use std::time::Duration;

use futures_util::future::join_all;
use stacyvm::ErrorKind;

use super::cases;
use crate::case::{Case, Checked, Level};
use crate::fixture::Fixture;
use crate::{ensure, ensure_eq};

pub(super) const CASES: &[Case] = cases! {
    Must "concurrency.sixty_four_commands_at_once_keep_apart" ["E6.1"] => many_commands;
    Must "concurrency.a_command_that_hangs_blocks_nothing" ["E6.1"] => hung;
    Must "concurrency.many_creates_at_once" [] => many_creates;
    Must "concurrency.many_writers_of_many_files" ["F1.1"] needs(FILES) => many_files;
    Must "concurrency.a_destroy_among_commands_ends_all" ["E3.5" "E6.1"] => destroy_among;
    Must "concurrency.creates_and_destroys_at_once_leave_nothing" ["N1.1"] => churn;
};

async fn many_commands(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let run = async |n: usize| -> Checked {
        let line = format!("echo {n}; echo {n} >&2; exit {n}");
        let output = sandbox.shell(line).output().await?;
        let status = stacyvm::ExitStatus::Code {
            code: i32::try_from(n).unwrap_or_default(),
        };
        ensure_eq!(output.status, status, "the end of {n}");
        ensure_eq!(output.stdout_text(), format!("{n}\n"), "the output of {n}");
        ensure_eq!(output.stderr_text(), format!("{n}\n"), "the errors of {n}");
        Ok(())
    };
    join_all((0..64).map(run)).await.into_iter().collect()
}

async fn hung(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let process = sandbox.exec(["sleep", "300"]).start().await?;
    let quick = async {
        f.shell(&sandbox, "true").await?;
        sandbox.execs().await?;
        sandbox.info().await?;
        sandbox.kill().await?;
        Ok(())
    };
    let done: Result<Checked, _> = tokio::time::timeout(Duration::from_secs(20), quick).await;
    drop(process);
    done.map_err(|_| crate::Failure::broken("a command that hangs blocks others for 20 s"))?
}

async fn many_creates(f: &Fixture) -> Checked {
    let made = join_all((0..8).map(|_| f.sandbox())).await;
    let made = made.into_iter().collect::<Checked<Vec<_>>>()?;
    for (n, sandbox) in made.iter().enumerate() {
        let output = f.shell(sandbox, &format!("echo {n}")).await?;
        ensure_eq!(output.stdout_text(), format!("{n}\n"), "the output of {n}");
    }
    let mut ids: Vec<_> = made.iter().map(|sandbox| sandbox.id().clone()).collect();
    ids.sort();
    ids.dedup();
    ensure_eq!(ids.len(), 8, "how many there are");
    Ok(())
}

async fn many_files(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let write = async |n: usize| -> Checked {
        let (path, text) = (format!("/tmp/{n}"), n.to_string().repeat(1000));
        sandbox.files().write(&path, text.clone()).await?;
        let read = sandbox.files().read(&path).await?;
        ensure!(read == text.as_bytes(), "{path} has other bytes");
        Ok(())
    };
    join_all((0..32).map(write)).await.into_iter().collect()
}

async fn destroy_among(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let mut running = Vec::new();
    for _ in 0..8 {
        running.push(sandbox.exec(["sleep", "300"]).start().await?);
    }
    sandbox.kill().await?;
    for mut process in running {
        match process.wait().await {
            Ok(status) => ensure!(
                !matches!(status, stacyvm::ExitStatus::Code { .. }),
                "a command of a sandbox that was ended exited with {status}"
            ),
            Err(error) => ensure!(
                matches!(error.kind(), ErrorKind::SandboxGone | ErrorKind::NotFound),
                "it failed with {error}"
            ),
        }
    }
    Ok(())
}

async fn churn(f: &Fixture) -> Checked {
    let life = async |_: usize| -> Checked {
        let sandbox = f.sandbox().await?;
        f.shell(&sandbox, "true").await?;
        sandbox.kill().await?;
        Ok(())
    };
    join_all((0..6).map(life)).await.into_iter().collect()
}
