//! Tests that the binaries of runtimes all have to pass.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Where a host with cgroups of both versions has the second.
const UNIFIED: &str = "/sys/fs/cgroup/unified";
/// Set in the copy of a test program that does not see the second.
pub const HIDDEN: &str = "STACYVM_TEST_UNIFIED_HIDDEN";

pub fn find(runtime: &str) -> Option<PathBuf> {
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin"]
        .iter()
        .map(|directory| Path::new(directory).join(runtime))
        .find(|path| path.exists())
}

pub fn is_mixed() -> bool {
    std::fs::read_to_string("/proc/self/mountinfo")
        .unwrap()
        .contains(&format!(" {UNIFIED} "))
}

/// Runs one test of this program again where the second version of cgroups is
/// hidden, as crun refuses a host that has both.
pub fn again_without_unified(test: &str) {
    let script = format!("umount {UNIFIED} && exec \"$0\" \"$@\"");
    let status = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", &script])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(HIDDEN, "1")
        .status()
        .unwrap();
    assert!(status.success(), "{test} failed without {UNIFIED}");
}

/// Makes a test of each function for each runtime, in a module of its name. It
/// prints `not run` where the host lacks the runtime.
macro_rules! suite {
    ($($runtime:ident)*: $tests:tt) => {
        $(suite!(@$runtime $tests);)*
    };
    (@$runtime:ident [$($test:ident)*]) => {
        mod $runtime {
            $(#[tokio::test]
            async fn $test() {
                use $crate::common::runtimes::{HIDDEN, again_without_unified, find, is_mixed};
                let name = stringify!($runtime);
                if find(name).is_none() || !rustix::process::geteuid().is_root() {
                    eprintln!("not run: no {name} on this host, or not root");
                    return;
                }
                if name == "crun" && is_mixed() && std::env::var_os(HIDDEN).is_none() {
                    again_without_unified(concat!("crun::", stringify!($test)));
                    return;
                }
                super::$test(name).await;
            })*
        }
    };
}
pub(crate) use suite;
