//! Output of commands, read again.

use std::sync::Arc;

use pyo3::prelude::*;
use stacyvm::{Error, ErrorKind, ExecId, LogsRequest, Result};
use tokio::sync::Mutex;

use crate::convert::Moment;
use crate::forked::OfProcess;
use crate::pending::Call;
use crate::process::Event;

/// Which output is read: of a command or of all, followed or not, from when on.
pub(crate) fn request(
    command: Option<String>,
    follow: bool,
    since: Option<Moment>,
) -> Result<LogsRequest> {
    Ok(LogsRequest {
        exec: command.map(ExecId::new).transpose()?,
        follow,
        since: since.map(|since| since.0),
    })
}

/// Output as it is read again.
#[pyclass(module = "stacyvm._native", frozen)]
pub(crate) struct Logs(Arc<OfProcess<Mutex<stacyvm::Logs>>>);

impl From<stacyvm::Logs> for Logs {
    fn from(logs: stacyvm::Logs) -> Self {
        Self(Arc::new(OfProcess::new(Mutex::new(logs))))
    }
}

#[pymethods]
impl Logs {
    /// A command's id, and what is next of its output; `None` at the end.
    fn next_event(&self) -> Call<Option<(String, Event)>> {
        let logs = Arc::clone(&self.0);
        Call::new(async move {
            let logs = logs.get().ok_or_else(|| {
                Error::new(
                    ErrorKind::Conflict,
                    "these logs were opened by the process that forked this one; open them again",
                )
            })?;
            let event = logs.lock().await.next().await?;
            Ok(event.map(|told| (told.exec.to_string(), Event::from(told.event))))
        })
    }
}
