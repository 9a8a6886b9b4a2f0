//! The embedded provider behind a server fulfils the contract.

#[cfg(all(target_os = "linux", feature = "oci", feature = "http"))]
mod linux {
    use std::net::{Ipv4Addr, SocketAddr};
    use std::process::Command;
    use std::sync::{Arc, OnceLock};

    use stacyvm::config::Config;
    use stacyvm::providers::http::{HttpConfig, HttpProvider};
    use stacyvm::sandbox::spec::Lifetime;
    use stacyvm::server::Server;
    use stacyvm::{Engine, Error, ErrorKind, Result, SandboxSpec};
    use stacyvm_conformance::{Harness, Subject, this_program};
    use tempfile::TempDir;
    use tokio::sync::OnceCell;

    /// Where the server is, in a host process of a case.
    const URL: &str = "STACYVM_TEST_URL";

    /// One state directory and one server for all cases of a process.
    #[derive(Default)]
    pub(crate) struct Served {
        url: OnceCell<String>,
        /// Dropped last.
        state: OnceLock<TempDir>,
    }

    #[async_trait::async_trait]
    impl Harness for Served {
        fn name(&self) -> &'static str {
            "http-embedded"
        }

        async fn open(&self) -> Result<Subject> {
            let spec = SandboxSpec::host().lifetime(Lifetime::Attached);
            let url = std::env::var_os(URL).and_then(|url| url.into_string().ok());
            if let Some(url) = url {
                let provider = HttpProvider::open(HttpConfig::new(url)).await?;
                return Subject::new(Arc::new(provider), spec).await;
            }
            let state = self.state.get_or_init(|| {
                TempDir::with_prefix("stacyvm-conformance-").expect("a temporary directory")
            });
            let config = Config::for_state_dir(state.path());
            let serve = || async {
                let engine = Engine::open(config).await?;
                let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
                let server = Server::bind(engine, Some("oci"), any).await?;
                let url = server.url();
                tokio::spawn(server.run());
                Ok::<_, stacyvm::Error>(url)
            };
            let url = self.url.get_or_try_init(serve).await?;
            let provider = HttpProvider::open(HttpConfig::new(url)).await?;
            Subject::new(Arc::new(provider), spec).await
        }

        fn host(&self) -> Result<Command> {
            let url = self.url.get();
            let url = url.ok_or_else(|| Error::new(ErrorKind::Internal, "nothing is served"))?;
            let mut command = this_program()?;
            command.env(URL, url);
            Ok(command)
        }
    }
}

#[cfg(all(target_os = "linux", feature = "oci", feature = "http"))]
// The probes are about the provider behind the server, whose own tests run them.
stacyvm_conformance::provider_main!(linux::Served::default(), without: ["probes"]);

#[cfg(not(all(target_os = "linux", feature = "oci", feature = "http")))]
#[expect(clippy::print_stderr, reason = "this is the front end")]
fn main() {
    eprintln!("not run: the embedded provider is for Linux, with the features `oci` and `http`");
}
