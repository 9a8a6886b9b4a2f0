//! A command that was started.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, OnceLock};

use napi::Env;
use napi::bindgen_prelude::PromiseRaw;
use napi_derive::napi;
use stacyvm::sandbox::exec::ExecControl;
use stacyvm::sandbox::exec_builder::{DEFAULT_MAX_OUTPUT, Gathering};
use stacyvm::{Error, ErrorKind, ExecEvent, Result, SignalScope};
use tokio::sync::{Mutex, Notify};

use crate::convert::{Raw, bytes, call, signal_of};
use crate::info::{Event, ExitInfo, Output};
use crate::sandbox::size;

struct Running {
    id: String,
    pid: Option<u32>,
    control: Arc<dyn ExecControl>,
    /// None once it was let go.
    followed: Mutex<Option<Followed>>,
    let_go: Notify,
    /// What was said until the end, once that was read.
    result: OnceLock<stacyvm::Output>,
}

/// What was read of a command so far.
struct Followed {
    process: stacyvm::Process,
    gathering: Gathering,
}

impl Running {
    /// The next event, kept for the result too.
    async fn next(&self, held: &mut Option<Followed>) -> Result<Option<ExecEvent>> {
        let Some(followed) = held.as_mut() else {
            return Ok(None);
        };
        let event = tokio::select! {
            biased;
            () = self.let_go.notified() => {
                *held = None;
                return Ok(None);
            }
            event = followed.process.next_event() => event?,
        };
        if let Some(event) = &event
            && let Some(output) = followed.gathering.add(event)
        {
            let _ = self.result.set(output);
        }
        Ok(event)
    }
}

/// A command that was started. Where nobody holds it any more before its end, a
/// foreground command is killed and a background command goes on.
#[napi]
pub struct Process(Arc<Running>);

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Process").field(&self.0.id).finish()
    }
}

impl Process {
    /// Of each stream `most` bytes are kept for the result.
    pub(crate) fn of(process: stacyvm::Process, most: Option<usize>) -> Self {
        Self(Arc::new(Running {
            id: process.id().to_string(),
            pid: process.pid(),
            control: process.control(),
            followed: Mutex::new(Some(Followed {
                process,
                gathering: Gathering::new(most.unwrap_or(DEFAULT_MAX_OUTPUT)),
            })),
            let_go: Notify::new(),
            result: OnceLock::new(),
        }))
    }

    fn control<'env, F>(
        &self,
        env: &'env Env,
        work: impl FnOnce(Arc<dyn ExecControl>) -> F,
    ) -> napi::Result<PromiseRaw<'env, ()>>
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        call(env, work(Arc::clone(&self.0.control)))
    }
}

#[napi]
impl Process {
    /// The command's id.
    #[napi(getter)]
    pub fn id(&self) -> String {
        self.0.id.clone()
    }

    /// The number of its first process inside.
    #[napi(getter, ts_return_type = "number | null")]
    pub fn pid(&self) -> Option<u32> {
        self.0.pid
    }

    /// How it ended, once its end was read.
    #[napi(getter, ts_return_type = "ExitInfo | null")]
    pub fn exit(&self) -> Option<ExitInfo> {
        self.0.result.get().map(|output| output.status.into())
    }

    /// What happens next; null after the end.
    #[napi]
    pub fn next_event<'env>(
        &self,
        env: &'env Env,
    ) -> napi::Result<PromiseRaw<'env, Option<Event>>> {
        let running = Arc::clone(&self.0);
        call(env, async move {
            let mut followed = running.followed.lock().await;
            Ok(running.next(&mut followed).await?.map(Event::from))
        })
    }

    /// Waits for the end. What was read before is part of the result.
    #[napi]
    pub fn wait_for_end<'env>(&self, env: &'env Env) -> napi::Result<PromiseRaw<'env, Output>> {
        let running = Arc::clone(&self.0);
        call(env, async move {
            let mut followed = running.followed.lock().await;
            while running.next(&mut followed).await?.is_some() {}
            let result = running.result.get().cloned();
            result.ok_or_else(|| Error::new(ErrorKind::Protocol, "no end came"))
        })
    }

    /// Has nobody follow it any more: what waits for its events gets null, a background
    /// command goes on, and a foreground command is killed.
    #[napi]
    pub fn let_go(&self) {
        match self.0.followed.try_lock() {
            Ok(mut held) => *held = None,
            Err(_) => self.0.let_go.notify_one(),
        }
    }

    /// Writes to standard input.
    #[napi]
    pub fn write_stdin<'env>(
        &self,
        env: &'env Env,
        data: Raw,
    ) -> napi::Result<PromiseRaw<'env, ()>> {
        let data = bytes(data);
        self.control(env, |control| async move {
            control.write_stdin(data.into()).await
        })
    }

    /// Closes standard input.
    #[napi]
    pub fn close_stdin<'env>(&self, env: &'env Env) -> napi::Result<PromiseRaw<'env, ()>> {
        self.control(env, |control| async move { control.close_stdin().await })
    }

    /// Sends a signal to `process`, `group` or `tree`.
    #[napi]
    pub fn signal<'env>(
        &self,
        env: &'env Env,
        signal: f64,
        #[napi(ts_arg_type = "'process' | 'group' | 'tree'")] scope: String,
    ) -> napi::Result<PromiseRaw<'env, ()>> {
        self.control(env, move |control| async move {
            control.signal(signal_of(signal)?, scope.parse()?).await
        })
    }

    /// Sets the size of the terminal.
    #[napi]
    pub fn resize<'env>(
        &self,
        env: &'env Env,
        rows: f64,
        columns: f64,
    ) -> napi::Result<PromiseRaw<'env, ()>> {
        self.control(env, move |control| async move {
            control.resize(size(rows, columns)?).await
        })
    }

    /// Kills the whole tree. One that has ended is success.
    #[napi]
    pub fn kill<'env>(&self, env: &'env Env) -> napi::Result<PromiseRaw<'env, ()>> {
        self.control(env, |control| async move {
            match control.signal(libc::SIGKILL, SignalScope::Tree).await {
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
                other => other,
            }
        })
    }
}
