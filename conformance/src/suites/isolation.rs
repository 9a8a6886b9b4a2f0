//! What one sandbox has is not another's.

use stacyvm::sandbox::exec::ExecEvent;
use stacyvm::{Process, Sandbox};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::cases;
use super::common::{attempt_as, has, holds_soon, run_as, soon, until, users};
use crate::case::{Case, Checked, Failure, Level};
use crate::fixture::Fixture;
use crate::{ensure, ensure_eq};

pub(super) const CASES: &[Case] = cases! {
    Must "isolation.no_process_of_another_is_listed" [] needs(PROCESSES, BACKGROUND) => not_listed;
    Must "isolation.no_command_of_another_is_listed" [] needs(BACKGROUND) => commands_not_listed;
    Must "isolation.no_process_of_another_is_seen_inside" ["S2.1"] needs(ISOLATION) => not_seen;
    Must "isolation.no_signal_reaches_another" ["S2.1"] needs(ISOLATION, USERS) => no_signal;
    Must "isolation.no_directory_is_another_s" ["S2.1"] needs(ISOLATION) => no_directory;
    Must "isolation.one_port_in_two_is_two_ports" ["F3.1" "F3.2"] needs(PORTS) => ports_apart;
    Must "isolation.no_port_of_another_is_reached" ["S2.1"] needs(ISOLATION, PORTS) => no_port;
    Must "isolation.no_abstract_socket_of_another_is_reached" ["S2.1"] needs(ISOLATION) => no_abstract_socket;
    Must "isolation.no_shared_memory_of_another_is_seen" ["S2.1"] needs(ISOLATION) => no_shared_memory;
    Must "isolation.each_has_a_name_of_its_own" [] needs(ISOLATION) => names;
};

async fn two(f: &Fixture) -> Checked<(Sandbox, Sandbox)> {
    Ok((f.sandbox().await?, f.sandbox().await?))
}

async fn not_listed(f: &Fixture) -> Checked {
    let (one, two) = two(f).await?;
    one.exec(["sleep", "61.25"])
        .background()
        .start()
        .await?
        .detach()?;
    let lists = async |sandbox: &Sandbox| {
        let all = sandbox.processes().await?;
        Checked::Ok(
            all.iter()
                .any(|p| p.argv.iter().any(|word| word == "61.25")),
        )
    };
    holds_soon!("the process is listed where it is", lists(&one).await?);
    ensure!(
        !lists(&two).await?,
        "the process of one sandbox is listed in another"
    );
    Ok(())
}

async fn commands_not_listed(f: &Fixture) -> Checked {
    let (one, two) = two(f).await?;
    let id = one
        .exec(["sleep", "61"])
        .background()
        .start()
        .await?
        .detach()?;
    let lists = async |sandbox: &Sandbox| {
        let all = sandbox.execs().await?;
        Checked::Ok(all.iter().any(|info| info.exec == id))
    };
    ensure!(lists(&one).await?, "the command is not listed where it is");
    ensure!(
        !lists(&two).await?,
        "the command of one sandbox is listed in another"
    );
    let followed = two.attach(&id).await;
    ensure!(
        followed.is_err(),
        "the command of one sandbox is followed in another"
    );
    let signalled = two.signal(&id, 9, stacyvm::SignalScope::Tree).await;
    ensure!(
        signalled.is_err(),
        "the command of one sandbox is signalled in another"
    );
    let all = one.execs().await?;
    let info = all.iter().find(|info| info.exec == id);
    ensure!(
        info.is_some_and(|info| info.exited.is_none()),
        "the command has ended: {info:?}"
    );
    Ok(())
}

/// What every process that is seen was started with.
const SEEN: &str = "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '; true";

async fn not_seen(f: &Fixture) -> Checked {
    let (one, two) = two(f).await?;
    let mut process = one.shell("echo up; sleep 61.75; true").start().await?;
    until(&mut process, "up").await?;
    let output = f.shell(&one, SEEN).await?;
    ensure!(
        output.stdout_text().contains("61.75"),
        "the process is not seen where it is: {:?}",
        output.stdout_text()
    );
    for user in users(f) {
        let output = run_as(&two, *user, SEEN).await?;
        ensure!(
            !output.stdout_text().contains("61.75"),
            "the process of one sandbox is seen in another as {user:?}"
        );
    }
    Ok(())
}

async fn no_signal(f: &Fixture) -> Checked {
    let (one, two) = two(f).await?;
    let mut process = one.shell("echo up; sleep 61; true").start().await?;
    until(&mut process, "up").await?;
    for user in users(f) {
        // All that it can reach, and all numbers that there may be.
        attempt_as(&two, *user, "kill -9 -1").await?;
        let line = "n=2; while [ $n -lt 3000 ]; do [ $n -ne $$ ] && kill -9 $n 2>/dev/null; n=$((n+1)); done; true";
        attempt_as(&two, *user, line).await?;
    }
    f.shell(&one, "true").await?;
    let waited = tokio::time::timeout(super::common::ms(300), process.next_event()).await;
    ensure!(
        waited.is_err(),
        "the command of one sandbox did not go on while another killed: {waited:?}"
    );
    Ok(())
}

async fn no_directory(f: &Fixture) -> Checked {
    let (one, two) = two(f).await?;
    let places = "/tmp /var/tmp /dev/shm /run /run/lock /workspace /home $HOME / /dev /var";
    let write = format!(
        "for d in {places}; do echo x 2>/dev/null > $d/of-the-first && echo $d; done; true"
    );
    let mut written = 0;
    for user in users(f) {
        let output = run_as(&one, *user, &write).await?;
        written += output.stdout_text().lines().count();
    }
    ensure!(written > 0, "nothing could be written anywhere");
    let look = format!("for d in {places}; do ls $d/of-the-first 2>/dev/null; done; true");
    for user in users(f) {
        let output = run_as(&two, *user, &look).await?;
        ensure_eq!(
            output.stdout_text(),
            "",
            "files of one sandbox that another sees"
        );
    }
    Ok(())
}

/// Serves one connection with a word.
async fn serve(
    sandbox: &Sandbox,
    port: u16,
    word: &'static str,
) -> Checked<tokio::task::JoinHandle<()>> {
    let mut listener = sandbox.listen(port).await?;
    Ok(tokio::spawn(async move {
        use futures_util::StreamExt as _;
        while let Some(Ok(mut connection)) = listener.incoming.next().await {
            // Whoever connected may be gone.
            let _ = connection.write_all(word.as_bytes()).await;
            let _ = connection.shutdown().await;
        }
    }))
}

async fn ports_apart(f: &Fixture) -> Checked {
    let (one, two) = two(f).await?;
    let (first, second) = (
        serve(&one, 18_123, "one").await?,
        serve(&two, 18_123, "two").await?,
    );
    for (sandbox, word) in [(&one, "one"), (&two, "two")] {
        let mut connection = sandbox.dial(18_123).await?;
        let mut said = String::new();
        let read = soon("what the port says", connection.read_to_string(&mut said)).await?;
        read.map_err(|error| Failure::broken(format!("the port could not be read: {error}")))?;
        ensure_eq!(said, word, "what the port says");
    }
    first.abort();
    second.abort();
    Ok(())
}

async fn no_port(f: &Fixture) -> Checked {
    let (one, two) = two(f).await?;
    let serving = serve(&one, 18_124, "one").await?;
    soon("the port where it is", one.dial(18_124)).await??;
    let dialled = soon("a port of another", two.dial(18_124)).await?;
    ensure!(
        dialled.is_err(),
        "the port of one sandbox is reached in another"
    );
    serving.abort();
    Ok(())
}

/// Runs a program of perl.
fn perl(sandbox: &Sandbox, script: &str, word: &str) -> stacyvm::Exec {
    sandbox
        .exec(["perl", "-e", script, word])
        .timeout(super::common::SOON)
}

async fn said(sandbox: &Sandbox, script: &str, word: &str) -> Checked<String> {
    let output = perl(sandbox, script, word).output().await?;
    ensure!(
        output.status.success(),
        "a program ended with {}: {}",
        output.status,
        output.stderr_text()
    );
    Ok(output.stdout_text())
}

/// Starts a program that says `up` and stays.
async fn up(sandbox: &Sandbox, script: &str, word: &str) -> Checked<Process> {
    let mut process = perl(sandbox, script, word).start().await?;
    let mut seen = Vec::new();
    while !seen.ends_with(b"up") {
        match soon("a program that stays", process.next_event()).await?? {
            Some(ExecEvent::Stdout(bytes)) => seen.extend_from_slice(&bytes),
            Some(ExecEvent::Stderr(bytes)) => {
                let text = String::from_utf8_lossy(&bytes).into_owned();
                return Err(Failure::NotRun(format!("what is shared inside: {text}")));
            }
            Some(_) => {}
            None => return Err(Failure::broken("a program that stays ended")),
        }
    }
    Ok(process)
}

const SOCKET: &str = r#"
    $| = 1; use Socket; socket(S, AF_UNIX, SOCK_STREAM, 0) or die "socket: $!";
    bind(S, pack_sockaddr_un("\0$ARGV[0]")) or die "bind: $!"; listen(S, 5) or die "listen: $!";
    print "up"; sleep 60;
"#;
const TO_SOCKET: &str = r#"
    use Socket; socket(S, AF_UNIX, SOCK_STREAM, 0) or die "socket: $!";
    print connect(S, pack_sockaddr_un("\0$ARGV[0]")) ? "reached" : "no";
"#;

async fn no_abstract_socket(f: &Fixture) -> Checked {
    let (one, two) = two(f).await?;
    has(&one, "perl").await?;
    let _there = up(&one, SOCKET, "of-the-first").await?;
    ensure_eq!(
        said(&one, TO_SOCKET, "of-the-first").await?,
        "reached",
        "the socket where it is"
    );
    ensure_eq!(
        said(&two, TO_SOCKET, "of-the-first").await?,
        "no",
        "the socket from another"
    );
    Ok(())
}

const SEGMENT: &str = r#"
    $| = 1; my $id = shmget($ARGV[0], 4096, 0666 | 01000); defined $id or die "shmget: $!";
    shmwrite($id, "of the first", 0, 12) or die "shmwrite: $!";
    print "up"; sleep 60;
"#;
const TO_SEGMENT: &str = r#"
    my $id = shmget($ARGV[0], 4096, 0); my $read = "no";
    if (defined $id) { shmread($id, $read, 0, 12) }
    print $read;
"#;

async fn no_shared_memory(f: &Fixture) -> Checked {
    let (one, two) = two(f).await?;
    has(&one, "perl").await?;
    let _there = up(&one, SEGMENT, "424242").await?;
    let here = said(&one, TO_SEGMENT, "424242").await?;
    ensure_eq!(here, "of the first", "the memory where it is");
    ensure_eq!(
        said(&two, TO_SEGMENT, "424242").await?,
        "no",
        "the memory in another"
    );
    Ok(())
}

async fn names(f: &Fixture) -> Checked {
    let (one, two) = two(f).await?;
    let name = async |sandbox: &Sandbox| {
        let output = f.shell(sandbox, "cat /proc/sys/kernel/hostname").await?;
        Checked::Ok(output.stdout_text().trim_end().to_owned())
    };
    let (first, second) = (name(&one).await?, name(&two).await?);
    ensure!(!first.is_empty(), "a sandbox has no name");
    ensure!(first != second, "two sandboxes are named {first}");
    if let Ok(host) = std::fs::read_to_string("/proc/sys/kernel/hostname") {
        ensure!(
            first != host.trim_end(),
            "a sandbox is named as its host: {first}"
        );
    }
    Ok(())
}
