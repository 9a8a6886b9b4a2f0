//! The questions, each answered through an index.

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Params, Row, params_from_iter};

use super::super::record::{ExecRecord, Page, SandboxFilter, SandboxRecord};
use super::super::rules;
use super::fault::Fault;
use super::rows;
use crate::id::{ExecId, SandboxId, TenantId};
use crate::sandbox::state::Phase;

pub(super) fn all<T>(
    db: &Connection,
    sql: &str,
    params: impl Params,
    read: impl Fn(&Row<'_>) -> Result<T, Fault>,
) -> Result<Vec<T>, Fault> {
    let mut statement = db.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(read(row)?);
    }
    drop(rows);
    #[cfg(test)]
    assert_indexed(&statement, sql);
    Ok(found)
}

/// Fails a test whose question looked through a table or sorted what it found.
#[cfg(test)]
fn assert_indexed(statement: &rusqlite::Statement<'_>, sql: &str) {
    use rusqlite::StatementStatus::{FullscanStep, Sort};
    assert!(
        statement.get_status(FullscanStep) == 0 || !sql.contains("WHERE"),
        "looks through a table: {sql}"
    );
    assert_eq!(statement.get_status(Sort), 0, "sorts: {sql}");
}

fn one<T>(
    db: &Connection,
    sql: &str,
    params: impl Params,
    read: impl Fn(&Row<'_>) -> Result<T, Fault>,
) -> Result<Option<T>, Fault> {
    Ok(all(db, sql, params, read)?.pop())
}

/// A sandbox of any tenant.
pub(super) fn sandbox_of_any(
    db: &Connection,
    id: &SandboxId,
) -> Result<Option<SandboxRecord>, Fault> {
    let sql = format!("SELECT {} FROM sandboxes s WHERE s.id = ?1", rows::SANDBOX);
    one(db, &sql, [id.as_str()], rows::sandbox)
}

pub(super) fn sandbox(
    db: &Connection,
    tenant: &TenantId,
    id: &SandboxId,
) -> Result<SandboxRecord, Fault> {
    sandbox_of_any(db, id)?
        .filter(|r| r.tenant == *tenant)
        .ok_or_else(|| rules::no_sandbox(id).into())
}

/// Fails unless the tenant has that sandbox.
pub(super) fn must_exist(db: &Connection, tenant: &TenantId, id: &SandboxId) -> Result<(), Fault> {
    db.prepare_cached("SELECT 1 FROM sandboxes WHERE id = ?1 AND tenant = ?2")?
        .query_row([id.as_str(), tenant.as_str()], |_| Ok(()))
        .optional()?
        .ok_or_else(|| rules::no_sandbox(id).into())
}

pub(super) fn holder_of_key(
    db: &Connection,
    tenant: &TenantId,
    key: &str,
) -> Result<Option<SandboxRecord>, Fault> {
    let sql = format!(
        "SELECT {} FROM sandboxes s WHERE s.tenant = ?1 AND s.idempotency_key = ?2",
        rows::SANDBOX
    );
    one(db, &sql, [tenant.as_str(), key], rows::sandbox)
}

pub(super) fn exec(
    db: &Connection,
    id: &SandboxId,
    exec: &ExecId,
) -> Result<Option<ExecRecord>, Fault> {
    one(
        db,
        "SELECT sandbox, exec, program, arguments, started_ms, background, exit, ended_ms \
         FROM execs WHERE sandbox = ?1 AND exec = ?2",
        [id.as_str(), exec.as_str()],
        rows::exec,
    )
}

/// A list of sandboxes. Every question is asked of an index that is already in
/// the order of ids, so that a page costs what it holds; several phases are
/// several questions, merged.
pub(super) fn sandboxes(
    db: &Connection,
    tenant: &TenantId,
    filter: &SandboxFilter,
    after: Option<&SandboxId>,
    limit: u32,
) -> Result<Page<SandboxRecord, SandboxId>, Fault> {
    let limit = rules::page(limit);
    let mut found = Vec::new();
    for (sql, values) in questions(tenant, filter, after, limit + 1) {
        found.extend(all(db, &sql, params_from_iter(values), rows::sandbox)?);
    }
    found.sort_unstable_by(|a, b| a.id.cmp(&b.id));
    Ok(Page::cut(found, limit, |r| r.id.clone()))
}

/// The questions of one list, with their values.
pub(super) fn questions(
    tenant: &TenantId,
    filter: &SandboxFilter,
    after: Option<&SandboxId>,
    limit: usize,
) -> Vec<(String, Vec<Value>)> {
    // A label or an owner narrows more than a phase, and leads where given.
    let led = !filter.labels.is_empty() || filter.owner.is_some();
    let phases: Vec<Option<&[Phase]>> = if filter.phases.is_empty() {
        vec![None]
    } else if led {
        vec![Some(&filter.phases)]
    } else {
        let mut phases: Vec<_> = filter.phases.iter().collect();
        phases.sort_unstable_by_key(|p| p.name());
        phases.dedup();
        phases
            .into_iter()
            .map(|p| Some(std::slice::from_ref(p)))
            .collect()
    };
    phases
        .into_iter()
        .map(|phases| question(tenant, filter, phases, after, limit))
        .collect()
}

fn question(
    tenant: &TenantId,
    filter: &SandboxFilter,
    phases: Option<&[Phase]>,
    after: Option<&SandboxId>,
    limit: usize,
) -> (String, Vec<Value>) {
    let mut values: Vec<Value> = Vec::new();
    let mut wheres: Vec<String> = Vec::new();
    let bind = |values: &mut Vec<Value>, text: &str| {
        values.push(Value::Text(text.to_owned()));
        format!("?{}", values.len())
    };
    let mut labels = filter.labels.iter();
    let mut from = "sandboxes s".to_owned();
    let mut id = "s.id";
    if let Some((name, value)) = labels.next() {
        // A cross join keeps the label in front.
        "labels l CROSS JOIN sandboxes s".clone_into(&mut from);
        id = "l.sandbox";
        let (name, value) = (bind(&mut values, name), bind(&mut values, value));
        wheres.push(format!(
            "l.name = {name} AND l.value = {value} AND s.id = l.sandbox"
        ));
    }
    for (name, value) in labels {
        let (name, value) = (bind(&mut values, name), bind(&mut values, value));
        wheres.push(format!(
            "EXISTS (SELECT 1 FROM labels m WHERE m.name = {name} AND m.value = {value} AND m.sandbox = s.id)"
        ));
    }
    if !filter.all_tenants {
        // The plus takes a column out of the choice of an index.
        let lead = if filter.owner.is_some() { "+" } else { "" };
        let tenant = bind(&mut values, tenant.as_str());
        wheres.push(format!("{lead}s.tenant = {tenant}"));
    }
    if let Some(owner) = &filter.owner {
        let owner = bind(&mut values, owner);
        wheres.push(format!("s.owner = {owner}"));
    }
    if let Some(provider) = &filter.provider {
        let provider = bind(&mut values, provider);
        wheres.push(format!("s.provider = {provider}"));
    }
    if let Some(phases) = phases {
        let lead = if filter.owner.is_some() { "+" } else { "" };
        let names: Vec<_> = phases.iter().map(|p| bind(&mut values, p.name())).collect();
        wheres.push(match names.as_slice() {
            [one] => format!("{lead}s.phase = {one}"),
            many => format!("{lead}s.phase IN ({})", many.join(", ")),
        });
    }
    if let Some(after) = after {
        let after = bind(&mut values, after.as_str());
        wheres.push(format!("{id} > {after}"));
    }
    let condition = if wheres.is_empty() {
        String::new()
    } else {
        format!(" WHERE {}", wheres.join(" AND "))
    };
    let sql = format!(
        "SELECT {} FROM {from}{condition} ORDER BY {id} LIMIT {limit}",
        rows::SANDBOX
    );
    (sql, values)
}
