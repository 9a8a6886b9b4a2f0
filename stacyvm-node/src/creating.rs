//! A create whose pull is watched.

use std::sync::Arc;

use napi::Env;
use napi::bindgen_prelude::PromiseRaw;
use napi_derive::napi;
use stacyvm::provider::PullProgress;
use stacyvm::sandbox::shared::Closable;
use stacyvm::{CreateStep, Error, ErrorKind};

use crate::convert::{call, number};
use crate::sandbox::Sandbox;

/// How far the pull of an image is.
#[napi(object, object_from_js = false)]
#[derive(Clone, Copy, Debug)]
pub struct PullInfo {
    /// Bytes that came.
    pub done: i64,
    /// Bytes of all that was begun so far; it grows meanwhile.
    pub total: i64,
}

impl From<PullProgress> for PullInfo {
    fn from(progress: PullProgress) -> Self {
        Self {
            done: number(progress.done),
            total: number(progress.total),
        }
    }
}

/// What happens next in a create: one of the two.
#[napi(object, object_from_js = false)]
#[derive(Debug)]
pub struct CreateEvent {
    /// The pull of its image got further.
    pub pulling: Option<PullInfo>,
    /// The sandbox.
    pub made: Option<Sandbox>,
}

impl From<CreateStep> for CreateEvent {
    fn from(step: CreateStep) -> Self {
        let (pulling, made) = match step {
            CreateStep::Pulling(progress) => (Some(progress.into()), None),
            CreateStep::Made(sandbox) => (None, Some(sandbox.into())),
        };
        Self { pulling, made }
    }
}

/// A create that tells of its pull.
#[napi]
#[derive(Debug)]
pub struct Creating(Arc<Closable<stacyvm::Creating>>);

impl From<stacyvm::Creating> for Creating {
    fn from(creating: stacyvm::Creating) -> Self {
        Self(Arc::new(Closable::new(creating)))
    }
}

#[napi]
impl Creating {
    /// What happens next.
    #[napi]
    pub fn next<'env>(&self, env: &'env Env) -> napi::Result<PromiseRaw<'env, CreateEvent>> {
        let creating = Arc::clone(&self.0);
        call(env, async move {
            let step = creating.with(|creating| Box::pin(creating.next())).await;
            step.unwrap_or_else(|| Err(Error::new(ErrorKind::Cancelled, "it was given up")))
        })
    }

    /// Gives it up, and takes down what was begun.
    #[napi]
    pub fn give_up<'env>(&self, env: &'env Env) -> napi::Result<PromiseRaw<'env, ()>> {
        let creating = Arc::clone(&self.0);
        call(env, async move {
            creating.close().await;
            Ok(())
        })
    }
}
