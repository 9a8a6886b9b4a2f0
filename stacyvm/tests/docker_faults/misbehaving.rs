//! Each call of the provider meets each fault of an engine: it ends in time with a
//! typed error, and once the engine behaves again nothing is left.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use stacyvm::error::{Error, ErrorKind};
use stacyvm::id::{InstanceId, SandboxId, TenantId};
use stacyvm::provider::{CreateRequest, Provider, Reach, Secrets};
use stacyvm::providers::docker::{DockerConfig, DockerProvider};
use stacyvm::sandbox::files::{FileOperation, FileRequest, GuestPath};
use stacyvm::sandbox::spec::Lifetime;
use stacyvm::{Context, ExecEvent, ExecSpec, Result};

use super::machine::{Machine, Options};
use super::proxy::{Fault, Proxy, Which};
use super::residue::Watch;
use super::spec;

/// The caller's deadline, and what the provider itself waits for an answer.
const DEADLINE: Duration = Duration::from_secs(2);
const ANSWER: Duration = Duration::from_secs(2);
/// What a call may take beyond its deadline on a busy machine.
const LATE: Duration = Duration::from_secs(2);

/// Faults of ordinary answers.
const ANSWERS: &[Fault] = &[
    Fault::Status500,
    Fault::Html502,
    Fault::Truncated,
    Fault::HalfJson,
    Fault::WrongJson,
    Fault::Garbage,
    Fault::EndlessHeaders,
    Fault::Stalled,
    Fault::StalledBody,
    Fault::EndlessBody,
    Fault::Closed,
    Fault::Lost,
    Fault::Slow,
];
/// Those of answers that end.
const ENDING: &[Fault] = &[
    Fault::Status500,
    Fault::Truncated,
    Fault::HalfJson,
    Fault::WrongJson,
    Fault::Garbage,
    Fault::EndlessHeaders,
    Fault::Stalled,
    Fault::StalledBody,
    Fault::Closed,
    Fault::Lost,
    Fault::Slow,
];
/// Those of requests whose connection becomes a stream.
const STREAMS: &[Fault] = &[
    Fault::Status500,
    Fault::Garbage,
    Fault::Stalled,
    Fault::Closed,
    Fault::StalledUpgrade,
    Fault::ClosedUpgrade,
    Fault::GarbageUpgrade,
    Fault::EndlessUpgrade,
    Fault::CutUpgrade,
];

/// A call, the request of it that fails, and how.
type Case = (&'static str, Which, &'static [Fault]);

const CASES: &[Case] = &[
    ("create", ("GET", "/images/*/json"), ANSWERS),
    ("create", ("POST", "/containers/create"), ANSWERS),
    ("create", ("POST", "/containers/*/attach"), STREAMS),
    ("create", ("POST", "/containers/*/start"), ANSWERS),
    ("create", ("GET", "/containers/*/json"), ANSWERS),
    ("create seen", ("GET", "/containers/*/json"), ANSWERS),
    ("inspect", ("GET", "/containers/*/json"), ANSWERS),
    ("list", ("GET", "/containers/json"), ANSWERS),
    ("leftovers", ("GET", "/containers/json"), ANSWERS),
    ("exec", ("GET", "/containers/*/json"), ANSWERS),
    ("exec", ("POST", "/containers/*/exec"), ANSWERS),
    ("exec", ("POST", "/exec/*/start"), STREAMS),
    ("file", ("POST", "/exec/*/start"), STREAMS),
    ("log", ("POST", "/exec/*/start"), STREAMS),
    // Its answer is read as a stream, in which the client finds no end of one that
    // has none.
    ("usage", ("GET", "/containers/*/stats"), ENDING),
    ("pause", ("POST", "/containers/*/pause"), ANSWERS),
    ("resume", ("POST", "/containers/*/unpause"), ANSWERS),
    ("origin", ("GET", "/images/*/json"), ANSWERS),
    ("destroy", ("GET", "/containers/*/json"), ANSWERS),
    ("destroy", ("DELETE", "/containers/*"), ANSWERS),
    ("open", ("GET", "/version"), ANSWERS),
    ("open", ("GET", "/info"), ANSWERS),
];

struct Scene {
    machine: Machine,
    place: tempfile::TempDir,
    state: PathBuf,
    instance: InstanceId,
    proxy: Proxy,
    watch: Watch,
    /// Straight to the engine.
    plain: DockerProvider,
}

fn cx() -> Context {
    Context::new(TenantId::default())
}

async fn provider(
    state: &Path,
    instance: &InstanceId,
    host: &str,
    answer: Duration,
) -> Result<DockerProvider> {
    // The engine is to be needed for every connection.
    let config = DockerConfig::new(state.join("docker"), instance.clone()).direct(false);
    let mut config = config.host(host);
    config.answer_within = answer;
    DockerProvider::open(config).await
}

impl Scene {
    async fn set(name: &str) -> Option<Self> {
        let machine = Machine::start(name, Options::default())?;
        let place = tempfile::tempdir().unwrap();
        let state = place.path().join("state");
        std::fs::create_dir(&state).unwrap();
        let instance = InstanceId::random();
        let proxy = Proxy::before(machine.socket(), place.path());
        let plain = provider(&state, &instance, &machine.host, 20 * ANSWER)
            .await
            .unwrap();
        let request = request(&instance);
        plain.create(&cx(), &request).await.unwrap();
        plain.destroy(&cx(), &request.id).await.unwrap();
        let watch = Watch::begin(&machine, &state).await;
        Some(Self {
            machine,
            place,
            state,
            instance,
            proxy,
            watch,
            plain,
        })
    }

    async fn through(&self) -> Result<DockerProvider> {
        provider(&self.state, &self.instance, &self.proxy.host, ANSWER).await
    }

    /// One call under one fault; what is wrong.
    async fn case(&self, call: &str, which: Which, fault: Fault) -> Vec<String> {
        let at = format!("{call}: {fault:?} of {} {}", which.0, which.1);
        let mut wrong = Vec::new();
        // Each time anew: no connection to an agent is open.
        let subject = Arc::new(self.through().await.unwrap());
        let request = request(&self.instance);
        if ![
            "create",
            "create seen",
            "open",
            "origin",
            "list",
            "leftovers",
        ]
        .contains(&call)
        {
            self.plain.create(&cx(), &request).await.unwrap();
        }
        if call == "resume" {
            self.plain.pause(&cx(), &request.id).await.unwrap();
        }
        // The first look is for one that is there already.
        let pass = usize::from(call == "create seen");
        self.proxy.fail(which, fault, pass);
        let begun = Instant::now();
        let done = tokio::time::timeout(DEADLINE + LATE, self.act(call, &subject, &request)).await;
        let took = begun.elapsed();
        let hits = self.proxy.heal();
        match done {
            Err(_) => wrong.push(format!("{at}: the deadline was not kept")),
            Ok(Ok(())) if may_pass(call, which, fault) => {}
            Ok(Ok(())) => wrong.push(format!("{at}: it went well")),
            // On a busy machine what comes before may take that long.
            Ok(Err(error)) if took >= DEADLINE && error.kind() == ErrorKind::Timeout => {}
            Ok(Err(error)) => {
                if hits == 0 {
                    wrong.push(format!("{at}: no such request, yet {error}"));
                }
                let kinds = kinds(fault);
                if !kinds.contains(&error.kind()) {
                    wrong.push(format!("{at}: expected {kinds:?}: {error:?}"));
                }
            }
        }
        if hits == 0 && took < DEADLINE {
            wrong.push(format!("{at}: no such request"));
        }
        // What goes on behind the caller's back ends in time, too.
        let again = cx().with_deadline(Instant::now() + Duration::from_secs(20));
        let begun = Instant::now();
        if let Err(error) = subject.destroy(&again, &request.id).await {
            wrong.push(format!("{at}: then it could not be destroyed: {error:?}"));
            let _ = self.plain.destroy(&cx(), &request.id).await;
        }
        let destroyed = begun.elapsed();
        if destroyed > Duration::from_secs(12) {
            wrong.push(format!("{at}: then its destroy took {destroyed:?}"));
        }
        drop(subject);
        for what in self.watch.staying(&self.machine, &self.state).await {
            wrong.push(format!("{at}: {what}"));
            // The next case shall not suffer from it.
        }
        println!("{at}: {took:?}, then {destroyed:?}: {} wrong", wrong.len());
        wrong
    }

    async fn act(
        &self,
        call: &str,
        subject: &DockerProvider,
        request: &CreateRequest,
    ) -> Result<()> {
        let cx = cx().with_deadline(Instant::now() + DEADLINE);
        let id = &request.id;
        match call {
            "create" | "create seen" => subject.create(&cx, request).await.map(drop),
            "inspect" => subject.inspect(&cx, id).await.map(drop),
            "list" => subject.list(&cx, None, 10).await.map(drop),
            "leftovers" => subject.leftovers(&cx, Reach::Own).await.map(drop),
            "exec" => {
                let spec = ExecSpec::new(["true"]);
                let mut session = subject.exec(&cx, id, &spec).await?;
                while let Some(event) = session.events.next().await {
                    if let ExecEvent::Exited(status) = event? {
                        assert!(status.success(), "a made-up end: {status:?}");
                    }
                }
                Ok(())
            }
            "file" => {
                let operation = FileOperation::List {
                    path: GuestPath::new("/").unwrap(),
                    depth: 1,
                };
                let request = FileRequest {
                    user: None,
                    operation,
                };
                subject.file(&cx, id, &request).await.map(drop)
            }
            "log" => subject.list_execs(&cx, id).await.map(drop),
            "usage" => subject.usage(&cx, id).await.map(drop),
            "pause" => subject.pause(&cx, id).await,
            "resume" => subject.resume(&cx, id).await,
            "origin" => subject.origin(&cx, &request.spec).await.map(drop),
            "destroy" => subject.destroy(&cx, id).await,
            "open" => {
                let opening = self.through();
                let opened = tokio::time::timeout(DEADLINE, opening).await;
                opened
                    .map_err(|_| Error::new(ErrorKind::Timeout, "it took too long"))?
                    .map(drop)
            }
            other => panic!("no call {other}"),
        }
    }
}

fn request(instance: &InstanceId) -> CreateRequest {
    CreateRequest {
        id: SandboxId::random(),
        instance: instance.clone(),
        spec: spec(Lifetime::Detached),
        open_files_preferred: false,
        ends: None,
        secrets: Secrets::default(),
        waits: false,
    }
}

/// Faults that a call may survive, rightly.
fn may_pass(call: &str, which: Which, fault: Fault) -> bool {
    match fault {
        Fault::Slow => true,
        // The answer holds nothing that is needed, or what it says is found out.
        Fault::Truncated
        | Fault::HalfJson
        | Fault::WrongJson
        | Fault::StalledBody
        | Fault::EndlessBody => {
            matches!(call, "pause" | "resume" | "destroy") || which.1 == "/containers/*/start"
        }
        // Nothing came of it that could be cut.
        Fault::CutUpgrade => which.1 == "/containers/*/attach",
        // It was done, as a second look tells.
        Fault::Lost => matches!(call, "pause" | "resume" | "destroy"),
        _ => false,
    }
}

/// What a fault may be told as.
fn kinds(fault: Fault) -> &'static [ErrorKind] {
    use ErrorKind as Kind;
    match fault {
        Fault::Status500 | Fault::Html502 => &[Kind::Internal, Kind::Unavailable],
        // Where nobody reads it, what should have come of it is missed.
        Fault::HalfJson | Fault::WrongJson | Fault::Truncated => {
            &[Kind::Incompatible, Kind::Unavailable]
        }
        Fault::Garbage | Fault::EndlessHeaders => &[Kind::Incompatible, Kind::Unavailable],
        Fault::EndlessBody | Fault::Stalled | Fault::StalledBody | Fault::StalledUpgrade => {
            &[Kind::Unavailable, Kind::Timeout]
        }
        Fault::Closed | Fault::Lost | Fault::Slow => &[Kind::Unavailable],
        Fault::ClosedUpgrade | Fault::CutUpgrade => &[Kind::Unavailable, Kind::SandboxGone],
        Fault::GarbageUpgrade | Fault::EndlessUpgrade => &[
            Kind::Unavailable,
            Kind::Protocol,
            Kind::Timeout,
            Kind::SandboxGone,
        ],
    }
}

/// The cases of a part, of which the short form takes some by the seed.
async fn each(name: &str, short: usize, part: fn(&str) -> bool) {
    let Some(scene) = Scene::set(name).await else {
        return;
    };
    let cases = CASES.iter().filter(|(call, ..)| part(call));
    let mut all: Vec<_> = cases
        .flat_map(|(call, which, faults)| faults.iter().map(move |f| (*call, *which, *f)))
        .collect();
    if super::rounds().is_none() {
        super::Random::seeded(name.len() as u64).shuffle(&mut all);
        all.truncate(short);
    }
    let before = memory();
    let mut wrong = Vec::new();
    for (call, which, fault) in &all {
        wrong.extend(scene.case(call, *which, *fault).await);
    }
    let grown = memory().saturating_sub(before);
    println!(
        "{name}: {} cases, {} wrong, {} KiB more",
        all.len(),
        wrong.len(),
        grown / 1024
    );
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(grown < 64 << 20, "{grown} bytes more");
    drop(scene.place);
}

fn memory() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.unwrap().trim().trim_end_matches(" kB");
    kib.parse::<u64>().unwrap() * 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn a_create_meets_each_fault() {
    each("badc", 10, |call| call.starts_with("create")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_other_call_meets_each_fault() {
    each("bado", 20, |call| !call.starts_with("create")).await;
}
