//! Output of commands, read again.

use std::sync::Arc;
use std::time::SystemTime;

use napi::Env;
use napi::bindgen_prelude::PromiseRaw;
use napi_derive::napi;
use stacyvm::sandbox::shared::Closable;
use stacyvm::{ExecId, LogsRequest, Result};

use crate::convert::{call, duration};
use crate::info::Event;

/// Which output is read.
#[napi(object, object_to_js = false)]
#[derive(Debug, Default)]
pub struct WhichLogs {
    /// Of this command; of all that are known if none.
    pub command: Option<String>,
    /// Whether what comes is read too.
    pub follow: Option<bool>,
    /// Milliseconds since 1970 before which all is left out.
    pub since_ms: Option<f64>,
}

impl WhichLogs {
    pub(crate) fn request(self) -> Result<LogsRequest> {
        let since = self.since_ms.map(|ms| duration("since", ms)).transpose()?;
        Ok(LogsRequest {
            exec: self.command.map(ExecId::new).transpose()?,
            follow: self.follow.unwrap_or(false),
            since: since.map(|since| SystemTime::UNIX_EPOCH + since),
        })
    }
}

/// What a command wrote or how it ended.
#[napi(object, object_from_js = false)]
#[derive(Debug)]
pub struct LogEvent {
    /// The command.
    pub command: String,
    /// Output, a gap in it, or the end.
    pub event: Event,
}

impl From<stacyvm::LogEvent> for LogEvent {
    fn from(told: stacyvm::LogEvent) -> Self {
        Self {
            command: told.exec.to_string(),
            event: told.event.into(),
        }
    }
}

/// Output as it is read again.
#[napi]
#[derive(Debug)]
pub struct Logs(Arc<Closable<stacyvm::Logs>>);

impl From<stacyvm::Logs> for Logs {
    fn from(logs: stacyvm::Logs) -> Self {
        Self(Arc::new(Closable::new(logs)))
    }
}

#[napi]
impl Logs {
    /// What is next; null at the end, and once it is closed.
    #[napi]
    pub fn next<'env>(&self, env: &'env Env) -> napi::Result<PromiseRaw<'env, Option<LogEvent>>> {
        let logs = Arc::clone(&self.0);
        call(env, async move {
            let event = logs.with(|logs| Box::pin(logs.next())).await;
            Ok(event.transpose()?.flatten().map(LogEvent::from))
        })
    }

    /// Lets go of them, also where somebody waits for what is next.
    #[napi]
    pub fn close<'env>(&self, env: &'env Env) -> napi::Result<PromiseRaw<'env, ()>> {
        let logs = Arc::clone(&self.0);
        call(env, async move {
            logs.close().await;
            Ok(())
        })
    }
}
