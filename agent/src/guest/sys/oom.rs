//! Who goes first where memory runs out.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use super::{Fork, fork};

const OWN: &str = "/proc/self/oom_score_adj";
/// By how much what serves commands goes before the agent: 200 thousandths of the
/// memory that there is.
const BEFORE_AGENT: i32 = 200;
/// The kernel knows no more.
const MOST: i32 = 1000;

/// The file of this process's own score, opened before the process hid: with that it
/// became root's.
#[derive(Debug)]
pub(in crate::guest) struct OwnScore {
    file: File,
    was: i32,
}

impl OwnScore {
    /// None where it cannot be written.
    pub(in crate::guest) fn open() -> Option<Self> {
        let file = File::options().write(true).open(OWN).ok()?;
        Some(Self { file, was: own()? })
    }

    fn set(&self, score: i32) {
        // No more than it had when it was opened takes no right to go back to.
        let _ = self.file.write_all_at(score.to_string().as_bytes(), 0);
    }
}

/// Forks what is to go before this process where memory runs out: it inherits the score
/// that this process has meanwhile, since it is hidden from its first moment and without
/// rights cannot write to its own file.
pub(in crate::guest) fn fork_before(score: Option<&OwnScore>) -> io::Result<Fork> {
    let Some(score) = score else {
        return fork();
    };
    score.set(before(score.was));
    let forked = fork();
    if !matches!(forked, Ok(Fork::Child)) {
        score.set(score.was);
    }
    forked
}

fn before(score: i32) -> i32 {
    (score + BEFORE_AGENT).min(MOST)
}

fn own() -> Option<i32> {
    std::fs::read_to_string(OWN).ok()?.trim().parse().ok()
}

/// Has this process and its descendants go before others. Without the right to its own
/// file it stays as it is.
pub(in crate::guest) fn yield_memory() {
    if let Some(score) = own() {
        let _: io::Result<()> = std::fs::write(OWN, before(score).to_string());
    }
}
