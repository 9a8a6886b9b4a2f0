//! Ports: reached from outside without a network, and listened on.

use futures_util::StreamExt as _;
use futures_util::future::try_join_all;
use stacyvm::provider::Connection;
use stacyvm::{ErrorKind, Process, Result, Sandbox};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::cases;
use super::common::{declined, follow, ms, pattern, same_bytes, soon};
use super::files_common::GONE;
use crate::case::{Case, Checked, Failure, Level};
use crate::fixture::{Fixture, refused};
use crate::{ensure, ensure_eq};

pub(super) const CASES: &[Case] = cases! {
    Must "ports.a_server_inside_is_reached" ["F3.1"] needs(DIAL) else dial_declined => reached;
    Must "ports.where_nobody_listens_is_not_found" ["F3.1"] needs(DIAL) => nobody;
    Must "ports.an_end_of_one_way_leaves_the_other" ["F3.1"] needs(DIAL) => half_closed;
    Must "ports.much_goes_both_ways_at_once" ["F3.1"] needs(DIAL) => much;
    Must "ports.many_connections_mix_nothing" ["F3.1"] needs(DIAL) => many;
    Must "ports.one_that_nobody_reads_holds_nothing_up" ["F3.1"] needs(DIAL) => unread;
    Must "ports.the_end_of_a_server_ends_its_connections" ["F3.1"] needs(DIAL) => server_ended;
    Must "ports.the_end_of_the_sandbox_ends_its_connections" ["F3.1"] needs(DIAL) => sandbox_ended;
    Must "ports.sandboxes_share_no_ports" ["F3.1"] needs(DIAL) => not_shared;
    Must "ports.the_host_listens_on_a_port_inside" ["F3.2"] needs(DIAL, LISTEN) else listen_declined => listened;
    Must "ports.a_program_inside_reaches_the_host_that_listens" ["F3.2"] needs(LISTEN, STDIN) => called;
    Must "ports.a_port_is_listened_on_once_and_free_again" ["F3.2"] needs(LISTEN) => listened_once;
    Must "ports.an_address_that_is_not_claimed_is_declined" ["L1.1"] needs(ENDPOINT) else endpoint_declined => endpoint;
};

/// Programs that answer with what they get, and wait for more connections.
fn servers(port: u16) -> Vec<Vec<String>> {
    let python = format!(
        "import socketserver as s\n\
         class H(s.BaseRequestHandler):\n\
         \x20def handle(self):\n\
         \x20\x20while d := self.request.recv(65536): self.request.sendall(d)\n\
         class S(s.ThreadingTCPServer): allow_reuse_address=True; daemon_threads=True; request_queue_size=128\n\
         S(('127.0.0.1',{port}),H).serve_forever()"
    );
    let perl = format!(
        "use IO::Socket::INET; $SIG{{CHLD}}='IGNORE'; \
         $s=IO::Socket::INET->new(LocalAddr=>'127.0.0.1',LocalPort=>{port},Listen=>128,ReuseAddr=>1) or die; \
         while($c=$s->accept){{ if(!fork){{ close $s; \
         while(sysread($c,$b,65536)){{ $o=0; while($o<length $b){{ $n=syswrite($c,$b,65536,$o) or exit; $o+=$n }} }} exit }} close $c }}"
    );
    let listen = format!("TCP-LISTEN:{port},fork,reuseaddr,bind=127.0.0.1");
    let command = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
    vec![
        command(&["socat", &listen, "EXEC:cat"]),
        command(&["python3", "-c", &python]),
        command(&["perl", "-e", &perl]),
    ]
}

/// Starts the first of these programs that is there.
async fn first_of(sandbox: &Sandbox, programs: Vec<Vec<String>>, stdin: bool) -> Checked<Process> {
    let mut tried = Vec::new();
    for program in programs {
        let name = program[0].clone();
        let mut command = sandbox.exec(program);
        if stdin {
            command = command.stdin_pipe();
        }
        match command.start().await {
            Err(error) if error.kind() == ErrorKind::CommandNotFound => tried.push(name),
            started => return Ok(started?),
        }
    }
    let fact = format!("one of these programs inside: {}", tried.join(", "));
    Err(Failure::NotRun(fact))
}

/// Dials until the server, which was just started, listens.
async fn dialled(sandbox: &Sandbox, port: u16) -> Checked<Connection> {
    for _ in 0..500 {
        match soon("a dial", sandbox.dial(port)).await? {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                tokio::time::sleep(ms(20)).await;
            }
            dialled => return Ok(dialled?),
        }
    }
    Err(Failure::broken(format!(
        "after ten seconds nothing answers on port {port}"
    )))
}

/// A server that answers with what it gets.
async fn echo(sandbox: &Sandbox, port: u16) -> Checked<Process> {
    let server = first_of(sandbox, servers(port), false).await?;
    drop(dialled(sandbox, port).await?);
    Ok(server)
}

#[expect(clippy::needless_pass_by_value, reason = "it is given to `map_err`")]
fn broken(error: std::io::Error) -> Failure {
    Failure::broken(format!("the connection: {error}"))
}

/// Sends, ends its way, and reads what comes back to the end.
async fn exchanged(connection: Connection, bytes: &[u8]) -> Checked<Vec<u8>> {
    let (mut reader, mut writer) = tokio::io::split(connection);
    let mut back = Vec::new();
    let sending = async {
        writer.write_all(bytes).await?;
        writer.shutdown().await
    };
    let (sent, read) = soon("both ways to end", async {
        tokio::join!(sending, reader.read_to_end(&mut back))
    })
    .await?;
    sent.map_err(broken)?;
    read.map_err(broken)?;
    Ok(back)
}

/// Sends and reads as many bytes.
async fn asked(connection: &mut Connection, bytes: &[u8]) -> Checked<Vec<u8>> {
    let mut back = vec![0; bytes.len()];
    let asking = async {
        connection.write_all(bytes).await?;
        connection.flush().await?;
        connection.read_exact(&mut back).await
    };
    soon("an answer", asking).await?.map_err(broken)?;
    Ok(back)
}

fn nothing(dialled: Result<Connection>) -> Result<()> {
    dialled.map(drop)
}

async fn dial_declined(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let dialling = f.provider().dial(f.context(), sandbox.id(), 8000);
    let call = async { nothing(dialling.await) };
    declined(f, &sandbox, "a dial", call).await
}

async fn listen_declined(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    if f.claims().listen {
        return dial_declined(f).await;
    }
    let call = f.provider().listen(f.context(), sandbox.id(), 0);
    declined(f, &sandbox, "listening", call).await
}

async fn endpoint_declined(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let call = f.provider().endpoint(f.context(), sandbox.id(), 8000);
    declined(f, &sandbox, "an address of a port", call).await
}

async fn endpoint(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let unpublished = sandbox.endpoint(8000).await;
    match unpublished {
        Ok(endpoint) => ensure!(!endpoint.address.is_empty(), "an address without a text"),
        Err(error) => {
            let kinds = [ErrorKind::NotFound];
            refused(Err::<(), _>(error), &kinds, "a port that is not published")?;
        }
    }
    Ok(())
}

async fn reached(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let _server = echo(&sandbox, 8000).await?;
    let mut connection = dialled(&sandbox, 8000).await?;
    for bytes in [&b"hello"[..], b"\0\xff\n", &pattern(3000)] {
        let back = asked(&mut connection, bytes).await?;
        same_bytes(&back, bytes, "what came back")?;
    }
    Ok(())
}

async fn nobody(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    for port in [1, 8001, 65_535] {
        let dialled = soon("a dial", sandbox.dial(port)).await?;
        let what = format!("port {port}, where nobody listens,");
        refused(nothing(dialled), &[ErrorKind::NotFound], &what)?;
    }
    let zero = nothing(sandbox.dial(0).await);
    refused(zero, &[ErrorKind::InvalidArgument], "port 0")?;
    Ok(())
}

async fn half_closed(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let _server = echo(&sandbox, 8000).await?;
    let bytes = pattern(50_000);
    let back = exchanged(dialled(&sandbox, 8000).await?, &bytes).await?;
    same_bytes(&back, &bytes, "what came back after our end")?;
    let back = exchanged(dialled(&sandbox, 8000).await?, b"").await?;
    ensure_eq!(back, b"", "what came back for nothing");
    Ok(())
}

async fn much(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let _server = echo(&sandbox, 8000).await?;
    let bytes = pattern(8 << 20);
    let back = exchanged(dialled(&sandbox, 8000).await?, &bytes).await?;
    same_bytes(&back, &bytes, "8 MiB that came back")
}

async fn many(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let _server = echo(&sandbox, 8000).await?;
    let one = |n: u8| {
        let sandbox = sandbox.clone();
        async move {
            let mut connection = dialled(&sandbox, 8000).await?;
            for round in 0..4 {
                let bytes = vec![n ^ (round << 6); 2000];
                let back = asked(&mut connection, &bytes).await?;
                same_bytes(&back, &bytes, &format!("what connection {n} got"))?;
            }
            Checked::Ok(connection)
        }
    };
    let open = try_join_all((0..40).map(one)).await?;
    ensure_eq!(open.len(), 40, "connections");
    Ok(())
}

async fn unread(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let _server = echo(&sandbox, 8000).await?;
    let (_reader, mut writer) = tokio::io::split(dialled(&sandbox, 8000).await?);
    // What comes back is never read: the sender must come to a stop, and nobody else.
    let block = pattern(64 << 10);
    let mut sent = 0;
    while let Ok(wrote) = tokio::time::timeout(ms(200), writer.write_all(&block)).await {
        wrote.map_err(broken)?;
        sent += block.len();
        ensure!(
            sent < 64 << 20,
            "64 MiB went into a connection that nobody reads"
        );
    }
    let back = exchanged(dialled(&sandbox, 8000).await?, b"beside").await?;
    ensure_eq!(back, b"beside", "what another connection got");
    soon("a command beside it", f.shell(&sandbox, "true")).await??;
    Ok(())
}

/// Reads until the connection ends, whichever way.
async fn ends(connection: &mut Connection) -> Checked {
    let mut rest = Vec::new();
    // A reset is an end too.
    let _ = soon(
        "the end of the connection",
        connection.read_to_end(&mut rest),
    )
    .await?;
    ensure_eq!(rest, b"", "what came before its end");
    Ok(())
}

async fn server_ended(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let server = echo(&sandbox, 8000).await?;
    let mut connection = dialled(&sandbox, 8000).await?;
    asked(&mut connection, b"hello").await?;
    server.kill().await?;
    ends(&mut connection).await?;
    for left in (0..200).rev() {
        match sandbox.dial(8000).await {
            Err(error) if error.kind() == ErrorKind::NotFound => break,
            Err(error) => return Err(error.into()),
            Ok(_) => ensure!(left > 0, "the port answers after its server's end"),
        }
        tokio::time::sleep(ms(20)).await;
    }
    // The port is free for the next one.
    let _server = echo(&sandbox, 8000).await?;
    let mut connection = dialled(&sandbox, 8000).await?;
    ensure_eq!(
        asked(&mut connection, b"again").await?,
        b"again",
        "what came back"
    );
    Ok(())
}

async fn sandbox_ended(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let _server = echo(&sandbox, 8000).await?;
    let mut connection = dialled(&sandbox, 8000).await?;
    asked(&mut connection, b"hello").await?;
    sandbox.kill().await?;
    ends(&mut connection).await?;
    let after = nothing(sandbox.dial(8000).await);
    refused(after, &GONE, "a dial after the end")?;
    Ok(())
}

async fn not_shared(f: &Fixture) -> Checked {
    let (one, two) = (f.sandbox().await?, f.sandbox().await?);
    let _server = echo(&one, 8000).await?;
    let other = nothing(two.dial(8000).await);
    refused(other, &[ErrorKind::NotFound], "a port of another sandbox")?;
    let _second = echo(&two, 8000).await?;
    for sandbox in [&one, &two] {
        let mut connection = dialled(sandbox, 8000).await?;
        ensure_eq!(asked(&mut connection, b"x").await?, b"x", "what came back");
    }
    Ok(())
}

async fn listened(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let mut listener = sandbox.listen(0).await?;
    ensure!(listener.port != 0, "the port that was chosen is 0");
    let bytes = pattern(100_000);
    let port = listener.port;
    let serving = async {
        let next = soon("a connection", listener.incoming.next()).await?;
        let connection = next.ok_or_else(|| Failure::broken("the listener ended"))??;
        let (mut reader, mut writer) = tokio::io::split(connection);
        tokio::io::copy(&mut reader, &mut writer)
            .await
            .map_err(broken)?;
        writer.shutdown().await.map_err(broken)
    };
    let asking = async { exchanged(dialled(&sandbox, port).await?, &bytes).await };
    let (served, back) = tokio::join!(serving, asking);
    served?;
    same_bytes(&back?, &bytes, "what the host sent back")?;
    drop(listener);
    for left in (0..200).rev() {
        if let Err(error) = sandbox.dial(port).await {
            refused(
                Err::<(), _>(error),
                &[ErrorKind::NotFound],
                "a port that was given up",
            )?;
            return Ok(());
        }
        ensure!(left > 0, "a port that was given up still answers");
        tokio::time::sleep(ms(20)).await;
    }
    Ok(())
}

async fn called(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let mut listener = sandbox.listen(0).await?;
    let port = listener.port;
    let perl = format!(
        "use IO::Socket::INET; undef $/; $d=<STDIN>; \
         $s=IO::Socket::INET->new(PeerAddr=>'127.0.0.1',PeerPort=>{port}) or die; \
         print $s $d; $s->flush; shutdown($s,1); print <$s>"
    );
    let python = format!(
        "import socket,sys\n\
         d=sys.stdin.buffer.read(); s=socket.create_connection(('127.0.0.1',{port}))\n\
         s.sendall(d); s.shutdown(1)\n\
         while b := s.recv(65536): sys.stdout.buffer.write(b)"
    );
    let command = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
    let clients = vec![
        command(&["socat", "-", &format!("TCP:127.0.0.1:{port}")]),
        command(&["python3", "-c", &python]),
        command(&["perl", "-e", &perl]),
    ];
    let mut client = first_of(&sandbox, clients, true).await?;
    client.write_stdin("question").await?;
    client.close_stdin().await?;
    let next = soon("a connection", listener.incoming.next()).await?;
    let mut connection = next.ok_or_else(|| Failure::broken("the listener ended"))??;
    let mut question = Vec::new();
    let read = connection.read_to_end(&mut question);
    soon("the question", read).await?.map_err(broken)?;
    ensure_eq!(question, b"question", "what the program sent");
    let answer = async {
        connection.write_all(b"answer").await?;
        connection.shutdown().await
    };
    soon("the answer", answer).await?.map_err(broken)?;
    let seen = follow(&mut client).await?;
    ensure_eq!(seen.text(), "answer", "what it got");
    Ok(())
}

async fn listened_once(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let listener = sandbox.listen(8002).await?;
    ensure_eq!(listener.port, 8002, "the port");
    let again = sandbox.listen(8002).await;
    refused(
        again,
        &[ErrorKind::AlreadyExists],
        "listening on a port twice",
    )?;
    let other = sandbox.listen(0).await?;
    ensure!(other.port != 8002, "a port that is taken was chosen");
    drop(listener);
    for left in (0..200).rev() {
        match sandbox.listen(8002).await {
            Ok(_) => break,
            Err(error) => {
                ensure!(left > 0, "a port that was given up stays taken: {error}");
                refused(
                    Err::<(), _>(error),
                    &[ErrorKind::AlreadyExists],
                    "listening again",
                )?;
            }
        }
        tokio::time::sleep(ms(20)).await;
    }
    Ok(())
}
