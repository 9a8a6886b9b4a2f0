//! Code in interpreters.

use std::collections::BTreeMap;
use std::sync::Arc;

use pyo3::prelude::*;
use serde::{Deserialize, Serialize};
use stacyvm::sandbox::code::{self, CodeEvent};
use stacyvm::sandbox::shared::Closable;
use stacyvm::{Error, ErrorKind};

use crate::forked::OfProcess;
use crate::pending::Call;
use crate::runtime;

/// A value that code showed, in the forms that it has.
#[pyclass(module = "stacyvm", frozen)]
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct CodeResult(code::CodeResult);

impl CodeResult {
    fn form(&self, media: &str) -> Option<&str> {
        self.0.data.get(media).map(String::as_str)
    }
}

#[pymethods]
impl CodeResult {
    /// All forms by media type: text as it is, bytes in base64.
    #[getter]
    fn data(&self) -> BTreeMap<String, String> {
        self.0.data.clone()
    }

    /// Whether it is the value of the code's last expression.
    #[getter]
    fn is_main_result(&self) -> bool {
        self.0.is_main_result
    }

    /// As plain text.
    #[getter]
    fn text(&self) -> Option<&str> {
        self.form("text/plain")
    }

    /// As HTML.
    #[getter]
    fn html(&self) -> Option<&str> {
        self.form("text/html")
    }

    /// As Markdown.
    #[getter]
    fn markdown(&self) -> Option<&str> {
        self.form("text/markdown")
    }

    /// As SVG.
    #[getter]
    fn svg(&self) -> Option<&str> {
        self.form("image/svg+xml")
    }

    /// As PNG, in base64.
    #[getter]
    fn png(&self) -> Option<&str> {
        self.form("image/png")
    }

    /// As JPEG, in base64.
    #[getter]
    fn jpeg(&self) -> Option<&str> {
        self.form("image/jpeg")
    }

    /// As PDF, in base64.
    #[getter]
    fn pdf(&self) -> Option<&str> {
        self.form("application/pdf")
    }

    /// As LaTeX.
    #[getter]
    fn latex(&self) -> Option<&str> {
        self.form("text/latex")
    }

    /// As JSON text.
    #[getter]
    fn json(&self) -> Option<&str> {
        self.form("application/json")
    }

    /// As JavaScript.
    #[getter]
    fn javascript(&self) -> Option<&str> {
        self.form("application/javascript")
    }

    fn __repr__(&self) -> String {
        let forms: Vec<&str> = self.0.data.keys().map(String::as_str).collect();
        format!("CodeResult({forms:?})")
    }
}

/// What code raised.
#[pyclass(module = "stacyvm", frozen, get_all)]
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct CodeError {
    /// The name of its class.
    name: String,
    /// Its text.
    value: String,
    /// Where it was raised, as the interpreter shows it.
    traceback: String,
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

#[pymethods]
impl CodeError {
    fn __repr__(&self) -> String {
        format!("CodeError({:?}, {} bytes)", self.name, self.value.len())
    }
}

/// What code gave.
#[pyclass(module = "stacyvm", frozen)]
#[derive(Serialize, Deserialize)]
pub(crate) struct Execution(code::Execution);

impl From<code::Execution> for Execution {
    fn from(execution: code::Execution) -> Self {
        Self(execution)
    }
}

#[pymethods]
impl Execution {
    /// The value of the last expression as text.
    #[getter]
    fn text(&self) -> Option<&str> {
        self.0.text()
    }

    /// The values that were shown; that of the last expression is one of them.
    #[getter]
    fn results(&self) -> Vec<CodeResult> {
        self.0.results.iter().cloned().map(CodeResult).collect()
    }

    /// What it wrote to standard output.
    #[getter]
    fn stdout(&self) -> &str {
        &self.0.stdout
    }

    /// What it wrote to standard error.
    #[getter]
    fn stderr(&self) -> &str {
        &self.0.stderr
    }

    /// Bytes of both that were read and not kept.
    #[getter]
    fn truncated_bytes(&self) -> u64 {
        self.0.truncated_bytes
    }

    /// What it raised.
    #[getter]
    fn error(&self) -> Option<CodeError> {
        self.0.error.clone().map(Into::into)
    }

    fn __repr__(&self) -> String {
        // What code gives may be a secret.
        let error = self.0.error.as_ref().map(|error| &error.name);
        format!(
            "Execution(text: {} bytes, results: {}, stdout: {} bytes, error: {error:?})",
            self.0.text().unwrap_or_default().len(),
            self.0.results.len(),
            self.0.stdout.len()
        )
    }
}

/// An interpreter with its own state.
#[pyclass(module = "stacyvm", frozen, get_all)]
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct CodeContext {
    id: String,
    language: String,
    /// The directory in which it began.
    cwd: Option<String>,
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

#[pymethods]
impl CodeContext {
    fn __repr__(&self) -> String {
        format!("CodeContext({:?}, {})", self.id, self.language)
    }
}

/// What happened while code ran: one of the four.
#[pyclass(module = "stacyvm._native", frozen, get_all)]
#[derive(Debug, Default)]
pub(crate) struct CodeOutput {
    stdout: Option<String>,
    stderr: Option<String>,
    result: Option<CodeResult>,
    error: Option<CodeError>,
}

impl From<CodeEvent> for CodeOutput {
    fn from(event: CodeEvent) -> Self {
        let mut output = Self::default();
        match event {
            CodeEvent::Stdout(text) => output.stdout = Some(text),
            CodeEvent::Stderr(text) => output.stderr = Some(text),
            CodeEvent::Result(result) => output.result = Some(CodeResult(result)),
            CodeEvent::Error(error) => output.error = Some(error.into()),
        }
        output
    }
}

#[derive(Debug)]
struct Running {
    code: code::RunningCode,
    execution: code::Execution,
}

/// Code that runs. Given up or dropped before its end it ends the interpreter.
#[pyclass(module = "stacyvm._native", frozen)]
pub(crate) struct RunningCode(Arc<OfProcess<Closable<Running>>>);

impl From<code::RunningCode> for RunningCode {
    fn from(code: code::RunningCode) -> Self {
        let execution = code::Execution::default();
        Self(Arc::new(OfProcess::new(Closable::new(Running {
            code,
            execution,
        }))))
    }
}

fn of_another_process() -> Error {
    Error::new(
        ErrorKind::Conflict,
        "this code was started by the process that forked this one",
    )
}

fn given_up() -> Error {
    Error::new(ErrorKind::Cancelled, "the code was given up")
}

#[pymethods]
impl RunningCode {
    /// What happens next; `None` after the end.
    fn next_event(&self) -> Call<Option<CodeOutput>> {
        let running = Arc::clone(&self.0);
        Call::new(async move {
            let running = running.get().ok_or_else(of_another_process)?;
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

    /// Ends the interpreter, and the call that waits for what happens next, in the
    /// background.
    fn give_up(&self) -> PyResult<()> {
        let running = Arc::clone(&self.0);
        runtime::handle()?.spawn(async move {
            if let Some(running) = running.get() {
                running.close().await;
            }
        });
        Ok(())
    }

    /// What it gave so far.
    fn execution(&self) -> Call<Execution> {
        let running = Arc::clone(&self.0);
        Call::new(async move {
            let running = running.get().ok_or_else(of_another_process)?;
            let execution = running.with(|running| {
                let execution = running.execution.clone();
                Box::pin(async move { execution })
            });
            execution.await.ok_or_else(given_up)
        })
    }
}
