//! Commands that are followed, and connections to ports.

use std::sync::Arc;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::sync::OwnedSemaphorePermit;

use super::State;
use super::answer::{self, Body};
use super::guard;
use super::route::Call;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{ExecId, SandboxId};
use crate::provider::Provider as _;
use crate::sandbox::exec::{ExecEvent, ExecSession, ExecSpec};
use crate::wire::exec::{AttachBody, ExecBody, LogBody, SignalBody, encode_event};
use crate::wire::frame::{Kind, encode};
use crate::wire::sandbox::{DoneReply, EmptyBody};
use crate::wire::{UPGRADE_EXEC, UPGRADE_STREAM};

/// The request's connection, once it is answered, and a place for it.
pub(super) struct Taken {
    upgrade: OnUpgrade,
    place: OwnedSemaphorePermit,
}

/// Prepares for another protocol on the connection. Called before anything is
/// begun.
pub(super) fn take(
    state: &State,
    request: &mut Request<Incoming>,
    protocol: &str,
) -> Result<Taken> {
    guard::check_upgrade(request.headers(), protocol)?;
    let place = Arc::clone(&state.sessions).try_acquire_owned();
    let place = place.map_err(|_| {
        Error::new(
            ErrorKind::ResourceExhausted,
            format!(
                "{} sessions are open, which is the most; end some",
                state.most_sessions
            ),
        )
    })?;
    let upgrade = hyper::upgrade::on(request);
    Ok(Taken { upgrade, place })
}

impl Taken {
    /// Answers with `101`, and has the connection served until it ends or the
    /// server does. Where it was lost by then, what `serve` has is dropped.
    pub(super) fn answer<F>(
        self,
        state: &State,
        protocol: &'static str,
        serve: impl FnOnce(TokioIo<hyper::upgrade::Upgraded>) -> F + Send + 'static,
    ) -> Response<Body>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let over = state.over();
        tokio::spawn(async move {
            let work = async {
                match self.upgrade.await {
                    Ok(upgraded) => serve(TokioIo::new(upgraded)).await,
                    Err(error) => tracing::debug!(%error, "a connection was lost"),
                }
            };
            tokio::select! {
                () = work => {}
                () = over => {}
            }
            drop(self.place);
        });
        answer::switching(protocol)
    }
}

pub(super) async fn exec(mut call: Call, id: &SandboxId) -> Result<Response<Body>> {
    let taken = take(&call.state, &mut call.request, UPGRADE_EXEC)?;
    let body: ExecBody = guard::body(call.request).await?;
    let spec = ExecSpec::from(body);
    spec.check()?;
    let provider = &call.state.provider;
    let session = provider.exec(&call.context, id, &spec).await?;
    Ok(follow(&call.state, taken, session))
}

pub(super) async fn attach(
    mut call: Call,
    id: &SandboxId,
    exec: &ExecId,
) -> Result<Response<Body>> {
    let taken = take(&call.state, &mut call.request, UPGRADE_EXEC)?;
    let body: AttachBody = guard::body(call.request).await?;
    let provider = &call.state.provider;
    let session = provider
        .attach(&call.context, id, exec, body.into())
        .await?;
    Ok(follow(&call.state, taken, session))
}

fn follow(state: &State, taken: Taken, session: ExecSession) -> Response<Body> {
    taken.answer(state, UPGRADE_EXEC, |io| super::pump::run(io, session))
}

pub(super) async fn read_log(call: Call, id: &SandboxId, exec: &ExecId) -> Result<Response<Body>> {
    let body: LogBody = guard::body(call.request).await?;
    let provider = &call.state.provider;
    let events = provider
        .read_log(&call.context, id, exec, body.into())
        .await?;
    let write = |event: ExecEvent| encode_event(&event);
    let end = || Ok::<Bytes, Error>(encode(Kind::End, &[]));
    Ok(answer::frames(None, events, write, end))
}

pub(super) async fn signal(call: Call, id: &SandboxId, exec: &ExecId) -> Result<Response<Body>> {
    let body: SignalBody = guard::body(call.request).await?;
    let provider = &call.state.provider;
    provider
        .signal_exec(&call.context, id, exec, body.signal, body.scope)
        .await?;
    answer::json(&DoneReply {})
}

pub(super) async fn dial(mut call: Call, id: &SandboxId, port: u16) -> Result<Response<Body>> {
    let taken = take(&call.state, &mut call.request, UPGRADE_STREAM)?;
    let EmptyBody {} = guard::body(call.request).await?;
    let provider = &call.state.provider;
    let mut inside = provider.dial(&call.context, id, port).await?;
    Ok(
        taken.answer(&call.state, UPGRADE_STREAM, |mut io| async move {
            // Whichever side fails, both see the end.
            let _ = tokio::io::copy_bidirectional(&mut io, &mut inside).await;
        }),
    )
}
