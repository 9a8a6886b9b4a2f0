//! The mock fulfils the contract.

use std::process::Command;
use std::sync::Arc;

use stacyvm::providers::mock::Mock;
use stacyvm::{Error, Result, SandboxSpec};
use stacyvm_conformance::{Harness, Subject};

struct InMemory;

#[async_trait::async_trait]
impl Harness for InMemory {
    fn name(&self) -> &'static str {
        "mock"
    }

    async fn open(&self) -> Result<Subject> {
        Subject::new(Arc::new(Mock::default()), SandboxSpec::image("scratch")).await
    }

    fn host(&self) -> Result<Command> {
        Err(Error::unsupported(
            "the mock's sandboxes are in the memory of one process",
        ))
    }
}

stacyvm_conformance::provider_main!(InMemory);
