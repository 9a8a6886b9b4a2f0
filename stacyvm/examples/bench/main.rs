//! The measures of `docs/specification.md`, interleaved with peers in one run
//! and printed as ratios. `scripts/bench.sh` sets the peers up and calls this.
//!
//! ```sh
//! scripts/bench.sh [--quick] [create|image|pool|exec|stream|idle|fork|destroy|crowd|abuse|rootless|wire|docker|bindings]...
//! ```
#![expect(clippy::print_stdout, reason = "what it prints is its result")]

mod abuse;
mod bindings;
mod crowd;
#[cfg(feature = "docker")]
mod docker;
#[cfg(feature = "image")]
mod image;
mod library;
mod measures;
mod memory;
mod peers;
mod pool;
mod rootless;
mod stats;
#[cfg(all(feature = "http", feature = "server"))]
mod wire;

use std::process::ExitCode;

/// What is measured, and how often.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Samples of each subject in one block.
    pub(crate) block: usize,
    /// Blocks; the order of the subjects turns round in every second one.
    pub(crate) blocks: usize,
    /// Numbers of live sandboxes.
    pub(crate) live: Vec<usize>,
    /// A Docker image with `true` and `dd`, where there is an engine.
    pub(crate) docker_image: Option<String>,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let mut wanted: Vec<String> = std::env::args().skip(1).collect();
    if let [first, count] = wanted.as_slice()
        && first == rootless::SUBJECT
    {
        return match rootless::subject(count.parse().unwrap_or(1)).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                println!("failed: {error}");
                ExitCode::FAILURE
            }
        };
    }
    let quick = wanted.iter().any(|w| w == "--quick");
    wanted.retain(|w| !w.starts_with("--"));
    let all = wanted.is_empty();
    let plan = Plan {
        block: if quick { 5 } else { 10 },
        blocks: if quick { 4 } else { 6 },
        live: if quick { vec![1, 32] } else { vec![1, 32, 200] },
        docker_image: std::env::var_os("STACYVM_BENCH_IMAGE").and_then(|v| v.into_string().ok()),
    };
    println!("load average at the start: {}", memory::load_average());
    let mut failed = false;
    for (name, measure) in measures::ALL {
        if all || wanted.iter().any(|w| w == name) {
            println!("\n# {name}");
            if let Err(error) = measure(&plan).await {
                println!("failed: {error}");
                failed = true;
            }
        }
    }
    println!("\nload average at the end: {}", memory::load_average());
    if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}
