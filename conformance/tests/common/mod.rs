//! What tests of the runner and of reports share: harnesses over a mock, and cases.

#![allow(dead_code, reason = "each test program uses its part")]

use std::sync::Arc;
use std::time::Duration;

use stacyvm::provider::{Capabilities, Provider};
use stacyvm::providers::mock::Mock;
use stacyvm::{Error, ErrorKind, Result, SandboxSpec};
use stacyvm_conformance::mutants::{Liar, Lie};
use stacyvm_conformance::{
    Case, CaseFn, Deviation, Failure, Fixture, Harness, Level, Need, Options, Report, Subject, run,
};

/// Text that breaks what is not written with care.
pub(crate) const HOSTILE: &str =
    "\"a\" 'b' <c/> ]]> & \u{1b}[31m\n\r\0\u{202e}\u{fffe}\u{ffff}é\u{1f980}";

/// How opening goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opens {
    Well,
    Fails,
    Panics,
    Unsupported,
    Absent,
}

/// One mock for all cases, so that what is left shows.
pub(crate) struct OverMock {
    pub(crate) provider: Arc<dyn Provider>,
    pub(crate) opens: Opens,
    pub(crate) name: &'static str,
    pub(crate) deviations: &'static [Deviation],
}

impl OverMock {
    pub(crate) fn new() -> Self {
        Self {
            provider: Arc::new(Mock::default()),
            opens: Opens::Well,
            name: "mock",
            deviations: &[],
        }
    }

    pub(crate) fn lying(lie: Lie) -> Self {
        let mock: Arc<dyn Provider> = Arc::new(Mock::default());
        Self {
            provider: Arc::new(Liar::new(mock, lie)),
            ..Self::new()
        }
    }
}

#[async_trait::async_trait]
impl Harness for OverMock {
    fn name(&self) -> &str {
        self.name
    }

    fn absent(&self) -> Option<String> {
        (self.opens == Opens::Absent).then(|| "there is no such machine".to_owned())
    }

    async fn open(&self) -> Result<Subject> {
        match self.opens {
            Opens::Well | Opens::Absent => {}
            Opens::Fails => return Err(Error::new(ErrorKind::Unavailable, "no daemon answers")),
            Opens::Panics => panic!("the harness is broken"),
            Opens::Unsupported => return Err(Error::unsupported("there is no such kernel")),
        }
        Subject::new(Arc::clone(&self.provider), SandboxSpec::image("scratch")).await
    }

    fn deviations(&self) -> &[Deviation] {
        self.deviations
    }
}

pub(crate) const fn case(id: &'static str, run: CaseFn) -> Case {
    Case {
        id,
        level: Level::Must,
        promises: "",
        needs: &[],
        run,
        declined: None,
        alone: false,
    }
}

pub(crate) const PASSES: Case = case("t.passes", |f| {
    Box::pin(async move { f.sandbox().await.map(drop) })
});
pub(crate) const FAILS: Case = case("t.fails", |f| Box::pin(fails(f)));
pub(crate) const PANICS: Case = case("t.panics", |f| Box::pin(panics(f)));
pub(crate) const HANGS: Case = case("t.hangs", |f| Box::pin(hangs(f)));
pub(crate) const UNTRIED: Case = case("t.untried", |_| {
    Box::pin(async { Err(Failure::NotRun("a second host".to_owned())) })
});

const NEVER: Need = Need {
    name: "teleport",
    met: |_: &Capabilities| false,
};
pub(crate) const DECLINED: Case = Case {
    needs: &[NEVER],
    declined: Some(PASSES.run),
    ..case("t.declined", FAILS.run)
};
pub(crate) const NO_TWIN: Case = Case {
    needs: &[NEVER],
    ..case("t.no_twin", PASSES.run)
};

async fn fails(f: &Fixture) -> Result<(), Failure> {
    let sandbox = f.sandbox().await?;
    Err(Failure::broken(format!("{} says {HOSTILE}", sandbox.id())))
}

async fn panics(f: &Fixture) -> Result<(), Failure> {
    f.sandbox().await?;
    panic!("at the disco");
}

async fn hangs(f: &Fixture) -> Result<(), Failure> {
    let sandbox = f.sandbox().await?;
    sandbox.exec(["sleep", "600"]).output().await?;
    Ok(())
}

pub(crate) async fn reported(harness: OverMock, cases: &[Case]) -> Report {
    let harness: Arc<dyn Harness> = Arc::new(harness);
    // One that hangs need not be waited for; others have time on a busy machine.
    let hangs = cases.iter().any(|case| case.id == HANGS.id);
    let options = Options {
        deadline: Duration::from_secs(if hangs { 3 } else { 30 }),
        jobs: 2,
    };
    let cases: Vec<&Case> = cases.iter().collect();
    // Nothing of it may hang whoever runs it.
    let bounded = tokio::time::timeout(Duration::from_mins(1), run(&harness, &cases, &options));
    bounded.await.expect("a run that ends")
}
