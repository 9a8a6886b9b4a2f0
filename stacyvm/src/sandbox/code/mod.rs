//! Code that runs in an interpreter inside, which keeps its state between calls.

mod kernel;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::OwnedMutexGuard;

use super::exec_builder::DEFAULT_MAX_OUTPUT;
use super::handle::Sandbox;
use super::state::Phase;
use crate::error::{Error, ErrorKind, Result};
use kernel::Kernel;

/// The languages that [`Sandbox::run_code`] knows, and what must be inside for each.
const LANGUAGES: [(&str, &str); 1] = [("python", "python3")];
/// The most bytes of results that are gathered.
const MOST_RESULTS: usize = 256 << 20;
/// The context of calls that name none.
const DEFAULT: &str = "default";

/// An interpreter with its own state, from [`Sandbox::code_context`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodeContext {
    /// Its id, unique in the sandbox and this handle.
    pub id: String,
    /// Its language.
    pub language: String,
    /// The directory in which it began.
    pub workdir: Option<String>,
}

/// The interpreters of a sandbox, shared by its handles in this process.
#[derive(Debug, Default)]
pub(super) struct Kernels(Mutex<BTreeMap<String, Slot>>);

#[derive(Clone, Debug)]
struct Slot {
    context: CodeContext,
    /// None while it does not run. Held while code runs in it: one call after the other.
    kernel: Arc<tokio::sync::Mutex<Option<Kernel>>>,
}

impl Kernels {
    fn with<T>(&self, work: impl FnOnce(&mut BTreeMap<String, Slot>) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn find(&self, id: &str) -> Option<Slot> {
        self.with(|slots| slots.get(id).cloned())
    }

    fn make(&self, context: CodeContext) -> Slot {
        self.with(|slots| {
            let slot = Slot {
                context,
                kernel: Arc::default(),
            };
            slots.entry(slot.context.id.clone()).or_insert(slot).clone()
        })
    }
}

impl Sandbox {
    /// Code to run in an interpreter that keeps its state: variables, imports, open
    /// files. Python by default.
    ///
    /// The interpreter starts with the first call and stays, so that later ones take
    /// milliseconds. It belongs to this handle and its clones: another process has
    /// interpreters of its own, and it ends with this one.
    pub fn run_code(&self, code: impl Into<String>) -> CodeRun {
        CodeRun {
            sandbox: self.clone(),
            code: code.into(),
            language: None,
            context: None,
            timeout: None,
        }
    }

    /// Makes a context: an interpreter apart from the others, which starts in
    /// `workdir` with its first code.
    ///
    /// # Errors
    ///
    /// `unsupported` for a language that is not known.
    pub fn code_context(&self, language: &str, workdir: Option<String>) -> Result<CodeContext> {
        program_of(language)?;
        let context = CodeContext {
            id: crate::id::ExecId::random().to_string(),
            language: language.to_owned(),
            workdir,
        };
        Ok(self.kernels().make(context).context)
    }

    /// The contexts that were made, and the default one once it was used.
    pub fn code_contexts(&self) -> Vec<CodeContext> {
        self.kernels()
            .with(|slots| slots.values().map(|slot| slot.context.clone()).collect())
    }

    /// Ends a context and what it runs. One that is not there is success.
    pub fn remove_code_context(&self, id: &str) {
        // The kernel goes with the last reference: at once, or with the call that runs in it.
        self.kernels().with(|slots| slots.remove(id));
    }
}

fn program_of(language: &str) -> Result<&'static str> {
    let known = LANGUAGES.iter().find(|(name, _)| *name == language);
    known.map(|(_, program)| *program).ok_or_else(|| {
        let names = LANGUAGES.map(|(name, _)| name).join(", ");
        Error::unsupported(format!(
            "no interpreter is known for `{language}`, expected {names}; run its program as a command"
        ))
        .operation("run_code")
        .context("field", "language")
        .context("value", language)
    })
}

/// Code about to run, from [`Sandbox::run_code`].
#[must_use = "code runs by `output` or `start`"]
pub struct CodeRun {
    sandbox: Sandbox,
    code: String,
    language: Option<String>,
    context: Option<String>,
    timeout: Option<Duration>,
}

impl fmt::Debug for CodeRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CodeRun")
            .field("sandbox", &self.sandbox.id())
            .field("bytes", &self.code.len())
            .field("language", &self.language)
            .field("context", &self.context)
            .field("timeout", &self.timeout)
            .finish()
    }
}

impl CodeRun {
    /// Its language, `python` if none.
    pub fn language(mut self, language: impl Into<String>) -> Self {
        self.language = Some(language.into());
        self
    }

    /// Runs it in this context instead of the language's default one.
    pub fn context(mut self, id: impl Into<String>) -> Self {
        self.context = Some(id.into());
        self
    }

    /// How long it may wait for its turn, and then run: it is interrupted as by Ctrl-C. Its state is kept; an interpreter
    /// that does not heed that within two seconds is ended.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Starts it, after those that were started before in the same context.
    ///
    /// # Errors
    ///
    /// `unsupported` for a language that is not known, `not_found` for a context that is
    /// not there, `timeout` where earlier code of the context runs for longer than it may
    /// wait, `command_not_found` where the sandbox lacks the interpreter, and those of
    /// [`Exec::start`](super::exec_builder::Exec::start).
    pub async fn start(self) -> Result<RunningCode> {
        let error = |error: Error| error.operation("run_code");
        let slot = self.slot().map_err(error)?;
        let turn = slot.kernel.lock_owned();
        let mut held = match self.timeout {
            None => turn.await,
            Some(timeout) => tokio::time::timeout(timeout, turn)
                .await
                .map_err(|_| error(kernel::no_turn(timeout)))?,
        };
        if held.as_ref().is_none_or(Kernel::has_ended) {
            *held = None;
            let program = program_of(&slot.context.language)?;
            let made = Kernel::start(&self.sandbox, program, slot.context.workdir.as_deref());
            *held = Some(made.await.map_err(error)?);
        }
        let mut running = RunningCode {
            held: Some(held),
            timeout: self.timeout,
            ended: false,
        };
        let kernel = running.kernel()?;
        if let Err(gone) = kernel.ask(&self.code).await {
            // It may have gone with its sandbox.
            let known = self.sandbox.info().await;
            let has_ended = known.is_ok_and(|info| {
                matches!(info.phase, Phase::Destroying | Phase::Ended | Phase::Failed)
            });
            return Err(error(if has_ended {
                Error::new(
                    ErrorKind::SandboxGone,
                    format!("sandbox {} has ended", self.sandbox.id()),
                )
            } else {
                gone
            }));
        }
        Ok(running)
    }

    /// Runs it to its end and gathers what it gave.
    ///
    /// # Errors
    ///
    /// Those of [`start`](Self::start) and of [`RunningCode::next_event`]. What the code
    /// raised is no error: [`Execution::error`] has it.
    ///
    /// # Cancellation
    ///
    /// Dropping the future ends the interpreter with its state.
    pub async fn output(self) -> Result<Execution> {
        let mut running = self.start().await?;
        let mut execution = Execution::default();
        while let Some(event) = running.next_event().await? {
            execution.add(event)?;
        }
        Ok(execution)
    }

    fn slot(&self) -> Result<Slot> {
        let kernels = self.sandbox.kernels();
        if let Some(id) = &self.context {
            let slot = kernels.find(id).ok_or_else(|| {
                Error::new(
                    ErrorKind::NotFound,
                    format!("there is no code context `{id}`"),
                )
                .context("remedy", "make one with `code_context`")
            })?;
            if let Some(asked) = &self.language
                && *asked != slot.context.language
            {
                let is = format!("{}, which its context has", slot.context.language);
                return Err(Error::invalid("language", asked, &is, "leave it out"));
            }
            return Ok(slot);
        }
        let language = self.language.as_deref().unwrap_or(LANGUAGES[0].0);
        program_of(language)?;
        Ok(kernels.make(CodeContext {
            id: format!("{DEFAULT}-{language}"),
            language: language.to_owned(),
            workdir: None,
        }))
    }
}

/// Code that runs. Dropped before its end it ends the interpreter, and its state with it.
#[derive(Debug)]
pub struct RunningCode {
    /// Its turn, until its end.
    held: Option<OwnedMutexGuard<Option<Kernel>>>,
    timeout: Option<Duration>,
    ended: bool,
}

impl RunningCode {
    fn kernel(&mut self) -> Result<&mut Kernel> {
        let held = self.held.as_mut();
        held.and_then(|held| held.as_mut()).ok_or_else(kernel::gone)
    }

    /// What comes next; `None` after the end.
    ///
    /// # Errors
    ///
    /// `timeout` once it was interrupted for want of time, with the interpreter's state
    /// kept where [`CodeEvent::Error`] came before; `unavailable` where the interpreter
    /// ended under it (`os._exit`, a crash, lack of memory), `protocol` for an answer that
    /// makes no sense, `resource_exhausted` for one that is too large, and what broke the
    /// connection. The next call has a new interpreter then.
    pub async fn next_event(&mut self) -> Result<Option<CodeEvent>> {
        if self.ended {
            return Ok(None);
        }
        let timeout = self.timeout;
        let next = self.kernel()?.next(timeout).await;
        match next {
            Ok(Some(event)) => Ok(Some(event)),
            Ok(None) => {
                self.ended = true;
                // Whoever keeps this keeps nobody else waiting.
                self.held = None;
                Ok(None)
            }
            Err(error) => {
                self.ended = error.kind() == ErrorKind::Timeout && self.kernel()?.is_idle();
                self.let_go();
                Err(error.operation("run_code"))
            }
        }
    }
}

impl RunningCode {
    /// Gives the turn to the next, and ends an interpreter that is in the middle.
    fn let_go(&mut self) {
        if let Some(mut held) = self.held.take()
            && !self.ended
        {
            *held = None;
        }
    }
}

impl Drop for RunningCode {
    fn drop(&mut self) {
        self.let_go();
    }
}

/// What happens while code runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CodeEvent {
    /// Text of standard output.
    Stdout(String),
    /// Text of standard error.
    Stderr(String),
    /// A value that was shown.
    Result(CodeResult),
    /// What the code raised.
    Error(CodeError),
}

/// A value in the forms that it has, by media type: text as it is, JSON as text, bytes
/// (`image/png`) in base64.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CodeResult {
    /// The forms.
    pub data: BTreeMap<String, String>,
    /// Whether it is the value of the code's last expression.
    pub is_main_result: bool,
}

impl CodeResult {
    fn size(&self) -> usize {
        // An entry takes room even where it is empty.
        let form = |(media, form): (&String, &String)| media.len() + form.len() + 64;
        self.data.iter().map(form).sum::<usize>() + 64
    }
}

/// Keeps the text that fits, and gives the bytes that did not.
fn keep(kept: &mut String, text: &str) -> u64 {
    let room = DEFAULT_MAX_OUTPUT.saturating_sub(kept.len());
    let fits = text.floor_char_boundary(room.min(text.len()));
    kept.push_str(&text[..fits]);
    (text.len() - fits) as u64
}

/// An exception that ended the code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CodeError {
    /// The name of its class.
    pub name: String,
    /// Its text.
    pub value: String,
    /// Where it was raised, as the interpreter shows it.
    pub traceback: String,
}

/// What code gave.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Execution {
    /// The values that it showed; the value of its last expression is one of them.
    pub results: Vec<CodeResult>,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
    /// Bytes of both that were read and not kept: of each stream the first 64 MiB are.
    pub truncated_bytes: u64,
    /// What it raised.
    pub error: Option<CodeError>,
    results_size: usize,
}

impl Execution {
    /// Adds what happened.
    ///
    /// # Errors
    ///
    /// `resource_exhausted` for results of more than 256 MiB.
    pub fn add(&mut self, event: CodeEvent) -> Result<()> {
        match event {
            CodeEvent::Stdout(text) => self.truncated_bytes += keep(&mut self.stdout, &text),
            CodeEvent::Stderr(text) => self.truncated_bytes += keep(&mut self.stderr, &text),
            CodeEvent::Error(error) => self.error = Some(error),
            CodeEvent::Result(result) => {
                self.results_size += result.size();
                self.results.push(result);
                if self.results_size > MOST_RESULTS {
                    return Err(Error::new(
                        ErrorKind::ResourceExhausted,
                        format!(
                            "the results are larger than {MOST_RESULTS} bytes; write them to files"
                        ),
                    )
                    .operation("run_code"));
                }
            }
        }
        Ok(())
    }

    /// The value of its last expression as text.
    pub fn text(&self) -> Option<&str> {
        let main = self.results.iter().find(|result| result.is_main_result);
        main?.data.get("text/plain").map(String::as_str)
    }
}
