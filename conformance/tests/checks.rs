//! Cases are checks: silent where the contract is kept, fired where it is not.

#![cfg(all(feature = "certify", target_os = "linux"))]

use std::sync::Arc;

use stacyvm::certify::{Attempt, Check as _, Control as _, Place, User, Verdict};
use stacyvm::providers::mock::Mock;
use stacyvm::{Error, Result, SandboxSpec};
use stacyvm_conformance::mutants::Lie;
use stacyvm_conformance::{CASES, CaseCheck, Harness, LiarControl, Subject};

struct InMemory;

#[async_trait::async_trait]
impl Harness for InMemory {
    fn name(&self) -> &'static str {
        "mock"
    }

    async fn open(&self) -> Result<Subject> {
        Subject::new(Arc::new(Mock::default()), SandboxSpec::image("scratch")).await
    }
}

struct Nowhere;

#[async_trait::async_trait]
impl Place for Nowhere {
    fn users(&self) -> &[User] {
        &[]
    }

    async fn attack(&self, _: &str, _: User) -> Result<Attempt> {
        Err(Error::unsupported("nothing is attacked here"))
    }
}

fn check(id: &str) -> CaseCheck {
    let case = CASES.iter().find(|case| case.id == id);
    CaseCheck::new(case.expect("a case of the suite"), Arc::new(InMemory))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_case_is_silent_on_the_honest_and_fires_on_a_liar() {
    let check = check("exec.code_is_told_as_it_was");
    assert_eq!(check.run(&Nowhere).await, Verdict::Silent);
    let control = LiarControl::new(Arc::new(InMemory), Lie::HidesCodes);
    let fired = control.run(&check).await;
    assert_eq!(fired.name(), "fired", "{fired:?}");
    assert!(!fired.detail().is_empty());
    // A lie about something else proves nothing of this case.
    let control = LiarControl::new(Arc::new(InMemory), Lie::GlobsNothing);
    assert_eq!(control.run(&check).await, Verdict::Silent);
    assert!(control.name().contains("no path fits a pattern"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_not_be_tried_proves_nothing() {
    let seen = check("files.a_gibibyte_is_streamed").run(&Nowhere).await;
    assert_eq!(seen.name(), "not_run", "{seen:?}");
}

#[test]
fn every_case_is_a_check_of_its_id() {
    let harness: Arc<dyn Harness> = Arc::new(InMemory);
    let checks = CaseCheck::all(&harness);
    let ids: Vec<&str> = checks.iter().map(|check| check.id()).collect();
    let cases: Vec<&str> = CASES.iter().map(|case| case.id).collect();
    assert_eq!(ids, cases);
}
