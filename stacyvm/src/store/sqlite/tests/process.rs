//! Several processes, and processes that die. A child is this test program
//! again, running [`child`] alone; what it should do comes by its input.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};

use super::super::super::owner::OwnerLock;
use super::*;
use crate::error::ErrorKind;

/// A child that does not outlive its test, however that ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a child; `wrap` is what runs it, as `unshare -m`.
fn start(wrap: &[&str], task: &str, directory: &Path) -> Running {
    let program = std::env::current_exe().expect("our own path");
    let own = [
        program.to_str().expect("a plain path"),
        "store::sqlite::tests::process::child",
        "--exact",
        "--ignored",
        "--nocapture",
        "--test-threads=1",
    ];
    let line: Vec<_> = wrap.iter().chain(&own).collect();
    let mut child = Command::new(line[0])
        .args(&line[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a child");
    let mut input = child.stdin.take().expect("its input");
    writeln!(input, "{task} {}", directory.display()).expect("it reads");
    Running(child)
}

/// Waits for a child and gives the words that it told.
fn finish(mut child: Running) -> Vec<String> {
    let mut text = String::new();
    let mut output = child.0.stdout.take().expect("its output");
    output.read_to_string(&mut text).expect("text");
    assert!(child.0.wait().expect("its end").success(), "{text}");
    told(text.lines())
}

fn told<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<String> {
    lines
        .filter_map(|l| l.split_once("told ").map(|(_, word)| word.to_owned()))
        .collect()
}

#[tokio::test]
#[ignore = "what the tests of this module start, not a test"]
async fn child() {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    let Some((task, directory)) = line.trim().split_once(' ') else {
        return;
    };
    let state = StateDir::open(Path::new(directory)).unwrap();
    match task {
        "modes" => modes(&state).await,
        "full" => full(&state).await,
        "nearly_full" => nearly_full(&state).await,
        "eaten" => eaten(&state).await,
        "read_only" => read_only(&state).await,
        "stop" => {
            let db = Connection::open(state.path().join(FILE)).unwrap();
            db.execute_batch("BEGIN IMMEDIATE").unwrap();
            println!("told holds");
            std::future::pending::<()>().await;
        }
        other => panic!("no task {other}"),
    }
}

#[tokio::test]
async fn a_stopped_writer_is_named() {
    use rustix::process::{Pid, Signal, kill_process};
    let home = tempfile::tempdir().unwrap();
    let state = state(&home);
    let store = SqliteStore::open(&state).await.unwrap();
    let busy = || {
        let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY);
        Fault::from(rusqlite::Error::SqliteFailure(code, None)).named(&store.path())
    };
    let told = |error: crate::error::Error| format!("{error:?}");
    assert!(!told(busy()).contains("holder"), "nobody holds it yet");
    let mut child = start(&[], "stop", state.path());
    let output = child.0.stdout.as_mut().expect("its output");
    let mut lines = BufReader::new(output).lines();
    assert!(lines.any(|line| line.unwrap().contains("told holds")));
    let pid = child.0.id();
    let running = told(busy());
    assert!(running.contains(&format!("process {pid} (")), "{running}");
    assert!(!running.contains("kill -CONT"), "{running}");
    kill_process(Pid::from_child(&child.0), Signal::STOP).unwrap();
    rustix::process::waitid(
        rustix::process::WaitId::Pid(Pid::from_child(&child.0)),
        rustix::process::WaitIdOptions::STOPPED,
    )
    .unwrap();
    let stopped = told(busy());
    assert!(stopped.contains(&format!("kill -CONT {pid}")), "{stopped}");
    assert!(stopped.contains("was stopped in the middle"), "{stopped}");
}

#[tokio::test]
async fn files_are_closed_to_others_whatever_the_umask() {
    for umask in ["000", "022", "777"] {
        let home = tempfile::tempdir().unwrap();
        let script = format!("umask {umask}; exec \"$@\"");
        finish(start(
            &["sh", "-c", &script, "sh"],
            "modes",
            &home.path().join("state"),
        ));
    }
}

async fn modes(state: &StateDir) {
    let store = SqliteStore::open(state).await.unwrap();
    let lock = OwnerLock::acquire(state, store.meta().instance()).unwrap();
    add(&store).await.unwrap();
    let mut seen = 0;
    for directory in [state.path().to_path_buf(), state.path().join("owners")] {
        let mode = |p: &Path| fs::metadata(p).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(&directory), 0o700);
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                assert_eq!(mode(&path), 0o600, "{}", path.display());
                seen += 1;
            }
        }
    }
    // The file, its log, the log's index, its reserve, two locks.
    assert_eq!(seen, 6);
    drop(lock);
}

/// Whether a mount can be made here, in a namespace of its own.
fn can_mount() -> bool {
    Command::new("unshare")
        .args(["-m", "mount", "-t", "tmpfs", "none", "/mnt"])
        .status()
        .is_ok_and(|s| s.success())
}

fn mount(options: &str, directory: &Path) {
    let status = Command::new("mount")
        .args(["-t", "tmpfs", "-o", options, "none"])
        .arg(directory)
        .status()
        .unwrap();
    assert!(status.success(), "mount {options}");
}

#[tokio::test]
async fn a_full_disk_and_a_read_only_one_are_told_apart() {
    if !can_mount() {
        println!("skipped: this needs the right to mount");
        return;
    }
    for task in ["full", "nearly_full", "eaten", "read_only"] {
        let home = tempfile::tempdir().unwrap();
        finish(start(&["unshare", "-m"], task, &home.path().join("state")));
    }
}

async fn full(state: &StateDir) {
    // No room for a store at all: nothing is left of the attempt.
    mount("size=16k,mode=0700", state.path());
    let error = SqliteStore::open(state).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error:?}");
    assert!(!state.path().join(FILE).exists());

    mount("size=512k,mode=0700", state.path());
    let store = SqliteStore::open(state).await.unwrap();
    let mut written = 0;
    let error = loop {
        match add(&store).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error:?}");
    assert!(error.fact("file").is_some() && error.fact("remedy").is_some());
    assert!(written > 5, "{written}");
    assert_eq!(count(&store).await, written);
    mount("remount,size=4m", state.path());
    add(&store).await.unwrap();
    store.close().await.unwrap();
    let store = SqliteStore::open(state).await.unwrap();
    assert_eq!(count(&store).await, written + 1);
}

/// Appends pages until there is no room.
fn fill(path: &Path) -> fs::File {
    let mut file = fs::File::options()
        .create(true)
        .append(true)
        .open(path)
        .unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}
    file
}

/// The first opening on a disk with some room works or makes nothing that
/// stands in the way of the next one.
async fn nearly_full(state: &StateDir) {
    let (mut opened, mut refused) = (0, 0);
    for room in 1..64 {
        mount("size=4m,mode=0700", state.path());
        let filler = state.path().join("filler");
        let file = fill(&filler);
        file.set_len(file.metadata().unwrap().len() - room * 4096)
            .unwrap();
        drop(file);
        match SqliteStore::open(state).await {
            Ok(store) => {
                opened += 1;
                store.close().await.unwrap();
            }
            Err(error) => {
                refused += 1;
                assert_eq!(error.kind(), ErrorKind::NoSpace, "{room} pages: {error:?}");
                for entry in fs::read_dir(state.path()).unwrap() {
                    let name = entry.unwrap().file_name();
                    let name = name.to_str().unwrap();
                    assert!(!name.starts_with("store.new"), "{room} pages: {name}");
                }
            }
        }
        fs::remove_file(&filler).unwrap();
        let store = SqliteStore::open(state).await.unwrap();
        add(&store).await.unwrap();
        store.close().await.unwrap();
        let status = Command::new("umount").arg(state.path()).status().unwrap();
        assert!(status.success());
    }
    assert!(opened > 0 && refused > 0, "{opened} {refused}");
}

/// A store can be opened while somebody eats every byte that gets free.
async fn eaten(state: &StateDir) {
    mount("size=4m,mode=0700", state.path());
    let store = SqliteStore::open(state).await.unwrap();
    add(&store).await.unwrap();
    store.close().await.unwrap();
    let filler = state.path().join("filler");
    drop(fill(&filler));
    // Room that nobody else takes is enough for a write, too.
    let store = SqliteStore::open(state).await.unwrap();
    add(&store).await.unwrap();
    store.close().await.unwrap();

    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let eater = {
        let (stop, filler) = (stop.clone(), filler.clone());
        std::thread::spawn(move || {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                drop(fill(&filler));
            }
        })
    };
    for _ in 0..20 {
        let store = SqliteStore::open(state).await.unwrap();
        assert_eq!(count(&store).await, 2);
        store.close().await.unwrap();
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    eater.join().unwrap();
    // Without a reserve it can be read all the same, and a write is refused.
    fs::write(state.path().join("store.reserve"), "").unwrap();
    drop(fill(&filler));
    let store = SqliteStore::open(state).await.unwrap();
    assert_eq!(count(&store).await, 2);
    let error = add(&store).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error:?}");
    assert_eq!(count(&store).await, 2);
    store.close().await.unwrap();
    fs::remove_file(&filler).unwrap();
    let store = SqliteStore::open(state).await.unwrap();
    add(&store).await.unwrap();
    store.close().await.unwrap();
    let reserve = fs::metadata(state.path().join("store.reserve")).unwrap();
    let blocks = std::os::unix::fs::MetadataExt::blocks(&reserve);
    assert_eq!(blocks * 512, 512 << 10, "it was not made again");
}

async fn read_only(state: &StateDir) {
    mount("size=4m,mode=0700", state.path());
    let store = SqliteStore::open(state).await.unwrap();
    add(&store).await.unwrap();
    store.close().await.unwrap();
    mount("remount,ro", state.path());
    let error = SqliteStore::open(state).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error:?}");
    assert!(error.fact("file").is_some() && error.fact("remedy").is_some());
}
