//! Bytes out of a sandbox and into it.

use std::fmt::Write as _;
use std::process::Command;
use std::time::Instant;

use sha2::{Digest as _, Sha256};
use stacyvm::ExecEvent;
use stacyvm::sandbox::copy::CopyOptions;

use super::{Subject, beside};
use crate::library::Library;
use crate::measures::{Outcome, text};
use crate::peers;
use crate::stats::{Samples, print_samples};

const MIB: u64 = 1 << 20;

pub(super) async fn stdout(subject: &Subject<'_>) -> Outcome {
    let measure = "1 GiB of stdout";
    let argv = ["dd", "if=/dev/zero", "bs=1M", "count=1024"];
    let sandbox = subject.sandbox().await?;
    let container = subject.container()?;
    let mut raw = subject.raw()?;
    let [mut ours, mut theirs] = [(); 2].map(|()| Samples::default());
    for _ in 0..3 {
        let start = Instant::now();
        let mut process = sandbox.exec(argv).start().await.map_err(text)?;
        let mut bytes = 0;
        while let Some(event) = process.next_event().await.map_err(text)? {
            match event {
                ExecEvent::Stdout(chunk) => bytes += chunk.len() as u64,
                ExecEvent::Exited(status) if !status.success() => return Err(status.to_string()),
                _ => {}
            }
        }
        ours.push(start.elapsed());
        if bytes != 1024 * MIB {
            return Err(format!("{bytes} bytes came"));
        }
        let start = Instant::now();
        let bytes = raw.exec(&container.0, &argv)?;
        theirs.push(start.elapsed());
        // What `dd` says of itself is counted too.
        if bytes < 1024 * MIB {
            return Err(format!("{bytes} bytes came from the raw API"));
        }
    }
    print_samples(measure, "stacyvm", &ours);
    // By a socket five times as fast, by a stream of the engine nearly as fast.
    let bar = if subject.runtime == "runc" {
        0.2
    } else {
        1.0 / 0.9
    };
    beside(measure, &ours, "raw API exec", &theirs, Some(bar));
    sandbox.kill().await.map_err(text).map(drop)
}

pub(super) async fn files(subject: &Subject<'_>) -> Outcome {
    let directory = tempfile::tempdir().map_err(text)?;
    let (from, to) = (directory.path().join("in"), directory.path().join("out"));
    let mut content = Vec::new();
    for block in 0..256 * MIB / 32 {
        content.extend_from_slice(&Sha256::digest(block.to_le_bytes()));
    }
    std::fs::write(&from, &content).map_err(text)?;
    let sum = sum_of(&content);
    let sandbox = subject.sandbox().await?;
    let container = subject.container()?;
    let mut library = Library::start("docker-py", subject.image, subject.runtime);
    let [
        mut put,
        mut got,
        mut docker_put,
        mut docker_got,
        mut py_put,
        mut py_got,
    ] = [(); 6].map(|()| Samples::default());
    let inside = format!("{}:/big", container.0);
    for _ in 0..3 {
        let start = Instant::now();
        let files = sandbox.files();
        files
            .copy_in(&from, "/workspace/big", CopyOptions::default())
            .await
            .map_err(text)?;
        put.push(start.elapsed());
        let output = sandbox.exec(["sha256sum", "/workspace/big"]).output().await;
        if !output.map_err(text)?.stdout_text().starts_with(&sum) {
            return Err("another content arrived inside".into());
        }
        let start = Instant::now();
        files
            .copy_out("/workspace/big", &to, CopyOptions::default())
            .await
            .map_err(text)?;
        got.push(start.elapsed());
        if sum_of(&std::fs::read(&to).map_err(text)?) != sum {
            return Err("another content came back".into());
        }
        docker_put.push(peers::time(
            Command::new("docker").arg("cp").arg(&from).arg(&inside),
        )?);
        docker_got.push(peers::time(
            Command::new("docker").arg("cp").arg(&inside).arg(&to),
        )?);
        if let Ok(started) = &mut library {
            let times = started
                .ask(&format!("put {}", from.display()))
                .and_then(|put| Ok((put, started.ask("get")?)));
            match times {
                Ok((put, got)) => {
                    py_put.push(put);
                    py_got.push(got);
                }
                Err(why) => library = Err(why),
            }
        }
    }
    let measures = [
        ("256 MiB in", &put, &docker_put, &py_put),
        ("256 MiB out", &got, &docker_got, &py_got),
    ];
    for (measure, ours, docker, python) in measures {
        print_samples(measure, "stacyvm", ours);
        beside(measure, ours, "docker cp", docker, Some(1.0 / 1.5));
        match &library {
            Ok(_) => beside(measure, ours, "docker-py archive", python, Some(1.0 / 1.5)),
            Err(why) => println!("blocked: docker-py: {why}"),
        }
    }
    sandbox.kill().await.map_err(text).map(drop)
}

fn sum_of(content: &[u8]) -> String {
    let mut text = String::new();
    for byte in Sha256::digest(content) {
        let _ = write!(text, "{byte:02x}");
    }
    text
}
