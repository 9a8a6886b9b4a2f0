//! `docs/openapi.json` is what the code says. `STACYVM_WRITE_OPENAPI=1` writes it.
//!
//! Schemas come from examples of the types, through serde itself ([`infer`](super::infer)).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value, json};
use stacyvm::error::ErrorKind;
use stacyvm::id::OwnerId;
use stacyvm::provider::{
    Capabilities, Endpoint, Finding, Level, ProbeReport, ProviderInfo, Pull, SnapshotInfo,
};
use stacyvm::sandbox::files::{FileKind, WatchKind};
use stacyvm::sandbox::spec::{Mount, MountSource, Network, Port, SecretReference, Source};
use stacyvm::sandbox::state::{Effective, ProcessInfo, Usage};
use stacyvm::server::route::{Form, ROUTES};
use stacyvm::wire::error::{ErrorBody, RetryBody};
use stacyvm::wire::exec::{
    AttachBody, ExecBody, ExecReply, ExecsReply, LogBody, LostReply, SignalBody, StartedReply,
};
use stacyvm::wire::file::{
    AttributesBody, ChangeReply, EntryReply, ExportBody, FileBody, FileDoneReply, HowBody,
    ImportBody, LeftOutReply, OperationBody, ReadBody, WatchBody, WriteBody,
};
use stacyvm::wire::frame::Kind;
use stacyvm::wire::sandbox::{
    CreateBody, DeadlineBody, DoneReply, EmptyBody, LifetimeBody, OriginBody, OriginReply,
    OwnerReply, ProcessesReply, ProviderReply, PullBody, SandboxReply, SandboxesReply,
    SnapshotBody, StateReply,
};
use stacyvm::wire::{FRAMES, JSON, Raw, TENANT, Time};

use super::infer::{ANY, reference, schema, with_references};
use stacyvm::{ExecId, ExitStatus, SandboxId, SandboxSpec, SignalScope, TtySize};

fn map<T>(value: T) -> BTreeMap<String, T> {
    [(ANY.to_owned(), value)].into()
}

/// A type whose values are these words.
fn words<T: Serialize>(all: &[T]) -> Value {
    let all: Vec<Value> = all
        .iter()
        .map(|one| serde_json::to_value(one).unwrap())
        .collect();
    assert!(all.iter().all(Value::is_string), "{all:?}");
    json!({"type": "string", "enum": all})
}

fn raw() -> Raw {
    Raw(b"/a".to_vec())
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "fields that may be left out are such"
)]
fn some() -> Option<String> {
    Some("a".to_owned())
}

const NOW: Time = Time {
    seconds: 1,
    nanoseconds: 0,
};

fn spec() -> SandboxSpec {
    let mut spec = SandboxSpec::image("a")
        .user("a")
        .workdir("/a")
        .memory_mib(64)
        .cpus(0.5)
        .pids(64)
        .open_files(64)
        .disk_mib(64)
        .ttl(Duration::from_secs(1))
        .idle_timeout(Duration::from_secs(1))
        .network(Network::Allow(vec!["a".into()]))
        .env(ANY, "a")
        .label(ANY, "a");
    for source in [
        MountSource::Host("/a".into()),
        MountSource::Tmpfs { size_mib: 1 },
        MountSource::Volume("a".into()),
    ] {
        spec.mounts.push(Mount {
            target: "/a".into(),
            source,
            writable: false,
            size_mib: Some(8),
        });
    }
    spec.ports.push(Port { guest: 1, host: 1 });
    spec.secrets
        .insert(ANY.into(), SecretReference::Env("A".into()));
    spec.provider_options.insert(ANY.into(), Value::Null);
    spec
}

/// All alternatives of its fields.
fn specs() -> Vec<SandboxSpec> {
    let mut all = Vec::new();
    for source in sources() {
        let mut spec = spec();
        spec.source = source;
        all.push(spec);
    }
    all.push(spec().network(Network::None));
    let mut with_file = spec();
    with_file
        .secrets
        .insert(ANY.into(), SecretReference::File("/a".into()));
    all.push(with_file);
    all
}

fn sources() -> [Source; 3] {
    let name = || "a".to_owned();
    [
        Source::Image(name()),
        Source::Template(name()),
        Source::Snapshot(name()),
    ]
}

fn sandbox() -> SandboxReply {
    let (value, level) = ("a".to_owned(), Level::Enforced);
    SandboxReply {
        id: SandboxId::new("s1").unwrap(),
        tenant: Some("default".to_owned().try_into().unwrap()),
        state: StateReply::Running,
        created: Some(NOW),
        ends: Some(NOW),
        idle_ends: Some(NOW),
        host_pid: Some(1),
        effective: map(Effective { level, value }),
    }
}

fn entry() -> EntryReply {
    EntryReply {
        path: raw(),
        kind: FileKind::File,
        size: 1,
        mode: 1,
        uid: 1,
        gid: 1,
        modified: NOW,
        target: Some(raw()),
        user: some(),
        group: some(),
    }
}

fn exec() -> ExecId {
    ExecId::new("x1").unwrap()
}

fn ends() -> Vec<ExitStatus> {
    let sandbox_ended = false;
    vec![
        ExitStatus::Code { code: 0 },
        ExitStatus::Signal { signal: 9 },
        ExitStatus::TimedOut { sandbox_ended },
        ExitStatus::OutOfMemory,
        ExitStatus::Cancelled { sandbox_ended },
        ExitStatus::SandboxGone,
    ]
}

fn operations() -> Vec<FileBody> {
    use OperationBody as Op;
    let (yes, attributes) = (
        true,
        AttributesBody {
            mode: Some(1),
            owner: some(),
            group: some(),
            modified: Some(NOW),
        },
    );
    let all = vec![
        Op::Stat {
            path: raw(),
            follow: yes,
        },
        Op::List {
            path: raw(),
            depth: 1,
        },
        Op::MakeDir {
            path: raw(),
            parents: yes,
            mode: 1,
        },
        Op::Rename {
            from: raw(),
            to: raw(),
            replace: yes,
        },
        Op::Remove {
            path: raw(),
            recursive: yes,
            missing_ok: yes,
        },
        Op::SetAttributes {
            path: raw(),
            attributes,
            recursive: yes,
            follow: yes,
        },
        Op::Glob {
            pattern: raw(),
            limit: 1,
        },
        Op::Link {
            target: raw(),
            path: raw(),
        },
    ];
    let body = |operation| FileBody {
        user: some(),
        operation,
    };
    all.into_iter().map(body).collect()
}

fn create(spec: SandboxSpec) -> CreateBody {
    CreateBody {
        id: SandboxId::new("s1").unwrap(),
        spec,
        secrets: map("a".into()),
        owner: Some(OwnerId::new("o1").unwrap()),
    }
}

/// Every schema, by the name that routes use.
fn schemas() -> Map<String, Value> {
    let names = || vec!["a".to_owned()];
    let user = some;
    let mut all = Map::new();
    let mut add = |name: &str, schema: Value| drop(all.insert(name.to_owned(), schema));
    add(
        "CreateBody",
        schema(&specs().into_iter().map(create).collect::<Vec<_>>()),
    );
    add(
        "PullBody",
        schema(&sources().map(|source| PullBody {
            source,
            when: Pull::Missing,
        })),
    );
    let origins = specs().into_iter().map(|spec| OriginBody { spec });
    add("OriginBody", schema(&origins.collect::<Vec<_>>()));
    add("SandboxSpec", schema(&specs()));
    add("Capabilities", schema(&[Capabilities::default()]));
    let level = words(&[Level::Absent, Level::BestEffort, Level::Enforced]);
    add("Level", level);
    add("OriginReply", schema(&[OriginReply { origin: "a".into() }]));
    add(
        "OwnerReply",
        schema(&[OwnerReply {
            owner: OwnerId::new("o1").unwrap(),
        }]),
    );
    add("DeadlineBody", schema(&[DeadlineBody { ends: Some(NOW) }]));
    add(
        "LifetimeBody",
        schema(&[LifetimeBody {
            owner: Some(OwnerId::new("o1").unwrap()),
        }]),
    );
    add(
        "SnapshotBody",
        schema(&[SnapshotBody {
            id: "p1".to_owned().try_into().unwrap(),
        }]),
    );
    add("EmptyBody", schema(&[EmptyBody {}]));
    add("DoneReply", schema(&[DoneReply {}]));
    add("SandboxReply", schema(&[sandbox()]));
    add(
        "SandboxesReply",
        schema(&[SandboxesReply {
            sandboxes: vec![sandbox()],
        }]),
    );
    let info = ProviderInfo {
        name: "a".into(),
        runtime: "a".into(),
        versions: map("a".into()),
    };
    let capabilities = serde_json::to_value(Capabilities::default()).unwrap();
    let mut provider = schema(&[ProviderReply { info, capabilities }]);
    provider["properties"]["capabilities"] = reference("Capabilities");
    add("ProviderReply", provider);
    let finding = Finding {
        subject: "a".into(),
        fine: true,
        seen: "a".into(),
        remedy: "a".into(),
    };
    add(
        "ProbeReport",
        schema(&[ProbeReport {
            usable: true,
            findings: vec![finding],
        }]),
    );
    add(
        "ExecBody",
        schema(&[ExecBody {
            exec: exec(),
            argv: vec![raw()],
            env: vec![("A".into(), "a".into())],
            workdir: some(),
            user: user(),
            stdin: true,
            tty: Some(TtySize::default()),
            timeout_us: Some(1),
            background: true,
        }]),
    );
    add(
        "AttachBody",
        schema(&[AttachBody {
            stdin: true,
            replay: true,
        }]),
    );
    add(
        "LogBody",
        schema(&[LogBody {
            follow: true,
            age_us: Some(1),
        }]),
    );
    add(
        "SignalBody",
        schema(&[SignalBody {
            signal: 15,
            scope: SignalScope::Tree,
        }]),
    );
    add(
        "StartedReply",
        schema(&[StartedReply {
            exec: exec(),
            pid: Some(1),
        }]),
    );
    add(
        "LostReply",
        schema(&[LostReply {
            stdout: 1,
            stderr: 1,
        }]),
    );
    add("ExitStatus", schema(&ends()));
    add(
        "ExecsReply",
        schema(&[ExecsReply {
            execs: vec![ExecReply {
                exec: exec(),
                argv: names(),
                pid: Some(1),
                started: Some(NOW),
                exited: Some(ExitStatus::Code { code: 0 }),
                tty: true,
                background: true,
                processes: 1,
            }],
        }]),
    );
    add("FileBody", schema(&operations()));
    add(
        "FileDoneReply",
        schema(&[FileDoneReply {
            entry: Some(entry()),
        }]),
    );
    add("EntryReply", schema(&[entry()]));
    add(
        "ReadBody",
        schema(&[ReadBody {
            user: user(),
            path: raw(),
            offset: 1,
            length: Some(1),
        }]),
    );
    add(
        "WriteBody",
        schema(&[WriteBody {
            user: user(),
            path: raw(),
            how: HowBody::Replace,
            mode: Some(1),
            parents: true,
        }]),
    );
    add(
        "ExportBody",
        schema(&[ExportBody {
            user: user(),
            path: raw(),
            contents: true,
            follow: true,
        }]),
    );
    add(
        "LeftOutReply",
        schema(&[LeftOutReply {
            names: vec![raw()],
            more: 1,
        }]),
    );
    add(
        "ImportBody",
        schema(&[ImportBody {
            user: user(),
            path: raw(),
            parents: true,
            keep_owner: true,
        }]),
    );
    add(
        "WatchBody",
        schema(&[WatchBody {
            user: user(),
            path: raw(),
            recursive: true,
        }]),
    );
    add(
        "ChangeReply",
        schema(&[ChangeReply {
            kind: WatchKind::Created,
            path: raw(),
        }]),
    );
    add(
        "Endpoint",
        schema(&[Endpoint {
            address: "a".into(),
            headers: map("a".into()),
        }]),
    );
    add(
        "ProcessesReply",
        schema(&[ProcessesReply {
            processes: vec![ProcessInfo {
                pid: 1,
                parent: 1,
                uid: 1,
                state: "a".into(),
                argv: names(),
                resident_bytes: 1,
                cpu_us: 1,
                exec: some(),
            }],
        }]),
    );
    add(
        "Usage",
        schema(&[Usage {
            memory_bytes: Some(1),
            memory_peak_bytes: Some(1),
            cpu_us: Some(1),
            processes: Some(1),
            disk_bytes: Some(1),
            oom_kills: Some(1),
        }]),
    );
    add(
        "SnapshotInfo",
        schema(&[SnapshotInfo {
            id: "p1".to_owned().try_into().unwrap(),
            memory: true,
            size_bytes: Some(1),
        }]),
    );
    let mut error = schema(&[ErrorBody {
        kind: "not_found".into(),
        message: "a".into(),
        operation: "a".into(),
        provider: some(),
        context: vec![("a".into(), "a".into())],
        retry: RetryBody::Maybe,
        retry_after_ms: Some(1),
    }]);
    error["properties"]["kind"] = reference("ErrorKind");
    error["properties"]["retry"] =
        words(&[RetryBody::Maybe, RetryBody::Exhausted, RetryBody::Never]);
    add("ErrorBody", error);
    let kinds: Vec<&str> = ErrorKind::ALL.iter().map(|kind| kind.code()).collect();
    add("ErrorKind", words(&kinds));
    add("Raw", schema(&[Raw(b"a".to_vec()), Raw(vec![0xff])]));
    add("Time", schema(&[NOW]));
    add(
        "WriteMode",
        words(&[HowBody::Replace, HowBody::Append, HowBody::CreateNew]),
    );
    add(
        "SignalScope",
        words(&[SignalScope::Process, SignalScope::Group, SignalScope::Tree]),
    );
    add(
        "SandboxState",
        words(&[StateReply::Running, StateReply::Paused, StateReply::Ended]),
    );
    all
}

fn content(form: Form) -> Option<Value> {
    match form {
        Form::Nothing | Form::Upgrade(_) => None,
        Form::Json(name) => Some(json!({JSON: {"schema": reference(name)}})),
        Form::Frames { head, item, end } => {
            let part =
                |name: Option<&str>| name.map_or_else(|| json!("bytes or events"), reference);
            let mut schema =
                json!({"type": "string", "format": "binary", "x-stacyvm-item": part(item)});
            for (key, name) in [("x-stacyvm-head", head), ("x-stacyvm-end", end)] {
                if let Some(name) = name {
                    schema[key] = reference(name);
                }
            }
            Some(json!({FRAMES: {"schema": schema}}))
        }
    }
}

fn parameters(path: &str, query: &[&str]) -> Value {
    let of = |name: &str, place: &str| {
        let is_number = matches!(name, "port" | "limit");
        let kind = if is_number { "integer" } else { "string" };
        json!({"name": name, "in": place, "required": place == "path", "schema": {"type": kind}})
    };
    let named = path
        .split('/')
        .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let mut all: Vec<Value> = named.map(|name| of(name, "path")).collect();
    all.extend(query.iter().map(|name| of(name, "query")));
    let mut tenant = of(TENANT, "header");
    tenant["description"] = json!("The tenant's id; `default` without it");
    all.push(tenant);
    json!(all)
}

fn document() -> Value {
    let mut paths = Map::new();
    for route in ROUTES {
        let mut responses = json!({"default": {
            "description": "It failed",
            "content": {JSON: {"schema": reference("ErrorBody")}},
        }});
        let (status, text) = match route.response {
            Form::Upgrade(protocol) => ("101", format!("The connection speaks {protocol}")),
            _ => ("200", "It is done".to_owned()),
        };
        responses[status] = json!({"description": text});
        if let Some(content) = content(route.response) {
            responses[status]["content"] = content;
        }
        let name = route.operation.map_or_else(
            || route.path.rsplit('/').next().unwrap_or_default(),
            stacyvm::provider::OperationKind::name,
        );
        let mut operation = json!({
            "operationId": name,
            "summary": route.summary,
            "parameters": parameters(route.path, route.query),
            "responses": responses,
        });
        if let Some(content) = content(route.request) {
            operation["requestBody"] = json!({"required": true, "content": content});
        }
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method.to_ascii_lowercase()] = operation;
    }
    let frames: Map<String, Value> = Kind::ALL
        .iter()
        .map(|kind| (format!("{kind:?}"), json!(*kind as u8)))
        .collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "stacyvm",
            "version": "1",
            "description": "One provider of an engine, for programs of its host. What frames and upgrades are is in docs/decisions/0019-http-wire.md.",
        },
        "servers": [{"url": "http://127.0.0.1:7070"}],
        "paths": paths,
        "components": {"schemas": with_references(schemas())},
        "x-stacyvm-frames": frames,
    })
}

#[test]
fn the_document_is_what_the_code_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/openapi.json");
    let text = serde_json::to_string_pretty(&document()).unwrap() + "\n";
    if std::env::var_os("STACYVM_WRITE_OPENAPI").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == text,
        "docs/openapi.json is not current: run this test with STACYVM_WRITE_OPENAPI=1"
    );
}

#[test]
fn every_route_has_an_operation_and_every_name_a_schema() {
    let document = document();
    let known: BTreeSet<String> = schemas().keys().cloned().collect();
    let mut found = BTreeSet::new();
    look(&document, &mut found);
    let missing: Vec<&String> = found.difference(&known).collect();
    assert!(missing.is_empty(), "no schema of {missing:?}");
    let operations: usize = document["paths"]
        .as_object()
        .unwrap()
        .values()
        .map(|p| p.as_object().unwrap().len())
        .sum();
    assert_eq!(
        operations,
        ROUTES.len(),
        "two routes of one method and path"
    );
}

fn look(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                match value
                    .as_str()
                    .and_then(|v| v.strip_prefix("#/components/schemas/"))
                {
                    Some(name) if key == "$ref" => drop(found.insert(name.to_owned())),
                    _ => look(value, found),
                }
            }
        }
        Value::Array(all) => all.iter().for_each(|value| look(value, found)),
        _ => {}
    }
}
