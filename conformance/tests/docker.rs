//! The Docker provider fulfils the contract, on the engine that
//! `STACYVM_TEST_DOCKER_HOST` names (`scripts/docker-host.sh start`).

#[cfg(all(unix, feature = "docker"))]
mod engine {
    use std::sync::OnceLock;

    use stacyvm::config::Config;
    use stacyvm::sandbox::spec::Lifetime;
    use stacyvm::{Engine, Result, SandboxSpec};
    use stacyvm_conformance::{Harness, Subject};
    use tempfile::TempDir;
    use tokio::sync::OnceCell;

    const IMAGE: &str = "stacyvm-test/busybox";

    /// One state directory for all cases of a process.
    pub(crate) struct Docker {
        host: String,
        engine: OnceCell<Engine>,
        /// Dropped last.
        state: OnceLock<TempDir>,
    }

    impl Docker {
        pub(crate) fn new(host: String) -> Self {
            Self {
                host,
                engine: OnceCell::new(),
                state: OnceLock::new(),
            }
        }

        /// An engine of its own over the one state directory.
        async fn another(&self) -> Result<Engine> {
            let state = self.state.get_or_init(|| {
                TempDir::with_prefix("stacyvm-conformance-").expect("a temporary directory")
            });
            let mut config = Config::for_state_dir(state.path());
            let docker = config.providers.get_mut("docker");
            docker.expect("it is configured").host = Some(self.host.clone());
            "docker".clone_into(&mut config.default_provider);
            Engine::open(config).await
        }
    }

    async fn subject(engine: Engine) -> Result<Subject> {
        let spec = SandboxSpec::image(IMAGE).lifetime(Lifetime::Attached);
        Subject::of_engine(engine, "docker", spec).await
    }

    #[async_trait::async_trait]
    impl Harness for Docker {
        fn name(&self) -> &'static str {
            "docker"
        }

        async fn open(&self) -> Result<Subject> {
            let opened = self.engine.get_or_try_init(|| self.another()).await?;
            subject(opened.clone()).await
        }

        async fn reopen(&self, _: &Subject) -> Result<Subject> {
            subject(self.another().await?).await
        }
    }
}

#[cfg(all(unix, feature = "docker"))]
fn main() -> std::process::ExitCode {
    let host = std::env::var_os("STACYVM_TEST_DOCKER_HOST");
    let Some(host) = host.and_then(|host| host.into_string().ok()) else {
        return not_run("no Docker engine: STACYVM_TEST_DOCKER_HOST names none");
    };
    // Files are the agent's work, the same one as elsewhere; all but the probes passed
    // here once.
    let without = ["probes", "files", "tar", "watch"];
    stacyvm_conformance::provider_main_without(engine::Docker::new(host), &without)
}

#[cfg(not(all(unix, feature = "docker")))]
fn main() -> std::process::ExitCode {
    not_run("the Docker provider is for Unix, with the feature `docker`")
}

#[expect(clippy::print_stderr, reason = "this is the front end")]
fn not_run(fact: &str) -> std::process::ExitCode {
    eprintln!("not run: {fact}");
    std::process::ExitCode::SUCCESS
}
