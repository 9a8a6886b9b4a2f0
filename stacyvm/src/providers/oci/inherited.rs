//! Tests of what a process has of its parent: ignored signals, the umask. A
//! child is this test program again, which runs [`child`] alone.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use super::program::{Program, executes};

/// Names the directory that a child works on.
const DIRECTORY: &str = "STACYVM_TEST_INHERITED";

/// Runs a child after this part of a script, and gives what it printed.
fn after(script: &str, task: &str, directory: &Path) -> String {
    // Not every other shell takes this signal for one that can be ignored.
    let output = Command::new("bash")
        .args(["-c", &format!("{script}; exec \"$@\""), "sh"])
        .arg(std::env::current_exe().unwrap())
        .arg(format!("providers::oci::inherited::{task}"))
        .args(["--exact", "--ignored", "--nocapture", "--test-threads=1"])
        .env(DIRECTORY, directory)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {text}\n{told}");
    assert!(text.contains("1 passed"), "{text}");
    text
}

fn directory() -> std::path::PathBuf {
    std::env::var_os(DIRECTORY).unwrap().into()
}

#[test]
fn a_host_that_ignores_the_end_of_children_runs_programs() {
    let home = tempfile::tempdir().unwrap();
    after("trap '' CHLD", "without_ends", home.path());
}

#[tokio::test]
#[ignore = "what a test of this module starts, not a test"]
async fn without_ends() {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let ignored = status.lines().find_map(|l| l.strip_prefix("SigIgn:"));
    let ignored = u64::from_str_radix(ignored.unwrap().trim(), 16).unwrap();
    assert_ne!(ignored & (1 << (libc::SIGCHLD - 1)), 0, "it is ignored");
    assert!(executes(Path::new("/bin/true")).unwrap());
    assert!(!executes(Path::new("/etc/passwd")).unwrap());
    Program::prepare(None, &directory()).unwrap();
    // A whole life: the helper waits for children of its own.
    let overrides = crate::config::Overrides {
        state_dir: Some(directory().join("state")),
        ..crate::config::Overrides::default()
    };
    let config = crate::config::Config::load(&overrides).unwrap();
    let engine = crate::Engine::open(config).await.unwrap();
    let sandbox = match engine.create(crate::SandboxSpec::host()).await {
        Err(error) if error.kind() == crate::ErrorKind::Unsupported => {
            println!("not run: {error}");
            return;
        }
        made => made.unwrap(),
    };
    let output = sandbox.exec(["echo", "hi"]).output().await.unwrap();
    assert_eq!(output.stdout, b"hi\n");
    sandbox.kill().await.unwrap();
}

#[test]
fn no_umask_takes_rights_from_the_state_directory() {
    for umask in ["000", "177", "277", "777"] {
        let home = tempfile::tempdir().unwrap();
        after(&format!("umask {umask}"), "modes", home.path());
    }
}

#[test]
#[ignore = "what a test of this module starts, not a test"]
fn modes() {
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let state = directory().join("above/state");
    super::Sandboxes::open(&state).unwrap();
    let cache = state.join("cache");
    super::directory::make_private(&cache).unwrap();
    for path in [
        &directory().join("above"),
        &state,
        &state.join("sandboxes"),
        &cache,
    ] {
        assert_eq!(mode(path), 0o700, "{}", path.display());
    }
    // One that an earlier umask spoilt.
    std::fs::set_permissions(&cache, std::fs::Permissions::from_mode(0o600)).unwrap();
    super::directory::make_private(&cache).unwrap();
    assert_eq!(mode(&cache), 0o700);
    let volumes = super::Volumes::of(&state);
    let hold = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(volumes.hold("v"));
    drop(hold.unwrap());
    assert_eq!(mode(&state.join("volume-locks/v")), 0o600);
}
