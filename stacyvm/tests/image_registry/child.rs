//! A pull in a process with an environment of its own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use stacyvm::Context;
use stacyvm::image::PullOptions;

use super::server::store;

const ASKED: &str = "STACYVM_TEST_PULL";
const ANSWER: &str = "the pull ended: ";

/// What is pulled, and how.
#[derive(Default, Deserialize, Serialize)]
pub(crate) struct Pull {
    pub(crate) reference: String,
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) auth_file: Option<PathBuf>,
    pub(crate) seconds: Option<u64>,
}

impl Pull {
    /// Pulls into a store of its own. An error is its kind and all of its text.
    pub(crate) fn run(&self, env: &[(&str, &str)]) -> Result<(), (String, String)> {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["child::entry", "--exact", "--nocapture"])
            .env(ASKED, serde_json::to_string(self).unwrap())
            .envs(env.iter().copied())
            .output()
            .unwrap();
        let out = String::from_utf8(output.stdout).unwrap();
        let answer = out.split(ANSWER).nth(1).unwrap_or_else(|| panic!("{out}"));
        let answer = answer.lines().next().unwrap();
        serde_json::from_str(answer).unwrap()
    }
}

/// The `PATH` of this process behind a directory.
pub(crate) fn path_behind(directory: &Path) -> String {
    format!("{}:{}", directory.display(), std::env::var("PATH").unwrap())
}

/// Not a test of its own: the process of [`Pull::run`].
#[test]
fn entry() {
    let Ok(asked) = std::env::var(ASKED) else {
        return;
    };
    let asked: Pull = serde_json::from_str(&asked).unwrap();
    let (_home, images) = store();
    let mut options = PullOptions::default();
    options.ca_files.extend(asked.ca_file);
    options.auth_file = asked.auth_file;
    let mut context = Context::default();
    if let Some(seconds) = asked.seconds {
        context = context.with_deadline(Instant::now() + Duration::from_secs(seconds));
    }
    let pulled = images.pull(&context, &asked.reference.parse().unwrap(), &options);
    let told = pulled
        .map(drop)
        .map_err(|e| (e.kind().code().to_owned(), format!("{e:?}")));
    println!("{ANSWER}{}", serde_json::to_string(&told).unwrap());
}
