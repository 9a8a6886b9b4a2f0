//! Clients that come and go, and servers that do.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use stacyvm::id::TenantId;
use stacyvm::layer::{Call, Layer, Next};
use stacyvm::provider::{Capabilities, CreateRequest, Provider, ProviderInfo, Secrets};
use stacyvm::providers::http::{HttpConfig, HttpProvider};
use stacyvm::providers::mock::Mock;
use stacyvm::sandbox::exec::ExecSpec;
use stacyvm::sandbox::files::{GuestPath, ReadRequest, WriteMode, WriteRequest};
use stacyvm::sandbox::spec::Lifetime;
use stacyvm::sandbox::state::Observed;
use stacyvm::store::{MemoryStore, Store as _};
use stacyvm::{Context, Engine, Error, ErrorKind, Phase, SandboxId, SandboxSpec};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::served::{Served, request, serve, served};

fn scratch() -> SandboxSpec {
    SandboxSpec::image("scratch")
}

async fn engine_of(served: &Served) -> Engine {
    Engine::builder()
        .provider("remote", served.client().await)
        .reconcile_every(Duration::ZERO)
        .build()
        .await
        .unwrap()
}

/// Looks again until it holds, for at most ten seconds.
macro_rules! soon {
    ($what:expr, $look:expr) => {
        for left in (0..500).rev() {
            if $look {
                break;
            }
            assert!(left > 0, "after ten seconds still not: {}", $what);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
}

#[tokio::test]
async fn an_attached_sandbox_ends_with_its_client_and_a_detached_one_does_not() {
    let served = served().await;
    let client = served.client().await;
    let cx = Context::new(TenantId::new("acme").unwrap());
    let attached = request(scratch().lifetime(Lifetime::Attached));
    let detached = request(scratch());
    let ended = request(scratch().lifetime(Lifetime::Attached));
    for one in [&attached, &detached, &ended] {
        client.create(&cx, one).await.unwrap();
    }
    client.destroy(&cx, &ended.id).await.unwrap();
    let other = served.client().await;
    other.inspect(&cx, &attached.id).await.unwrap();
    drop(client);
    soon!("the attached sandbox is gone", {
        let seen = other.inspect(&cx, &attached.id).await;
        seen.is_err_and(|e| matches!(e.kind(), ErrorKind::NotFound | ErrorKind::SandboxGone))
    });
    other.inspect(&cx, &detached.id).await.unwrap();
    let recorded = served.engine.get_in(&cx, &attached.id).await.unwrap();
    soon!(
        "its end is on record",
        recorded.info().await.unwrap().phase == Phase::Ended
    );
}

#[tokio::test]
async fn a_server_that_is_started_again_finds_what_was_made() {
    let (mock, store) = (Arc::new(Mock::default()), Arc::new(MemoryStore::new()));
    let start = || async {
        let engine = Engine::builder()
            .provider("mock", Arc::clone(&mock) as Arc<dyn Provider>)
            .store(Arc::clone(&store) as Arc<dyn stacyvm::store::Store>)
            .reconcile_every(Duration::ZERO)
            .build();
        serve(engine.await.unwrap()).await
    };
    let first = start().await;
    let cx = Context::default();
    let made = request(scratch().ttl(Duration::from_mins(10)));
    let client = first.client().await;
    client.create(&cx, &made).await.unwrap();
    drop(first);
    soon!(
        "the server is gone",
        client
            .inspect(&cx, &made.id)
            .await
            .is_err_and(|e| e.kind() == ErrorKind::Unavailable)
    );

    let second = start().await;
    let client = second.client().await;
    assert_eq!(client.inspect(&cx, &made.id).await.unwrap().id, made.id);
    // The same call finds it, too; and another spec does not.
    client.create(&cx, &made).await.unwrap();
    let mut other = made.clone();
    other.spec = scratch().label("a", "b");
    let error = client.create(&cx, &other).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    client.set_deadline(&cx, &made.id, None).await.unwrap();
    client.destroy(&cx, &made.id).await.unwrap();
    // On record, and not only seen by the provider.
    let record = store.get_sandbox(&cx, &made.id).await.unwrap();
    assert_eq!(record.phase, Phase::Ended);
    assert_eq!(client.list(&cx, None, 10).await.unwrap(), []);
}

#[tokio::test]
async fn secrets_reach_the_sandbox_and_no_record() {
    let served = served().await;
    let client = served.client().await;
    let cx = Context::default();
    let mut made = request(scratch().env("PLAIN", "plain"));
    let secrets = [("KEY".to_owned(), "hunter2".to_owned())];
    made.secrets = Secrets::new(secrets.clone().into());
    client.create(&cx, &made).await.unwrap();
    let sandbox = served.engine.get(&made.id).await.unwrap();
    let output = sandbox.shell("echo $PLAIN $KEY").output().await.unwrap();
    assert_eq!(output.stdout_text(), "plain hunter2\n");
    let info = sandbox.info().await.unwrap();
    assert!(info.env_names.contains(&"KEY".to_owned()));
    assert!(!serde_json::to_string(&info).unwrap().contains("hunter2"));

    let mut twice = request(scratch().env("KEY", "x"));
    twice.secrets = Secrets::new(secrets.into());
    let error = client.create(&cx, &twice).await.unwrap_err();
    assert_eq!(error.fact("field"), Some("secrets.KEY"));
    assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
}

#[tokio::test]
async fn tenants_are_kept_apart() {
    let served = served().await;
    let client = served.client().await;
    let one = Context::new(TenantId::new("one").unwrap());
    let two = Context::new(TenantId::new("two").unwrap());
    let made = request(scratch());
    client.create(&one, &made).await.unwrap();
    let error = client.inspect(&two, &made.id).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    client.destroy(&two, &made.id).await.unwrap();
    client.inspect(&one, &made.id).await.unwrap();
}

/// A provider behind it finds sandboxes by their ids alone.
#[derive(Debug)]
struct BlindToTenants;

#[async_trait::async_trait]
impl Layer for BlindToTenants {
    fn name(&self) -> &'static str {
        "blind_to_tenants"
    }

    async fn around(&self, call: &Call<'_>, next: Next<'_>) -> Result<(), Error> {
        let mut context = call.context.clone();
        context.tenant = TenantId::new("one").unwrap();
        next.run(&context).await
    }
}

#[tokio::test]
async fn tenants_are_kept_apart_where_the_provider_does_not() {
    let engine = Engine::builder()
        .provider("mock", Arc::new(Mock::default()))
        .layer(Arc::new(BlindToTenants))
        .reconcile_every(Duration::ZERO)
        .build();
    let served = serve(engine.await.unwrap()).await;
    let client = served.client().await;
    let one = Context::new(TenantId::new("one").unwrap());
    let two = Context::new(TenantId::new("two").unwrap());
    let made = [request(scratch()), request(scratch()), request(scratch())];
    for made in &made {
        client.create(&one, made).await.unwrap();
    }
    let id = &made[0].id;
    let refused = [
        client.inspect(&two, id).await.map(drop),
        client.usage(&two, id).await.map(drop),
        client.list_execs(&two, id).await.map(drop),
        client.pause(&two, id).await,
        client.set_deadline(&two, id, None).await,
        client.read_file(&two, id, &read("/tmp/a")).await.map(drop),
        client
            .exec(&two, id, &ExecSpec::new(["/bin/true"]))
            .await
            .map(drop),
    ];
    for result in refused {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::NotFound);
    }
    assert_eq!(client.list(&two, None, 10).await.unwrap(), []);
    // For them it is absent, which an end calls success.
    client.destroy(&two, id).await.unwrap();
    client.inspect(&one, id).await.unwrap();
    // A page is full although others' are left out.
    assert_eq!(client.list(&one, None, 2).await.unwrap().len(), 2);
}

/// A provider that keeps no tenants at all.
#[derive(Debug, Default)]
struct Tenantless(Mutex<BTreeSet<SandboxId>>);

#[async_trait::async_trait]
impl Provider for Tenantless {
    fn info(&self) -> ProviderInfo {
        ProviderInfo::new("tenantless", "host")
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            image_host: true,
            ..Capabilities::default()
        }
    }

    async fn create(&self, _: &Context, request: &CreateRequest) -> Result<Observed, Error> {
        self.0.lock().unwrap().insert(request.id.clone());
        Ok(Observed::running(request.id.clone()))
    }

    async fn inspect(&self, _: &Context, id: &SandboxId) -> Result<Observed, Error> {
        let found = self.0.lock().unwrap().contains(id);
        let found = found.then(|| Observed::running(id.clone()));
        found.ok_or_else(|| Error::new(ErrorKind::NotFound, "it is not there"))
    }

    async fn destroy(&self, _: &Context, id: &SandboxId) -> Result<(), Error> {
        self.0.lock().unwrap().remove(id);
        Ok(())
    }

    stacyvm::unsupported! {
        probe, pull, origin, claim, list, set_deadline, set_lifetime, pause, resume, exec, attach, read_log,
        list_execs, signal_exec, file, read_file, write_file, watch, export_tar, import_tar, dial,
        listen, endpoint, processes, usage, snapshot, delete_snapshot, leftovers, remove_leftover,
        disk_use, tidy,
    }
}

#[tokio::test]
async fn what_no_provider_knows_a_tenant_of_is_ended_by_its_own_alone() {
    let engine = Engine::builder()
        .provider("tenantless", Arc::new(Tenantless::default()))
        .reconcile_every(Duration::ZERO)
        .build();
    let served = serve(engine.await.unwrap()).await;
    let client = served.client().await;
    let one = Context::new(TenantId::new("one").unwrap());
    let two = Context::new(TenantId::new("two").unwrap());
    let made = request(SandboxSpec::host());
    client.create(&one, &made).await.unwrap();
    client.destroy(&two, &made.id).await.unwrap();
    client.inspect(&one, &made.id).await.unwrap();
    client.destroy(&one, &made.id).await.unwrap();
    client.inspect(&one, &made.id).await.unwrap_err();
}

#[tokio::test]
async fn an_owner_takes_nobody_else_s_sandbox_along() {
    let served = served().await;
    let (first, second) = (served.client().await, served.client().await);
    let cx = Context::default();
    let detached = request(scratch());
    first.create(&cx, &detached).await.unwrap();
    let mut same_id = request(scratch().lifetime(Lifetime::Attached));
    same_id.id = detached.id.clone();
    let error = second.create(&cx, &same_id).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    // The very same request of another owner is not its own sandbox either.
    let attached = request(scratch().lifetime(Lifetime::Attached));
    first.create(&cx, &attached).await.unwrap();
    first.create(&cx, &attached).await.unwrap();
    let error = second.create(&cx, &attached).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    let own = request(scratch().lifetime(Lifetime::Attached));
    second.create(&cx, &own).await.unwrap();
    // Nor does an end that another tenant asks for take it from its owner.
    let other = Context::new(TenantId::new("other").unwrap());
    first.destroy(&other, &own.id).await.unwrap();
    drop(second);
    soon!("what the second one owned is gone", {
        first.inspect(&cx, &own.id).await.is_err()
    });
    first.inspect(&cx, &detached.id).await.unwrap();
    first.inspect(&cx, &attached.id).await.unwrap();
}

fn read(path: &str) -> ReadRequest {
    ReadRequest {
        user: None,
        path: GuestPath::new(path).unwrap(),
        offset: 0,
        length: None,
    }
}

fn write(path: &str) -> WriteRequest {
    WriteRequest {
        user: None,
        path: GuestPath::new(path).unwrap(),
        how: WriteMode::Replace,
        mode: None,
        parents: false,
    }
}

#[tokio::test]
async fn a_write_that_breaks_off_leaves_the_old_file() {
    let served = served().await;
    let client = served.client().await;
    let cx = Context::default();
    let made = request(scratch());
    client.create(&cx, &made).await.unwrap();
    let data = |text: &'static str| stream::iter([Ok(text.as_bytes().into())]);
    let target = write("/tmp/a");
    let old = client.write_file(&cx, &made.id, &target, data("old").boxed());
    assert_eq!(old.await.unwrap().size, 3);

    // The caller's own error is what is told.
    let bad = data("new").chain(stream::iter([Err(Error::new(ErrorKind::Corrupt, "torn"))]));
    let error = client
        .write_file(&cx, &made.id, &target, bad.boxed())
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.message()),
        (ErrorKind::Corrupt, "torn")
    );
    // Given up in the middle.
    let endless = data("new").chain(stream::pending());
    let writing = client.write_file(&cx, &made.id, &target, endless.boxed());
    assert!(
        tokio::time::timeout(Duration::from_millis(200), writing)
            .await
            .is_err()
    );
    // By hand, without an end.
    let head = br#"{"path":"/tmp/a"}"#;
    let mut body = vec![0, 0, 0, u8::try_from(head.len()).unwrap(), 1];
    body.extend_from_slice(head);
    body.extend_from_slice(&[0, 0, 0, 3, 2]);
    body.extend_from_slice(b"new");
    let kind = "application/vnd.stacyvm.frames";
    let path = format!("/v1/sandboxes/{}/files/write", made.id);
    let answer = served
        .raw(crate::served::with_body("POST", &path, kind, &body))
        .await;
    answer.refused(503, "unavailable", "");

    let request = ReadRequest {
        user: None,
        path: target.path.clone(),
        offset: 0,
        length: None,
    };
    let (entry, bytes) = client.read_file(&cx, &made.id, &request).await.unwrap();
    let bytes: Vec<u8> = bytes.map(|piece| piece.unwrap().to_vec()).concat().await;
    assert_eq!((entry.size, bytes.as_slice()), (3, b"old".as_slice()));
}

#[tokio::test]
async fn a_refused_upload_is_told_while_it_is_sent() {
    let served = served().await;
    let client = served.client().await;
    let cx = Context::default();
    let made = request(scratch());
    client.create(&cx, &made).await.unwrap();
    let piece = bytes::Bytes::from(vec![1; 1 << 20]);
    let long = stream::iter((0..32).map(move |_| Ok(piece.clone())));
    let target = write("/no/such/directory/a");
    let error = client
        .write_file(&cx, &made.id, &target, long.boxed())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
}

#[tokio::test]
async fn signals_pass_output_that_nobody_reads() {
    let served = served().await;
    let engine = engine_of(&served).await;
    let sandbox = engine.create(scratch()).await.unwrap();
    let mut process = sandbox.exec(["yes"]).start().await.unwrap();
    // Some is read, so that output waits everywhere on the way.
    process.next_event().await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let kill = tokio::time::timeout(Duration::from_secs(10), process.kill());
    kill.await.expect("a kill within 10 s").unwrap();
    process.wait().await.unwrap();
    sandbox.kill().await.unwrap();
}

#[tokio::test]
async fn a_server_that_is_not_there_is_told_with_its_remedy() {
    let (address, task) = {
        let served = served().await;
        (served.address, served)
    };
    drop(task);
    let config = HttpConfig::new(format!("http://{address}"));
    soon!("it is gone", TcpStream::connect(address).await.is_err());
    let error = HttpProvider::open(config).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(
        error
            .fact("remedy")
            .is_some_and(|text| text.contains("stacyvm serve"))
    );
}

#[tokio::test]
async fn a_create_whose_client_goes_leaves_nothing() {
    let served = served().await;
    for _ in 0..20 {
        let body = format!(
            r#"{{"id":"{}","spec":{{"source":{{"image":"scratch"}}}}}}"#,
            SandboxId::random()
        );
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        let text =
            crate::served::with_body("POST", "/v1/sandboxes", "application/json", body.as_bytes());
        stream.write_all(&text).await.unwrap();
        drop(stream);
    }
    // Made in time or not: what is there is on record, and nothing else is.
    soon!("all are settled", {
        let listed = served
            .engine
            .list(stacyvm::Filter::default())
            .await
            .unwrap();
        listed.iter().all(|info| info.phase == Phase::Running)
    });
    let client = served.client().await;
    let there = client.list(&Context::default(), None, 100).await.unwrap();
    let listed = served
        .engine
        .list(stacyvm::Filter::default())
        .await
        .unwrap();
    assert_eq!(there.len(), listed.len());
}
