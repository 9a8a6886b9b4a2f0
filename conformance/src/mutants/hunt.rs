//! Runs cases over liars, and tells which case found each of them out.

use std::collections::BTreeSet;
use std::fmt;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt as _;
use futures_util::stream;
use stacyvm::Result;
use tokio::sync::OnceCell;

use super::records::records;
use super::{Liar, Lie};
use crate::case::Case;
use crate::harness::{Harness, Subject};
use crate::host::lying;
use crate::report::{CaseReport, Outcome};
use crate::runner::{Options, run};

/// Whoever hangs for so long has been found out.
const HANGS: Duration = Duration::from_secs(15);

/// A provider under a lie; none is the one that tells the truth.
pub(crate) struct Lying {
    inner: Arc<dyn Harness>,
    lie: Option<Lie>,
}

impl Lying {
    pub(crate) fn new(inner: Arc<dyn Harness>, lie: Option<Lie>) -> Self {
        Self { inner, lie }
    }
}

#[async_trait]
impl Harness for Lying {
    fn name(&self) -> &'static str {
        "a liar"
    }

    async fn open(&self) -> Result<Subject> {
        let inner = self.inner.open().await?;
        let (provider, spec) = (Arc::clone(inner.provider()), inner.spec().clone());
        let provider = match self.lie {
            Some(lie) => Arc::new(Liar::new(provider, lie)),
            None => provider,
        };
        let subject = Subject::with_records(provider, spec, records(self.lie)).await?;
        Ok(subject.keep(inner))
    }

    async fn reopen(&self, first: &Subject) -> Result<Subject> {
        let provider = Arc::clone(first.provider());
        match self.lie {
            // The one that is opened later is another one.
            Some(lie @ Lie::KnowsOnlyItsOwn) => {
                first.over(Arc::new(Liar::new(provider, lie))).await
            }
            _ => first.over(provider).await,
        }
    }

    fn host(&self) -> Result<Command> {
        let inner = self.inner.host()?;
        Ok(match self.lie {
            Some(lie) => lying(inner, lie),
            None => inner,
        })
    }
}

/// Cases that are run over liars around one provider.
pub struct Hunt {
    inner: Arc<dyn Harness>,
    suites: Vec<Vec<Case>>,
    /// Lies that are tried at once.
    lies: usize,
    /// Cases of one lie that are run at once.
    jobs: usize,
    /// The cases that do not fail when the truth is told, in the time and the
    /// company that they have under a lie.
    honest: OnceCell<BTreeSet<String>>,
}

impl fmt::Debug for Hunt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hunt")
            .field("inner", &self.inner.name())
            .field("suites", &self.suites)
            .finish_non_exhaustive()
    }
}

impl Hunt {
    /// These cases, suite after suite in this order, over liars around the provider
    /// of this harness.
    pub fn new(inner: Arc<dyn Harness>, cases: &[Case], order: &[&str]) -> Self {
        let suites = order.iter().map(|suite| {
            let of_suite = cases.iter().filter(|case| case.suite() == *suite);
            of_suite.copied().collect()
        });
        Self {
            inner,
            suites: suites.collect(),
            lies: 4,
            jobs: 32,
            honest: OnceCell::new(),
        }
    }

    /// How many lies are tried at once, and how many cases of each.
    pub fn at_once(mut self, lies: usize, jobs: usize) -> Self {
        (self.lies, self.jobs) = (lies, jobs);
        self
    }

    async fn reported(
        &self,
        lie: Option<Lie>,
        deadline: Duration,
        cases: &[Case],
    ) -> Vec<CaseReport> {
        if cases.is_empty() {
            return Vec::new();
        }
        let inner = Arc::clone(&self.inner);
        let harness: Arc<dyn Harness> = Arc::new(Lying::new(inner, lie));
        let options = Options {
            deadline,
            jobs: self.jobs,
        };
        let cases: Vec<&Case> = cases.iter().collect();
        run(&harness, &cases, &options).await.cases
    }

    async fn killers(&self, lie: Lie, cases: &[Case]) -> BTreeSet<String> {
        let honest = self.honest().await;
        let reports = self.reported(Some(lie), HANGS, cases).await.into_iter();
        let failed = reports.filter(|case| case.outcome == Outcome::Failed);
        let ids = failed.map(|case| case.id);
        ids.filter(|id| honest.contains(id)).collect()
    }

    /// What can find a lie out: a case that is too slow for the time that it has
    /// there would find out every one.
    async fn honest(&self) -> &BTreeSet<String> {
        let look = async || {
            let mut honest = BTreeSet::new();
            for suite in &self.suites {
                let reports = self.reported(None, HANGS, suite).await.into_iter();
                let passed = reports.filter(|case| case.outcome != Outcome::Failed);
                honest.extend(passed.map(|case| case.id));
            }
            honest
        };
        self.honest.get_or_init(look).await
    }

    /// What the provider fails when it tells the truth: such a case would find out
    /// every lie.
    pub async fn failed_honestly(&self) -> Vec<CaseReport> {
        let mut failed = Vec::new();
        for suite in &self.suites {
            // The honest one may take its time.
            let deadline = Options::default().deadline;
            let reports = self.reported(None, deadline, suite).await.into_iter();
            failed.extend(reports.filter(|case| case.outcome == Outcome::Failed));
        }
        failed
    }

    /// The cases of the first suite that finds a lie out.
    async fn first_killers(&self, lie: Lie) -> BTreeSet<String> {
        for suite in &self.suites {
            let killers = self.killers(lie, suite).await;
            if !killers.is_empty() {
                return killers;
            }
        }
        BTreeSet::new()
    }

    /// Has each lie looked at, some at once, and gives them back in this order: one that
    /// takes long holds no other up.
    async fn each(
        &self,
        lies: &[Lie],
        look: impl AsyncFn(Lie) -> BTreeSet<String>,
    ) -> Vec<(Lie, BTreeSet<String>)> {
        let look = &look;
        let all = stream::iter(lies.iter().enumerate())
            .map(|(place, lie)| async move { (place, *lie, look(*lie).await) });
        let mut seen: Vec<_> = all.buffer_unordered(self.lies).collect().await;
        seen.sort_by_key(|(place, ..)| *place);
        let told = seen.into_iter().map(|(_, lie, killers)| (lie, killers));
        told.collect()
    }

    /// Tries each lie until a suite finds it out.
    pub async fn first(&self, lies: &[Lie]) -> Catch {
        Catch {
            lies: self
                .each(lies, async |lie| self.first_killers(lie).await)
                .await,
            redundant: None,
        }
    }

    /// The same, and which cases could be done without: a case that pins no
    /// promise is run over every lie, and the other suites where it is the
    /// only one so far.
    pub async fn whole(&self, lies: &[Lie]) -> Catch {
        let unpinned = |case: &&Case| case.promises.trim().is_empty();
        let cases: Vec<Case> = self.suites.concat();
        let pinless: Vec<Case> = cases.iter().filter(unpinned).copied().collect();
        let look = async |lie| {
            let mut killers = self.first_killers(lie).await;
            killers.append(&mut self.killers(lie, &pinless).await);
            let alone = |case: &Case| killers.len() == 1 && killers.contains(case.id);
            if pinless.iter().any(alone) {
                killers.append(&mut self.killers(lie, &self.suites.concat()).await);
            }
            killers
        };
        let lies = self.each(lies, look).await;
        let needed = |case: &&Case| {
            let mut alone = lies.iter().filter(|(_, killers)| killers.len() == 1);
            alone.any(|(_, killers)| killers.contains(case.id))
        };
        let redundant = pinless.iter().filter(|case| !needed(case));
        let redundant = redundant.map(|case| case.id.to_owned()).collect();
        Catch {
            lies,
            redundant: Some(redundant),
        }
    }
}

/// Which cases found which lie out.
#[derive(Clone, Debug)]
pub struct Catch {
    /// Each lie with the cases that were seen to find it out.
    pub lies: Vec<(Lie, BTreeSet<String>)>,
    /// Cases that pin no promise and find out nothing that no other does, where
    /// that was looked for.
    pub redundant: Option<Vec<String>>,
}

impl Catch {
    /// The lies that no case found out.
    pub fn survivors(&self) -> Vec<Lie> {
        let survived = self.lies.iter().filter(|(_, killers)| killers.is_empty());
        survived.map(|(lie, _)| *lie).collect()
    }
}

impl fmt::Display for Catch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (lie, killers) in &self.lies {
            let verdict = match killers.len() {
                0 => "SURVIVED".to_owned(),
                1 => "found out by 1 case".to_owned(),
                many => format!("found out by {many} cases"),
            };
            writeln!(f, "{lie:?}: {} ({verdict})", lie.text())?;
            for killer in killers {
                writeln!(f, "    {killer}")?;
            }
        }
        for case in self.redundant.iter().flatten() {
            writeln!(f, "redundant: {case}")?;
        }
        let survivors = self.survivors().len();
        write!(f, "{} lies, {survivors} survived", self.lies.len())?;
        if let Some(redundant) = &self.redundant {
            write!(f, "; {} redundant cases", redundant.len())?;
        }
        Ok(())
    }
}
