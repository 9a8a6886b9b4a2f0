//! A host process for a case: this program once more, over the same state. It makes
//! sandboxes, and the case ends it with SIGKILL.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use stacyvm::provider::Level;
use stacyvm::sandbox::spec::Lifetime;
use stacyvm::{Error, ErrorKind, Result, SandboxId};

use crate::case::{Checked, Failure};
use crate::harness::Harness;
use crate::mutants::{Lie, Lying};

/// What a host process is asked for.
const ORDER: &str = "STACYVM_CONFORMANCE_HOST";

/// The lie that its provider tells, if one.
const LIE: &str = "STACYVM_CONFORMANCE_HOST_LIE";

/// How long a sandbox may live that no case ends.
const LIFE: Duration = Duration::from_mins(3);

/// What a host process tells, before what it means.
const TOLD: &str = "host told: ";
const MADE: &str = "made";

/// A sandbox that a host process makes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Wanted {
    pub(crate) id: SandboxId,
    /// The one that it is made with, and those that it is given after that.
    pub(crate) lifetimes: Vec<Lifetime>,
}

/// This program once more, with the same arguments: what most harnesses give as
/// [`Harness::host`], with what their state is found by added.
///
/// # Errors
///
/// `internal` where the path of this program is not known.
pub fn this_program() -> Result<Command> {
    let program = std::env::current_exe().map_err(|error| {
        Error::new(ErrorKind::Internal, "this program has no path").source(error)
    })?;
    let mut command = Command::new(program);
    command.args(std::env::args_os().skip(1));
    Ok(command)
}

/// Whether this process is a host process of a case, which has to call [`as_host`]
/// and to do nothing else.
pub fn is_host() -> bool {
    std::env::var_os(ORDER).is_some()
}

/// Does the work of a host process of a case: it opens the provider, makes what it was
/// asked for, says so on standard output, and waits until its standard input ends or it
/// is killed. None where this process [is none](is_host).
///
/// [`provider_main!`](macro@crate::provider_main) calls it; another front end does it
/// first of all.
pub async fn as_host(harness: Arc<dyn Harness>) -> Option<ExitCode> {
    let order = std::env::var_os(ORDER)?;
    let lie = std::env::var_os(LIE);
    let made = async {
        let wanted: Vec<Wanted> = serde_json::from_str(&text(order)?).map_err(no_order)?;
        let harness: Arc<dyn Harness> = match lie.map(text).transpose()? {
            Some(name) => {
                let lie = Lie::named(&name).ok_or_else(|| no_order(&name))?;
                Arc::new(Lying::new(harness, Some(lie)))
            }
            None => harness,
        };
        let subject = harness.open().await?;
        for Wanted { id, lifetimes } in wanted {
            let (first, later) = lifetimes
                .split_first()
                .ok_or_else(|| no_order("no lifetime"))?;
            let mut spec = subject.spec().clone().lifetime(*first);
            if lifetimes.contains(&Lifetime::Detached) && subject.capabilities().ttl > Level::Absent
            {
                spec = spec.ttl(LIFE);
            }
            let create = subject.engine().create(spec).id(id);
            let sandbox = create.provider(subject.name()).await?;
            for lifetime in later {
                sandbox.set_lifetime(*lifetime).await?;
            }
        }
        Ok::<_, Error>(subject)
    };
    let made = made.await;
    let words = match &made {
        Ok(_) => MADE.to_owned(),
        Err(error) => error.to_string(),
    };
    let mut out = std::io::stdout().lock();
    let told = writeln!(out, "{TOLD}{words}").and_then(|()| out.flush());
    drop(out);
    if told.is_err() || made.is_err() {
        return Some(ExitCode::FAILURE);
    }
    // The end of the case's process is the end of this one's input.
    let waiting = tokio::task::spawn_blocking(|| {
        drop(std::io::stdin().lock().read_to_end(&mut Vec::new()));
    });
    // However it ended, there is nothing more to do.
    drop(waiting.await);
    Some(ExitCode::SUCCESS)
}

fn text(order: OsString) -> Result<String> {
    order
        .into_string()
        .map_err(|order| no_order(order.display()))
}

fn no_order(what: impl std::fmt::Display) -> Error {
    Error::invalid(ORDER, what, "what a case asks for", "unset it")
}

/// A host process that has made what it was asked for. It does not outlive its case.
pub struct HostProcess {
    process: Child,
    _input: Option<ChildStdin>,
}

impl std::fmt::Debug for HostProcess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("HostProcess")
            .field(&self.process.id())
            .finish()
    }
}

impl Drop for HostProcess {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

impl HostProcess {
    /// Starts it, and waits until it has made these.
    pub(crate) async fn start(mut command: Command, wanted: &[Wanted]) -> Checked<Self> {
        let order = serde_json::to_string(wanted);
        let order = order.map_err(|error| Failure::broken(error.to_string()))?;
        command.env(ORDER, order);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let spawned = command
            .spawn()
            .map_err(|error| Failure::NotRun(format!("no host process could be started: {error}")));
        let mut process = spawned?;
        let (input, out) = (process.stdin.take(), process.stdout.take());
        let host = Self {
            process,
            _input: input,
        };
        let heard = tokio::task::spawn_blocking(move || out.map_or(Ok(String::new()), heard));
        match heard.await.map_err(std::io::Error::other).flatten() {
            Ok(words) if words == MADE => Ok(host),
            Ok(words) => Err(Failure::broken(format!(
                "the host process told {words:?}, expected {MADE:?}"
            ))),
            Err(error) => Err(Failure::broken(format!(
                "the host process could not be heard: {error}"
            ))),
        }
    }

    /// Ends it with SIGKILL. It is gone when this returns.
    pub fn kill(self) {
        drop(self);
    }
}

/// What it tells; nothing where it ends without. What else its front end prints is no
/// matter.
fn heard(out: ChildStdout) -> std::io::Result<String> {
    for line in BufReader::new(out).lines() {
        // One that prints without ends of lines may stand before it.
        if let Some((_, words)) = line?.split_once(TOLD) {
            return Ok(words.to_owned());
        }
    }
    Ok(String::new())
}

/// Has the provider of a host process tell a lie.
pub(crate) fn lying(mut command: Command, lie: Lie) -> Command {
    command.env(LIE, format!("{lie:?}"));
    command
}
