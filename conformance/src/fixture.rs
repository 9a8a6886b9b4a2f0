//! What a case works with, and what it leaves.

use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use stacyvm::context::Context;
use stacyvm::id::TenantId;
use stacyvm::provider::{Capabilities, Leftover, Provider, Reach};
use stacyvm::sandbox::spec::Lifetime;
use stacyvm::{Engine, ErrorKind, Output, Sandbox, SandboxId, SandboxSpec};

use crate::case::{Checked, Failure};
use crate::harness::{Harness, Subject};
use crate::host::{HostProcess, Wanted};
use crate::{ensure, ensure_eq};

/// How long what was begun may still be going after its end.
const SETTLES: Duration = Duration::from_secs(5);

/// The ids of every case of this process: other sandboxes are nobody's.
static MINTED: Mutex<BTreeSet<SandboxId>> = Mutex::new(BTreeSet::new());

/// Whether a case of this process asked for the sandbox.
pub(crate) fn is_minted(id: &SandboxId) -> bool {
    let minted = MINTED.lock().unwrap_or_else(PoisonError::into_inner);
    minted.contains(id)
}

/// The provider, and what a case made with it.
pub struct Fixture {
    harness: Arc<dyn Harness>,
    case: &'static str,
    subject: Subject,
    context: Context,
    made: Arc<Made>,
    /// The leftovers of no known sandbox that were there before; none where they
    /// could not be told.
    before: Option<BTreeSet<String>>,
}

/// The sandboxes of a case in their order, noted before they are made: what a case
/// gives up is found again.
#[derive(Debug)]
pub(crate) struct Made {
    ids: Mutex<Vec<SandboxId>>,
    /// What no other case and no other run calls its files.
    mark: String,
}

impl Default for Made {
    fn default() -> Self {
        Self {
            ids: Mutex::default(),
            mark: SandboxId::random().to_string(),
        }
    }
}

impl Made {
    fn all(&self) -> Vec<SandboxId> {
        let made = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        made.clone()
    }

    /// A text in which the case's sandboxes are called by their order: two runs of the
    /// same say the same.
    pub(crate) fn without_ids(&self, text: &str) -> String {
        let all = self.all().into_iter().enumerate();
        let text = text.replace(&self.mark, "case");
        all.fold(text, |text, (n, id)| {
            text.replace(id.as_str(), &format!("sandbox-{}", n + 1))
        })
    }
}

impl fmt::Debug for Fixture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fixture")
            .field("case", &self.case)
            .field("subject", &self.subject)
            .finish_non_exhaustive()
    }
}

impl Fixture {
    pub(crate) async fn open(
        harness: Arc<dyn Harness>,
        case: &'static str,
        subject: Subject,
    ) -> Self {
        let context = Context::new(TenantId::default());
        let left = subject.provider().leftovers(&context, Reach::Own).await;
        let before = left.map(|left| strangers(&left));
        Self {
            harness,
            case,
            subject,
            context,
            made: Arc::default(),
            before: before.ok(),
        }
    }

    pub(crate) fn names(&self) -> Arc<Made> {
        Arc::clone(&self.made)
    }

    /// The id of the case.
    pub fn case(&self) -> &'static str {
        self.case
    }

    /// The name under which the engine knows the provider.
    pub fn provider_name(&self) -> &str {
        self.subject.name()
    }

    /// Opens the provider once more, as another process would; the case is not run
    /// where that cannot be done.
    pub async fn reopen(&self) -> Checked<Subject> {
        let opened = self.harness.reopen(&self.subject).await;
        opened.map_err(|error| match error.kind() {
            ErrorKind::Unsupported => Failure::NotRun(error.to_string()),
            _ => Failure::broken(format!("the provider could not be opened again: {error}")),
        })
    }

    /// Another process that opens the provider over the same state, and has made a
    /// sandbox for each of these: of the first lifetime, to which it then gives the others.
    /// The case is not run where that cannot be done.
    pub async fn host(&self, lives: &[&[Lifetime]]) -> Checked<(HostProcess, Vec<SandboxId>)> {
        let command = self.harness.host().map_err(|error| match error.kind() {
            ErrorKind::Unsupported => Failure::NotRun(error.to_string()),
            _ => error.into(),
        })?;
        let wanted = lives.iter().map(|&lifetimes| Wanted {
            id: self.mint(),
            lifetimes: lifetimes.to_vec(),
        });
        let wanted: Vec<Wanted> = wanted.collect();
        let host = HostProcess::start(command, &wanted).await?;
        Ok((host, wanted.into_iter().map(|one| one.id).collect()))
    }

    /// The engine over the provider.
    pub fn engine(&self) -> &Engine {
        self.subject.engine()
    }

    /// The provider itself.
    pub fn provider(&self) -> &Arc<dyn Provider> {
        self.subject.provider()
    }

    /// The context of calls to the provider.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// What the provider claims.
    pub fn claims(&self) -> Capabilities {
        self.subject.capabilities()
    }

    /// The plainest sandbox that the provider makes.
    pub fn spec(&self) -> SandboxSpec {
        self.subject.spec().clone()
    }

    /// Makes the plainest sandbox. It is ended after the case.
    pub async fn sandbox(&self) -> Checked<Sandbox> {
        self.make(self.spec()).await
    }

    /// Makes a sandbox. It is ended after the case.
    pub async fn make(&self, spec: SandboxSpec) -> Checked<Sandbox> {
        Ok(self.try_make(spec).await?)
    }

    /// Makes a sandbox, or tells why not.
    pub async fn try_make(&self, spec: SandboxSpec) -> stacyvm::Result<Sandbox> {
        let create = self.engine().create(spec).id(self.mint());
        create.provider(self.subject.name()).await
    }

    /// An id for a sandbox that the case makes by itself; what has it is ended
    /// after the case.
    pub fn mint(&self) -> SandboxId {
        let id = SandboxId::random();
        let mut minted = MINTED.lock().unwrap_or_else(PoisonError::into_inner);
        minted.insert(id.clone());
        drop(minted);
        let mut made = self.made.ids.lock().unwrap_or_else(PoisonError::into_inner);
        made.push(id.clone());
        id
    }

    /// A path inside for a file of this name. Sandboxes without isolation may share
    /// a directory, so that it is the case's own; its sandboxes call it the same.
    pub fn path(&self, name: &str) -> String {
        format!("/tmp/{}-{name}", self.made.mark)
    }

    /// Runs a command line and expects it to succeed.
    pub async fn shell(&self, sandbox: &Sandbox, line: &str) -> Checked<Output> {
        let output = sandbox.shell(line).output().await?;
        ensure!(
            output.status.success(),
            "`{line}` ended with {}: {}",
            output.status,
            output.stderr_text().trim_end()
        );
        Ok(output)
    }

    /// Ends what the case made, and looks for what is left.
    pub(crate) async fn end(&self) -> Checked {
        let ids: BTreeSet<SandboxId> = self.made.all().into_iter().collect();
        // One that cannot be ended keeps no other.
        let mut ended = Ok(());
        for id in &ids {
            ended = ended.and(self.end_one(id).await);
        }
        ended?;
        for id in &ids {
            match self.provider().inspect(&self.context, id).await {
                Err(error)
                    if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::SandboxGone) => {}
                Err(error) => return Err(error.into()),
                Ok(seen) => {
                    return Err(Failure::broken(format!(
                        "residue: sandbox {id} is {:?} after its destroy",
                        seen.state
                    )));
                }
            }
        }
        let listed = self.provider().list(&self.context, None, 1000).await?;
        let still: Vec<_> = listed
            .iter()
            .filter(|seen| ids.contains(&seen.id))
            .collect();
        ensure!(still.is_empty(), "residue: still listed: {still:?}");
        self.nothing_is_left(&ids).await
    }

    async fn end_one(&self, id: &SandboxId) -> stacyvm::Result<()> {
        match self.engine().get(id).await {
            Ok(sandbox) => sandbox.kill().await.map(drop),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.provider().destroy(&self.context, id).await
            }
            Err(error) => Err(error),
        }
    }

    /// Of what is left of no known sandbox, that counts which came while the case ran and
    /// does not go: a case that ran meanwhile may be the one that left it.
    async fn nothing_is_left(&self, ids: &BTreeSet<SandboxId>) -> Checked {
        let until = tokio::time::Instant::now() + SETTLES;
        let mut stays: Option<BTreeSet<String>> = None;
        loop {
            let left = match self.provider().leftovers(&self.context, Reach::Own).await {
                Ok(left) => left,
                Err(error) if error.kind() == ErrorKind::Unsupported => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            let mut new = match &self.before {
                Some(before) => &strangers(&left) - before,
                None => BTreeSet::new(),
            };
            if let Some(seen) = stays.take() {
                new = &new & &seen;
            }
            let ours = left
                .into_iter()
                .filter(|one| one.sandbox.as_ref().is_some_and(|id| ids.contains(id)));
            let names: Vec<String> = ours.map(|one| one.id).collect();
            if names.is_empty() && new.is_empty() {
                return Ok(());
            }
            if tokio::time::Instant::now() > until {
                ensure_eq!(names, Vec::<String>::new(), "residue");
                return Err(Failure::broken(format!(
                    "residue of no known sandbox, which came while the case ran: {new:?}"
                )));
            }
            stays = Some(new);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// What is left of no known sandbox. What its owner still watches is kept on purpose, as
/// something that was made ahead.
fn strangers(left: &[Leftover]) -> BTreeSet<String> {
    let unknown = left
        .iter()
        .filter(|one| one.sandbox.is_none() && !one.owner_lives);
    unknown.map(|one| one.id.clone()).collect()
}

/// Expects an error of one of these kinds, and gives it.
pub fn refused<T: std::fmt::Debug>(
    result: stacyvm::Result<T>,
    kinds: &[ErrorKind],
    what: &str,
) -> Checked<stacyvm::Error> {
    match result {
        Err(error) if kinds.contains(&error.kind()) => Ok(error),
        Err(error) => Err(Failure::broken(format!(
            "{what} failed with {error}, expected one of {kinds:?}"
        ))),
        Ok(value) => Err(Failure::broken(format!(
            "{what} gave {value:?}, expected an error of {kinds:?}"
        ))),
    }
}

/// Repeats a look until it holds, for at most ten seconds.
pub async fn eventually<F: Future<Output = Checked<bool>> + Send>(
    what: &str,
    mut look: impl FnMut() -> F + Send,
) -> Checked {
    for _ in 0..500 {
        if look().await? {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Err(Failure::broken(format!(
        "after ten seconds still not: {what}"
    )))
}
