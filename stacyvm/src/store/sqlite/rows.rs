//! Records as rows, and back.

use std::fmt::Write as _;

use rusqlite::types::Value;
use rusqlite::{Connection, Row, params, params_from_iter};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::super::record::{
    ExecRecord, JournalEntry, JournalStep, Resource, ResourceState, SandboxRecord,
};
use super::fault::{self, Fault};
use crate::error::Error;
use crate::id::{ExecId, SandboxId, TenantId};
use crate::sandbox::spec::Lifetime;
use crate::sandbox::state::Phase;

/// The columns of a sandbox, in the order that [`sandbox`] reads.
pub(super) const SANDBOX: &str = "s.id, s.tenant, s.provider, s.runtime, s.phase, s.version, \
     s.spec, s.digest, s.labels, s.created_ms, s.updated_ms, s.ends_ms, s.ended_ms, s.lifetime, \
     s.idempotency_key, s.owner, s.effective, s.failure, s.outlives_host";

/// A number as SQLite keeps it. No time or count of ours comes near the end.
pub(super) fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn json<T: Serialize>(value: &T) -> String {
    // Maps with text keys, numbers and text: this cannot fail.
    serde_json::to_string(value).expect("a record is representable as JSON")
}

fn lifetime_name(lifetime: Lifetime) -> &'static str {
    match lifetime {
        Lifetime::Attached => "attached",
        Lifetime::Detached => "detached",
    }
}

/// Reads the columns of one row and names the one that is damaged.
struct Columns<'a> {
    row: &'a Row<'a>,
    table: &'static str,
}

impl Columns<'_> {
    fn bad(&self, index: usize) -> Error {
        let name = self.row.as_ref().column_name(index).unwrap_or("?");
        fault::bad_row(self.table, name)
    }

    fn get<T: rusqlite::types::FromSql>(&self, index: usize) -> Result<T, Error> {
        self.row.get(index).map_err(|_| self.bad(index))
    }

    fn map<T>(&self, index: usize, read: impl FnOnce(String) -> Option<T>) -> Result<T, Error> {
        read(self.get(index)?).ok_or_else(|| self.bad(index))
    }

    fn json<T: DeserializeOwned>(&self, index: usize) -> Result<T, Error> {
        self.map(index, |text| serde_json::from_str(&text).ok())
    }

    fn number(&self, index: usize) -> Result<u64, Error> {
        u64::try_from(self.get::<i64>(index)?).map_err(|_| self.bad(index))
    }

    fn optional(&self, index: usize) -> Result<Option<u64>, Error> {
        let value: Option<i64> = self.get(index)?;
        value
            .map(|v| u64::try_from(v).map_err(|_| self.bad(index)))
            .transpose()
    }
}

pub(super) fn sandbox(row: &Row<'_>) -> Result<SandboxRecord, Fault> {
    let c = Columns {
        row,
        table: "sandboxes",
    };
    Ok(SandboxRecord {
        id: c.map(0, |t| SandboxId::new(t).ok())?,
        tenant: c.map(1, |t| TenantId::new(t).ok())?,
        provider: c.get(2)?,
        runtime: c.get(3)?,
        phase: c.map(4, |t| Phase::ALL.iter().find(|p| p.name() == t).copied())?,
        version: c.number(5)?,
        spec: c.json(6)?,
        digest: c.get(7)?,
        labels: c.json(8)?,
        created_ms: c.number(9)?,
        updated_ms: c.number(10)?,
        ends_ms: c.optional(11)?,
        ended_ms: c.optional(12)?,
        lifetime: c.map(13, |t| {
            [Lifetime::Attached, Lifetime::Detached]
                .into_iter()
                .find(|l| lifetime_name(*l) == t)
        })?,
        idempotency_key: c.get(14)?,
        owner: c.get(15)?,
        effective: c.json(16)?,
        failure: c.get(17)?,
        outlives_host: c.get(18)?,
    })
}

pub(super) fn journal(row: &Row<'_>) -> Result<JournalEntry, Fault> {
    let c = Columns {
        row,
        table: "journal",
    };
    Ok(JournalEntry {
        seq: c.number(0)?,
        step: c.map(1, |t| JournalStep::from_name(&t))?,
        at_ms: c.number(2)?,
        detail: c.get(3)?,
    })
}

pub(super) fn resource(row: &Row<'_>) -> Result<Resource, Fault> {
    let c = Columns {
        row,
        table: "ledger",
    };
    Ok(Resource {
        kind: c.get(0)?,
        name: c.get(1)?,
        state: c.map(2, |t| ResourceState::from_name(&t))?,
    })
}

pub(super) fn exec(row: &Row<'_>) -> Result<ExecRecord, Fault> {
    let c = Columns {
        row,
        table: "execs",
    };
    let exit: Option<String> = c.get(6)?;
    Ok(ExecRecord {
        sandbox: c.map(0, |t| SandboxId::new(t).ok())?,
        exec: c.map(1, |t| ExecId::new(t).ok())?,
        program: c.get(2)?,
        arguments: c.get(3)?,
        started_ms: c.number(4)?,
        background: c.get(5)?,
        exit: exit
            .map(|t| serde_json::from_str(&t).map_err(|_| c.bad(6)))
            .transpose()?,
        ended_ms: c.optional(7)?,
    })
}

pub(super) fn insert_sandbox(db: &Connection, r: &SandboxRecord) -> Result<(), Fault> {
    db.prepare_cached(
        "INSERT INTO sandboxes (id, tenant, provider, runtime, phase, version, spec, digest, \
         labels, created_ms, updated_ms, ends_ms, ended_ms, lifetime, idempotency_key, owner, \
         effective, failure, outlives_host) \
         VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16,?17,?18,?19)",
    )?
    .execute(params![
        r.id.as_str(),
        r.tenant.as_str(),
        r.provider,
        r.runtime,
        r.phase.name(),
        int(r.version),
        json(&r.spec),
        r.digest,
        json(&r.labels),
        int(r.created_ms),
        int(r.updated_ms),
        r.ends_ms.map(int),
        r.ended_ms.map(int),
        lifetime_name(r.lifetime),
        r.idempotency_key,
        r.owner,
        json(&r.effective),
        r.failure,
        r.outlives_host,
    ])?;
    insert_labels(db, r)
}

/// Writes what changed of a sandbox, if it is at version `before`. An index costs
/// a page, so columns that stay as they are are not named.
pub(super) fn update_sandbox(
    db: &Connection,
    before: &SandboxRecord,
    r: &SandboxRecord,
) -> Result<(), Fault> {
    let id = r.id.as_str();
    let mut sql = "UPDATE sandboxes SET version = ?3, updated_ms = ?4".to_owned();
    let mut values = vec![
        Value::from(id.to_owned()),
        int(before.version).into(),
        int(r.version).into(),
        int(r.updated_ms).into(),
    ];
    let mut set = |column: &str, value: Value| {
        values.push(value);
        // Writing to a text cannot fail.
        let _ = write!(sql, ", {column} = ?{}", values.len());
    };
    if before.phase != r.phase {
        set("phase", r.phase.name().to_owned().into());
    }
    if before.labels != r.labels {
        set("labels", json(&r.labels).into());
    }
    if before.ends_ms != r.ends_ms {
        set("ends_ms", r.ends_ms.map(int).into());
    }
    if before.ended_ms != r.ended_ms {
        set("ended_ms", r.ended_ms.map(int).into());
    }
    if before.owner != r.owner {
        set("owner", r.owner.clone().into());
    }
    if before.effective != r.effective {
        set("effective", json(&r.effective).into());
    }
    if before.failure != r.failure {
        set("failure", r.failure.clone().into());
    }
    if before.spec != r.spec {
        set("spec", json(&r.spec).into());
    }
    if before.digest != r.digest {
        set("digest", r.digest.clone().into());
    }
    if before.lifetime != r.lifetime {
        set("lifetime", lifetime_name(r.lifetime).to_owned().into());
    }
    sql.push_str(" WHERE id = ?1 AND version = ?2");
    let changed = db.prepare_cached(&sql)?.execute(params_from_iter(values))?;
    if changed != 1 {
        // The transaction read that version: nobody can have come between.
        return Err(fault::bad_row("sandboxes", "version").into());
    }
    if before.labels != r.labels {
        db.prepare_cached("DELETE FROM labels WHERE sandbox = ?1")?
            .execute([id])?;
        insert_labels(db, r)?;
    }
    Ok(())
}

fn insert_labels(db: &Connection, r: &SandboxRecord) -> Result<(), Fault> {
    let mut insert =
        db.prepare_cached("INSERT INTO labels (name, value, sandbox) VALUES (?1, ?2, ?3)")?;
    for (name, value) in &r.labels {
        insert.execute(params![name, value, r.id.as_str()])?;
    }
    Ok(())
}

pub(super) fn insert_journal(
    db: &Connection,
    id: &SandboxId,
    step: JournalStep,
    at_ms: u64,
    detail: &str,
) -> Result<u64, Fault> {
    let seq: i64 = db
        .prepare_cached(
            "INSERT INTO journal (sandbox, seq, step, at_ms, detail) VALUES (?1, \
             (SELECT coalesce(max(seq), 0) + 1 FROM journal WHERE sandbox = ?1), ?2, ?3, ?4) \
             RETURNING seq",
        )?
        .query_row(
            params![id.as_str(), step.name(), int(at_ms), detail],
            |row| row.get(0),
        )?;
    Ok(seq.unsigned_abs())
}

pub(super) fn put_resources(
    db: &Connection,
    id: &SandboxId,
    resources: &[Resource],
) -> Result<(), Fault> {
    let mut put = db.prepare_cached(
        "INSERT INTO ledger (sandbox, kind, name, state) VALUES (?1, ?2, ?3, ?4) \
         ON CONFLICT (sandbox, kind, name) DO UPDATE SET state = excluded.state",
    )?;
    for r in resources {
        put.execute(params![id.as_str(), r.kind, r.name, r.state.name()])?;
    }
    Ok(())
}

pub(super) fn insert_exec(db: &Connection, e: &ExecRecord) -> Result<(), Fault> {
    db.prepare_cached(
        "INSERT INTO execs (sandbox, exec, program, arguments, started_ms, background, exit, \
         ended_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?
    .execute(params![
        e.sandbox.as_str(),
        e.exec.as_str(),
        e.program,
        e.arguments,
        int(e.started_ms),
        e.background,
        e.exit.as_ref().map(json),
        e.ended_ms.map(int),
    ])?;
    Ok(())
}

pub(super) fn end_exec(
    db: &Connection,
    e: &ExecRecord,
    exit: crate::sandbox::exec::ExitStatus,
    ended_ms: u64,
) -> Result<(), Fault> {
    db.prepare_cached(
        "UPDATE execs SET exit = ?1, ended_ms = ?2 WHERE sandbox = ?3 AND exec = ?4 AND exit IS NULL",
    )?
    .execute(params![
        json(&exit),
        int(ended_ms),
        e.sandbox.as_str(),
        e.exec.as_str()
    ])?;
    Ok(())
}
