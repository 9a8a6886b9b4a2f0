//! What a server holds to: bounds of what is asked, and answers to the end.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use stacyvm::id::TenantId;
use stacyvm::provider::{Capabilities, CreateRequest, OperationKind, Provider, ProviderInfo};
use stacyvm::providers::mock::{Fault, FaultPlan, Mock, When};
use stacyvm::sandbox::state::Observed;
use stacyvm::{Context, Engine, Error, SandboxId, SandboxSpec};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::lies::frame;
use crate::requests::session;
use crate::served::{engine, request, serve, served, with_body};

const CREATE: &str = r#"{"id":"s1","spec":{"source":{"image":"scratch"}}}"#;
const FRAMES: &str = "application/vnd.stacyvm.frames";

/// Within ten seconds.
async fn soon<T>(work: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(Duration::from_secs(10), work).await;
    done.expect("it is a matter of moments")
}

#[tokio::test]
async fn an_upgrade_is_asked_for_in_both_headers() {
    let served = served().await;
    let made = served.json("POST", "/v1/sandboxes", CREATE).await;
    assert_eq!(made.status, 200, "{made:?}");
    let body = r#"{"exec":"x1","argv":["true"]}"#;
    let text = format!(
        "POST /v1/sandboxes/s1/execs HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
         upgrade: stacyvm-exec/1\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = served.raw(text).await;
    answer.refused(400, "invalid_argument", "upgrade");
    assert_eq!(answer.body["operation"], "exec");
}

#[tokio::test]
async fn a_refusal_reaches_who_sends_everything_first() {
    let served = served().await;
    let made = served.json("POST", "/v1/sandboxes", CREATE).await;
    assert_eq!(made.status, 200, "{made:?}");
    // More than the buffers of a connection hold.
    let mut body = frame(1, br#"{"path":"/tmp/a","colour":"red"}"#);
    for _ in 0..32 {
        body.extend_from_slice(&frame(2, &vec![0; 1 << 20]));
    }
    body.extend_from_slice(&frame(3, b""));
    let upload = with_body("POST", "/v1/sandboxes/s1/files/write", FRAMES, &body);
    let answer = served.raw(upload).await;
    answer.refused(400, "invalid_argument", "colour");
}

#[tokio::test]
async fn a_moment_that_is_none_is_refused() {
    let served = served().await;
    let made = served.json("POST", "/v1/sandboxes", CREATE).await;
    assert_eq!(made.status, 200, "{made:?}");
    let body = r#"{"ends":{"seconds":1,"nanoseconds":1000000000}}"#;
    let answer = served.json("PUT", "/v1/sandboxes/s1/deadline", body).await;
    answer.refused(400, "invalid_argument", "ends");
}

/// The number and the rest of the next answer to a call; events before it are passed.
async fn answered(stream: &mut TcpStream) -> (u32, Vec<u8>) {
    loop {
        let length = stream.read_u32().await.unwrap();
        let kind = stream.read_u8().await.unwrap();
        let mut payload = vec![0; length as usize];
        stream.read_exact(&mut payload).await.unwrap();
        if kind == 37 {
            let rest = payload.split_off(4);
            return (u32::from_be_bytes(payload.try_into().unwrap()), rest);
        }
    }
}

#[tokio::test]
async fn what_is_asked_after_the_end_is_answered() {
    let served = served().await;
    served.json("POST", "/v1/sandboxes", CREATE).await;
    let mut stream = session(served.address, r#"["true"]"#).await;
    stream
        .write_all(&frame(36, &1024_u32.to_be_bytes()))
        .await
        .unwrap();
    // Its end is sent by then.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let signal = [&7_u32.to_be_bytes()[..], br#"{"signal":9,"scope":"tree"}"#].concat();
    stream.write_all(&frame(35, &signal)).await.unwrap();
    let (number, said) = soon(answered(&mut stream)).await;
    assert_eq!(number, 7);
    assert!(!said.is_empty(), "a command that ended was signalled");
}

#[tokio::test]
async fn calls_whose_answers_nobody_reads_are_bounded() {
    let served = served().await;
    served.json("POST", "/v1/sandboxes", CREATE).await;
    let mut stream = session(served.address, r#"["sleep","60"]"#).await;
    let resize = [&7_u32.to_be_bytes()[..], br#"{"rows":1,"columns":1}"#].concat();
    let many: Vec<u8> = frame(34, &resize).repeat(10_000);
    let writing = async {
        for _ in 0..100 {
            stream.write_all(&many).await?;
        }
        Ok::<_, std::io::Error>(())
    };
    let written = tokio::time::timeout(Duration::from_secs(20), writing).await;
    assert!(
        matches!(written, Ok(Err(_))),
        "the session goes on: {written:?}"
    );
}

#[tokio::test]
async fn what_is_made_for_an_owner_that_goes_meanwhile_is_ended() {
    let fault = Fault::Delay(Duration::from_secs(1));
    let plan = FaultPlan::default().rule(OperationKind::Create, When::Always, fault);
    let mock = Mock::builder().faults(plan).build();
    let served = serve(engine(Arc::new(mock)).await).await;
    let mut owner = TcpStream::connect(served.address).await.unwrap();
    let text = "POST /v1/owners HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\n\
         upgrade: stacyvm-owner/1\r\ncontent-type: application/json\r\n\
         content-length: 2\r\n\r\n{}";
    owner.write_all(text.as_bytes()).await.unwrap();
    let mut said = Vec::new();
    while !said.ends_with(b"\"}") {
        said.push(soon(owner.read_u8()).await.unwrap());
    }
    let said = String::from_utf8_lossy(&said).into_owned();
    let name = said.rsplit('"').nth(1).unwrap();
    let body = format!(
        r#"{{"id":"s1","owner":"{name}","spec":{{"source":{{"image":"scratch"}},"lifetime":"attached"}}}}"#
    );
    let creating = served.json("POST", "/v1/sandboxes", &body);
    let going = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        drop(owner);
    };
    let (answer, ()) = tokio::join!(creating, going);
    assert_eq!(answer.body["kind"], "sandbox_gone", "{answer:?}");
    let client = served.client().await;
    let there = client.list(&Context::default(), None, 10).await.unwrap();
    assert_eq!(there, []);
}

#[tokio::test(start_paused = true)]
async fn headers_that_do_not_come_end_their_connection() {
    let served = served().await;
    let begun = tokio::time::Instant::now();
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    stream
        .write_all(b"GET /v1/probe HTTP/1.1\r\n")
        .await
        .unwrap();
    let mut rest = Vec::new();
    let reading = stream.read_to_end(&mut rest);
    let read = tokio::time::timeout(Duration::from_mins(2), reading).await;
    read.expect("an end").unwrap();
    let after = begun.elapsed().as_secs();
    assert!((29..=60).contains(&after), "its end came after {after} s");
}

/// A provider that keeps no tenants, and lists what it has.
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
        Ok(Observed::running(id.clone()))
    }

    async fn list(
        &self,
        _: &Context,
        after: Option<&SandboxId>,
        limit: u32,
    ) -> Result<Vec<Observed>, Error> {
        let all = self.0.lock().unwrap();
        let later = all
            .iter()
            .filter(|id| after.is_none_or(|after| *id > after));
        let page = later.take(limit as usize);
        Ok(page.map(|id| Observed::running(id.clone())).collect())
    }

    stacyvm::unsupported! {
        probe, pull, origin, claim, set_deadline, set_lifetime, pause, resume, destroy, exec, attach,
        read_log, list_execs, signal_exec, file, read_file, write_file, watch, export_tar,
        import_tar, dial, listen, endpoint, processes, usage, snapshot, delete_snapshot,
        leftovers, remove_leftover, disk_use, tidy,
    }
}

#[tokio::test]
async fn a_command_that_makes_no_sense_reaches_no_provider() {
    let engine = Engine::builder()
        .provider("tenantless", Arc::new(Tenantless::default()))
        .reconcile_every(Duration::ZERO)
        .build();
    let served = serve(engine.await.unwrap()).await;
    let client = served.client().await;
    let made = request(SandboxSpec::host());
    client.create(&Context::default(), &made).await.unwrap();
    let nothing = stacyvm::ExecSpec::new(Vec::<String>::new());
    let started = client.exec(&Context::default(), &made.id, &nothing).await;
    let kind = started.err().map(|error| error.kind());
    assert_eq!(kind, Some(stacyvm::ErrorKind::InvalidArgument));
}

#[tokio::test]
async fn a_page_is_full_although_others_are_left_out_of_it() {
    let engine = Engine::builder()
        .provider("tenantless", Arc::new(Tenantless::default()))
        .reconcile_every(Duration::ZERO)
        .build();
    let served = serve(engine.await.unwrap()).await;
    let client = served.client().await;
    let [one, two] = ["one", "two"].map(|name| Context::new(TenantId::new(name).unwrap()));
    for (context, id) in [
        (&two, "a1"),
        (&two, "a2"),
        (&one, "b1"),
        (&two, "b2"),
        (&one, "b3"),
        (&one, "b4"),
    ] {
        let mut request = request(SandboxSpec::host());
        request.id = SandboxId::new(id).unwrap();
        client.create(context, &request).await.unwrap();
    }
    let page = async |after: Option<&SandboxId>| {
        let page = client.list(&one, after, 2).await.unwrap();
        let ids = page.iter().map(|seen| seen.id.to_string());
        ids.collect::<Vec<_>>()
    };
    assert_eq!(page(None).await, ["b1", "b3"]);
    let last = SandboxId::new("b3").unwrap();
    assert_eq!(page(Some(&last)).await, ["b4"]);
}
