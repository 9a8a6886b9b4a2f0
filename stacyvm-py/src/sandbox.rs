//! A sandbox, and the start of its commands.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};
use stacyvm::sandbox::code::CodeRun;
use stacyvm::{Error, ErrorKind, Exec, ExecId, ExecSpec, Result};

use crate::code::{CodeContext, Execution, RunningCode};
use crate::convert::{BYTES, Moment, Nothing, Raw, SIGNAL, Whole, json, size_of};
use crate::engine::Opener;
use crate::files::Files;
use crate::forked::PerProcess;
use crate::info::{
    CommandInfo, CommandResult, Endpoint, ProcessInfo, SandboxInfo, SandboxMetrics, SnapshotInfo,
};
use crate::logs::{self, Logs};
use crate::options::seconds;
use crate::pending::{Call, Undo};
use crate::ports::{Connection, Listener, port_of};
use crate::process::Process;

/// A sandbox as it is found again in a forked child: by its id.
#[derive(Debug)]
pub(crate) struct Place {
    opener: Arc<Opener>,
    id: String,
    handle: PerProcess<stacyvm::Sandbox>,
}

impl Place {
    /// The handle of this process.
    pub(crate) async fn sandbox(&self) -> Result<stacyvm::Sandbox> {
        if let Some(mine) = self.handle.get()
            && let Some(sandbox) = mine.get()
        {
            return Ok(sandbox.clone());
        }
        let found = self.opener.engine().await?.get(&self.id).await?;
        self.handle.set(found.clone());
        Ok(found)
    }
}

/// What is run: a line for the shell, or an argument vector.
pub(crate) enum CommandLine {
    Shell(Raw),
    Argv(Vec<Raw>),
}

impl<'py> FromPyObject<'_, 'py> for CommandLine {
    type Error = PyErr;

    const INPUT_TYPE: pyo3::inspect::PyStaticExpr = pyo3::inspect::PyStaticExpr::BinOp {
        left: &Raw::INPUT_TYPE,
        op: pyo3::inspect::PyStaticOperator::BitOr,
        right: &<Vec<Raw> as FromPyObject<'_, '_>>::INPUT_TYPE,
    };

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if object.is_instance_of::<PyString>() || object.is_instance_of::<PyBytes>() {
            return Ok(Self::Shell(object.extract()?));
        }
        Ok(Self::Argv(object.extract()?))
    }
}

/// How it is run.
pub(crate) struct HowToRun {
    env: Option<BTreeMap<String, String>>,
    cwd: Option<String>,
    user: Option<String>,
    timeout: Option<f64>,
}

impl CommandLine {
    fn exec(self, sandbox: &stacyvm::Sandbox, how: HowToRun) -> Result<Exec> {
        let mut spec = match self {
            Self::Shell(line) => ExecSpec::shell(line.0),
            Self::Argv(argv) => ExecSpec::new(argv.into_iter().map(|part| part.0)),
        };
        spec.env = how.env.unwrap_or_default().into_iter().collect();
        spec.workdir = how.cwd;
        spec.user = how.user;
        spec.timeout = how.timeout.map(|s| seconds("timeout", s)).transpose()?;
        Ok(sandbox.exec_spec(spec))
    }
}

/// A sandbox.
#[pyclass(module = "stacyvm._native", frozen)]
pub(crate) struct Sandbox(Arc<Place>);

impl Sandbox {
    pub(crate) fn of(opener: Arc<Opener>, sandbox: stacyvm::Sandbox) -> Self {
        Self(Arc::new(Place {
            opener,
            id: sandbox.id().to_string(),
            handle: PerProcess::of(sandbox),
        }))
    }

    /// Ends it where nobody gets it.
    pub(crate) fn undo(&self) -> Undo {
        let place = Arc::clone(&self.0);
        Box::pin(async move {
            if let Ok(sandbox) = place.sandbox().await {
                let _ = sandbox.kill().await;
            }
        })
    }

    /// A call of the library.
    fn call<T, U, F>(&self, work: impl FnOnce(stacyvm::Sandbox) -> F + Send + 'static) -> Call<T>
    where
        T: for<'py> IntoPyObject<'py> + From<U> + Send + 'static,
        F: Future<Output = Result<U>> + Send + 'static,
    {
        let place = Arc::clone(&self.0);
        Call::new(async move { work(place.sandbox().await?).await })
    }
}

#[pymethods]
impl Sandbox {
    /// Its id.
    #[getter]
    fn id(&self) -> &str {
        &self.0.id
    }

    /// Its files, as this user or the sandbox's own.
    #[pyo3(signature = (user=None))]
    fn files(&self, user: Option<String>) -> Files {
        Files::of(Arc::clone(&self.0), user)
    }

    /// Runs a command to its end and gathers its output.
    #[pyo3(signature = (command, *, env=None, cwd=None, user=None, stdin=None, timeout=None, max_output=None))]
    #[expect(clippy::too_many_arguments, reason = "Python's keywords")]
    fn run(
        &self,
        command: CommandLine,
        env: Option<BTreeMap<String, String>>,
        cwd: Option<String>,
        user: Option<String>,
        stdin: Option<Raw>,
        timeout: Option<f64>,
        max_output: Option<Whole>,
    ) -> Call<CommandResult> {
        let how = HowToRun {
            env,
            cwd,
            user,
            timeout,
        };
        self.call(move |sandbox| async move {
            let mut exec = command.exec(&sandbox, how)?;
            if let Some(input) = stdin {
                exec = exec.stdin(input.0);
            }
            if let Some(most) = max_output {
                exec = exec.max_output(most.fits("max_output", BYTES)?);
            }
            exec.output().await
        })
    }

    /// Starts a command. With `size` it has a terminal of so many rows and columns.
    #[pyo3(signature = (command, *, env=None, cwd=None, user=None, stdin=false, input=None, timeout=None, background=false, size=None, max_output=None))]
    #[expect(clippy::too_many_arguments, reason = "Python's keywords")]
    fn start(
        &self,
        command: CommandLine,
        env: Option<BTreeMap<String, String>>,
        cwd: Option<String>,
        user: Option<String>,
        stdin: bool,
        input: Option<Raw>,
        timeout: Option<f64>,
        background: bool,
        size: Option<(Whole, Whole)>,
        max_output: Option<Whole>,
    ) -> Call<Process> {
        let how = HowToRun {
            env,
            cwd,
            user,
            timeout,
        };
        let place = Arc::clone(&self.0);
        let work = async move {
            let most = max_output.map(|most| most.fits("max_output", BYTES));
            let most = most.transpose()?;
            let sandbox = place.sandbox().await?;
            let mut exec = command.exec(&sandbox, how)?;
            if let Some(input) = input {
                exec = exec.stdin(input.0);
            } else if stdin {
                exec = exec.stdin_pipe();
            }
            if background {
                exec = exec.background();
            }
            if let Some((rows, columns)) = size {
                exec = exec.tty(size_of(rows, columns)?);
            }
            Ok(Process::of(exec.start().await?, most))
        };
        // One of the foreground ends with its handle.
        Call::of_made(work, move |process: &Process| {
            process.undo().filter(|_| background)
        })
    }

    /// Follows a background command by its id: kept output first, then what comes.
    #[pyo3(signature = (command, *, stdin=false, replay=true))]
    fn attach(&self, command: String, stdin: bool, replay: bool) -> Call<Process> {
        let options = stacyvm::sandbox::exec::AttachOptions { stdin, replay };
        self.call(move |sandbox| async move {
            let id = ExecId::new(command)?;
            Ok(Process::of(sandbox.attach_with(&id, options).await?, None))
        })
    }

    /// Lists commands.
    fn commands(&self) -> Call<Vec<CommandInfo>> {
        self.call(|sandbox| async move {
            Ok(sandbox
                .execs()
                .await?
                .into_iter()
                .map(Into::into)
                .collect::<Vec<_>>())
        })
    }

    /// Sends a signal to a command by its id; to `process`, `group` or `tree`.
    fn signal(&self, command: String, signal: Whole, scope: String) -> Call<Nothing> {
        self.call(move |sandbox| async move {
            let (signal, scope) = (signal.fits("signal", SIGNAL)?, scope.parse()?);
            sandbox.signal(&ExecId::new(command)?, signal, scope).await
        })
    }

    /// Runs code in an interpreter and gathers what it gives.
    #[pyo3(signature = (code, language=None, context=None, timeout=None))]
    fn run_code(
        &self,
        code: String,
        language: Option<String>,
        context: Option<String>,
        timeout: Option<f64>,
    ) -> Call<Execution> {
        self.call(move |sandbox| async move {
            code_run(&sandbox, code, language, context, timeout)?
                .output()
                .await
        })
    }

    /// Starts code in an interpreter.
    #[pyo3(signature = (code, language=None, context=None, timeout=None))]
    fn start_code(
        &self,
        code: String,
        language: Option<String>,
        context: Option<String>,
        timeout: Option<f64>,
    ) -> Call<RunningCode> {
        self.call(move |sandbox| async move {
            code_run(&sandbox, code, language, context, timeout)?
                .start()
                .await
        })
    }

    /// Makes an interpreter apart from the others.
    #[pyo3(signature = (language, cwd=None))]
    fn code_context(&self, language: String, cwd: Option<String>) -> Call<CodeContext> {
        self.call(move |sandbox| async move { sandbox.code_context(&language, cwd) })
    }

    /// The interpreters.
    fn code_contexts(&self) -> Call<Vec<CodeContext>> {
        self.call(|sandbox| async move {
            Ok(sandbox
                .code_contexts()
                .into_iter()
                .map(Into::into)
                .collect::<Vec<_>>())
        })
    }

    /// Ends an interpreter.
    fn remove_code_context(&self, context: String) -> Call<Nothing> {
        self.call(move |sandbox| async move {
            sandbox.remove_code_context(&context);
            Ok(())
        })
    }

    /// What is known of it.
    fn info(&self) -> Call<SandboxInfo> {
        self.call(|sandbox| async move { sandbox.info().await })
    }

    /// Lists the processes inside.
    fn processes(&self) -> Call<Vec<ProcessInfo>> {
        self.call(|sandbox| async move {
            Ok(sandbox
                .processes()
                .await?
                .into_iter()
                .map(Into::into)
                .collect::<Vec<_>>())
        })
    }

    /// What it uses.
    fn metrics(&self) -> Call<SandboxMetrics> {
        self.call(|sandbox| async move { sandbox.usage().await })
    }

    /// What its provider can do, as JSON.
    fn capabilities(&self) -> Call<String> {
        self.call(|sandbox| async move { json(&sandbox.capabilities()?) })
    }

    /// Where others reach a port.
    fn endpoint(&self, port: Whole) -> Call<Endpoint> {
        self.call(move |sandbox| async move { sandbox.endpoint(port_of(port)?).await })
    }

    /// Connects to a port inside.
    fn dial(&self, port: Whole) -> Call<Connection> {
        self.call(move |sandbox| async move { sandbox.dial(port_of(port)?).await })
    }

    /// Listens on a port inside; 0 chooses one.
    fn listen(&self, port: Whole) -> Call<Listener> {
        self.call(move |sandbox| async move { sandbox.listen(port_of(port)?).await })
    }

    /// Reads what is kept of the output of a command, or of all.
    fn logs(&self, command: Option<String>, follow: bool, since: Option<Moment>) -> Call<Logs> {
        self.call(move |sandbox| async move {
            sandbox.logs(logs::request(command, follow, since)?).await
        })
    }

    /// Sets the end of its life to so many seconds from now; `None` removes it.
    fn set_ttl(&self, timeout: Option<f64>) -> Call<Option<Moment>> {
        self.call(move |sandbox| async move {
            let ttl = timeout.map(|s| seconds("timeout", s)).transpose()?;
            Ok(sandbox.set_ttl(ttl).await?.map(Moment))
        })
    }

    /// Moves the end of its life later by so many seconds.
    fn extend(&self, by: f64) -> Call<Option<Moment>> {
        self.call(move |sandbox| async move {
            Ok(sandbox.extend(seconds("by", by)?).await?.map(Moment))
        })
    }

    /// Has it end with this process (`attached`), or with none (`detached`).
    fn set_lifetime(&self, lifetime: String) -> Call<Nothing> {
        self.call(move |sandbox| async move { sandbox.set_lifetime(lifetime.parse()?).await })
    }

    /// Begins a block at whose end it is killed.
    fn begin_scope(&self) -> Call<Nothing> {
        self.call(|sandbox| async move { sandbox.begin_scope().await })
    }

    /// Stops every process.
    fn pause(&self) -> Call<Nothing> {
        self.call(|sandbox| async move { sandbox.pause().await })
    }

    /// Lets the processes go on.
    fn resume(&self) -> Call<Nothing> {
        self.call(|sandbox| async move { sandbox.resume().await })
    }

    /// Saves it.
    fn snapshot(&self) -> Call<SnapshotInfo> {
        self.call(|sandbox| async move { sandbox.snapshot().await })
    }

    /// Ends it, and returns when nothing of it is left. Once begun it goes on to the end,
    /// also where it is given up.
    fn kill(&self) -> Call<bool> {
        self.call(|sandbox| async move {
            // Ctrl-C gives up the wait alone.
            let killing = tokio::spawn(async move { sandbox.kill().await });
            killing.await.unwrap_or_else(|ended| {
                Err(Error::new(ErrorKind::Internal, "the end of a sandbox broke off").source(ended))
            })
        })
        .uninterrupted()
    }
}

fn code_run(
    sandbox: &stacyvm::Sandbox,
    code: String,
    language: Option<String>,
    context: Option<String>,
    timeout: Option<f64>,
) -> Result<CodeRun> {
    let mut run = sandbox.run_code(code);
    if let Some(language) = language {
        run = run.language(language);
    }
    if let Some(context) = context {
        run = run.context(context);
    }
    if let Some(timeout) = timeout {
        run = run.timeout(seconds("timeout", timeout)?);
    }
    Ok(run)
}
