//! Sandboxes that the binary of an OCI runtime makes: the same promises as
//! those of the embedded provider's own set-up.
//!
//! Each test prints `not run` where the host lacks its runtime.
#![cfg(all(target_os = "linux", feature = "oci"))]
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]
#![expect(clippy::print_stderr, reason = "a test that cannot run says so")]

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use common::runtimes::{find, is_mixed, suite};
use common::{Host, eventually, soon};
use rustix::process::{Pid, Signal, kill_process};
use stacyvm::config::Config;
use stacyvm::engine::Engine;
use stacyvm::provider::Isolation;
use stacyvm::sandbox::exec::TtySize;
use stacyvm::sandbox::info::SandboxInfo;
use stacyvm::sandbox::spec::{Lifetime, Mount, MountSource};
use stacyvm::{ErrorKind, ExitStatus, Sandbox, SandboxSpec};

/// The state directory and the runtime of the copy that is killed.
const DOOMED: &str = "STACYVM_TEST_DOOMED_STATE";
const DOOMED_RUNTIME: &str = "STACYVM_TEST_DOOMED_RUNTIME";

async fn engine(state: &Path, runtime: Option<&str>) -> Engine {
    let mut config = Config::for_state_dir(state);
    config.providers.get_mut("oci").unwrap().runtime = runtime.map(str::to_owned);
    Engine::open(config).await.unwrap()
}

async fn host(runtime: &str) -> Host {
    let state = common::state();
    let engine = engine(state.path(), Some(runtime)).await;
    Host { engine, state }
}

fn spec() -> SandboxSpec {
    SandboxSpec::host().lifetime(Lifetime::Attached)
}

async fn text(sandbox: &Sandbox, line: &str) -> String {
    soon(sandbox.shell(line).output())
        .await
        .unwrap()
        .stdout_text()
}

/// What of a sandbox can be found on the host.
fn residue(host: &Host, id: &str) -> Vec<String> {
    let mut found = Vec::new();
    let directory = host.state.path().join("sandboxes").join(id);
    if directory.exists() {
        found.push(directory.display().to_string());
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let lines = mounts.lines();
    for line in lines.clone().filter(|line| line.contains(" - cgroup")) {
        let mount = line.split(' ').nth(4).unwrap();
        // Those of a runtime that was made to use another name, too.
        for parent in ["stacyvm", "elsewhere"] {
            let cgroup = Path::new(mount).join(parent).join(id);
            if cgroup.exists() {
                found.push(cgroup.display().to_string());
            }
        }
    }
    found.extend(
        lines
            .filter(|line| line.contains(id))
            .map(|line| format!("mount {line}")),
    );
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let path = entry.path();
        let read = |file: &str| std::fs::read(path.join(file)).unwrap_or_default();
        let seen = [read("cmdline"), read("cgroup"), read("mountinfo")].concat();
        // What has died and waits for its parent is no more than a number.
        let dead = String::from_utf8_lossy(&read("stat")).contains(") Z ");
        if !dead && String::from_utf8_lossy(&seen).contains(id) {
            found.push(format!("process {}", path.display()));
        }
    }
    found
}

fn helper_of(info: &SandboxInfo) -> Pid {
    let init = info.host_pid.unwrap();
    let status = std::fs::read_to_string(format!("/proc/{init}/status")).unwrap();
    let parent = status.lines().find_map(|l| l.strip_prefix("PPid:"));
    let helper = Pid::from_raw(parent.unwrap().trim().parse().unwrap()).unwrap();
    let comm = std::fs::read_to_string(format!("/proc/{}/comm", helper.as_raw_nonzero())).unwrap();
    assert_eq!(comm, "stacyvm-helper\n", "init is the helper's child");
    helper
}

async fn commands_and_files(runtime: &str) {
    let host = host(runtime).await;
    let volume = Mount {
        source: MountSource::Volume("kept".into()),
        target: "/data".into(),
        writable: true,
        size_mib: None,
    };
    let sandbox = host.engine.create(spec().mount(volume)).await.unwrap();
    let status = async |line: &str| {
        let output = soon(sandbox.shell(line).output()).await.unwrap();
        output.status
    };
    assert_eq!(status("exit 7").await, ExitStatus::Code { code: 7 });
    assert_eq!(status("kill -9 $$").await, ExitStatus::Signal { signal: 9 });
    let echo = sandbox.exec(["cat"]).stdin("in and out");
    assert_eq!(
        soon(echo.output()).await.unwrap().stdout_text(),
        "in and out"
    );
    sandbox.files().write("/workspace/a", "one").await.unwrap();
    let line = "cat /workspace/a; echo two > /data/b; id -u";
    assert_eq!(text(&sandbox, line).await, "one1000\n");
    // gVisor shows no interfaces in /sys; what is refused came past `lo`.
    let network = if runtime == "runsc" {
        "tail -n +3 /proc/net/dev | tr -d ' ' | cut -d: -f1; \
         bash -c 'echo > /dev/tcp/127.0.0.1/9' 2>&1 | grep -m1 -o refused"
    } else {
        "ls /sys/class/net; cat /sys/class/net/lo/flags"
    };
    let up = if runtime == "runsc" {
        "lo\nrefused\n"
    } else {
        "lo\n0x9\n"
    };
    assert_eq!(text(&sandbox, network).await, up);
    let read = sandbox.files().read("/data/b").await.unwrap();
    assert_eq!(read, "two\n");
    let terminal = sandbox.shell("stty size; tty").tty(TtySize {
        rows: 31,
        columns: 97,
    });
    let terminal = soon(terminal.output()).await;
    if runtime == "runsc" {
        let error = terminal.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains("tty"), "{error}");
    } else {
        assert_eq!(terminal.unwrap().stdout_text(), "31 97\r\n/dev/pts/0\r\n");
    }
    // From another engine, which knows nothing of the runtime.
    let other = engine(host.state.path(), None).await;
    let found = other.get(sandbox.id()).await.unwrap();
    assert_eq!(text(&found, "cat /workspace/a").await, "one");
    let summary = host.engine.providers().await;
    let oci = summary.iter().find(|p| p.name == "oci").unwrap();
    assert_eq!(oci.runtime, runtime);
    assert!(oci.versions.contains_key(runtime), "{:?}", oci.versions);
    assert!(oci.probe.usable, "{:?}", oci.probe);
    sandbox.kill().await.unwrap();
}

async fn a_directory_stays_untouched(runtime: &str) {
    let busybox = Path::new("/usr/bin/busybox");
    let is_static = Command::new("ldd")
        .arg(busybox)
        .output()
        .is_ok_and(|o| !o.status.success());
    if !busybox.exists() || !is_static {
        eprintln!("not run: no static busybox on this host");
        return;
    }
    let image = tempfile::tempdir().unwrap();
    let root = image.path();
    std::fs::set_permissions(root, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::create_dir_all(root.join("bin")).unwrap();
    std::fs::copy(busybox, root.join("bin/busybox")).unwrap();
    std::os::unix::fs::symlink("busybox", root.join("bin/sh")).unwrap();
    // A link in the agent's place leads nowhere.
    std::os::unix::fs::symlink("/bin", root.join(".stacyvm")).unwrap();
    let host = host(runtime).await;
    let spec = |read_only| {
        let mut spec = SandboxSpec::image(root.to_str().unwrap()).lifetime(Lifetime::Attached);
        spec.read_only_root = read_only;
        spec
    };
    let sandbox = host.engine.create(spec(false)).await.unwrap();
    let line = "echo x > /bin/new && busybox rm /bin/sh && busybox stat -c %u:%g /bin/busybox /bin";
    let exec = sandbox.exec(["/bin/sh", "-c", line]).user("0");
    let output = soon(exec.output()).await.unwrap();
    assert_eq!(output.stdout_text(), "0:0\n0:0\n", "{output:?}");
    assert!(root.join("bin/sh").is_symlink() && !root.join("bin/new").exists());
    assert!(root.join(".stacyvm").is_symlink() && !root.join("bin/stacyvm-agent").exists());
    sandbox.kill().await.unwrap();
    let sandbox = host.engine.create(spec(true)).await.unwrap();
    let line = "echo x > /bin/new || echo no; echo y > /tmp/y && echo yes";
    let exec = sandbox.exec(["/bin/sh", "-c", line]).user("0");
    let output = soon(exec.output()).await.unwrap();
    assert_eq!(output.stdout_text(), "no\nyes\n", "{output:?}");
    sandbox.kill().await.unwrap();
}

async fn limits_hold(runtime: &str) {
    let host = host(runtime).await;
    let spec = spec()
        .memory_mib(48)
        .cpus(0.5)
        .pids(40)
        .open_files(64)
        .disk_mib(32);
    let sandbox = host.engine.create(spec).await.unwrap();
    let eater = sandbox.exec(["sh", "-c", "a=x; while :; do a=$a$a; done"]);
    assert_eq!(
        soon(eater.output()).await.unwrap().status,
        ExitStatus::OutOfMemory
    );
    let disk = "head -c 60000000 /dev/zero > /workspace/big || stat -c %s /workspace/big; ulimit -n; ulimit -c";
    let seen = text(&sandbox, disk).await;
    let lines: Vec<&str> = seen.lines().collect();
    assert!(lines[0].parse::<u64>().unwrap() < 32 << 20, "{seen}");
    assert_eq!(lines[1], "64");
    // Last, as those that it leaves take every place.
    let many = "i=0; while [ $i -lt 60 ]; do sleep 60 & i=$((i+1)); done; echo all";
    let output = soon(sandbox.shell(many).output()).await.unwrap();
    assert_ne!(output.stdout_text(), "all\n", "60 of 40 processes");
    let info = sandbox.info().await.unwrap();
    let held = |name: &str| info.effective.get(name).map(|held| held.value.as_str());
    assert_eq!(held("memory_limit"), Some("50331648 bytes"));
    assert_eq!(held("cpu_limit"), Some("50000 of 100000 us"));
    assert_eq!(held("pids_limit"), Some("40"));
    assert_eq!(held("runtime"), Some(runtime));
    assert_eq!(held("seccomp"), Some("default deny"));
    sandbox.kill().await.unwrap();
    assert_eq!(residue(&host, info.id.as_str()), [""; 0]);
}

async fn a_command_is_confined(runtime: &str) {
    let host = host(runtime).await;
    let sandbox = host.engine.create(spec()).await.unwrap();
    let line = r#"
        grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status | tr -d '\t'
        cat /proc/sys/user/max_user_namespaces
        for call in 'unshare -U true' 'unshare -m true' 'cat /proc/kcore' 'cat /proc/1/environ' \
            'touch /usr/x' 'mknod /tmp/n c 1 3' 'sh -c "echo h > /proc/sys/kernel/hostname"'; do
            eval "$call" >/tmp/out$$ 2>/dev/null && echo "done: $call"
        done
        for fd in /proc/$$/fd/*; do readlink $fd; done | grep -v -e pipe: -e /dev/null
        test -x /.stacyvm/stacyvm-agent && ls /.stacyvm; cat /.stacyvm/stacyvm-agent 2>/dev/null"#;
    for user in ["1000", "0"] {
        let exec = sandbox.shell(line).user(user);
        let output = soon(exec.output()).await.unwrap();
        assert_eq!(
            output.stdout_text(),
            "CapEff:0000000000000000\nCapBnd:0000000000000000\nNoNewPrivs:1\nSeccomp:2\n0\nstacyvm-agent\n",
            "{output:?}"
        );
    }
    // No file of the runtime or of the host is open in the agent, but the
    // count of kills and the way into the cgroup of commands, which takes only
    // processes that its user sees.
    let agent = sandbox.info().await.unwrap().host_pid.unwrap();
    for entry in std::fs::read_dir(format!("/proc/{agent}/fd")).unwrap() {
        let target = std::fs::read_link(entry.unwrap().path()).unwrap();
        let target = target.to_string_lossy();
        let known = ["/dev/null", "socket:", "anon_inode:", "pipe:", "/memory."];
        let cgroup = ["/commands/tasks", "/commands/cgroup.threads"];
        assert!(
            known.iter().any(|k| target.starts_with(k))
                || target.contains("memory.")
                || cgroup.iter().any(|k| target.ends_with(k)),
            "{target}"
        );
    }
    sandbox.kill().await.unwrap();
}

async fn nothing_is_left(runtime: &str) {
    let host = host(runtime).await;
    let sandbox = host.engine.create(spec()).await.unwrap();
    let id = sandbox.id().to_string();
    sandbox
        .shell("sleep 1000")
        .background()
        .start()
        .await
        .unwrap();
    assert!(
        residue(&host, &id).len() > 3,
        "this sees what there is: {:?}",
        residue(&host, &id)
    );
    sandbox.pause().await.unwrap();
    soon(sandbox.kill()).await.unwrap();
    assert_eq!(residue(&host, &id), [""; 0]);
}

async fn a_killed_helper_is_swept_up_after(runtime: &str) {
    let host = host(runtime).await;
    let sandbox = host
        .engine
        .create(spec().lifetime(Lifetime::Detached))
        .await
        .unwrap();
    let id = sandbox.id().to_string();
    let info = sandbox.info().await.unwrap();
    let init = Pid::from_raw(info.host_pid.unwrap().cast_signed()).unwrap();
    let helper = helper_of(&info);
    let children = format!("/proc/{0}/task/{0}/children", helper.as_raw_nonzero());
    let children = std::fs::read_to_string(children).unwrap();
    let first = init.as_raw_nonzero().to_string();
    let children: Vec<&str> = children.split_whitespace().collect();
    assert!(children.contains(&first.as_str()), "{children:?}");
    // gVisor has a process that opens files, too.
    let expected = if runtime == "runsc" { 2 } else { 1 };
    assert_eq!(children.len(), expected, "the helper has no other children");
    // An agent that ends by itself as its helper does would prove nothing.
    sandbox.pause().await.unwrap();
    kill_process(helper, Signal::KILL).unwrap();
    drop(sandbox);
    let runs = |pid: Pid| {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
        stat.is_ok_and(|stat| !stat.contains(") Z "))
    };
    eventually("the helper is gone", async || !runs(helper)).await;
    assert!(runs(init), "a runtime's container outlives its helper");
    // A provider that is opened anew sweeps, whatever its runtime is.
    let other = engine(host.state.path(), None).await;
    other.reconcile().await.unwrap();
    let list = other.list(stacyvm::engine::Filter::default()).await;
    assert!(list.unwrap().is_empty());
    eventually("its first process is gone", async || !runs(init)).await;
    assert_eq!(residue(&host, &id), [""; 0]);
}

/// gVisor is told apart from inside by what it says it is, whatever host it is
/// on; a runtime that shares the host's kernel says what the host says.
async fn its_kernel_is_not_the_hosts(runtime: &str) {
    const GVISOR: &str = "Linux version 4.4.0 #1 SMP Sun Jan 10 15:06:54 PST 2016\n";
    let hosts = std::fs::read_to_string("/proc/version").unwrap();
    let look = "cat /proc/version; uname -r";
    let host = host(runtime).await;
    let sandbox = host.engine.create(spec()).await.unwrap();
    let seen = text(&sandbox, look).await;
    assert_eq!(seen, format!("{GVISOR}4.4.0\n"));
    assert_ne!(hosts, GVISOR);
    let info = sandbox.info().await.unwrap();
    assert_eq!(info.effective["kernel"].value, "its own (gVisor)");
    sandbox.kill().await.unwrap();
    let summary = host.engine.providers().await;
    let oci = summary.iter().find(|p| p.name == "oci").unwrap();
    assert_eq!(oci.capabilities.isolation, Isolation::UserKernel);
    let control = engine(host.state.path(), None).await;
    let sandbox = control.create(spec()).await.unwrap();
    assert!(text(&sandbox, look).await.starts_with(&hosts));
    assert!(
        !sandbox
            .info()
            .await
            .unwrap()
            .effective
            .contains_key("kernel")
    );
    let summary = control.providers().await;
    let oci = summary.iter().find(|p| p.name == "oci").unwrap();
    assert_eq!(oci.capabilities.isolation, Isolation::Namespaces);
    sandbox.kill().await.unwrap();
}

async fn limits_hold_or_are_refused(runtime: &str) {
    let host = host(runtime).await;
    let error = host.engine.create(spec().pids(40)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("pids"), "{error}");
    let summary = host.engine.providers().await;
    let oci = summary.iter().find(|p| p.name == "oci").unwrap();
    assert!(!oci.capabilities.oom_reported);
    let spec = spec().memory_mib(64).cpus(0.5).open_files(64).disk_mib(32);
    let sandbox = host.engine.create(spec).await.unwrap();
    let info = sandbox.info().await.unwrap();
    let held = |name: &str| info.effective.get(name).map(|held| held.value.as_str());
    assert_eq!(held("memory_limit"), Some("67108864 bytes"));
    assert_eq!(held("cpu_limit"), Some("50000 of 100000 us"));
    assert_eq!(held("pids_limit"), None);
    assert_eq!(held("runtime"), Some(runtime));
    let disk = "head -c 60000000 /dev/zero > /workspace/big || stat -c %s /workspace/big; ulimit -n; ulimit -c";
    let seen = text(&sandbox, disk).await;
    let lines: Vec<&str> = seen.lines().collect();
    assert!(lines[0].parse::<u64>().unwrap() < 32 << 20, "{seen}");
    assert_eq!(lines[1], "64");
    // What is in /tmp is on disk, within its limit.
    let tmp = text(
        &sandbox,
        "rm /workspace/big; head -c 60000000 /dev/zero > /tmp/big || stat -c %s /tmp/big",
    )
    .await;
    assert!(tmp.trim().parse::<u64>().unwrap() < 32 << 20, "{tmp}");
    // The host kills what it finds largest of gVisor: the command or all of it.
    let eater = sandbox.exec(["sh", "-c", "a=x; while :; do a=$a$a; done; echo all"]);
    let killed = match soon(eater.output()).await {
        Ok(output) => output.status != ExitStatus::Code { code: 0 },
        Err(error) => error.kind() == ErrorKind::SandboxGone,
    };
    assert!(killed);
    let usage = sandbox.usage().await;
    if let Ok(usage) = usage {
        assert!(usage.memory_peak_bytes.unwrap() <= 64 << 20, "{usage:?}");
        assert!(usage.oom_kills.unwrap() > 0, "{usage:?}");
        assert_eq!(usage.processes, None, "threads of gVisor are no processes");
    }
    // It may be gone already.
    let _ = sandbox.kill().await;
    assert_eq!(residue(&host, info.id.as_str()), [""; 0]);
}

async fn a_command_is_confined_in_it(runtime: &str) {
    let host = host(runtime).await;
    let sandbox = host.engine.create(spec()).await.unwrap();
    let line = r#"
        grep -E '^(CapEff|CapBnd|Seccomp):' /proc/self/status | tr -d '\t'
        for call in 'unshare -U true' 'unshare -m true' 'cat /proc/kcore' 'cat /proc/1/mem' \
            'touch /usr/x' 'mknod /tmp/n c 1 3' 'sh -c "echo h > /proc/sys/kernel/hostname"' \
            'kill -0 1' 'kill -0 2' 'cat /proc/1/fd/3' 'echo x > /.stacyvm/stacyvm-agent'; do
            eval "$call" >/tmp/out$$ 2>/dev/null && echo "done: $call"
        done
        test -r /.stacyvm/stacyvm-agent && ls /.stacyvm"#;
    for user in ["1000", "0"] {
        let exec = sandbox.shell(line).user(user);
        let output = soon(exec.output()).await.unwrap();
        let seen = output.stdout_text();
        // Root inside may ask whether the agent is there: it has its number.
        let seen = seen.replace("done: kill -0 1\n", if user == "0" { "" } else { "!" });
        assert_eq!(
            seen, "CapEff:0000000000000000\nCapBnd:0000000000000000\nSeccomp:2\nstacyvm-agent\n",
            "{output:?}"
        );
    }
    let kernel = sandbox.info().await.unwrap().host_pid.unwrap();
    let status = std::fs::read_to_string(format!("/proc/{kernel}/status")).unwrap();
    for line in ["NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(status.contains(line), "{status}");
    }
    sandbox.kill().await.unwrap();
}

/// The part of the next test that is killed.
#[tokio::test]
async fn a_host_that_is_to_be_killed() {
    let variable = |name: &str| std::env::var_os(name)?.into_string().ok();
    let (Some(state), Some(runtime)) = (variable(DOOMED), variable(DOOMED_RUNTIME)) else {
        return;
    };
    let engine = engine(Path::new(&state), Some(&runtime)).await;
    let sandbox = engine.create(spec()).await.unwrap();
    let sleep = sandbox.shell("sleep 1000").background();
    sleep.start().await.unwrap();
    std::fs::write(Path::new(&state).join("id"), sandbox.id().as_str()).unwrap();
    std::future::pending::<()>().await;
}

async fn a_killed_host_takes_its_sandbox_along(runtime: &str) {
    let host = host(runtime).await;
    let mut doomed = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_host_that_is_to_be_killed"])
        .env(DOOMED, host.state.path())
        .env(DOOMED_RUNTIME, runtime)
        .spawn()
        .unwrap();
    let file = host.state.path().join("id");
    let read = || std::fs::read_to_string(&file).unwrap_or_default();
    eventually("its sandbox is made", async || !read().is_empty()).await;
    let id = read();
    assert!(residue(&host, &id).len() > 3, "this sees what there is");
    doomed.kill().unwrap();
    doomed.wait().unwrap();
    // Nobody else does anything.
    eventually("nothing is left", async || residue(&host, &id).is_empty()).await;
}

/// A runtime that does less than it was told makes no sandbox.
#[tokio::test]
async fn a_runtime_that_leaves_something_out_is_found_out() {
    let Some(runc) = find("runc").filter(|_| rustix::process::geteuid().is_root()) else {
        eprintln!("not run: no runc on this host, or not root");
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    for (name, change, lacking) in [
        (
            "nnp",
            "s/\"noNewPrivileges\":true/\"noNewPrivileges\":false/",
            "no_new_privs",
        ),
        (
            "calls",
            "s/\"seccomp\":/\"unknown\":/",
            "the filter of system calls",
        ),
        (
            "capabilities",
            "s/\"CAP_KILL\"/\"CAP_KILL\",\"CAP_SYS_PTRACE\"/g",
            "few capabilities",
        ),
        ("masks", "s/\"maskedPaths\":/\"unknown\":/", "hiding /proc/"),
        (
            "namespace",
            "s/,{\"type\":\"cgroup\"}//",
            "a namespace of kind cgroup",
        ),
        (
            "ids",
            "s/\"size\":65536/\"size\":65535/g",
            "the private range of ids",
        ),
        (
            "cgroup",
            "s:\"/stacyvm/:\"/elsewhere/:",
            "the sandbox's own cgroups",
        ),
        ("nothing", "s/nothing/nothing/", ""),
    ] {
        let path = directory.path().join(name);
        let script = format!(
            "#!/bin/sh\nfor a; do [ \"$last\" = --bundle ] && sed -i '{change}' \"$a/config.json\"\nlast=$a; done\nexec {} \"$@\"\n",
            runc.display()
        );
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let host = host(path.to_str().unwrap()).await;
        let made = soon(host.engine.create(spec()).into_future()).await;
        if lacking.is_empty() {
            made.unwrap().kill().await.unwrap();
            continue;
        }
        let error = made.unwrap_err();
        assert!(error.to_string().contains(lacking), "{name}: {error}");
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{name}: {error}");
        let left = host.engine.list(stacyvm::engine::Filter {
            all: true,
            ..Default::default()
        });
        for info in left.await.unwrap() {
            assert_eq!(residue(&host, info.id.as_str()), [""; 0], "{name}");
        }
        let names = std::fs::read_dir(host.state.path().join("sandboxes")).unwrap();
        assert_eq!(names.count(), 0, "{name}");
    }
}

#[tokio::test]
async fn crun_on_a_host_with_both_versions_of_cgroups_is_refused_first() {
    if find("crun").is_none() || !is_mixed() || !rustix::process::geteuid().is_root() {
        eprintln!("not run: no crun, not root, or not both versions of cgroups on this host");
        return;
    }
    let host = host("crun").await;
    let error = host.engine.create(spec()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("version 2"), "{error}");
    let summary = host.engine.providers().await;
    let oci = summary.iter().find(|p| p.name == "oci").unwrap();
    assert!(!oci.probe.usable);
}

#[tokio::test]
async fn a_runsc_without_descriptors_is_refused_with_the_way_out() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("gvisor");
    std::fs::write(&path, "#!/bin/sh\necho runsc version release-1\n").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let host = host(path.to_str().unwrap()).await;
    let error = host.engine.create(spec()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(format!("{error:?}").contains("docker"), "{error:?}");
}

suite!(runc crun youki: [
    commands_and_files
    a_directory_stays_untouched
    limits_hold
    a_command_is_confined
    nothing_is_left
    a_killed_helper_is_swept_up_after
    a_killed_host_takes_its_sandbox_along
]);
// What the host cannot count of a kernel of its own is refused there, and what
// a command sees is that kernel's.
suite!(runsc: [
    its_kernel_is_not_the_hosts
    commands_and_files
    a_directory_stays_untouched
    limits_hold_or_are_refused
    a_command_is_confined_in_it
    nothing_is_left
    a_killed_helper_is_swept_up_after
    a_killed_host_takes_its_sandbox_along
]);
