//! A sandbox, and the start of its commands.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;

use napi::Env;
use napi::bindgen_prelude::{Either3, PromiseRaw, block_on};
use napi_derive::napi;
use stacyvm::sandbox::exec::{AttachOptions, TtySize};
use stacyvm::{Error, Exec, ExecId, ExecSpec, Result};

use crate::code::{CodeContext, Execution, HowToRunCode, RunningCode, code_run};
use crate::convert::{Command, Raw, bytes, call, duration, fits, json, signal_of};
use crate::error::reject;
use crate::files::Files;
use crate::info::{
    CommandInfo, Endpoint, Output, ProcessInfo, SandboxInfo, SandboxMetrics, SnapshotInfo,
};
use crate::logs::{Logs, WhichLogs};
use crate::ports::{Connection, Listener};
use crate::process::Process;

/// How a command is run.
#[napi(object, object_to_js = false)]
#[derive(Default)]
pub struct HowToRun {
    /// Variables beside those of the sandbox.
    pub env: Option<BTreeMap<String, String>>,
    /// Its directory.
    pub cwd: Option<String>,
    /// Its user: `name`, `uid`, `name:group` or `uid:gid`.
    pub user: Option<String>,
    /// Milliseconds after which its whole tree is killed.
    pub timeout_ms: Option<f64>,
    /// Bytes of each stream that are kept for the result: 64 MiB unless told otherwise.
    pub max_output: Option<f64>,
    /// Its standard input, which then ends.
    pub input: Option<Raw>,
    /// Keeps its standard input open, to be written to.
    pub open_stdin: Option<bool>,
    /// Lets it outlive the process that started it.
    pub background: Option<bool>,
    /// Rows and columns of its terminal, if it has one.
    #[napi(ts_type = "[rows: number, columns: number]")]
    pub size: Option<Vec<f64>>,
}

impl fmt::Debug for HowToRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HowToRun").finish_non_exhaustive()
    }
}

/// The size of a terminal.
pub(crate) fn size(rows: f64, columns: f64) -> Result<TtySize> {
    Ok(TtySize {
        rows: fits("rows", rows, "0 to 65535")?,
        columns: fits("columns", columns, "0 to 65535")?,
    })
}

/// A command about to be started, from values that belong to nobody else.
struct Line {
    spec: ExecSpec,
    how: HowToRun,
    input: Option<Vec<u8>>,
}

impl Line {
    fn new(command: Command, how: Option<HowToRun>) -> Self {
        let spec = match command {
            Either3::A(line) => ExecSpec::shell(line),
            Either3::B(line) => ExecSpec::shell(&line[..]),
            Either3::C(argv) => ExecSpec::new(argv.into_iter().map(bytes)),
        };
        let mut how = how.unwrap_or_default();
        let input = how.input.take().map(bytes);
        Self { spec, how, input }
    }

    /// The bytes of each stream that are kept.
    fn most(&self) -> Result<Option<usize>> {
        let most = self.how.max_output;
        let most = most.map(|most| fits("maxOutput", most, "a number of bytes"));
        most.transpose()
    }

    fn exec(self, sandbox: &stacyvm::Sandbox) -> Result<Exec> {
        let most = self.most()?;
        let Self {
            mut spec,
            how,
            input,
        } = self;
        spec.env = how.env.unwrap_or_default().into_iter().collect();
        spec.workdir = how.cwd;
        spec.user = how.user;
        let timeout = how.timeout_ms.map(|ms| duration("timeoutMs", ms));
        spec.timeout = timeout.transpose()?;
        let mut exec = sandbox.exec_spec(spec);
        if let Some(input) = input {
            exec = exec.stdin(input);
        } else if how.open_stdin == Some(true) {
            exec = exec.stdin_pipe();
        }
        if how.background == Some(true) {
            exec = exec.background();
        }
        if let Some(&[rows, columns]) = how.size.as_deref() {
            exec = exec.tty(size(rows, columns)?);
        }
        if let Some(most) = most {
            exec = exec.max_output(most);
        }
        Ok(exec)
    }
}

/// A sandbox.
#[napi]
#[derive(Debug)]
pub struct Sandbox(stacyvm::Sandbox);

impl From<stacyvm::Sandbox> for Sandbox {
    fn from(sandbox: stacyvm::Sandbox) -> Self {
        Self(sandbox)
    }
}

impl Sandbox {
    /// A call of the library.
    fn call<'env, T, U, F>(
        &self,
        env: &'env Env,
        work: impl FnOnce(stacyvm::Sandbox) -> F,
    ) -> napi::Result<PromiseRaw<'env, T>>
    where
        T: napi::bindgen_prelude::ToNapiValue + From<U> + Send + 'static,
        F: Future<Output = Result<U>> + Send + 'static,
    {
        call(env, work(self.0.clone()))
    }
}

#[napi]
impl Sandbox {
    /// Its id.
    #[napi(getter)]
    pub fn id(&self) -> String {
        self.0.id().to_string()
    }

    /// Its files, as this user or the sandbox's own.
    #[napi]
    pub fn files(&self, user: Option<String>) -> Files {
        Files::of(self.0.files(), user)
    }

    /// Runs a command to its end and gathers its output.
    #[napi]
    pub fn run<'env>(
        &self,
        env: &'env Env,
        command: Command,
        how: Option<HowToRun>,
    ) -> napi::Result<PromiseRaw<'env, Output>> {
        let line = Line::new(command, how);
        self.call(
            env,
            |sandbox| async move { line.exec(&sandbox)?.output().await },
        )
    }

    /// Starts a command.
    #[napi]
    pub fn start<'env>(
        &self,
        env: &'env Env,
        command: Command,
        how: Option<HowToRun>,
    ) -> napi::Result<PromiseRaw<'env, Process>> {
        let line = Line::new(command, how);
        self.call(env, |sandbox| async move {
            let most = line.most()?;
            Ok(Process::of(line.exec(&sandbox)?.start().await?, most))
        })
    }

    /// Follows a background command by its id: kept output first if it is to be replayed,
    /// then what comes.
    #[napi]
    pub fn attach<'env>(
        &self,
        env: &'env Env,
        command: String,
        stdin: bool,
        replay: bool,
    ) -> napi::Result<PromiseRaw<'env, Process>> {
        let options = AttachOptions { stdin, replay };
        self.call(env, move |sandbox| async move {
            let id = ExecId::new(command)?;
            Ok(Process::of(sandbox.attach_with(&id, options).await?, None))
        })
    }

    /// Lists commands.
    #[napi]
    pub fn commands<'env>(
        &self,
        env: &'env Env,
    ) -> napi::Result<PromiseRaw<'env, Vec<CommandInfo>>> {
        self.call(env, |sandbox| async move {
            let found = sandbox.execs().await?;
            Ok(found.into_iter().map(CommandInfo::from).collect::<Vec<_>>())
        })
    }

    /// Sends a signal to a command by its id; to `process`, `group` or `tree`.
    #[napi]
    pub fn signal<'env>(
        &self,
        env: &'env Env,
        command: String,
        signal: f64,
        #[napi(ts_arg_type = "'process' | 'group' | 'tree'")] scope: String,
    ) -> napi::Result<PromiseRaw<'env, ()>> {
        self.call(env, move |sandbox| async move {
            let (signal, scope) = (signal_of(signal)?, scope.parse()?);
            sandbox.signal(&ExecId::new(command)?, signal, scope).await
        })
    }

    /// Runs code in an interpreter and gathers what it gives.
    #[napi]
    pub fn run_code<'env>(
        &self,
        env: &'env Env,
        code: String,
        how: Option<HowToRunCode>,
    ) -> napi::Result<PromiseRaw<'env, Execution>> {
        self.call(env, |sandbox| async move {
            code_run(&sandbox, code, how.unwrap_or_default())?
                .output()
                .await
        })
    }

    /// Starts code in an interpreter.
    #[napi]
    pub fn start_code<'env>(
        &self,
        env: &'env Env,
        code: String,
        how: Option<HowToRunCode>,
    ) -> napi::Result<PromiseRaw<'env, RunningCode>> {
        self.call(env, |sandbox| async move {
            code_run(&sandbox, code, how.unwrap_or_default())?
                .start()
                .await
        })
    }

    /// Makes an interpreter apart from the others.
    #[napi]
    pub fn code_context<'env>(
        &self,
        env: &'env Env,
        language: String,
        cwd: Option<String>,
    ) -> napi::Result<PromiseRaw<'env, CodeContext>> {
        self.call(env, |sandbox| async move {
            sandbox.code_context(&language, cwd)
        })
    }

    /// The interpreters.
    #[napi]
    pub fn code_contexts(&self) -> Vec<CodeContext> {
        self.0.code_contexts().into_iter().map(Into::into).collect()
    }

    /// Ends an interpreter.
    #[allow(clippy::needless_pass_by_value, reason = "what `napi` gives")]
    #[napi]
    pub fn remove_code_context(&self, context: String) {
        self.0.remove_code_context(&context);
    }

    /// What is known of it.
    #[napi]
    pub fn info<'env>(&self, env: &'env Env) -> napi::Result<PromiseRaw<'env, SandboxInfo>> {
        self.call(env, |sandbox| async move { sandbox.info().await })
    }

    /// Lists the processes inside.
    #[napi]
    pub fn processes<'env>(
        &self,
        env: &'env Env,
    ) -> napi::Result<PromiseRaw<'env, Vec<ProcessInfo>>> {
        self.call(env, |sandbox| async move {
            let found = sandbox.processes().await?;
            Ok(found.into_iter().map(ProcessInfo::from).collect::<Vec<_>>())
        })
    }

    /// What it uses.
    #[napi]
    pub fn metrics<'env>(&self, env: &'env Env) -> napi::Result<PromiseRaw<'env, SandboxMetrics>> {
        self.call(env, |sandbox| async move { sandbox.usage().await })
    }

    /// What its provider can do, as JSON.
    #[napi]
    pub fn capabilities<'env>(&self, env: &'env Env) -> napi::Result<PromiseRaw<'env, String>> {
        self.call(env, |sandbox| async move { json(&sandbox.capabilities()?) })
    }

    /// Where others reach a port.
    #[napi]
    pub fn endpoint<'env>(
        &self,
        env: &'env Env,
        port: f64,
    ) -> napi::Result<PromiseRaw<'env, Endpoint>> {
        self.call(env, move |sandbox| async move {
            let port = fits("port", port, "1 to 65535")?;
            sandbox.endpoint(port).await
        })
    }

    /// The same, for which the thread waits.
    #[napi]
    pub fn endpoint_now(&self, port: f64) -> napi::Result<String> {
        let work = async {
            let port = fits("port", port, "1 to 65535")?;
            Ok(self.0.endpoint(port).await?.address)
        };
        block_on(work).map_err(|error: Error| reject(&error))
    }

    /// Connects to a port inside.
    #[napi]
    pub fn dial<'env>(
        &self,
        env: &'env Env,
        port: f64,
    ) -> napi::Result<PromiseRaw<'env, Connection>> {
        self.call(env, move |sandbox| async move {
            sandbox.dial(fits("port", port, "1 to 65535")?).await
        })
    }

    /// Listens on a port inside; 0 chooses one.
    #[napi]
    pub fn listen<'env>(
        &self,
        env: &'env Env,
        port: f64,
    ) -> napi::Result<PromiseRaw<'env, Listener>> {
        self.call(env, move |sandbox| async move {
            sandbox.listen(fits("port", port, "0 to 65535")?).await
        })
    }

    /// Reads what is kept of the output of a command, or of all.
    #[napi]
    pub fn logs<'env>(
        &self,
        env: &'env Env,
        which: WhichLogs,
    ) -> napi::Result<PromiseRaw<'env, Logs>> {
        self.call(env, |sandbox| async move {
            sandbox.logs(which.request()?).await
        })
    }

    /// Sets the end of its life to so many milliseconds from now; none removes it.
    #[napi]
    pub fn set_ttl<'env>(
        &self,
        env: &'env Env,
        timeout_ms: Option<f64>,
    ) -> napi::Result<PromiseRaw<'env, ()>> {
        self.call(env, move |sandbox| async move {
            let ttl = timeout_ms.map(|ms| duration("timeoutMs", ms)).transpose()?;
            sandbox.set_ttl(ttl).await.map(drop)
        })
    }

    /// Moves the end of its life later by so many milliseconds.
    #[napi]
    pub fn extend<'env>(&self, env: &'env Env, by_ms: f64) -> napi::Result<PromiseRaw<'env, ()>> {
        self.call(env, move |sandbox| async move {
            sandbox.extend(duration("byMs", by_ms)?).await.map(drop)
        })
    }

    /// Has it end with this process (`attached`), or with none (`detached`).
    #[napi]
    pub fn set_lifetime<'env>(
        &self,
        env: &'env Env,
        #[napi(ts_arg_type = "'attached' | 'detached'")] lifetime: String,
    ) -> napi::Result<PromiseRaw<'env, ()>> {
        self.call(env, move |sandbox| async move {
            sandbox.set_lifetime(lifetime.parse()?).await
        })
    }

    /// Stops every process.
    #[napi]
    pub fn pause<'env>(&self, env: &'env Env) -> napi::Result<PromiseRaw<'env, ()>> {
        self.call(env, |sandbox| async move { sandbox.pause().await })
    }

    /// Lets the processes go on.
    #[napi]
    pub fn resume<'env>(&self, env: &'env Env) -> napi::Result<PromiseRaw<'env, ()>> {
        self.call(env, |sandbox| async move { sandbox.resume().await })
    }

    /// Saves it.
    #[napi]
    pub fn snapshot<'env>(&self, env: &'env Env) -> napi::Result<PromiseRaw<'env, SnapshotInfo>> {
        self.call(env, |sandbox| async move { sandbox.snapshot().await })
    }

    /// Ends it, and resolves when nothing of it is left.
    #[napi]
    pub fn kill<'env>(&self, env: &'env Env) -> napi::Result<PromiseRaw<'env, bool>> {
        self.call(env, |sandbox| async move { sandbox.kill().await })
    }
}
