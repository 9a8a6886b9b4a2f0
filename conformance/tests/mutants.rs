//! Every lie is found out: a suite that passes a liar has a hole.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use stacyvm::provider::Provider;
use stacyvm::providers::mock::Mock;
use stacyvm::{Result, SandboxSpec};
use stacyvm_conformance::mutants::{Liar, Lie};
use stacyvm_conformance::{CASES, Case, Harness, Options, Outcome, Report, Subject, run};

/// Lies that no case looks for yet.
const PENDING: &[(Lie, &str)] = &[];

/// None: the one that tells the truth.
struct Lying(Option<Lie>);

#[async_trait::async_trait]
impl Harness for Lying {
    fn name(&self) -> &'static str {
        "a liar"
    }

    async fn open(&self) -> Result<Subject> {
        let mock: Arc<dyn Provider> = Arc::new(Mock::default());
        let provider = match self.0 {
            Some(lie) => Arc::new(Liar::new(mock, lie)),
            None => mock,
        };
        Subject::new(provider, SandboxSpec::image("scratch")).await
    }
}

async fn reported(lie: Option<Lie>) -> Report {
    let harness: Arc<dyn Harness> = Arc::new(Lying(lie));
    let cases: Vec<&Case> = CASES.iter().filter(|case| !deviates(case.id)).collect();
    let options = Options {
        deadline: Duration::from_secs(8),
        jobs: 32,
    };
    run(&harness, &cases, &options).await
}

/// What the mock itself fails (`tests/mock.rs`).
fn deviates(case: &str) -> bool {
    case == "exec.bytes_that_are_no_text_arrive"
}

#[tokio::test(flavor = "multi_thread")]
async fn no_lie_survives() {
    // A case that fails in any event would find out every lie.
    let honest = reported(None).await;
    assert_eq!(honest.count(Outcome::Failed), 0, "{:?}", honest.summary);
    let all = stream::iter(Lie::ALL).map(|lie| async move { (*lie, reported(Some(*lie)).await) });
    let reports: Vec<(Lie, Report)> = all.buffered(4).collect().await;
    let mut alone: BTreeMap<String, Vec<Lie>> = BTreeMap::new();
    let mut survivors = Vec::new();
    for (lie, report) in &reports {
        let failed = report.cases.iter().filter(|c| c.outcome == Outcome::Failed);
        let killers: Vec<&str> = failed.map(|case| case.id.as_str()).collect();
        println!("{lie:?} ({}): {}", lie.text(), killers.join(" "));
        match killers[..] {
            [] => survivors.push(*lie),
            [one] => alone.entry(one.to_owned()).or_default().push(*lie),
            _ => {}
        }
    }
    println!("\ncases that alone kill a lie:");
    for (case, lies) in &alone {
        println!("{case}: {lies:?}");
    }
    let pending: Vec<Lie> = PENDING.iter().map(|(lie, _)| *lie).collect();
    for (lie, reason) in PENDING {
        println!("not run: {lie:?} has no case yet: {reason}");
    }
    assert_eq!(
        survivors, pending,
        "lies that no case found out, and those expected"
    );
}
