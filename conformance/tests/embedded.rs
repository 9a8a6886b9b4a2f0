//! The embedded provider fulfils the contract.

#[cfg(all(target_os = "linux", feature = "oci"))]
mod linux {
    use std::path::PathBuf;
    use std::process::Command;
    use std::sync::OnceLock;

    use stacyvm::config::Config;
    use stacyvm::sandbox::spec::Lifetime;
    use stacyvm::{Engine, Result, SandboxSpec};
    use stacyvm_conformance::{Harness, Subject, this_program};
    use tempfile::TempDir;
    use tokio::sync::OnceCell;

    /// The state directory, in a host process of a case.
    const STATE: &str = "STACYVM_TEST_STATE";

    /// One state directory for all cases of a process.
    #[derive(Default)]
    pub(crate) struct Embedded {
        engine: OnceCell<Engine>,
        /// Dropped last.
        state: OnceLock<TempDir>,
    }

    impl Embedded {
        fn state(&self) -> PathBuf {
            let made = || TempDir::with_prefix("stacyvm-conformance-").expect("a directory");
            match std::env::var_os(STATE) {
                Some(state) => state.into(),
                None => self.state.get_or_init(made).path().to_owned(),
            }
        }

        /// An engine of its own over the one state directory.
        async fn another(&self) -> Result<Engine> {
            Engine::open(Config::for_state_dir(self.state())).await
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

        fn host(&self) -> Result<Command> {
            let mut command = this_program()?;
            command.env(STATE, self.state());
            Ok(command)
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
