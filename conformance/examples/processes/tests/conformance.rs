//! The provider fulfils the part of the contract that it claims.

use std::sync::Arc;

use processes::Processes;
use stacyvm::{Result, SandboxSpec};
use stacyvm_conformance::{Harness, Subject};

struct Mine;

#[async_trait::async_trait]
impl Harness for Mine {
    fn name(&self) -> &str {
        "processes of the host"
    }

    async fn open(&self) -> Result<Subject> {
        Subject::new(Arc::new(Processes::default()), SandboxSpec::host()).await
    }
}

stacyvm_conformance::provider_main!(Mine);
