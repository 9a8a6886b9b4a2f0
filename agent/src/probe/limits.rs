//! Bombs with a bound: each stops when it got more than it was told is allowed.

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::answer::Answer;
use crate::paths::{own_name, refused};
use crate::sys::{self, Arg};
use crate::{Attack, Told};

pub(crate) const ATTACKS: &[Attack] = &[
    ("limits.memory", memory),
    ("limits.memory_file", memory_file),
    ("limits.shared_memory", shared_memory),
    ("limits.processes", processes),
    ("limits.threads", threads),
    ("limits.open_files", open_files),
    ("limits.disk", disk),
    ("limits.inodes", inodes),
    ("limits.processors", processors),
];

const MIB: usize = 1 << 20;
const NOT_TOLD: &str = "it was not told the limit";

fn told_mib(told: &Told, name: &str) -> Option<usize> {
    usize::try_from(told.number(name)?).ok()
}

/// What it takes beyond a limit of memory or disk, in MiB.
const BEYOND_MIB: usize = 32;

fn memory(told: &Told) -> Answer {
    let Some(limit) = told_mib(told, "memory_mib") else {
        return Answer::unable(NOT_TOLD);
    };
    // What the kernel ends is a child, so that this one can tell.
    let code = sys::in_a_child(|| match sys::memory((limit + BEYOND_MIB) * MIB) {
        Ok(memory) => {
            memory.touch();
            0
        }
        Err(_) => 1,
    });
    ended(code, "more memory than the limit was used")
}

fn ended(code: Result<i32, i32>, evidence: &str) -> Answer {
    match code {
        Ok(0) => Answer::fired(evidence),
        Ok(137) => Answer::silent(0, "it was killed"),
        Ok(_) => Answer::silent(0, "it was refused"),
        Err(errno) => Answer::silent(errno, ""),
    }
}

/// Writes pieces of a MiB; how many went in.
fn fill(file: &mut File, most: usize) -> usize {
    let piece = vec![1_u8; MIB];
    (0..most)
        .take_while(|_| file.write_all(&piece).is_ok())
        .count()
}

fn memory_file(told: &Told) -> Answer {
    let Some(limit) = told_mib(told, "memory_mib") else {
        return Answer::unable(NOT_TOLD);
    };
    let code = sys::in_a_child(|| {
        let made = sys::call(
            libc::SYS_memfd_create,
            &[Arg::Text(c"bomb"), Arg::Number(0)],
        );
        let Some(number) = made.ok().and_then(|fd| i32::try_from(fd).ok()) else {
            return 1;
        };
        let mut file = sys::file(number);
        i32::from(fill(&mut file, limit + BEYOND_MIB) < limit + BEYOND_MIB)
    });
    ended(code, "a file in memory is larger than the limit")
}

fn shared_memory(told: &Told) -> Answer {
    let Some(limit) = told_mib(told, "memory_mib") else {
        return Answer::unable(NOT_TOLD);
    };
    let path = PathBuf::from("/dev/shm").join(own_name());
    let code = sys::in_a_child(|| match File::create_new(&path) {
        Ok(mut file) => i32::from(fill(&mut file, limit + BEYOND_MIB) < limit + BEYOND_MIB),
        Err(_) => 1,
    });
    // A memory file system goes with the sandbox, too.
    let _ = std::fs::remove_file(&path);
    ended(code, "files in memory are larger than the limit")
}

fn processes(told: &Told) -> Answer {
    let Some(limit) = told_mib(told, "pids") else {
        return Answer::unable(NOT_TOLD);
    };
    let mut made = Vec::new();
    let mut errno = 0;
    while made.len() <= limit {
        match sys::idle_child() {
            Ok(pid) => made.push(pid),
            Err(error) => {
                errno = error;
                break;
            }
        }
    }
    let count = made.len();
    made.into_iter().for_each(sys::end);
    if count > limit {
        Answer::fired(format!("{count} processes, and {limit} are allowed"))
    } else {
        Answer::silent(errno, format!("{count} processes"))
    }
}

fn threads(told: &Told) -> Answer {
    let Some(limit) = told_mib(told, "pids") else {
        return Answer::unable(NOT_TOLD);
    };
    let mut made = Vec::new();
    let mut errno = 0;
    let (sender, receiver) = std::sync::mpsc::channel::<()>();
    let receiver = std::sync::Arc::new(std::sync::Mutex::new(receiver));
    while made.len() <= limit {
        let waits = std::sync::Arc::clone(&receiver);
        let thread = std::thread::Builder::new()
            .stack_size(32 << 10)
            .spawn(move || {
                // Until the sender is gone; nothing is ever sent.
                let _ = waits.lock().map(|end| end.recv());
            });
        match thread {
            Ok(thread) => made.push(thread),
            Err(error) => {
                errno = error.raw_os_error().unwrap_or(libc::EIO);
                break;
            }
        }
    }
    let count = made.len();
    drop(sender);
    for thread in made {
        // A thread that panicked is gone all the same.
        let _ = thread.join();
    }
    if count > limit {
        Answer::fired(format!("{count} threads, and {limit} are allowed"))
    } else {
        Answer::silent(errno, format!("{count} threads"))
    }
}

fn open_files(told: &Told) -> Answer {
    let Some(limit) = told_mib(told, "open_files") else {
        return Answer::unable(NOT_TOLD);
    };
    let mut open = Vec::new();
    let mut errno = 0;
    while open.len() <= limit {
        match File::open("/dev/null") {
            Ok(file) => open.push(file),
            Err(error) => {
                errno = error.raw_os_error().unwrap_or(libc::EIO);
                break;
            }
        }
    }
    let count = open.len();
    drop(open);
    if count > limit {
        Answer::fired(format!("{count} open files, and {limit} are allowed"))
    } else {
        Answer::silent(errno, format!("{count} open files"))
    }
}

/// A directory of its own, on the disk that is limited.
fn with_directory(told: &Told, work: impl FnOnce(&PathBuf) -> Answer) -> Answer {
    let below = match told.text("directory") {
        "" => "/workspace",
        told => told,
    };
    let directory = PathBuf::from(below).join(own_name());
    if let Err(error) = std::fs::create_dir(&directory) {
        let errno = error.raw_os_error().unwrap_or(libc::EIO);
        return Answer::unable(format!("no directory can be made: error {errno}"));
    }
    let answer = work(&directory);
    // Its name says what made it.
    let _ = std::fs::remove_dir_all(&directory);
    answer
}

fn disk(told: &Told) -> Answer {
    let Some(limit) = told_mib(told, "disk_mib") else {
        return Answer::unable(NOT_TOLD);
    };
    with_directory(told, |directory| {
        match File::create(directory.join("bomb")) {
            Ok(mut file) => {
                let count = fill(&mut file, limit + BEYOND_MIB);
                let kept = file.sync_all().is_ok();
                if count == limit + BEYOND_MIB && kept {
                    Answer::fired(format!("{count} MiB were written, and {limit} are allowed"))
                } else {
                    Answer::silent(libc::ENOSPC, format!("{count} MiB were written"))
                }
            }
            Err(error) => refused(&error),
        }
    })
}

fn inodes(told: &Told) -> Answer {
    let Some(limit) = told_mib(told, "inodes") else {
        return Answer::unable(NOT_TOLD);
    };
    with_directory(told, |directory| {
        let mut last = None;
        let made = (0..=limit)
            .take_while(
                |number| match File::create_new(directory.join(number.to_string())) {
                    Ok(_) => true,
                    Err(error) => {
                        last = Some(error);
                        false
                    }
                },
            )
            .count();
        match last {
            None => Answer::fired(format!("{made} files were made, and {limit} are allowed")),
            Some(error) => Answer::silent(
                error.raw_os_error().unwrap_or(libc::EIO),
                format!("{made} files"),
            ),
        }
    })
}

/// Computes on several processors at once; how much of them it got.
fn processors(told: &Told) -> Answer {
    const LENGTH: Duration = Duration::from_millis(1500);
    let Some(limit) = told.number("cpus_percent") else {
        return Answer::unable(NOT_TOLD);
    };
    let began = Instant::now();
    let workers: Vec<_> = (0..2)
        .map(|_| {
            std::thread::spawn(move || {
                while began.elapsed() < LENGTH {
                    std::hint::spin_loop();
                }
            })
        })
        .collect();
    for worker in workers {
        // A thread that panicked is gone all the same.
        let _ = worker.join();
    }
    let got = sys::processor_time().as_millis() * 100 / began.elapsed().as_millis().max(1);
    // Half as much again as is allowed: quotas are kept on average.
    if got * 2 > u128::from(limit) * 3 {
        Answer::fired("it had more of the processors than is allowed")
    } else {
        Answer::silent(0, "it was held back")
    }
}
