//! Wrappers around a provider: admission, deadlines, retry, traces.
//!
//! A [`Layer`] is one function around every call. [`Layered`] implements
//! [`Provider`](crate::provider::Provider) once for any number of them, so a
//! layer costs no list of methods and a call is described once.
//!
//! The engine's order, outside to inside: [`Trace`], layers of the
//! application, [`Admission`], [`Retry`], [`Deadline`], the provider. A trace
//! so covers all attempts of a call, and a deadline bounds each attempt;
//! [`Context::deadline`](crate::Context) bounds the whole.

mod admission;
mod deadline;
mod layered;
mod retry;
#[cfg(test)]
mod tests;
mod trace;

use std::fmt::{self, Debug};

use async_trait::async_trait;

pub use admission::Admission;
pub use deadline::Deadline;
pub use layered::Layered;
pub use retry::{Retry, RetryPolicy};
pub use trace::Trace;

use crate::context::Context;
use crate::error::Result;
use crate::provider::{Capabilities, Operation};
use crate::sandbox::exec::ExecSpec;

/// Something done around every call of a provider.
///
/// State lives in the layer's value; one value may serve several providers.
#[async_trait]
pub trait Layer: Debug + Send + Sync + 'static {
    /// Its name, for people.
    fn name(&self) -> &'static str;

    /// Runs one call: `next.run` once, several times, or not at all.
    ///
    /// A layer that does not run `next` returns an error; success without a
    /// run is reported to the caller as `internal`.
    ///
    /// # Cancellation
    ///
    /// Dropping the future gives the call up, like dropping the provider's own.
    async fn around(&self, call: &Call<'_>, next: Next<'_>) -> Result<()>;
}

/// One call, as a layer sees it.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// Which operation, on which sandbox, and whether it may be repeated.
    pub operation: &'a Operation,
    /// The provider's name.
    pub provider: &'a str,
    /// What the provider can do.
    pub capabilities: &'a Capabilities,
    /// Who asks, for whom, until when.
    pub context: &'a Context,
    /// The command, where the operation is `exec`.
    pub exec: Option<&'a ExecSpec>,
}

/// What comes after a layer: the layers inside it, then the provider.
#[derive(Clone, Copy)]
pub struct Next<'a> {
    layers: &'a [std::sync::Arc<dyn Layer>],
    call: &'a Call<'a>,
    provider: &'a dyn layered::Run,
}

impl Debug for Next<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Next")
            .field("layers", &self.layers)
            .finish_non_exhaustive()
    }
}

impl Next<'_> {
    /// Runs the rest of the call in this context.
    ///
    /// # Errors
    ///
    /// Those of the layers inside and of the provider; `internal` where the
    /// input of the call is a stream that an earlier run has read.
    pub async fn run(self, context: &Context) -> Result<()> {
        match self.layers.split_first() {
            Some((layer, inside)) => {
                let call = Call {
                    context,
                    ..*self.call
                };
                let next = Next {
                    layers: inside,
                    call: &call,
                    provider: self.provider,
                };
                layer.around(&call, next).await
            }
            None => self.provider.run(context.clone()).await,
        }
    }
}
