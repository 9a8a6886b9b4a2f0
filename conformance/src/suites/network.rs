//! What a sandbox reaches: with `network: none` itself, and nothing else.

use std::net::{Ipv4Addr, TcpListener};

use stacyvm::Sandbox;
use stacyvm::sandbox::spec::{Network, SandboxSpec};

use super::cases;
use super::common::{has, run_as, spec_declined, users};
use crate::case::{Case, Checked, Failure, Level};
use crate::fixture::Fixture;
use crate::{ensure, ensure_eq};

pub(super) const CASES: &[Case] = cases! {
    Must "network.none_has_no_interface_but_loopback" [] needs(NETWORK_NONE) else none_declined => loopback_alone;
    Must "network.none_has_no_route" [] needs(NETWORK_NONE) => no_route;
    Must "network.none_has_a_loopback_that_works" [] needs(NETWORK_NONE) => loopback_works;
    Must "network.none_resolves_no_name" [] needs(NETWORK_NONE) => no_names;
    Must "network.none_reaches_no_address" [] needs(NETWORK_NONE) => no_address;
    Must "network.none_does_not_reach_the_metadata_address" [] needs(NETWORK_NONE) => no_metadata;
    Must "network.none_does_not_reach_the_host_s_ports" [] needs(NETWORK_NONE) => no_host_ports;
    Must "network.none_is_what_a_spec_gets_that_says_nothing" ["L1.5"] needs(NETWORK_NONE) => by_default;
    Must "network.full_has_a_route" [] needs(NETWORK_FULL) => full_has_a_route;
    Must "network.an_allow_list_lets_nothing_else_through" [] needs(NETWORK_ALLOW) else allow_declined => allow_list;
};

fn with(f: &Fixture, network: Network) -> SandboxSpec {
    f.spec().network(network)
}

async fn none(f: &Fixture) -> Checked<Sandbox> {
    f.make(with(f, Network::None)).await
}

async fn none_declined(f: &Fixture) -> Checked {
    spec_declined(f, with(f, Network::None), "no network").await
}

/// The interfaces that a sandbox has.
async fn interfaces(f: &Fixture, sandbox: &Sandbox) -> Checked<Vec<String>> {
    let output = f.shell(sandbox, "cat /proc/net/dev").await?;
    let text = output.stdout_text();
    // Two lines are headings.
    let names = text.lines().skip(2).filter_map(|line| line.split_once(':'));
    Ok(names.map(|(name, _)| name.trim().to_owned()).collect())
}

async fn loopback_alone(f: &Fixture) -> Checked {
    let sandbox = none(f).await?;
    ensure_eq!(interfaces(f, &sandbox).await?, ["lo"], "the interfaces");
    Ok(())
}

/// The routes of version 4 and 6 that lead anywhere but to itself.
async fn routes(f: &Fixture, sandbox: &Sandbox) -> Checked<Vec<String>> {
    let output = f.shell(sandbox, "tail -n +2 /proc/net/route").await?;
    let mut all: Vec<String> = output.stdout_text().lines().map(str::to_owned).collect();
    // A kernel without version 6 has no such file.
    let output = sandbox.shell("cat /proc/net/ipv6_route").output().await?;
    all.extend(output.stdout_text().lines().map(str::to_owned));
    all.retain(|line| !line.split_whitespace().any(|word| word == "lo"));
    Ok(all)
}

async fn no_route(f: &Fixture) -> Checked {
    let sandbox = none(f).await?;
    ensure_eq!(
        routes(f, &sandbox).await?,
        Vec::<String>::new(),
        "the routes"
    );
    Ok(())
}

/// Connects to an address given as two arguments, within three seconds; `reached`
/// or why not.
const CONNECT: &str = r#"
    use IO::Socket::INET;
    my $s = IO::Socket::INET->new(PeerAddr => $ARGV[0], PeerPort => $ARGV[1], Proto => "tcp", Timeout => 3);
    print $s ? "reached" : "no: $!";
"#;

/// Listens, connects to itself and sends itself a line.
const TALK: &str = r#"
    use IO::Socket::INET;
    my $l = IO::Socket::INET->new(LocalAddr => "127.0.0.1", Listen => 1) or die "listen: $!";
    my $c = IO::Socket::INET->new(PeerAddr => "127.0.0.1", PeerPort => $l->sockport, Timeout => 3) or die "connect: $!";
    my $s = $l->accept or die "accept: $!";
    print $c "to itself\n";
    $c->flush;
    print scalar <$s>;
"#;

async fn perl(sandbox: &Sandbox, script: &str, words: &[&str]) -> Checked<String> {
    let line = ["perl", "-e", script].into_iter();
    let exec = sandbox.exec(line.chain(words.iter().copied()));
    let output = exec.timeout(super::common::SOON).output().await?;
    ensure!(
        output.status.success(),
        "the program ended with {}: {}",
        output.status,
        output.stderr_text()
    );
    Ok(output.stdout_text())
}

async fn loopback_works(f: &Fixture) -> Checked {
    let sandbox = none(f).await?;
    has(&sandbox, "perl").await?;
    let said = perl(&sandbox, TALK, &[]).await?;
    ensure_eq!(said, "to itself\n", "what went over the loopback");
    Ok(())
}

async fn no_names(f: &Fixture) -> Checked {
    let sandbox = none(f).await?;
    has(&sandbox, "getent").await?;
    for user in users(f) {
        let output = run_as(&sandbox, *user, "getent hosts example.com").await?;
        ensure!(
            output.status.code() == Some(2) && output.stdout.is_empty(),
            "example.com: the end is {}, and {:?} was told, expected that it is not found",
            output.status,
            output.stdout_text()
        );
    }
    Ok(())
}

async fn reaches_none(f: &Fixture, addresses: &[(&str, &str)]) -> Checked {
    let sandbox = none(f).await?;
    has(&sandbox, "perl").await?;
    for (address, port) in addresses {
        let said = perl(&sandbox, CONNECT, &[address, port]).await?;
        ensure!(
            said.starts_with("no: "),
            "{address}, port {port}: {said:?}, expected that it is not reached"
        );
    }
    // It could have reached something.
    perl(&sandbox, TALK, &[]).await?;
    Ok(())
}

async fn no_address(f: &Fixture) -> Checked {
    reaches_none(
        f,
        &[
            ("1.1.1.1", "53"),
            ("10.0.0.1", "80"),
            ("172.17.0.1", "22"),
            ("192.168.0.1", "80"),
        ],
    )
    .await
}

async fn no_metadata(f: &Fixture) -> Checked {
    reaches_none(f, &[("169.254.169.254", "80"), ("169.254.170.2", "80")]).await
}

async fn no_host_ports(f: &Fixture) -> Checked {
    let opened = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0));
    let listener =
        opened.map_err(|error| Failure::NotRun(format!("a port of the host: {error}")))?;
    let port = listener
        .local_addr()
        .map(|address| address.port().to_string());
    let port = port.map_err(|error| Failure::NotRun(format!("a port of the host: {error}")))?;
    reaches_none(f, &[("127.0.0.1", &port), ("0.0.0.0", &port)]).await
}

async fn by_default(f: &Fixture) -> Checked {
    let mut spec = f.spec();
    spec.network = None;
    let sandbox = f.make(spec).await?;
    ensure_eq!(
        sandbox.info().await?.network,
        Some(Network::None),
        "the network that is shown"
    );
    ensure_eq!(interfaces(f, &sandbox).await?, ["lo"], "the interfaces");
    Ok(())
}

async fn full_has_a_route(f: &Fixture) -> Checked {
    let sandbox = f.make(with(f, Network::Full)).await?;
    ensure!(
        !routes(f, &sandbox).await?.is_empty(),
        "a sandbox with a full network has no route"
    );
    Ok(())
}

fn allowed(f: &Fixture) -> SandboxSpec {
    // An address of documents, that nobody has.
    with(f, Network::Allow(vec!["192.0.2.1".to_owned()]))
}

async fn allow_list(f: &Fixture) -> Checked {
    let sandbox = f.make(allowed(f)).await?;
    ensure!(
        !interfaces(f, &sandbox).await?.is_empty(),
        "a sandbox with a network has no interface"
    );
    has(&sandbox, "perl").await?;
    for address in ["169.254.169.254", "1.1.1.1"] {
        let said = perl(&sandbox, CONNECT, &[address, "80"]).await?;
        ensure!(
            said.starts_with("no: "),
            "{address} is not on the list: {said:?}"
        );
    }
    Ok(())
}

async fn allow_declined(f: &Fixture) -> Checked {
    spec_declined(f, allowed(f), "a list of what is reached").await
}
