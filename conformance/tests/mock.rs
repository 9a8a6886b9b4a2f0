//! The mock fulfils the contract.

use std::sync::Arc;

use stacyvm::providers::mock::Mock;
use stacyvm::{Result, SandboxSpec};
use stacyvm_conformance::{Deviation, Harness, Subject};

struct InMemory;

#[async_trait::async_trait]
impl Harness for InMemory {
    fn name(&self) -> &'static str {
        "mock"
    }

    async fn open(&self) -> Result<Subject> {
        Subject::new(Arc::new(Mock::default()), SandboxSpec::image("scratch")).await
    }

    fn deviations(&self) -> &[Deviation] {
        &[
            Deviation {
                case: "exec.bytes_that_are_no_text_arrive",
                reason: "scripts of the mock get their arguments as text",
            },
            Deviation {
                case: "background.a_later_follower_gets_what_was_written",
                reason: "the mock keeps output of a background command only while nobody follows it",
            },
            Deviation {
                case: "background.an_ended_command_is_remembered",
                reason: "the mock keeps output of a background command only while nobody follows it",
            },
        ]
    }
}

stacyvm_conformance::provider_main!(InMemory);
