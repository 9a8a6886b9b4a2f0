//! `leaks`, `reconcile`, `df`, `prune`: what is left, and what is not needed.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, SystemTime};

use serde_json::json;
use stacyvm::engine::{Engine, PruneRequest, Pruned};
use stacyvm::provider::{DiskUse, Leftover, Reach};
use stacyvm::units::parse_duration;
use stacyvm::{Error, Result};

use crate::args::{LeaksArgs, PruneArgs};
use crate::{exit, output};

pub(crate) async fn leaks(engine: &Engine, args: &LeaksArgs, json: bool) -> Result<u8> {
    if let Some(id) = &args.remove {
        if !args.yes {
            return Err(unconfirmed("remove", id));
        }
        engine.remove_leak(id).await?;
        if json {
            super::printed(output::json(&json!({ "removed": id })))?;
        }
        return Ok(0);
    }
    let reach = if args.all { Reach::Host } else { Reach::Own };
    let report = engine.leaks(reach).await?;
    if args.all && !json && !rustix::process::geteuid().is_root() {
        output::remark("what is root's or another user's is not seen without root");
    }
    let lacking = tell_failed(engine, &report.not_asked, args.all, json).await?;
    let code = if !report.leaks.is_empty() {
        exit::LEAKS
    } else if lacking {
        exit::FAILED
    } else {
        0
    };
    if json {
        super::printed(output::json(&report))?;
        return Ok(code);
    }
    let all: Vec<&Leftover> = report.leaks.iter().chain(&report.accounted).collect();
    if all.is_empty() {
        super::printed(output::line("nothing"))?;
        return Ok(code);
    }
    // An id is there to be copied, so nothing of it may be cut off.
    for leftover in all {
        let owner = if leftover.owner_lives {
            "alive"
        } else {
            "dead"
        };
        let facts = [
            (
                "instance",
                leftover.instance.as_ref().map(ToString::to_string),
            ),
            ("state directory", leftover.state_dir.clone()),
            (
                "sandbox",
                leftover.sandbox.as_ref().map(ToString::to_string),
            ),
        ];
        let owner: Vec<String> = std::iter::once(owner.to_owned())
            .chain(
                facts
                    .into_iter()
                    .filter_map(|(what, value)| Some(format!("{what} {}", value?))),
            )
            .collect();
        let lines = [
            leftover.id.clone(),
            format!("  owner: {}", owner.join(", ")),
            format!("  known by: {}", leftover.evidence),
            format!("  remedy: {}", leftover.remedy),
        ];
        super::printed(
            lines
                .iter()
                .try_for_each(|line| output::line(&stacyvm::error::escape(line))),
        )?;
    }
    Ok(code)
}

pub(crate) async fn reconcile(engine: &Engine, json: bool) -> Result<u8> {
    let swept = engine.sweep().await;
    let done = engine.reconcile().await?;
    let lacking = tell_failed(engine, &swept.not_asked, false, json).await?;
    let lacking = tell_not_removed(&swept, json) || lacking;
    let code = if lacking || !done.postponed.is_empty() {
        exit::FAILED
    } else {
        0
    };
    if json {
        let postponed = done
            .postponed
            .iter()
            .map(|(id, why)| json!({ "sandbox": id, "reason": why }))
            .collect::<Vec<_>>();
        super::printed(output::json(&json!({
            "finished": done.finished,
            "ended": done.ended,
            "postponed": postponed,
            "swept": swept.items,
            "not_removed": swept.not_removed,
            "not_asked": swept.not_asked,
        })))?;
        return Ok(code);
    }
    let mut lines = Vec::new();
    for id in &done.finished {
        lines.push(format!(
            "{id} was half made or half ended; nothing of it is left"
        ));
    }
    for id in &done.ended {
        lines.push(format!("{id} had ended; its record says so now"));
    }
    for item in &swept.items {
        lines.push(format!(
            "{} {} of a dead helper was removed",
            item.kind, item.name
        ));
    }
    for (id, why) in &done.postponed {
        lines.push(format!("{id} could not be judged now: {why}"));
    }
    if lines.is_empty() {
        lines.push("nothing to do".to_owned());
    }
    super::printed(
        lines
            .iter()
            .try_for_each(|line| output::line(&stacyvm::error::escape(line))),
    )?;
    Ok(code)
}

pub(crate) async fn df(engine: &Engine, json: bool) -> Result<u8> {
    let report = engine.disk_use().await?;
    let lacking = tell_failed(engine, &report.not_asked, false, json).await?;
    let code = if lacking { exit::FAILED } else { 0 };
    if json {
        let total: u64 = report.items.iter().map(|item| item.bytes).sum();
        super::printed(output::json(&json!({
            "items": report.items,
            "total_bytes": total,
            "not_asked": report.not_asked,
        })))?;
        return Ok(code);
    }
    super::printed(output::table(
        &["KIND", "NAME", "ON DISK"],
        &rows(&report.items),
    ))?;
    Ok(code)
}

pub(crate) async fn prune(engine: &Engine, args: &PruneArgs, json: bool) -> Result<u8> {
    let older_than = match args.older_than.as_deref() {
        Some(text) => parse_duration("older-than", text)?,
        None => Duration::ZERO,
    };
    // Before the moment is taken, which an end that is recorded later is past.
    engine.record_ends().await?;
    let mut request = PruneRequest {
        older_than,
        at: Some(SystemTime::now()),
        volumes: args.volumes,
        dry_run: true,
        ..PruneRequest::default()
    };
    if !args.yes {
        let wanted = engine.prune(&request).await?;
        let for_ever = wanted.records > 0 || wanted.items.iter().any(|item| item.kind == "volume");
        if for_ever && !confirmed(&wanted)? {
            return Err(unconfirmed("prune", &summary(&wanted)));
        }
        // What was asked for is what goes, whatever is there by now.
        request.only_volumes = Some(volumes(&wanted).map(str::to_owned).collect());
    }
    request.dry_run = false;
    let pruned = engine.prune(&request).await?;
    let bytes: u64 = pruned.items.iter().map(|item| item.bytes).sum();
    let lacking = tell_failed(engine, &pruned.not_asked, false, json).await?;
    let lacking = tell_not_removed(&pruned, json) || lacking;
    let code = if lacking { exit::FAILED } else { 0 };
    if json {
        super::printed(output::json(&json!({
            "records": pruned.records,
            "items": pruned.items,
            "freed_bytes": bytes,
            "not_removed": pruned.not_removed,
            "not_asked": pruned.not_asked,
        })))?;
        return Ok(code);
    }
    if !pruned.items.is_empty() {
        super::printed(output::table(
            &["KIND", "NAME", "FREED"],
            &rows(&pruned.items),
        ))?;
    }
    super::printed(output::line(&format!(
        "freed {} and the records of {} ended sandboxes",
        size(bytes),
        pruned.records
    )))?;
    Ok(code)
}

/// Asks a person; nobody is there where standard input is no terminal.
fn confirmed(wanted: &Pruned) -> Result<bool> {
    if !std::io::stdin().is_terminal() {
        return Ok(false);
    }
    let mut err = std::io::stderr().lock();
    let asked = write!(
        err,
        "stacyvm: {}; this cannot be had back. Go on? [y/N] ",
        summary(wanted)
    );
    super::printed(asked.and_then(|()| err.flush()))?;
    let mut answer = String::new();
    super::printed(std::io::stdin().read_line(&mut answer).map(drop))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn volumes(wanted: &Pruned) -> impl Iterator<Item = &str> {
    let volumes = wanted.items.iter().filter(|item| item.kind == "volume");
    volumes.map(|item| item.name.as_str())
}

fn summary(wanted: &Pruned) -> String {
    let volumes: Vec<&str> = volumes(wanted).collect();
    let records = format!("up to {} records of ended sandboxes", wanted.records);
    if volumes.is_empty() {
        return records;
    }
    format!("{records}, the volumes {}", volumes.join(", "))
}

fn unconfirmed(what: &str, value: &str) -> Error {
    Error::invalid(
        what,
        value,
        "a yes, because it cannot be had back",
        "add --yes",
    )
}

/// Names the providers that could not be asked, where something of them may be
/// there; true where one of those is in use, so that the answer is not whole.
async fn tell_failed(
    engine: &Engine,
    failed: &BTreeMap<String, String>,
    always: bool,
    json: bool,
) -> Result<bool> {
    let mut lacking = false;
    for (name, why) in failed {
        let uses = engine.uses(name).await?;
        lacking |= uses;
        if !json && (always || uses) {
            output::remark(&format!("provider {name} was not asked: {why}"));
        }
    }
    Ok(lacking)
}

/// Says what could not be removed; true where there is something.
fn tell_not_removed(pruned: &Pruned, json: bool) -> bool {
    for item in &pruned.not_removed {
        if !json {
            output::remark(&format!(
                "{} {} could not be removed: {}",
                item.kind, item.name, item.reason
            ));
        }
    }
    !pruned.not_removed.is_empty()
}

fn rows(items: &[DiskUse]) -> Vec<Vec<String>> {
    let row = |item: &DiskUse| {
        let at_least = if item.complete { "" } else { "at least " };
        let bytes = format!("{at_least}{}", size(item.bytes));
        vec![item.kind.clone(), item.name.clone(), bytes]
    };
    items.iter().map(row).collect()
}

/// Bytes for people.
fn size(bytes: u64) -> String {
    let unit = [("GiB", 30), ("MiB", 20), ("KiB", 10)]
        .into_iter()
        .find(|(_, shift)| bytes >= 1 << shift);
    match unit {
        Some((unit, shift)) => {
            let tenths = (u128::from(bytes) * 10) >> shift;
            format!("{}.{} {unit}", tenths / 10, tenths % 10)
        }
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_are_shown_by_their_largest_unit() {
        for (bytes, shown) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.5 KiB"),
            (5 << 20, "5.0 MiB"),
            (u64::MAX, "17179869183.9 GiB"),
        ] {
            assert_eq!(size(bytes), shown);
        }
    }
}
