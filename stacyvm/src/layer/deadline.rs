//! Bounds each attempt.

use std::time::{Duration, Instant};

use async_trait::async_trait;

use super::{Call, Layer, Next};
use crate::error::{Error, ErrorKind, Result, Retry};
use crate::provider::OperationKind;
use crate::units::format_duration;

/// Bounds each attempt of a call in time.
///
/// - A call that returns a stream is bounded until the stream is open.
/// - A call that reads a stream (`write_file`, `import_tar`) or pulls an image
///   is as long as its input and is not bounded here.
/// - What passes its bound is dropped and fails with `timeout`; another
///   attempt may succeed.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    /// Bounds what makes, saves or removes a sandbox.
    pub lifecycle: Duration,
    /// Bounds a file operation without data, which may walk a whole tree.
    pub files: Duration,
    /// Bounds everything else.
    pub control: Duration,
}

impl Default for Deadline {
    /// Two minutes, ten minutes, and half a minute.
    fn default() -> Self {
        Self {
            lifecycle: Duration::from_mins(2),
            files: Duration::from_mins(10),
            control: Duration::from_secs(30),
        }
    }
}

impl Deadline {
    /// The bound of an operation.
    pub fn limit(&self, kind: OperationKind) -> Option<Duration> {
        use OperationKind as Kind;
        match kind {
            Kind::Create
            | Kind::Destroy
            | Kind::Snapshot
            | Kind::DeleteSnapshot
            | Kind::Pause
            | Kind::Resume
            | Kind::Leftovers
            | Kind::RemoveLeftover => Some(self.lifecycle),
            Kind::File => Some(self.files),
            // Directories of any size are walked, and images of any size come.
            Kind::WriteFile | Kind::ImportTar | Kind::DiskUse | Kind::Tidy | Kind::Pull => None,
            Kind::Probe
            | Kind::Origin
            | Kind::Claim
            | Kind::Inspect
            | Kind::List
            | Kind::SetDeadline
            | Kind::SetLifetime
            | Kind::Exec
            | Kind::Attach
            | Kind::ReadLog
            | Kind::ListExecs
            | Kind::SignalExec
            | Kind::ReadFile
            | Kind::Watch
            | Kind::ExportTar
            | Kind::Dial
            | Kind::Listen
            | Kind::Endpoint
            | Kind::Processes
            | Kind::Usage => Some(self.control),
        }
    }
}

#[async_trait]
impl Layer for Deadline {
    fn name(&self) -> &'static str {
        "deadline"
    }

    async fn around(&self, call: &Call<'_>, next: Next<'_>) -> Result<()> {
        let Some(limit) = self.limit(call.operation.kind) else {
            return next.run(call.context).await;
        };
        let context = call.context.clone().with_deadline(Instant::now() + limit);
        match tokio::time::timeout(limit, next.run(&context)).await {
            Ok(done) => done,
            Err(_) => Err(Error::new(
                ErrorKind::Timeout,
                format!(
                    "the provider did not answer within {}",
                    format_duration(limit)
                ),
            )
            .retry(Retry::Maybe {
                after: Duration::ZERO,
            })),
        }
    }
}
