//! Networks and ports.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use stacyvm::config::Config;
use stacyvm::id::SandboxId;
use stacyvm::provider::{Level, Provider, Reach};
use stacyvm::sandbox::spec::{Network, Port, SandboxSpec};
use stacyvm::{Engine, ErrorKind, ExecSpec, Filter};

#[cfg(target_os = "linux")]
use super::docker_common::network_of;
use super::{Host, IMAGE, container, cx};

fn full() -> SandboxSpec {
    SandboxSpec::image(IMAGE).network(Network::Full)
}

fn published(ports: &[(u16, u16)]) -> SandboxSpec {
    let mut spec = full();
    let ports = ports.iter().map(|&(guest, host)| Port { guest, host });
    spec.ports.extend(ports);
    spec
}

/// A program on the engine's host that answers with a line on a port of it.
struct Answers {
    container: String,
    port: String,
}

impl Answers {
    async fn of(host: &Host) -> Self {
        let container = format!("around-{}", SandboxId::random());
        // Tests are processes of their own, and share the engine's host.
        let port = (20_000 + std::process::id() % 10_000).to_string();
        let run = [
            "run",
            "-d",
            "--rm",
            "--name",
            &container,
            "--network",
            "host",
        ];
        let serve = [IMAGE, "nc", "-ll", "-p", &port, "-e", "echo", "of the host"];
        host.docker(&[&run[..], &serve].concat()).await;
        Self { container, port }
    }

    async fn end(self, host: &Host) {
        host.docker(&["rm", "-f", &self.container]).await;
    }
}

/// Answers with a line on a port inside, for as long as the sandbox lives.
async fn answer(host: &Host, id: &SandboxId, port: u16, line: &str) {
    let port = port.to_string();
    let mut serve = ExecSpec::new(["nc", "-ll", "-p", &port, "-e", "echo", line]);
    serve.background = true;
    host.provider.exec(&cx(), id, &serve).await.unwrap();
    let listens = format!(
        "for i in $(seq 100); do netstat -ltn | grep -q :{port} && exit 0; sleep 0.1; done; exit 1"
    );
    host.says(id, &listens).await;
}

async fn gateway(host: &Host, id: &SandboxId) -> String {
    let format = "{{range .NetworkSettings.Networks}}{{.Gateway}}{{end}}";
    host.docker(&["inspect", "-f", format, &container(id)])
        .await
}

async fn address(host: &Host, id: &SandboxId) -> String {
    let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
    host.docker(&["inspect", "-f", format, &container(id)])
        .await
}

/// It reaches what the host reaches, by address and by name, and is told to.
async fn reaches(host: &Host) {
    assert!(host.provider.capabilities().network_full);
    let id = host.sandbox(full()).await;
    let seen = host.provider.inspect(&cx(), &id).await.unwrap().effective;
    assert_eq!(seen["network_none"].level, Level::Absent);
    assert!(seen["network"].value.starts_with("full"), "{seen:?}");
    assert_eq!(seen["network"].level, Level::BestEffort);

    let gateway = gateway(host, &id).await;
    let server = Answers::of(host).await;
    let ask = format!(
        "for i in $(seq 50); do nc -w 3 {gateway} {} 2>/dev/null && exit 0; sleep 0.1; done; exit 1",
        server.port
    );
    assert_eq!(host.says(&id, &ask).await, "of the host");
    server.end(host).await;

    assert_eq!(
        host.says(&id, "grep nameserver /etc/resolv.conf").await,
        "nameserver 127.0.0.11"
    );
    let name = format!("nslookup {}", container(&id));
    let told = host.says(&id, &name).await;
    let own = address(host, &id).await;
    assert!(told.contains(&format!("Address: {own}")), "{told}");
    host.provider.destroy(&cx(), &id).await.unwrap();
}

#[tokio::test]
async fn a_network_of_its_own_reaches_the_host_and_has_a_name_service() {
    let Some(host) = Host::open().await else {
        return;
    };
    reaches(&host).await;
    host.end(&[]).await;
}

#[tokio::test]
async fn gvisor_has_a_network_where_it_is_registered_with_the_hosts() {
    let Some(host) = Host::with_runtime(Some("runsc-hostnet")).await else {
        return;
    };
    reaches(&host).await;
    host.end(&[]).await;
    let Some(host) = Host::with_runtime(Some("runsc")).await else {
        return;
    };
    assert!(!host.provider.capabilities().network_full);
    let error = host.refused(full()).await;
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert_eq!(error.fact("field"), Some("network"));
    assert!(error.to_string().contains("--network=host"), "{error}");
    host.end(&[]).await;
}

#[tokio::test]
async fn sandboxes_do_not_reach_each_other_and_none_reaches_nothing() {
    let Some(host) = Host::open().await else {
        return;
    };
    let (one, two) = (host.sandbox(full()).await, host.sandbox(full()).await);
    let none = host.sandbox(SandboxSpec::image(IMAGE)).await;
    answer(&host, &two, 8000, "of the other").await;
    let at = address(&host, &two).await;
    assert_ne!(at, address(&host, &one).await);

    // It is there, for the host and for itself.
    let (fine, said) = host.beside(&["nc", "-w", "3", &at, "8000"]).await;
    assert!(fine && said == "of the other", "{said}");
    let ask = format!("nc -w 3 {at} 8000");
    assert_eq!(host.says(&two, &ask).await, "of the other");
    for id in [&one, &none] {
        let (status, said) = host.sh(id, &ask).await;
        assert!(!status.success() && !said.contains("other"), "{said}");
        let (status, said) = host.sh(id, &format!("nslookup {}", container(&two))).await;
        assert!(!status.success() && !said.contains(&at), "{said}");
    }
    // Not by the other's gateway either, which is the host.
    let gateway = gateway(&host, &two).await;
    let (status, said) = host.sh(&one, &format!("nc -w 3 {gateway} 8000")).await;
    assert!(!status.success(), "{said}");
    assert_eq!(host.says(&none, "ls /sys/class/net").await, "lo");
    host.end(&[&one, &two, &none]).await;
}

/// A rule of the engine's host that is there until this is dropped.
#[cfg(target_os = "linux")]
struct Rule {
    network: String,
}

#[cfg(target_os = "linux")]
impl Rule {
    fn set(network: String) -> Self {
        let rule = Self { network };
        rule.change("-I");
        rule
    }

    fn change(&self, how: &str) {
        let status = std::process::Command::new("nsenter")
            .arg(format!("--net={}", self.network))
            .args(["iptables", "--wait", how, "DOCKER-USER"])
            .args(["-i", "svm-+", "-o", "svm-+", "-j", "DROP"])
            .status();
        assert!(status.unwrap().success(), "{how}");
    }
}

#[cfg(target_os = "linux")]
impl Drop for Rule {
    fn drop(&mut self) {
        self.change("-D");
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn with_the_operators_rule_none_reaches_another_while_networks_are_made() {
    let Some(host) = Host::open().await else {
        return;
    };
    let Some(network) = network_of(&host.engine) else {
        return;
    };
    let (one, two) = (host.sandbox(full()).await, host.sandbox(full()).await);
    answer(&host, &two, 8000, "of the other").await;
    let at = address(&host, &two).await;
    assert_eq!(
        host.says(&two, &format!("nc -w 3 {at} 8000")).await,
        "of the other"
    );
    let rule = Rule::set(network);
    // Each try is a packet or two, so there are many.
    let tries = format!(
        "until [ -e /tmp/stop ]; do nc -w 1 {at} 8000 </dev/null 2>/dev/null & usleep 10000; \
         done; wait"
    );
    let networks = async {
        for _ in 0..10 {
            let name = format!("around-{}", SandboxId::random());
            host.docker(&["network", "create", &name]).await;
            host.docker(&["network", "rm", &name]).await;
        }
        host.says(&one, "touch /tmp/stop").await;
    };
    let (said, ()) = tokio::join!(host.says(&one, &tries), networks);
    assert_eq!(said, "");
    drop(rule);
    host.end(&[&one, &two]).await;
}

#[tokio::test]
async fn ports_are_published_on_loopback_told_and_given_back() {
    let Some(host) = Host::open().await else {
        return;
    };
    assert!(host.provider.capabilities().publish_ports && host.provider.capabilities().endpoint);
    let id = host.sandbox(published(&[(8080, 0), (9090, 0)])).await;
    answer(&host, &id, 8080, "published").await;

    let at = host
        .provider
        .endpoint(&cx(), &id, 8080)
        .await
        .unwrap()
        .address;
    let (loopback, port) = at.split_once(':').unwrap();
    assert_eq!(loopback, "127.0.0.1");
    let (fine, said) = host.beside(&["nc", "-w", "3", loopback, port]).await;
    assert!(fine && said == "published", "{said}");
    let seen = host.provider.inspect(&cx(), &id).await.unwrap().effective;
    let told = &seen["ports"].value;
    assert!(
        told.contains(&format!("8080 on {at}")) && told.contains("9090 on "),
        "{told}"
    );
    // Not on an address that others reach.
    let gateway = gateway(&host, &id).await;
    let (fine, said) = host.beside(&["nc", "-w", "3", &gateway, port]).await;
    assert!(!fine, "{said}");
    let error = host.provider.endpoint(&cx(), &id, 8081).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);

    // The same port of the host twice: told, and nothing of the second one is left.
    let before = host.held().await;
    let taken = host.request(published(&[(80, port.parse().unwrap())]));
    let error = host.provider.create(&cx(), &taken).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
    assert_eq!(error.fact("field"), Some("ports"));
    assert_eq!(host.held().await, before);

    let number = port.parse().unwrap();
    host.provider.destroy(&cx(), &id).await.unwrap();
    let again = host.sandbox(published(&[(8080, number)])).await;
    let now = host.provider.endpoint(&cx(), &again, 8080).await.unwrap();
    assert_eq!(now.address, at);
    host.end(&[&again]).await;
}

#[tokio::test]
async fn what_has_no_network_publishes_nothing_and_lists_are_refused() {
    let Some(host) = Host::open().await else {
        return;
    };
    let mut spec = published(&[(80, 0)]);
    spec.network = None;
    let error = host.refused(spec).await;
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert_eq!(error.fact("field"), Some("ports"));
    assert!(error.to_string().contains("dial"), "{error}");
    let list = SandboxSpec::image(IMAGE).network(Network::Allow(vec!["192.0.2.1".into()]));
    let error = host.refused(list).await;
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert_eq!(error.fact("field"), Some("network"));
    host.end(&[]).await;
}

/// A network as a process that died in a create has left it.
async fn left(host: &Host, id: &SandboxId, labels: &[(&str, &str)]) -> String {
    let name = format!("{}-{}", container(id), labels.len());
    let labels: Vec<String> = labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let mut words = vec!["network", "create"];
    for label in &labels {
        words.extend(["--label", label]);
    }
    words.push(&name);
    host.docker(&words).await
}

#[tokio::test]
async fn what_a_create_left_goes_by_its_labels_and_nothing_else_does() {
    let Some(host) = Host::open().await else {
        return;
    };
    let (instance, id) = (host.instance.to_string(), SandboxId::random());
    let labels = |instance, sandbox| {
        [
            ("stacyvm.instance", instance),
            ("stacyvm.sandbox", sandbox),
            ("stacyvm.tenant", "default"),
        ]
    };
    let other = SandboxId::random();
    let own = left(&host, &id, &labels(&instance, id.as_str())).await;
    let decoys = [
        left(
            &host,
            &other,
            &labels("0123456789abcdef0123456789abcdef", id.as_str()),
        )
        .await,
        left(&host, &id, &labels(&instance, other.as_str())[..1]).await,
        left(&host, &id, &[]).await,
    ];
    let found = host.provider.leftovers(&cx(), Reach::Own).await.unwrap();
    let named: Vec<_> = found
        .iter()
        .filter(|found| found.kind == "network")
        .collect();
    assert_eq!(named.len(), 1, "{found:?}");
    // Somebody may be about to make its container.
    assert!(named[0].owner_lives && named[0].name == own);
    let early = host.provider.remove_leftover(&cx(), &named[0].id).await;
    assert_eq!(early.unwrap_err().kind(), ErrorKind::Conflict);

    host.provider.destroy(&cx(), &id).await.unwrap();
    let (there, _) = host.tried(&["network", "inspect", &own]).await;
    assert!(!there, "the network of the sandbox is left");
    for decoy in &decoys {
        host.docker(&["network", "inspect", decoy]).await;
        host.docker(&["network", "rm", decoy]).await;
    }
    // One that is made again after such an end has one network.
    left(&host, &id, &labels(&instance, id.as_str())).await;
    let mut request = host.request(full());
    request.id = id.clone();
    host.provider.create(&cx(), &request).await.unwrap();
    assert_eq!(host.held().await.len(), 2);
    host.end(&[&id]).await;
}

async fn engine(docker: &str, state: &Path) -> Engine {
    let mut config = Config::for_state_dir(state);
    config.providers.get_mut("docker").unwrap().host = Some(docker.to_owned());
    "docker".clone_into(&mut config.default_provider);
    Engine::open(config).await.unwrap()
}

#[tokio::test]
async fn a_reconcile_takes_the_network_of_what_ended_unseen() {
    let Some(host) = Host::open().await else {
        return;
    };
    let engine = engine(&host.engine, &host.state.path().join("engine")).await;
    let spec = full().ttl(Duration::from_mins(10));
    let sandbox = engine.create(spec).await.unwrap();
    let label = format!("label=stacyvm.sandbox={}", sandbox.id());
    let networks = ["network", "ls", "-q", "--filter", label.as_str()];
    assert_eq!(host.docker(&networks).await.lines().count(), 1);
    host.docker(&["rm", "-f", &container(sandbox.id())]).await;
    assert_eq!(host.docker(&networks).await.lines().count(), 1);
    let done = engine.reconcile().await.unwrap();
    assert_eq!(done.ended, [sandbox.id().clone()]);
    assert_eq!(host.docker(&networks).await, "");
    host.end(&[]).await;
}

/// Where the host process that is killed has its state.
const MAKES_IN: &str = "STACYVM_TEST_MAKES_IN";

/// Makes and ends sandboxes with networks until it is killed; nothing by itself.
#[tokio::test]
async fn a_host_process_that_makes_networks() {
    let (Some(state), Some(docker)) = (
        std::env::var_os(MAKES_IN),
        std::env::var_os("STACYVM_TEST_DOCKER_HOST"),
    ) else {
        println!("not run: this is the other process of another test");
        return;
    };
    let docker = docker.into_string().unwrap();
    let engine = engine(&docker, Path::new(&state)).await;
    loop {
        let sandbox = engine.create(full()).await.unwrap();
        sandbox.kill().await.unwrap();
    }
}

#[tokio::test]
async fn a_host_process_that_is_killed_leaves_no_network() {
    let Some(host) = Host::open().await else {
        return;
    };
    let state = host.state.path().join("engine");
    // With the agent in its place, as that is of all stores.
    let first = engine(&host.engine, &state).await;
    let sandbox = first.create(full()).await.unwrap();
    sandbox.kill().await.unwrap();
    drop((first, sandbox));
    // Whatever it was at: making the network, the container, or ending both.
    for after in [
        300, 450, 600, 750, 900, 1050, 1200, 1350, 1500, 1650, 1800, 1950,
    ] {
        let mut other = tokio::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "network::a_host_process_that_makes_networks"])
            .env(MAKES_IN, &state)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        tokio::time::sleep(Duration::from_millis(after)).await;
        other.kill().await.unwrap();
        // What the engine was asked for comes to be all the same.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let engine = engine(&host.engine, &state).await;
        engine.reconcile().await.unwrap();
        // One that was whole outlives its maker, and is the records'.
        for info in engine.list(Filter::default()).await.unwrap() {
            engine.get(&info.id).await.unwrap().kill().await.unwrap();
        }
        let host = Host {
            instance: engine.instance().clone(),
            state: tempfile::tempdir().unwrap(),
            engine: host.engine.clone(),
            provider: host.provider.clone(),
        };
        let left = host.held().await;
        assert_eq!(left, Vec::<String>::new(), "after {after} ms");
    }
    host.end(&[]).await;
}
