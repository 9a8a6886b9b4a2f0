//! Spans of calls.

use std::time::Instant;

use async_trait::async_trait;
use tracing::Instrument as _;
use tracing::field::Empty;

use super::{Call, Layer, Next};
use crate::error::Result;

/// Puts every call into a span: operation, provider, sandbox, request, and
/// how it came out. Values of the request are never recorded.
#[derive(Clone, Copy, Debug, Default)]
pub struct Trace;

#[async_trait]
impl Layer for Trace {
    fn name(&self) -> &'static str {
        "trace"
    }

    async fn around(&self, call: &Call<'_>, next: Next<'_>) -> Result<()> {
        let span = tracing::debug_span!(
            "provider_call",
            operation = call.operation.kind.name(),
            provider = call.provider,
            sandbox = call.operation.sandbox.as_ref().map(tracing::field::display),
            tenant = call.context.tenant.as_str(),
            request = call.context.request_id.as_deref(),
            outcome = Empty,
            elapsed_us = Empty,
        );
        let started = Instant::now();
        let result = next.run(call.context).instrument(span.clone()).await;
        let outcome = result
            .as_ref()
            .map_or_else(|error| error.kind().code(), |()| "ok");
        span.record("outcome", outcome);
        span.record(
            "elapsed_us",
            u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX),
        );
        result
    }
}
