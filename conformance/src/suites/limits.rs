//! Limits: what they keep, what they leave, and how their end is told.

use std::time::{Duration, Instant};

use stacyvm::sandbox::spec::{Mount, MountSource, Profile};
use stacyvm::{ErrorKind, ExitStatus, Sandbox, SandboxSpec, SignalScope};

use super::cases;
use super::common::{code, holds_soon, run_as, soon, spec_refused, users};
use crate::case::{Case, Checked, Failure, Level};
use crate::fixture::{Fixture, refused};
use crate::{ensure, ensure_eq};

pub(super) const CASES: &[Case] = cases! {
    Must "limits.values_that_make_no_sense_are_refused" ["L1.1"] => nonsense;
    Must "limits.a_strict_profile_is_held_or_refused" ["L1.5"] => strict;
    Must "limits.those_of_the_spec_are_shown_as_they_are" ["L1.5" "L1.9"] needs(MEMORY, PIDS) => shown;
    Should "limits.programs_see_their_limits" [] needs(MEMORY, CPUS, LIMITS_VISIBLE) else told_outside => visible;
    Must "limits.memory_within_the_limit_is_had" ["L1.9"] needs(MEMORY) => memory_is_had;
    Must "limits.memory_of_one_is_not_taken_from_another" ["L1.9"] needs(MEMORY) => memory_of_another;
    Must "limits.a_child_that_lacked_memory_is_not_the_command_s_end" ["E3.4"] needs(MEMORY, OOM) => child_lacked_memory;
    Must "limits.lack_of_memory_is_counted" ["E3.4"] needs(MEMORY, OOM, USAGE) => lack_is_counted;
    Must "limits.files_in_memory_count_as_memory" ["L1.9" "S2.16"] needs(MEMORY, MOUNT_TMPFS, FILES) => files_in_memory;
    Must "limits.a_command_beyond_the_limit_of_processes_is_told" ["L1.9" "E6.2"] needs(PIDS, BACKGROUND) => beyond_pids;
    Must "limits.processes_of_one_are_not_taken_from_another" ["L1.9"] needs(PIDS, BACKGROUND) => pids_of_another;
    Must "limits.a_share_of_processors_is_held" ["L1.9"] needs(CPUS) => cpu_share;
    Must "limits.open_files_beyond_the_limit_are_refused" ["L1.9"] needs(OPEN_FILES) => too_many_files;
    Must "limits.the_limit_of_open_files_is_not_raised_inside" ["L1.9"] needs(OPEN_FILES) => files_not_raised;
    Must "limits.a_full_disk_is_told_and_has_room_again" ["F1.2" "L1.9"] needs(DISK, FILES) => full_disk;
    Must "limits.a_full_disk_of_one_is_not_another_s" ["L1.9"] needs(DISK, FILES) => disk_of_another;
};

async fn nonsense(f: &Fixture) -> Checked {
    let spec = || f.spec();
    for (spec, field) in [
        (spec().memory_mib(0), "memory_mib"),
        (spec().memory_mib(u64::MAX), "memory_mib"),
        (spec().cpus(0.0), "cpus"),
        (spec().cpus(f64::NAN), "cpus"),
        (spec().pids(0), "pids"),
        (spec().open_files(1), "open_files"),
        (spec().disk_mib(1), "disk_mib"),
    ] {
        let what = format!("a {field} that makes no sense");
        let error = spec_refused(f, spec, &[ErrorKind::InvalidArgument], &what).await?;
        ensure_eq!(error.fact("field"), Some(field), "the field that is named");
        ensure!(
            error
                .fact("remedy")
                .is_some_and(|remedy| !remedy.is_empty()),
            "{what} is refused without a remedy: {error}"
        );
    }
    Ok(())
}

async fn strict(f: &Fixture) -> Checked {
    use stacyvm::provider::Level::Enforced;
    let claims = f.claims();
    let all = [
        ("memory_limit", claims.memory_limit),
        ("pids_limit", claims.pids_limit),
        ("open_files_limit", claims.open_files_limit),
        ("network_none", claims.network_none),
        ("root_mapped", claims.root_mapped),
        ("syscall_filter", claims.syscall_filter),
        ("no_new_privileges", claims.no_new_privileges),
    ];
    // The profile's own is more than every host has to give.
    let spec = f.spec().open_files(256).profile(Profile::Strict);
    if all.iter().any(|(_, level)| *level != Enforced) {
        let what = "a strict profile";
        spec_refused(f, spec, &[ErrorKind::Unsupported], what).await?;
        return Ok(());
    }
    let sandbox = f.make(spec).await?;
    let seen = f.provider().inspect(f.context(), sandbox.id()).await?;
    for need in ["memory_limit", "pids_limit", "open_files_limit"] {
        let level = seen.effective.get(need).map(|effective| effective.level);
        ensure_eq!(
            level,
            Some(Enforced),
            "how {need} holds in a strict sandbox"
        );
    }
    f.shell(&sandbox, "true").await?;
    Ok(())
}

async fn shown(f: &Fixture) -> Checked {
    let spec = f.spec().memory_mib(96).pids(77);
    let sandbox = f.make(spec).await?;
    let info = sandbox.info().await?;
    ensure_eq!(info.resources.memory_mib, Some(96), "the memory");
    ensure_eq!(info.resources.pids, Some(77), "the processes");
    let claims = f.claims();
    for (need, level, value) in [
        ("memory_limit", claims.memory_limit, "96"),
        ("pids_limit", claims.pids_limit, "77"),
    ] {
        let Some(effective) = info.effective.get(need) else {
            return Err(Failure::broken(format!(
                "{need} is not told to be in force"
            )));
        };
        ensure_eq!(effective.level, level, "the level of {need}");
        ensure!(
            effective.value.contains(value),
            "{need} is told as {}, expected {value}",
            effective.value
        );
    }
    Ok(())
}

fn small(f: &Fixture) -> SandboxSpec {
    f.spec().memory_mib(256).cpus(1.0)
}

async fn visible(f: &Fixture) -> Checked {
    let sandbox = f.make(small(f)).await?;
    let output = f.shell(&sandbox, "nproc").await?;
    ensure_eq!(output.stdout_text(), "1\n", "what `nproc` says");
    let output = f.shell(&sandbox, "cat /proc/meminfo").await?;
    let text = output.stdout_text();
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let total = total.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    ensure!(
        total.is_some_and(|kib| kib <= 256 << 10),
        "the memory that programs see is {total:?} KiB, expected 256 MiB at most"
    );
    Ok(())
}

/// Where programs do not see their limits, whoever asks outside does.
async fn told_outside(f: &Fixture) -> Checked {
    let (memory, cpus) = (f.claims().memory_limit, f.claims().cpu_limit);
    if memory.min(cpus) == stacyvm::provider::Level::Absent {
        let what = "limits of memory and processors";
        spec_refused(f, small(f), &[ErrorKind::Unsupported], what).await?;
        return Ok(());
    }
    let sandbox = f.make(small(f)).await?;
    let info = sandbox.info().await?;
    for need in ["memory_limit", "cpu_limit"] {
        ensure!(
            info.effective.contains_key(need),
            "{need} is seen neither inside nor outside"
        );
    }
    Ok(())
}

/// Takes so much memory, and ends well.
fn take(bytes: u64) -> String {
    format!("head -c {bytes} /dev/zero | tail > /dev/null")
}

async fn memory_is_had(f: &Fixture) -> Checked {
    let sandbox = f.make(f.spec().memory_mib(192)).await?;
    f.shell(&sandbox, &take(80_000_000)).await?;
    Ok(())
}

async fn memory_of_another(f: &Fixture) -> Checked {
    let one = f.make(f.spec().memory_mib(64)).await?;
    let two = f.make(f.spec().memory_mib(192)).await?;
    let line = take(300_000_000);
    let hungry = one.shell(&line).timeout(Duration::from_secs(30)).output();
    let modest = take(80_000_000);
    let (hungry, modest) = tokio::join!(hungry, f.shell(&two, &modest));
    ensure!(
        !hungry?.status.success(),
        "300 MB were taken where 64 MiB are allowed"
    );
    modest?;
    f.shell(&two, "true").await?;
    f.shell(&one, "true").await?;
    Ok(())
}

async fn child_lacked_memory(f: &Fixture) -> Checked {
    let sandbox = f.make(f.spec().memory_mib(64)).await?;
    let line = "tail /dev/zero; echo $?; exit 7";
    let exec = sandbox.shell(line).timeout(Duration::from_secs(30));
    let output = exec.output().await?;
    ensure_eq!(output.stdout_text(), "137\n", "the end of the child");
    ensure_eq!(output.status, code(7), "the end of its parent");
    Ok(())
}

async fn lack_is_counted(f: &Fixture) -> Checked {
    let sandbox = f.make(f.spec().memory_mib(64)).await?;
    let Some(before) = sandbox.usage().await?.oom_kills else {
        return Err(Failure::NotRun(
            "kills for lack of memory are left out".to_owned(),
        ));
    };
    let exec = sandbox.exec(["tail", "/dev/zero"]);
    let output = exec.timeout(Duration::from_secs(30)).output().await?;
    ensure_eq!(output.status, ExitStatus::OutOfMemory, "its end");
    let after = sandbox.usage().await?.oom_kills.unwrap_or_default();
    ensure!(
        after > before,
        "{after} kills after one more, expected more than {before}"
    );
    Ok(())
}

async fn files_in_memory(f: &Fixture) -> Checked {
    let spec = f.spec().memory_mib(64).mount(Mount {
        target: "/mnt".to_owned(),
        source: MountSource::Tmpfs { size_mib: 512 },
        writable: true,
        size_mib: None,
    });
    let sandbox = f.make(spec).await?;
    let line = "head -c 200000000 /dev/zero > /mnt/big";
    let output = sandbox
        .shell(line)
        .timeout(Duration::from_secs(30))
        .output()
        .await?;
    ensure!(
        !output.status.success(),
        "200 MB of files were kept in a memory of 64 MiB"
    );
    // Commands may find none either, and end nobody but themselves.
    for _ in 0..6 {
        let output = soon("a command", sandbox.exec(["true"]).output()).await?;
        let gone = output.is_err_and(|error| error.kind() == ErrorKind::SandboxGone);
        ensure!(!gone, "a command in a full memory ended the sandbox");
    }
    // A program may find no memory to take them away; what serves the sandbox does.
    sandbox.files().remove("/mnt/big").await?;
    f.shell(&sandbox, "head -c 20000000 /dev/zero > /mnt/small")
        .await?;
    Ok(())
}

/// Starts processes until there are no more to be had, and keeps them.
async fn fill(sandbox: &Sandbox) -> Checked<stacyvm::ExecId> {
    let line = "n=0; while [ $n -lt 200 ]; do sleep 50 & n=$((n+1)); done; wait; sleep 50";
    let process = sandbox.shell(line).background().start().await?;
    let id = process.detach()?;
    // A shell that cannot fork ends; what it started stays.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    Ok(id)
}

async fn beyond_pids(f: &Fixture) -> Checked {
    let sandbox = f.make(f.spec().pids(32)).await?;
    let filled = fill(&sandbox).await?;
    let more = sandbox.shell("for n in 1 2 3 4 5 6 7 8 9; do sleep 0 & done; wait; true");
    match soon("a command beyond the limit", more.output()).await? {
        // There is a place for it, or it says what it lacks.
        Ok(_) => {}
        Err(error) => ensure_eq!(
            error.kind(),
            ErrorKind::ResourceExhausted,
            "what a command beyond the limit fails with"
        ),
    }
    soon("a kill", sandbox.signal(&filled, 9, SignalScope::Tree)).await??;
    holds_soon!("a command runs after the others were killed", {
        let output = soon("a command", sandbox.shell("sleep 0; true").output()).await?;
        output.is_ok_and(|output| output.status.success())
    });
    Ok(())
}

async fn pids_of_another(f: &Fixture) -> Checked {
    let one = f.make(f.spec().pids(32)).await?;
    let two = f.make(f.spec().pids(64)).await?;
    fill(&one).await?;
    let line = "for n in 1 2 3 4 5 6 7 8 9; do sleep 1 & done; wait; echo all";
    let output = soon("nine processes", f.shell(&two, line)).await??;
    ensure_eq!(output.stdout_text(), "all\n", "what the other one says");
    Ok(())
}

/// Three loops for three seconds, and the processor time that they got.
const BUSY: &str = "
    sh -c 'while :; do :; done' & one=$!
    sh -c 'while :; do :; done' & two=$!
    sh -c 'while :; do :; done' & three=$!
    sleep 3
    kill -9 $one $two $three
    wait
    times";

async fn cpu_share(f: &Fixture) -> Checked {
    // Less than what a busy host has for one sandbox.
    const SHARE: f64 = 0.1;
    let sandbox = f.make(f.spec().cpus(SHARE)).await?;
    let begun = Instant::now();
    let output = f.shell(&sandbox, BUSY).await?;
    let wall = begun.elapsed().as_secs_f64();
    let text = output.stdout_text();
    // User and system time of the children are in the second line: `0m0.480s 0m0.012s`.
    let times = text.lines().nth(1).unwrap_or_default();
    let parsed: Vec<f64> = times.split_whitespace().filter_map(seconds).collect();
    ensure_eq!(parsed.len(), 2, "how many times are in {text:?}");
    let used = parsed[0] + parsed[1];
    // Half as much again, for where the periods of the scheduler begin.
    let most = SHARE.mul_add(wall * 1.5, 0.1);
    let within = used <= most;
    ensure!(
        within,
        "{used} s of a processor in {wall} s, expected at most {most} s of one that may have a tenth"
    );
    let worked = used > 0.0;
    ensure!(worked, "no processor time was used: {text:?}");
    Ok(())
}

/// `1m2.5s` in seconds.
fn seconds(time: &str) -> Option<f64> {
    let (minutes, rest) = time.split_once('m')?;
    let minutes: f64 = minutes.parse().ok()?;
    let seconds: f64 = rest.strip_suffix('s')?.parse().ok()?;
    Some(minutes * 60.0 + seconds)
}

async fn too_many_files(f: &Fixture) -> Checked {
    let sandbox = f.make(f.spec().open_files(40)).await?;
    // It opens all of its files before it reads.
    let open = |most: u32| format!("cd /tmp && tee $(seq {most}) < /dev/null");
    f.shell(&sandbox, &open(20)).await?;
    let output = sandbox.shell(open(80)).output().await?;
    ensure!(
        !output.status.success() && output.stderr_text().contains("oo many open files"),
        "80 files at once ended with {} and {:?}, expected too many open files",
        output.status,
        output.stderr_text()
    );
    Ok(())
}

async fn files_not_raised(f: &Fixture) -> Checked {
    let sandbox = f.make(f.spec().open_files(99)).await?;
    for user in users(f) {
        let output = run_as(&sandbox, *user, "ulimit -Hn 100; ulimit -Hn").await?;
        let text = output.stdout_text();
        ensure!(
            !text.contains("100"),
            "a command raised its limit of open files from 99 to {text:?}"
        );
    }
    Ok(())
}

async fn full_disk(f: &Fixture) -> Checked {
    let sandbox = f.make(f.spec().disk_mib(16)).await?;
    let files = sandbox.files();
    files.write("/tmp/kept", "kept").await?;
    let big = vec![7_u8; 32 << 20];
    let written = files.write("/tmp/kept", big).await;
    refused(
        written,
        &[ErrorKind::NoSpace],
        "a file that is larger than the disk",
    )?;
    let kept = files.read("/tmp/kept").await?;
    ensure_eq!(&kept[..], b"kept", "the file that was there before");
    files.write("/tmp/more", vec![7_u8; 4 << 20]).await?;
    Ok(())
}

async fn disk_of_another(f: &Fixture) -> Checked {
    let one = f.make(f.spec().disk_mib(16)).await?;
    let two = f.make(f.spec().disk_mib(16)).await?;
    let output = one
        .shell("head -c 64000000 /dev/zero > /tmp/big")
        .output()
        .await?;
    ensure!(
        !output.status.success(),
        "64 MB were written to a disk of 16 MiB"
    );
    two.files().write("/tmp/a", vec![7_u8; 8 << 20]).await?;
    // One that is full can still be worked in.
    f.shell(&one, "rm /tmp/big && echo x > /tmp/small").await?;
    Ok(())
}
