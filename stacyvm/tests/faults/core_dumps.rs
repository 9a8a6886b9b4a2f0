//! A crash inside is no business of the host's.
//!
//! For a moment the test has the machine's core dumps go to a handler of its own.

use stacyvm::SandboxSpec;
use stacyvm::sandbox::spec::Lifetime;

use super::common::{eventually, soon};
use super::ground;

/// Has core dumps go to a handler of its own for as long as it lives.
struct Handler {
    before: Vec<u8>,
    directory: tempfile::TempDir,
}

const PATTERN: &str = "/proc/sys/kernel/core_pattern";

impl Handler {
    /// `None` where this machine's settings are not for tests to change.
    fn install() -> Option<Self> {
        let directory = tempfile::Builder::new().prefix("svm").tempdir().unwrap();
        let program = directory.path().join("h");
        let line = format!(
            "#!/bin/sh\necho \"$@\" >> {}/seen\n",
            directory.path().display()
        );
        std::fs::write(&program, line).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&program, mode).unwrap();
        let before = std::fs::read(PATTERN).unwrap();
        let pattern = format!("|{} %e", program.display());
        std::fs::write(PATTERN, pattern).ok()?;
        Some(Self { before, directory })
    }

    /// Whether a process of this name was handed over.
    fn saw(&self, name: &str) -> bool {
        let seen = std::fs::read_to_string(self.directory.path().join("seen"));
        seen.unwrap_or_default().lines().any(|line| line == name)
    }
}

impl Drop for Handler {
    fn drop(&mut self) {
        std::fs::write(PATTERN, &self.before).unwrap();
    }
}

/// Sets the limit of core dumps in every way there is, asks what it is, and dies.
const CRASH: &str = r#"
    cp $(command -v sleep) /tmp/$0
    ulimit -c 0
    perl -e '
        my ($set, $one) = $ARGV[1] eq "aarch64" ? (164, 261) : (160, 302);
        my $new = pack("QQ", 0, 0);
        syscall($set, 4, $new);
        syscall($one, $_, 4, $new, 0) for 0, $$;
        exec "/tmp/$ARGV[0]", "100";
    ' $0 $(uname -m) &
    until [ "$(cat /proc/$!/comm)" = $0 ]; do sleep 0.01; done
    grep "core file" /proc/$!/limits | tr -s " "
    kill -SEGV $!
    wait $!
    echo $?
"#;

#[tokio::test]
async fn a_crash_inside_runs_no_handler_of_the_host() {
    let Some(ground) = ground().await else { return };
    let Some(handler) = Handler::install() else {
        eprintln!("not run: {PATTERN} cannot be written here");
        return;
    };
    let crash = |name: &'static str| ["sh", "-c", CRASH, name];
    for user in ["user", "root"] {
        let spec = SandboxSpec::host().lifetime(Lifetime::Attached);
        let sandbox = ground.engine.create(spec).await.unwrap();
        let inside = sandbox.exec(crash("svmcrashes")).user(user);
        let seen = soon(inside.output()).await.unwrap();
        let expected = "Max core file size 1 1 bytes \n139\n";
        assert_eq!(seen.stdout_text(), expected, "{seen:?}");
        soon(sandbox.kill()).await.unwrap();
    }
    // The control comes last: its dump is handed over after any of those.
    let argv = crash("svmcontrol");
    let outside = std::process::Command::new(argv[0])
        .args(&argv[1..])
        .output();
    std::fs::remove_file("/tmp/svmcontrol").unwrap();
    let outside = String::from_utf8(outside.unwrap().stdout).unwrap();
    assert_eq!(outside, "Max core file size 0 0 bytes \n139\n");
    eventually("the handler runs", async || handler.saw("svmcontrol")).await;
    assert!(!handler.saw("svmcrashes"), "the host's handler ran");
    let left = ground.watch.left_at_once().await;
    assert!(left.is_empty(), "{left:#?}");
}
