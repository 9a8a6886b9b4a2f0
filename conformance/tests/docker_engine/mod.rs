//! The Docker provider as a subject, on the engine that `STACYVM_TEST_DOCKER_HOST`
//! names (`scripts/docker-host.sh start`), with one of its runtimes.

use std::process::ExitCode;

#[cfg(all(unix, feature = "docker"))]
mod unix {
    use std::path::PathBuf;
    use std::process::{Command, ExitCode};
    use std::sync::OnceLock;

    use stacyvm::config::{Config, ExecBy};
    use stacyvm::provider::Users;
    use stacyvm::sandbox::spec::Lifetime;
    use stacyvm::{Engine, ErrorKind, Result, SandboxSpec};
    use stacyvm_conformance::{Deviation, Harness, Subject, provider_main_without, this_program};
    use tempfile::TempDir;
    use tokio::sync::OnceCell;

    use super::{Declared, Setting, not_run};

    const IMAGE: &str = "stacyvm-test/busybox";

    /// The state directory, in a host process of a case.
    const STATE: &str = "STACYVM_TEST_STATE";

    /// One state directory for all cases of a process.
    struct Docker {
        host: String,
        runtime: &'static str,
        setting: Setting,
        deviations: Vec<Deviation>,
        engine: OnceCell<Engine>,
        /// Dropped last.
        state: OnceLock<TempDir>,
    }

    impl Docker {
        fn state(&self) -> PathBuf {
            let made = || TempDir::with_prefix("stacyvm-conformance-").expect("a directory");
            match std::env::var_os(STATE) {
                Some(state) => state.into(),
                None => self.state.get_or_init(made).path().to_owned(),
            }
        }

        /// An engine of its own over the one state directory.
        async fn another(&self) -> Result<Engine> {
            let mut config = Config::for_state_dir(self.state());
            let docker = config.providers.get_mut("docker");
            let docker = docker.expect("it is configured");
            docker.host = Some(self.host.clone());
            docker.runtime = Some(self.runtime.to_owned());
            match self.setting {
                Setting::Default => {}
                Setting::OneUser => docker.users = Some(Users::One),
                Setting::EngineExec => docker.exec = Some(ExecBy::Engine),
            }
            "docker".clone_into(&mut config.default_provider);
            Engine::open(config).await
        }
    }

    async fn subject(engine: Engine, setting: Setting) -> Result<Subject> {
        let mut spec = SandboxSpec::image(IMAGE);
        if setting != Setting::EngineExec {
            spec = spec.lifetime(Lifetime::Attached);
        }
        Subject::of_engine(engine, "docker", spec).await
    }

    #[async_trait::async_trait]
    impl Harness for Docker {
        fn name(&self) -> &'static str {
            "docker"
        }

        async fn open(&self) -> Result<Subject> {
            let opened = self.engine.get_or_try_init(|| self.another()).await?;
            subject(opened.clone(), self.setting).await
        }

        async fn reopen(&self, _: &Subject) -> Result<Subject> {
            subject(self.another().await?, self.setting).await
        }

        fn host(&self) -> Result<Command> {
            let mut command = this_program()?;
            command.env(STATE, self.state());
            Ok(command)
        }

        fn deviations(&self) -> &[Deviation] {
            &self.deviations
        }
    }

    pub(super) fn main(
        runtime: &'static str,
        setting: Setting,
        without: &[&str],
        deviations: &[Declared],
    ) -> ExitCode {
        let host = std::env::var_os("STACYVM_TEST_DOCKER_HOST");
        let Some(host) = host.and_then(|host| host.into_string().ok()) else {
            return not_run("no Docker engine: STACYVM_TEST_DOCKER_HOST names none");
        };
        let probes = cfg!(all(target_os = "linux", feature = "certify"));
        let deviations = deviations.iter();
        let deviations = deviations.filter(|(case, _)| probes || !case.starts_with("probes."));
        let deviations = deviations.map(|&(case, reason)| Deviation { case, reason });
        let docker = Docker {
            host,
            runtime,
            setting,
            deviations: deviations.collect(),
            engine: OnceCell::new(),
            state: OnceLock::new(),
        };
        // On a runtime of its own, as the cases have one.
        let tried = tokio::runtime::Runtime::new().map(|tokio| {
            let opened = tokio.block_on(async { subject(docker.another().await?, setting).await });
            opened.map(drop)
        });
        match tried {
            Ok(Err(error)) if error.kind() == ErrorKind::InvalidArgument => {
                not_run(&format!("the Docker engine has no {runtime}: {error}"))
            }
            _ => provider_main_without(docker, without),
        }
    }
}

/// A case that is declared to deviate, and the reason.
pub(crate) type Declared = (&'static str, &'static str);

/// How the provider is set up.
#[allow(dead_code, reason = "each target has one of them")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Setting {
    Default,
    /// Without added capabilities.
    OneUser,
    /// Commands by the engine's own exec.
    EngineExec,
}

/// Runs every case but the suites and cases that are left out, on this runtime of the engine.
pub(crate) fn main(
    runtime: &'static str,
    setting: Setting,
    without: &[&str],
    deviations: &[Declared],
) -> ExitCode {
    #[cfg(all(unix, feature = "docker"))]
    return unix::main(runtime, setting, without, deviations);
    #[cfg(not(all(unix, feature = "docker")))]
    {
        let _ = (runtime, setting, without, deviations);
        not_run("the Docker provider is for Unix, with the feature `docker`")
    }
}

#[expect(clippy::print_stderr, reason = "this is the front end")]
fn not_run(fact: &str) -> ExitCode {
    eprintln!("not run: {fact}");
    ExitCode::SUCCESS
}
