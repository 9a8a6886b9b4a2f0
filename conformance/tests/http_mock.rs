//! The mock behind a server fulfils the contract.

#[cfg(feature = "http")]
mod wire {
    use std::net::{Ipv4Addr, SocketAddr};
    use std::sync::Arc;
    use std::time::Duration;

    use stacyvm::providers::http::{HttpConfig, HttpProvider};
    use stacyvm::providers::mock::Mock;
    use stacyvm::server::Server;
    use stacyvm::{Engine, Result, SandboxSpec};
    use stacyvm_conformance::{Harness, Subject};

    pub(crate) struct Served;

    /// Ends the server.
    struct Task(tokio::task::JoinHandle<()>);

    impl Drop for Task {
        fn drop(&mut self) {
            self.0.abort();
        }
    }

    #[async_trait::async_trait]
    impl Harness for Served {
        fn name(&self) -> &'static str {
            "http-mock"
        }

        async fn open(&self) -> Result<Subject> {
            let engine = Engine::builder()
                .provider("mock", Arc::new(Mock::default()))
                .reconcile_every(Duration::ZERO)
                .build()
                .await?;
            let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            let server = Server::bind(engine, None, any).await?;
            let url = server.url();
            let task = Task(tokio::spawn(server.run()));
            let provider = HttpProvider::open(HttpConfig::new(url)).await?;
            let subject = Subject::new(Arc::new(provider), SandboxSpec::image("scratch")).await?;
            Ok(subject.keep(task))
        }
    }
}

#[cfg(feature = "http")]
// The probes are about the provider behind the server, whose own tests run them.
stacyvm_conformance::provider_main!(wire::Served, without: ["probes"]);

#[cfg(not(feature = "http"))]
#[expect(clippy::print_stderr, reason = "this is the front end")]
fn main() {
    eprintln!("not run: the server and its client are there with the feature `http`");
}
