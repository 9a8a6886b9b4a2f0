//! What makes, changes and ends sandboxes.

use hyper::Response;

use super::State;
use super::answer::{self, Body};
use super::guard;
use super::owners::{self, Given};
use super::route::Call;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{OwnerId, SandboxId, SnapshotId};
use crate::provider::{Provider as _, PullRequest};
use crate::sandbox::spec::Lifetime;
use crate::wire::sandbox::{
    CreateBody, DeadlineBody, DoneReply, EmptyBody, LifetimeBody, OriginBody, OriginReply,
    PullBody, SandboxReply, SnapshotBody,
};

pub(super) async fn pull(call: Call) -> Result<Response<Body>> {
    let body: PullBody = guard::body(call.request).await?;
    let (engine, provider) = (&call.state.engine, &call.state.provider);
    let spec = crate::SandboxSpec {
        source: body.source.clone(),
        ..crate::SandboxSpec::default()
    };
    engine.check_served(&spec)?;
    let request = PullRequest {
        source: body.source,
        when: body.when,
        observer: None,
    };
    engine
        .pull_served(&call.context, provider, &request)
        .await?;
    answer::json(&DoneReply {})
}

pub(super) async fn origin(call: Call) -> Result<Response<Body>> {
    let body: OriginBody = guard::body(call.request).await?;
    let (engine, provider) = (&call.state.engine, &call.state.provider);
    let origin = engine.origin_served(&call.context, provider, body.spec);
    let origin = origin.await?;
    answer::json(&OriginReply { origin })
}

pub(super) async fn create(call: Call) -> Result<Response<Body>> {
    let body: CreateBody = guard::body(call.request).await?;
    let mut spec = body.spec;
    for (name, value) in body.secrets {
        if spec.env.contains_key(&name) {
            return Err(Error::invalid(
                format!("secrets.{name}"),
                "[redacted]",
                "a name that `spec.env` has not",
                "remove one of the two",
            ));
        }
        spec.env.insert(name, value);
    }
    let State {
        engine,
        provider,
        owners,
        ..
    } = &*call.state;
    match (&body.owner, spec.lifetime) {
        (Some(owner), Lifetime::Attached) => owners.check(owner)?,
        (None, Lifetime::Detached) => {}
        (owner, lifetime) => {
            let owner = owner.as_ref().map_or("none", |owner| owner.as_str());
            return Err(Error::invalid(
                "owner",
                owner,
                &format!("what suits the lifetime {lifetime:?}"),
                "name an owner for an attached sandbox, and none for another one",
            ));
        }
    }
    let made = engine.create_served(&call.context, provider, &body.id, spec);
    let made = made.await?;
    // Only now: what failed, or was another client's, must not end with this owner.
    if let Some(owner) = &body.owner {
        match owners.give(owner, &body.id, &call.context) {
            Given::Done => {}
            Given::Anothers => {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    format!(
                        "the sandbox {} is another owner's; mint an id of your own",
                        body.id
                    ),
                ));
            }
            Given::OwnerGone => {
                owners::end(&call.state, &call.context, &body.id).await;
                return Err(gone_meanwhile(owner));
            }
        }
    }
    call.state.known.note(&call.context.tenant, &body.id);
    answer::json(&SandboxReply::from(made))
}

pub(super) async fn destroy(call: &Call, id: &SandboxId) -> Result<Response<Body>> {
    let (engine, provider) = (&call.state.engine, &call.state.provider);
    // What is another tenant's stays, and stays its owner's.
    if engine.destroy_served(&call.context, provider, id).await? {
        call.state.owners.forget(id);
        call.state.known.forget(id);
    }
    answer::json(&DoneReply {})
}

pub(super) async fn set_deadline(call: Call, id: &SandboxId) -> Result<Response<Body>> {
    let body: DeadlineBody = guard::body(call.request).await?;
    let ends = body.ends.map(|time| {
        time.to_system().ok_or_else(|| {
            Error::invalid(
                "ends",
                format!("{} s, {} ns", time.seconds, time.nanoseconds),
                "a moment",
                "give seconds since 1970 and 0 to 999999999 nanoseconds",
            )
        })
    });
    let ends = ends.transpose()?;
    let (engine, provider) = (&call.state.engine, &call.state.provider);
    engine.end_served(&call.context, provider, id, ends).await?;
    answer::json(&DoneReply {})
}

pub(super) async fn set_lifetime(call: Call, id: &SandboxId) -> Result<Response<Body>> {
    let body: LifetimeBody = guard::body(call.request).await?;
    let State {
        engine,
        provider,
        owners,
        ..
    } = &*call.state;
    let lifetime = match &body.owner {
        Some(owner) => {
            owners.check(owner)?;
            Lifetime::Attached
        }
        None => Lifetime::Detached,
    };
    engine
        .lifetime_served(&call.context, provider, id, lifetime)
        .await?;
    // Whoever had it has it no more.
    owners.forget(id);
    if let Some(owner) = &body.owner
        && !matches!(owners.give(owner, id, &call.context), Given::Done)
    {
        owners::end(&call.state, &call.context, id).await;
        return Err(gone_meanwhile(owner));
    }
    answer::json(&DoneReply {})
}

/// The owner went before the sandbox was its own, which has ended with it.
fn gone_meanwhile(owner: &OwnerId) -> Error {
    Error::new(
        ErrorKind::SandboxGone,
        format!("the owner {owner} went before the sandbox was its own"),
    )
}

pub(super) async fn pause(call: Call, id: &SandboxId, stop: bool) -> Result<Response<Body>> {
    let EmptyBody {} = guard::body(call.request).await?;
    let (engine, provider) = (&call.state.engine, &call.state.provider);
    engine
        .pause_served(&call.context, provider, id, stop)
        .await?;
    answer::json(&DoneReply {})
}

pub(super) async fn snapshot(call: Call, id: &SandboxId) -> Result<Response<Body>> {
    let body: SnapshotBody = guard::body(call.request).await?;
    let provider = &call.state.provider;
    answer::json(&provider.snapshot(&call.context, id, &body.id).await?)
}

pub(super) async fn delete_snapshot(call: &Call, id: &SnapshotId) -> Result<Response<Body>> {
    let provider = &call.state.provider;
    provider.delete_snapshot(&call.context, id).await?;
    answer::json(&DoneReply {})
}
