//! What accompanies every call.

use std::time::Instant;

use tokio::sync::watch;

use crate::error::{Error, ErrorKind, Result};
use crate::id::TenantId;

/// Who asks, for whom, until when, and whether still.
///
/// Cheap to clone. Dropping the future of a call cancels it too; the explicit
/// cancellation is for a caller that does not hold the future.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// The owner of what the call touches.
    pub tenant: TenantId,
    /// Who asks, for records; free text.
    pub actor: Option<String>,
    /// Joins the traces of one request.
    pub request_id: Option<String>,
    /// When the call fails with `timeout`.
    pub deadline: Option<Instant>,
    cancelled: Option<watch::Receiver<bool>>,
}

impl Context {
    /// The context of a tenant.
    pub fn new(tenant: TenantId) -> Self {
        Self {
            tenant,
            ..Self::default()
        }
    }

    /// A context that ends at the earlier of its own and this deadline.
    pub fn with_deadline(mut self, deadline: Instant) -> Self {
        self.deadline = Some(self.deadline.map_or(deadline, |own| own.min(deadline)));
        self
    }

    /// A context that `Canceller` can cancel.
    pub fn cancellable(mut self) -> (Self, Canceller) {
        let (sender, receiver) = watch::channel(false);
        self.cancelled = Some(receiver);
        (self, Canceller(sender))
    }

    /// Fails if the call should not go on.
    ///
    /// # Errors
    ///
    /// `cancelled` or `timeout`.
    pub fn check(&self) -> Result<()> {
        if self.cancelled.as_ref().is_some_and(|c| *c.borrow()) {
            return Err(Error::new(
                ErrorKind::Cancelled,
                "the caller cancelled the call",
            ));
        }
        if self.deadline.is_some_and(|d| d <= Instant::now()) {
            return Err(Error::new(
                ErrorKind::Timeout,
                "the deadline of the call passed",
            ));
        }
        Ok(())
    }

    /// Runs a future until it is ready, the deadline passes or the call is cancelled.
    ///
    /// # Errors
    ///
    /// The future's own, `timeout` or `cancelled`.
    ///
    /// # Cancellation
    ///
    /// The future is dropped at the deadline and at the cancellation.
    pub async fn bound<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.check()?;
        let cancelled = async {
            match self.cancelled.clone() {
                // An error means the canceller was dropped: nobody can cancel any more.
                Some(mut c) => {
                    if c.wait_for(|cancelled| *cancelled).await.is_err() {
                        std::future::pending::<()>().await;
                    }
                }
                None => std::future::pending().await,
            }
        };
        let late = async {
            match self.deadline {
                Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            done = work => done,
            () = cancelled => Err(Error::new(ErrorKind::Cancelled, "the caller cancelled the call")),
            () = late => Err(Error::new(ErrorKind::Timeout, "the deadline of the call passed")),
        }
    }
}

/// Cancels the calls of a [`Context`] and its clones.
#[derive(Debug)]
pub struct Canceller(watch::Sender<bool>);

impl Canceller {
    /// Cancels. A second call has no effect.
    pub fn cancel(&self) {
        self.0.send_replace(true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn a_deadline_and_a_cancellation_end_a_call() {
        let late = Context::default().with_deadline(Instant::now() + Duration::from_secs(1));
        let error = late
            .bound(std::future::pending::<Result<()>>())
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);

        let (context, canceller) = Context::default().cancellable();
        canceller.cancel();
        let error = context
            .bound(std::future::pending::<Result<()>>())
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled);
    }

    #[tokio::test]
    async fn a_dropped_canceller_cancels_nothing() {
        let (context, canceller) = Context::default().cancellable();
        drop(canceller);
        assert_eq!(context.bound(async { Ok(1) }).await.unwrap(), 1);
    }
}
