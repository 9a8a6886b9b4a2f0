//! Programs inside that attack what serves them: the sandbox and its neighbours go
//! on, or its end is told.

use stacyvm::provider::Users;
use stacyvm::{ErrorKind, Sandbox};

use super::cases;
use super::common::{
    GONE, attempt_as, code, ended, follow, has, holds_soon, run_as, soon, until, users,
};
use crate::case::{Case, Checked, Failure, Level};
use crate::fixture::Fixture;
use crate::{ensure, ensure_eq};

pub(super) const CASES: &[Case] = cases! {
    Must "hostile.signals_to_process_1_end_nothing_in_silence" ["S2.15"] => signals_to_one;
    Must "hostile.signals_to_all_end_nothing_in_silence" ["S2.15"] needs(ISOLATION) => signals_to_all;
    Must "hostile.stopping_all_holds_up_no_end" ["S2.15" "E6.1"] needs(ISOLATION, USERS) => stopped;
    Must "hostile.a_command_has_no_descriptors_but_its_own" ["S2.1"] needs(ISOLATION) => descriptors;
    Must "hostile.a_command_may_close_all_descriptors" ["E3.1"] needs(ISOLATION) => closes_all;
    Must "hostile.garbage_on_all_that_is_open_ends_nothing_in_silence" ["S2.5" "S2.6"] needs(ISOLATION) => garbage;
    Must "hostile.garbage_on_every_socket_ends_nothing_in_silence" ["S2.5" "S2.6" "S2.7"] needs(ISOLATION) => sockets;
    Must "hostile.descriptors_of_one_process_are_not_another_s" ["L1.9"] needs(ISOLATION, OPEN_FILES) => fills_descriptors;
    Must "hostile.titles_of_processes_are_data" ["S1.1" "S2.5"] needs(ISOLATION, PROCESSES) => titles;
    Must "hostile.hidden_programs_hide_nothing_from_a_kill" ["E4.2"] needs(ISOLATION, TREE) => hidden;
};

/// Both answer, or the first one's end is told; the second answers in any event.
async fn go_on(f: &Fixture, attacked: &Sandbox, neighbour: &Sandbox, what: &str) -> Checked {
    let after = format!("a command after {what}");
    match soon(&after, attacked.exec(["true"]).output()).await? {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            ensure_eq!(
                output.status,
                stacyvm::ExitStatus::SandboxGone,
                "how `true` ended after {what}"
            );
        }
        Err(error) => {
            ensure!(
                GONE.contains(&error.kind()),
                "a command after {what} failed with {error}, expected it to run or that the sandbox is gone"
            );
            let seen = f.provider().inspect(f.context(), attacked.id()).await;
            ensure!(
                seen.is_err()
                    || seen.is_ok_and(|seen| {
                        seen.state == stacyvm::sandbox::state::ObservedState::Ended
                    }),
                "the sandbox is told to be gone after {what}, and is seen all the same"
            );
        }
    }
    let after = format!("a command in the neighbour after {what}");
    let output = soon(&after, neighbour.exec(["true"]).output()).await??;
    ensure!(output.status.success(), "the neighbour fails after {what}");
    Ok(())
}

async fn attack(f: &Fixture, lines: &[&str]) -> Checked {
    let neighbour = f.sandbox().await?;
    for user in users(f) {
        for line in lines {
            let sandbox = f.sandbox().await?;
            let exec = sandbox.shell(line).timeout(super::common::SOON);
            let exec = match user {
                Some(user) => exec.user(*user),
                None => exec,
            };
            match soon(line, exec.output()).await? {
                Ok(_) => {}
                // The only user may end what starts its command.
                Err(error)
                    if f.claims().users == Users::One && error.kind() == ErrorKind::Internal => {}
                Err(error) => ensure!(
                    GONE.contains(&error.kind()) || error.kind() == ErrorKind::Unavailable,
                    "`{line}` failed with {error}"
                ),
            }
            go_on(f, &sandbox, &neighbour, &format!("`{line}` as {user:?}")).await?;
            soon("a kill", sandbox.kill()).await??;
        }
    }
    Ok(())
}

async fn signals_to_one(f: &Fixture) -> Checked {
    attack(
        f,
        &[
            "kill -15 1",
            "kill -9 1",
            "kill -11 1",
            "kill -19 1",
            "kill -1 1",
        ],
    )
    .await
}

async fn signals_to_all(f: &Fixture) -> Checked {
    attack(f, &["kill -9 -1", "trap '' 15; kill -15 -1", "kill -9 0"]).await
}

/// What cannot go on can be ended.
async fn stopped(f: &Fixture) -> Checked {
    let neighbour = f.sandbox().await?;
    for user in users(f) {
        let sandbox = f.sandbox().await?;
        let mut held = sandbox.shell("echo up; sleep 61; true").start().await?;
        until(&mut held, "up").await?;
        attempt_as(&sandbox, *user, "kill -19 -1; true").await?;
        go_on(f, &sandbox, &neighbour, "all were stopped").await?;
        soon("the end of one whose processes stand still", sandbox.kill()).await??;
    }
    Ok(())
}

async fn descriptors(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    for user in users(f) {
        // `ls` has one of its own, of the directory that it reads.
        let output = run_as(&sandbox, *user, "ls /proc/self/fd | sort -n | tr '\\n' ' '").await?;
        let text = output.stdout_text();
        ensure_eq!(text, "0 1 2 3 ", "the descriptors of a command as {user:?}");
    }
    Ok(())
}

async fn closes_all(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    has(&sandbox, "perl").await?;
    let script = "use POSIX; POSIX::close($_) for 0..1023; sleep 1; POSIX::_exit(7)";
    let begun = std::time::Instant::now();
    let mut process = sandbox.exec(["perl", "-e", script]).start().await?;
    let seen = follow(&mut process).await?;
    ended(&seen, code(7), script)?;
    ensure!(
        begun.elapsed() >= super::common::ms(900),
        "its end was told {:?} after its start, expected a second",
        begun.elapsed()
    );
    f.shell(&sandbox, "true").await?;
    Ok(())
}

/// Writes bytes that have no meaning on every descriptor but its own streams.
const GARBAGE: &str = r#"
    my $junk = join "", map { chr(($_ * 7919 + 13) % 256) } 1..65536;
    for my $fd (3..255) { if (open(my $f, ">&=", $fd)) { syswrite($f, $junk) } }
    for my $pid (1, getppid) { for my $n (0..32) {
        if (open(my $f, "+<", "/proc/$pid/fd/$n")) { syswrite($f, $junk) }
        if (open(my $f, ">", "/proc/$pid/fd/$n")) { syswrite($f, $junk) } } }
    print "done";
"#;

/// Connects to every socket that it finds, by path and without, and writes.
const SOCKETS: &str = r#"
    use Socket; $SIG{PIPE} = "IGNORE"; $SIG{ALRM} = sub { print "done"; exit 0 }; alarm 10;
    my $junk = join "", map { chr(($_ * 7919 + 13) % 256) } 1..65536;
    my @names;
    if (open(my $f, "<", "/proc/net/unix")) { while (<$f>) {
        my $name = (split ' ', $_, 8)[7]; next unless defined $name; chomp $name;
        $name =~ s/^\@/\0/; push @names, $name } }
    push @names, split /\n/, `find / -xdev -type s 2>/dev/null`;
    for my $name (@names) { for my $kind (SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET) {
        socket(my $s, AF_UNIX, $kind, 0) or next;
        next unless length $name < 100 && connect($s, pack_sockaddr_un($name));
        syswrite($s, $junk) for 1..4 } }
    print "done";
"#;

async fn perl_attack(f: &Fixture, script: &str, what: &str) -> Checked {
    let (sandbox, neighbour) = (f.sandbox().await?, f.sandbox().await?);
    has(&sandbox, "perl").await?;
    for user in users(f) {
        let exec = sandbox
            .exec(["perl", "-e", script])
            .timeout(super::common::SOON);
        let exec = match user {
            Some(user) => exec.user(*user),
            None => exec,
        };
        match exec.output().await {
            Ok(output) => ensure!(
                output.stdout_text() == "done" || !output.status.success(),
                "the program ended well and did nothing: {:?}",
                output.stderr_text()
            ),
            Err(error) => ensure!(GONE.contains(&error.kind()), "{what} failed with {error}"),
        }
        go_on(f, &sandbox, &neighbour, what).await?;
    }
    Ok(())
}

async fn garbage(f: &Fixture) -> Checked {
    perl_attack(f, GARBAGE, "garbage on every descriptor").await
}

async fn sockets(f: &Fixture) -> Checked {
    perl_attack(f, SOCKETS, "garbage on every socket").await
}

async fn fills_descriptors(f: &Fixture) -> Checked {
    let sandbox = f.make(f.spec().open_files(64)).await?;
    has(&sandbox, "perl").await?;
    let script = "$| = 1; my @all; while (open(my $f, '<', '/dev/null')) { push @all, $f } print 'full'; sleep 60";
    let mut all = Vec::new();
    for _ in 0..4 {
        let mut process = sandbox.exec(["perl", "-e", script]).start().await?;
        until(&mut process, "full").await?;
        all.push(process);
    }
    f.shell(&sandbox, "cat /dev/null").await?;
    if f.claims().files {
        sandbox.files().write(f.path("a"), "x").await?;
    }
    let mut last = all
        .pop()
        .ok_or_else(|| Failure::broken("nothing was started"))?;
    last.kill().await?;
    let seen = follow(&mut last).await?;
    ended(&seen, super::common::signal(9), "one that was killed")
}

async fn titles(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    // Escape codes, an end of line, bytes that are no text, and a name that is long.
    let mut name = b"\x1b[31m\n\xff\xfe".to_vec();
    name.extend(std::iter::repeat_n(b'x', 60_000));
    let argv: [&[u8]; 5] = [b"sh", b"-c", b"sleep 61; true", b"61.5", &name];
    let mut process = sandbox.exec(argv).start().await?;
    holds_soon!("the process is listed", {
        let all = sandbox.processes().await?;
        all.iter().any(|p| p.argv.iter().any(|word| word == "61.5"))
    });
    for one in sandbox.processes().await? {
        ensure!(
            one.pid > 0 && one.state.len() <= 8,
            "a process is told as {one:?}"
        );
    }
    process.kill().await?;
    follow(&mut process).await?;
    Ok(())
}

async fn hidden(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    has(&sandbox, "perl").await?;
    // Two forks, a session of its own, another title, no streams, no signals.
    let script = r#"
        use POSIX; $| = 1; $SIG{$_} = "IGNORE" for qw(TERM INT HUP QUIT);
        unless (fork) { POSIX::setsid(); unless (fork) {
            $0 = "[k" . "worker/0:1]"; chdir "/"; POSIX::close($_) for 0..255; sleep 61; exit }
            exit }
        wait; select(undef, undef, undef, 0.3); print "up"; sleep 61;
    "#;
    let mut process = sandbox.exec(["perl", "-e", script]).start().await?;
    until(&mut process, "up").await?;
    let look = "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -c '[k]worker'; true";
    let output = f.shell(&sandbox, look).await?;
    ensure_eq!(output.stdout_text(), "1\n", "how many hide before the kill");
    process.kill().await?;
    follow(&mut process).await?;
    holds_soon!("what hid is gone", {
        f.shell(&sandbox, look).await?.stdout_text() == "0\n"
    });
    Ok(())
}
