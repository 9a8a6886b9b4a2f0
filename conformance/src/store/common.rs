//! What cases of a store write.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use stacyvm::id::TenantId;
use stacyvm::sandbox::spec::{Lifetime, SandboxSpec};
use stacyvm::sandbox::state::Phase;
use stacyvm::store::{
    Begin, ExecRecord, Resource, ResourceState, SandboxRecord, SandboxUpdate, Store, stored_spec,
};
use stacyvm::{Context, ErrorKind, ExecId, Result, SandboxId};

use crate::case::{Checked, Failure};

pub(super) type Any = Arc<dyn Store>;

pub(super) const DAY: u64 = 24 * 3_600_000;

pub(super) fn tenant(name: &str) -> Context {
    Context::new(TenantId::new(name).expect("names of cases are plain"))
}

pub(super) fn cx() -> Context {
    tenant("ours")
}

pub(super) fn spec() -> SandboxSpec {
    SandboxSpec::host()
        .env("TOKEN", "hunter2")
        .label("app", "x")
}

pub(super) fn record(store: &dyn Store, cx: &Context) -> SandboxRecord {
    let spec = spec();
    SandboxRecord {
        id: SandboxId::random(),
        tenant: cx.tenant.clone(),
        provider: "oci".into(),
        runtime: "stacyvm".into(),
        phase: Phase::Creating,
        version: 0,
        spec: stored_spec(&spec),
        digest: store.meta().digest("oci", "", &spec),
        labels: spec.labels.clone(),
        created_ms: 1_000,
        updated_ms: 0,
        ends_ms: Some(9_000),
        ended_ms: None,
        lifetime: Lifetime::Attached,
        outlives_host: true,
        idempotency_key: None,
        owner: "owner-1".into(),
        effective: BTreeMap::new(),
        failure: None,
    }
}

pub(super) fn keyed(store: &dyn Store, key: &str) -> SandboxRecord {
    SandboxRecord {
        idempotency_key: Some(key.into()),
        ..record(store, &cx())
    }
}

pub(super) async fn made(store: &Any, record: &SandboxRecord) -> Checked<SandboxRecord> {
    let cx = Context::new(record.tenant.clone());
    match store.begin_create(&cx, record).await? {
        Begin::New(record) => Ok(record),
        Begin::Existing(other) => Err(Failure::broken(format!(
            "{} was found, expected a new one",
            other.id
        ))),
    }
}

pub(super) fn to(phase: Phase, at_ms: u64) -> SandboxUpdate {
    SandboxUpdate {
        at_ms,
        phase: Some(phase),
        ..SandboxUpdate::default()
    }
}

pub(super) async fn moved(
    store: &Any,
    record: &SandboxRecord,
    phase: Phase,
    at_ms: u64,
) -> Checked<SandboxRecord> {
    let cx = Context::new(record.tenant.clone());
    let update = to(phase, at_ms);
    let moved = store.update_sandbox(&cx, &record.id, record.version, &update);
    Ok(moved.await?)
}

pub(super) fn resource(kind: &str, name: &str, state: ResourceState) -> Resource {
    Resource {
        kind: kind.into(),
        name: name.into(),
        state,
    }
}

pub(super) fn exec(sandbox: &SandboxId) -> ExecRecord {
    ExecRecord {
        exec: ExecId::random(),
        sandbox: sandbox.clone(),
        program: "sh".into(),
        arguments: 2,
        started_ms: 5,
        background: true,
        exit: None,
        ended_ms: None,
    }
}

/// The kind of the error that is expected.
pub(super) fn kind<T: Debug>(result: Result<T>) -> Checked<ErrorKind> {
    match result {
        Err(error) => Ok(error.kind()),
        Ok(value) => Err(Failure::broken(format!(
            "{value:?} was given, expected an error"
        ))),
    }
}
