//! When a create pulls its image.

use std::sync::Arc;

use crate::engine::policy::Policy;
use crate::engine::testing::{Scripted, all_capabilities};
use crate::engine::{Engine, Filter};
use crate::error::{Error, ErrorKind};
use crate::provider::{OperationKind, Pull};
use crate::sandbox::spec::{SandboxSpec, Source};

async fn engine(scripted: &Arc<Scripted>, pull: Pull) -> Engine {
    Engine::builder()
        .provider("scripted", Arc::clone(scripted) as _)
        .policy(Policy {
            pull,
            ..Policy::default()
        })
        .build()
        .await
        .unwrap()
}

fn spec() -> SandboxSpec {
    SandboxSpec::image("app")
}

#[tokio::test]
async fn a_create_says_when_and_the_policy_says_it_for_those_that_do_not() {
    let scripted = Scripted::new();
    let engine = engine(&scripted, Pull::Always).await;
    engine.create(spec()).await.unwrap();
    engine.create(spec()).pull(Pull::Missing).await.unwrap();
    engine.create(spec()).pull(Pull::Never).await.unwrap();
    let asked: Vec<_> = scripted
        .pulls()
        .into_iter()
        .map(|p| (p.source, p.when))
        .collect();
    let app = || Source::Image("app".to_owned());
    assert_eq!(asked, [(app(), Pull::Always), (app(), Pull::Missing)]);
    assert_eq!(scripted.count(OperationKind::Create), 3);
}

#[tokio::test]
async fn where_the_policy_forbids_it_nothing_is_pulled() {
    let scripted = Scripted::new();
    let engine = engine(&scripted, Pull::Never).await;
    engine.create(spec()).await.unwrap();
    for when in [Pull::Missing, Pull::Always] {
        let error = engine.create(spec()).pull(when).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        assert_eq!(error.fact("field"), Some("pull"));
    }
    assert_eq!(scripted.pulls().len(), 0);
    assert_eq!(scripted.count(OperationKind::Create), 1);
}

#[tokio::test]
async fn a_pull_of_what_no_registry_has_is_refused_to_those_that_ask_for_it() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().to_str().unwrap();
    let archive = format!("rootfs-archive:{directory}");
    let digest = format!("sha256:{}", "0".repeat(64));
    let scripted = Scripted::new();
    let engine = engine(&scripted, Pull::Always).await;
    for name in ["host", directory, &archive, &digest] {
        let spec = || SandboxSpec::image(name);
        let error = engine.create(spec()).pull(Pull::Always).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{name}");
        assert_eq!(error.fact("field"), Some("pull"), "{name}");
        // Where nobody asks for it, it is as with every other image.
        engine.create(spec()).await.unwrap();
        engine.create(spec()).pull(Pull::Missing).await.unwrap();
    }
    assert_eq!(scripted.count(OperationKind::Create), 8);
    let named = format!("app@{digest}");
    let create = engine.create(SandboxSpec::image(&named));
    create.pull(Pull::Always).await.unwrap();
    let last = scripted.pulls().pop().unwrap();
    assert_eq!(
        (last.source, last.when),
        (Source::Image(named), Pull::Always)
    );
}

#[tokio::test]
async fn a_create_is_admitted_before_its_image_is_pulled_and_on_record_after_it() {
    let mut capabilities = all_capabilities();
    capabilities.network_full = false;
    let scripted = Scripted::with(capabilities);
    let engine = engine(&scripted, Pull::Missing).await;
    let refused = spec().network(crate::sandbox::spec::Network::Full);
    let error = engine.create(refused).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert_eq!(scripted.pulls().len(), 0);

    let failure = Error::new(ErrorKind::Unavailable, "no network");
    scripted.fail(OperationKind::Pull, failure);
    let error = engine.create(spec()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(error.failed_operation(), "pull");
    assert_eq!(scripted.count(OperationKind::Create), 0);
    assert_eq!(scripted.count(OperationKind::Destroy), 0);
    let all = Filter {
        all: true,
        ..Filter::default()
    };
    assert!(engine.list(all).await.unwrap().is_empty());
}
