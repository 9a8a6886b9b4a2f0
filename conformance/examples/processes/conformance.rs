//! The provider of this folder fulfils the part of the contract that it claims.

#[cfg(target_os = "linux")]
mod provider;

#[cfg(target_os = "linux")]
mod harness {
    use std::sync::Arc;

    use stacyvm::{Result, SandboxSpec};
    use stacyvm_conformance::{Harness, Subject};

    pub(crate) struct Mine;

    #[async_trait::async_trait]
    impl Harness for Mine {
        fn name(&self) -> &'static str {
            "processes of the host"
        }

        async fn open(&self) -> Result<Subject> {
            let provider = super::provider::Processes::default();
            Subject::new(Arc::new(provider), SandboxSpec::host()).await
        }
    }
}

#[cfg(target_os = "linux")]
stacyvm_conformance::provider_main!(harness::Mine);

#[cfg(not(target_os = "linux"))]
#[expect(clippy::print_stderr, reason = "this is the front end")]
fn main() {
    eprintln!("not run: it looks for processes in /proc, which Linux has");
}
