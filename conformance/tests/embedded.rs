//! The embedded provider fulfils the contract.

#[cfg(all(target_os = "linux", feature = "oci"))]
mod linux {
    use std::sync::OnceLock;

    use stacyvm::config::Config;
    use stacyvm::sandbox::spec::Lifetime;
    use stacyvm::{Engine, Result, SandboxSpec};
    use stacyvm_conformance::{Harness, Subject};
    use tempfile::TempDir;
    use tokio::sync::OnceCell;

    /// One state directory for all cases of a process.
    #[derive(Default)]
    pub(crate) struct Embedded {
        engine: OnceCell<Engine>,
        /// Dropped last.
        state: OnceLock<TempDir>,
    }

    impl Embedded {
        /// An engine of its own over the one state directory.
        async fn another(&self) -> Result<Engine> {
            let state = self.state.get_or_init(|| {
                TempDir::with_prefix("stacyvm-conformance-").expect("a temporary directory")
            });
            Engine::open(Config::for_state_dir(state.path())).await
        }
    }

    async fn subject(engine: Engine) -> Result<Subject> {
        let spec = SandboxSpec::host().lifetime(Lifetime::Attached);
        Subject::of_engine(engine, "oci", spec).await
    }

    #[async_trait::async_trait]
    impl Harness for Embedded {
        fn name(&self) -> &'static str {
            "embedded"
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

#[cfg(all(target_os = "linux", feature = "oci"))]
stacyvm_conformance::provider_main!(linux::Embedded::default());

#[cfg(not(all(target_os = "linux", feature = "oci")))]
#[expect(clippy::print_stderr, reason = "this is the front end")]
fn main() {
    eprintln!("not run: the embedded provider is for Linux, with the feature `oci`");
}
