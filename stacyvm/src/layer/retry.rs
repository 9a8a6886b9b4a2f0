//! Repeats what may be repeated.

use std::time::{Duration, Instant};

use async_trait::async_trait;

use super::{Call, Layer, Next};
use crate::error::{self, Result};

/// How often and how slowly a call is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The most attempts, the first included; 1 repeats nothing.
    pub attempts: u32,
    /// The wait before the second attempt; doubled before each further one.
    pub first_delay: Duration,
    /// The longest wait, unless the error asks for a longer one.
    pub longest_delay: Duration,
}

impl Default for RetryPolicy {
    /// Three attempts, 50 ms doubled up to 2 s.
    fn default() -> Self {
        Self {
            attempts: 3,
            first_delay: Duration::from_millis(50),
            longest_delay: Duration::from_secs(2),
        }
    }
}

impl RetryPolicy {
    /// The wait after a failed attempt (1 is the first), for a random number.
    /// Half of it is fixed and half is random, so that callers that failed
    /// together do not come back together; never less than the error asked for.
    fn delay(&self, attempt: u32, after: Duration, random: u32) -> Duration {
        let doubled = self
            .first_delay
            .saturating_mul(1_u32.checked_shl(attempt - 1).unwrap_or(u32::MAX));
        let half = doubled.min(self.longest_delay) / 2;
        let jitter = half.mul_f64(f64::from(random) / f64::from(u32::MAX));
        (half + jitter).max(after)
    }
}

/// Repeats a call that failed.
///
/// Only an operation that is the same done twice, and only after an error
/// that says [`Maybe`](error::Retry::Maybe). The error of the last attempt is
/// marked [`Exhausted`](error::Retry::Exhausted). A wait that would pass the
/// caller's deadline is not begun.
#[derive(Clone, Copy, Debug, Default)]
pub struct Retry {
    /// How often and how slowly.
    pub policy: RetryPolicy,
}

#[async_trait]
impl Layer for Retry {
    fn name(&self) -> &'static str {
        "retry"
    }

    async fn around(&self, call: &Call<'_>, next: Next<'_>) -> Result<()> {
        let mut attempt = 1;
        loop {
            let Err(error) = next.run(call.context).await else {
                return Ok(());
            };
            let error::Retry::Maybe { after } = error.retryable() else {
                return Err(error);
            };
            if !call.operation.idempotent {
                return Err(error);
            }
            let delay = self.policy.delay(attempt, after, random());
            let late = call
                .context
                .deadline
                .is_some_and(|deadline| Instant::now() + delay >= deadline);
            if attempt >= self.policy.attempts || late {
                return Err(error
                    .context("attempts", attempt)
                    .retry(error::Retry::Exhausted));
            }
            tracing::debug!(
                operation = call.operation.kind.name(),
                provider = call.provider,
                kind = error.kind().code(),
                attempt,
                "attempt failed"
            );
            tokio::time::sleep(delay).await;
            attempt += 1;
        }
    }
}

/// A random number; without a source of randomness the longest delay.
fn random() -> u32 {
    getrandom::u32().unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_grows_is_bounded_and_heeds_the_error() {
        let policy = RetryPolicy::default();
        let ms = Duration::from_millis;
        assert_eq!(policy.delay(1, Duration::ZERO, 0), ms(25));
        assert_eq!(policy.delay(1, Duration::ZERO, u32::MAX), ms(50));
        assert_eq!(policy.delay(2, Duration::ZERO, u32::MAX), ms(100));
        assert_eq!(policy.delay(40, Duration::ZERO, u32::MAX), ms(2000));
        assert_eq!(policy.delay(1, ms(700), 0), ms(700));
    }
}
