//! Output without end: each writes a bounded part of it on its two streams, and
//! says on the last line what was taken. Whoever reads judges what it cost.

use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use crate::answer::Answer;
use crate::sys;
use crate::{Attack, Told};

pub(crate) const ATTACKS: &[Attack] = &[
    ("output.flood", flood),
    ("output.long_line", long_line),
    ("output.unread", unread),
    ("output.many_unread", many_unread),
    ("output.survivors", survivors),
];

const MIB: usize = 1 << 20;
/// What is written at once.
const PIECE: usize = 64 << 10;
/// What is written on each stream: more than anybody should keep of it.
const MUCH: usize = 64 * MIB;
/// The same where many write at once.
const PART: usize = 8 * MIB;
/// How long nobody has to read until a writer gives up.
const PATIENCE: Duration = Duration::from_secs(2);

/// Writes on both streams in turn until one is refused; how much went in.
fn write(piece: &[u8], each: usize) -> usize {
    let mut written = 0;
    while written < each {
        for stream in [1, 2] {
            if sys::write(stream, piece).is_err() {
                return written;
            }
        }
        written += piece.len();
    }
    written
}

/// What follows is on a line of its own.
fn written(bytes: usize) -> Answer {
    let _ = sys::write(1, b"\n");
    Answer::silent(
        0,
        format!("{} MiB were written on each stream", bytes / MIB),
    )
}

fn flood(_: &Told) -> Answer {
    let line = b"stacyvm stacyvm stacyvm stacyvm stacyvm stacyvm stacyvm stacyv\n";
    written(write(&line.repeat(1024), MUCH))
}

fn long_line(_: &Told) -> Answer {
    written(write(&vec![b'x'; PIECE], MUCH))
}

/// Writes although nobody reads, until nothing was taken for a while.
fn unread(told: &Told) -> Answer {
    stuff(told, MUCH)
}

/// The same, with less of it: it is started many times.
fn many_unread(told: &Told) -> Answer {
    stuff(told, PART)
}

fn stuff(told: &Told, most: usize) -> Answer {
    let piece = vec![b'x'; PIECE];
    let mut taken = [0_usize; 2];
    let mut last = Instant::now();
    while taken.iter().any(|bytes| *bytes < most) && last.elapsed() < PATIENCE {
        let mut moved = false;
        for (stream, taken) in (1..).zip(&mut taken) {
            if *taken < most
                && let Some(bytes) = sys::write_now(stream, &piece)
            {
                *taken += bytes;
                moved = true;
            }
        }
        if moved {
            last = Instant::now();
        } else {
            sys::rest(10);
        }
    }
    // Whoever did not read begins to when it sees this.
    if let Ok(file) = std::fs::File::create(told.text("done")) {
        drop(file);
    }
    let all = taken.iter().all(|bytes| *bytes >= most);
    let _ = sys::write(1, b"\n");
    if all {
        Answer::fired(format!("{} MiB of each stream were taken", most / MIB))
    } else {
        Answer::silent(libc::EAGAIN, "it was held up")
    }
}

/// Leaves a process that goes on writing when this one has ended.
fn survivors(_: &Told) -> Answer {
    let this = std::process::id();
    let stderr = std::io::stderr().as_raw_fd();
    let left = sys::leave_behind(|| {
        while u32::try_from(sys::parent()) == Ok(this) {
            sys::rest(1);
        }
        let piece = vec![b'x'; PIECE];
        let mut written = 0;
        while written < MUCH && sys::write(stderr, &piece).is_ok() {
            written += piece.len();
        }
    });
    match left {
        Ok(()) => Answer::silent(0, "a process was left that writes"),
        Err(errno) => Answer::unable(format!("no process was left: error {errno}")),
    }
}
