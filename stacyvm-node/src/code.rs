//! Code in interpreters.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use napi::Env;
use napi::bindgen_prelude::PromiseRaw;
use napi_derive::napi;
use stacyvm::sandbox::code::{self, CodeEvent};
use stacyvm::sandbox::shared::Closable;
use stacyvm::{Error, ErrorKind, Result};

use crate::convert::{call, duration, number};

/// A value that code showed, in the forms that it has: text as it is, bytes in base64.
#[napi(object, object_from_js = false, use_nullable = true)]
#[derive(Clone, Debug)]
pub struct CodeResult {
    /// All forms by media type.
    pub data: BTreeMap<String, String>,
    /// Whether it is the value of the code's last expression.
    pub is_main_result: bool,
    /// As plain text.
    pub text: Option<String>,
    /// As HTML.
    pub html: Option<String>,
    /// As Markdown.
    pub markdown: Option<String>,
    /// As SVG.
    pub svg: Option<String>,
    /// As PNG, in base64.
    pub png: Option<String>,
    /// As JPEG, in base64.
    pub jpeg: Option<String>,
    /// As PDF, in base64.
    pub pdf: Option<String>,
    /// As LaTeX.
    pub latex: Option<String>,
    /// As JSON text.
    pub json: Option<String>,
    /// As JavaScript.
    pub javascript: Option<String>,
}

impl From<code::CodeResult> for CodeResult {
    fn from(result: code::CodeResult) -> Self {
        let form = |media: &str| result.data.get(media).cloned();
        Self {
            is_main_result: result.is_main_result,
            text: form("text/plain"),
            html: form("text/html"),
            markdown: form("text/markdown"),
            svg: form("image/svg+xml"),
            png: form("image/png"),
            jpeg: form("image/jpeg"),
            pdf: form("application/pdf"),
            latex: form("text/latex"),
            json: form("application/json"),
            javascript: form("application/javascript"),
            data: result.data,
        }
    }
}

/// What code raised.
#[napi(object, object_from_js = false)]
#[derive(Clone, Debug)]
pub struct CodeError {
    /// The name of its class.
    pub name: String,
    /// Its text.
    pub value: String,
    /// Where it was raised, as the interpreter shows it.
    pub traceback: String,
}

impl From<code::CodeError> for CodeError {
    fn from(error: code::CodeError) -> Self {
        Self {
            name: error.name,
            value: error.value,
            traceback: error.traceback,
        }
    }
}

/// What code gave.
#[napi(object, object_from_js = false, use_nullable = true)]
#[derive(Clone, Debug)]
pub struct Execution {
    /// The value of the last expression as text.
    pub text: Option<String>,
    /// The values that were shown; that of the last expression is one of them.
    pub results: Vec<CodeResult>,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
    /// Bytes of both that were read and not kept.
    pub truncated_bytes: i64,
    /// What it raised.
    pub error: Option<CodeError>,
}

impl From<code::Execution> for Execution {
    fn from(execution: code::Execution) -> Self {
        Self {
            text: execution.text().map(str::to_owned),
            results: execution.results.into_iter().map(Into::into).collect(),
            stdout: execution.stdout,
            stderr: execution.stderr,
            truncated_bytes: number(execution.truncated_bytes),
            error: execution.error.map(Into::into),
        }
    }
}

/// An interpreter with its own state.
#[napi(object, object_from_js = false, use_nullable = true)]
#[derive(Clone, Debug)]
pub struct CodeContext {
    /// Its id.
    pub id: String,
    /// Its language.
    pub language: String,
    /// The directory in which it began.
    pub cwd: Option<String>,
}

impl From<code::CodeContext> for CodeContext {
    fn from(context: code::CodeContext) -> Self {
        Self {
            id: context.id,
            language: context.language,
            cwd: context.workdir,
        }
    }
}

/// What happened while code ran: one of the four.
#[napi(object, object_from_js = false)]
#[derive(Clone, Debug, Default)]
pub struct CodeOutput {
    /// Text of standard output.
    pub stdout: Option<String>,
    /// Text of standard error.
    pub stderr: Option<String>,
    /// A value that was shown.
    pub result: Option<CodeResult>,
    /// What was raised.
    pub error: Option<CodeError>,
}

impl From<CodeEvent> for CodeOutput {
    fn from(event: CodeEvent) -> Self {
        let mut output = Self::default();
        match event {
            CodeEvent::Stdout(text) => output.stdout = Some(text),
            CodeEvent::Stderr(text) => output.stderr = Some(text),
            CodeEvent::Result(result) => output.result = Some(result.into()),
            CodeEvent::Error(error) => output.error = Some(error.into()),
        }
        output
    }
}

/// Where and how long code runs.
#[napi(object, object_to_js = false)]
#[derive(Clone, Debug, Default)]
pub struct HowToRunCode {
    /// Its language, `python` unless told otherwise.
    pub language: Option<String>,
    /// The id of the interpreter in which it runs.
    pub context: Option<String>,
    /// Milliseconds after which it is interrupted, with its state kept.
    pub timeout_ms: Option<f64>,
}

pub(crate) fn code_run(
    sandbox: &stacyvm::Sandbox,
    code: String,
    how: HowToRunCode,
) -> Result<code::CodeRun> {
    let mut run = sandbox.run_code(code);
    if let Some(language) = how.language {
        run = run.language(language);
    }
    if let Some(context) = how.context {
        run = run.context(context);
    }
    if let Some(timeout) = how.timeout_ms {
        run = run.timeout(duration("timeoutMs", timeout)?);
    }
    Ok(run)
}

struct Running {
    code: code::RunningCode,
    execution: code::Execution,
}

/// Code that runs. Given up, or held by nobody before its end, it ends the interpreter.
#[napi]
pub struct RunningCode(Arc<Closable<Running>>);

impl fmt::Debug for RunningCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunningCode").finish_non_exhaustive()
    }
}

impl From<code::RunningCode> for RunningCode {
    fn from(code: code::RunningCode) -> Self {
        let execution = code::Execution::default();
        Self(Arc::new(Closable::new(Running { code, execution })))
    }
}

fn given_up() -> Error {
    Error::new(ErrorKind::Cancelled, "the code was given up")
}

#[napi]
impl RunningCode {
    /// What happens next; null after the end.
    #[napi]
    pub fn next_event<'env>(
        &self,
        env: &'env Env,
    ) -> napi::Result<PromiseRaw<'env, Option<CodeOutput>>> {
        let running = Arc::clone(&self.0);
        call(env, async move {
            let next = running.with(|running| {
                Box::pin(async {
                    let event = running.code.next_event().await?;
                    if let Some(event) = event.clone() {
                        running.execution.add(event)?;
                    }
                    Ok(event.map(CodeOutput::from))
                })
            });
            next.await.ok_or_else(given_up)?
        })
    }

    /// Ends the interpreter, and the call that waits for what happens next.
    #[napi]
    pub fn give_up<'env>(&self, env: &'env Env) -> napi::Result<PromiseRaw<'env, ()>> {
        let running = Arc::clone(&self.0);
        call(env, async move {
            running.close().await;
            Ok(())
        })
    }

    /// What it gave so far.
    #[napi]
    pub fn execution<'env>(&self, env: &'env Env) -> napi::Result<PromiseRaw<'env, Execution>> {
        let running = Arc::clone(&self.0);
        call(env, async move {
            let execution = running.with(|running| {
                let execution = running.execution.clone();
                Box::pin(async move { execution })
            });
            execution.await.ok_or_else(given_up)
        })
    }
}
