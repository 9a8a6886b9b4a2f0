//! `ls`, `inspect`, `ps`, `providers`, `config show`: what is there.

use std::time::SystemTime;

use serde_json::json;
use stacyvm::Result;
use stacyvm::config::Config;
use stacyvm::engine::Engine;
use stacyvm::sandbox::spec::Source;
use stacyvm::units::format_duration;

use crate::args::{IdArgs, IdsArgs, LsArgs};
use crate::output;

pub(crate) async fn ls(engine: &Engine, args: &LsArgs, json: bool) -> Result<u8> {
    let sandboxes = super::all(engine, args.all, &args.labels).await?;
    if json {
        super::printed(output::json(&sandboxes))?;
    } else if args.quiet {
        super::printed(
            sandboxes
                .iter()
                .try_for_each(|s| output::line(s.id.as_str())),
        )?;
    } else {
        let rows: Vec<Vec<String>> = sandboxes
            .iter()
            .map(|s| {
                vec![
                    s.id.to_string(),
                    s.phase.name().to_owned(),
                    format!("{}/{}", s.provider, s.runtime),
                    source(&s.source),
                    ago(Some(s.created)),
                    // One that ended had an end in sight, which says nothing now.
                    until(
                        s.ends
                            .into_iter()
                            .chain(s.idle_ends)
                            .min()
                            .filter(|_| !s.phase.is_final()),
                    ),
                    s.labels
                        .iter()
                        .map(|(k, v)| format!("{k}={v}"))
                        .collect::<Vec<_>>()
                        .join(","),
                ]
            })
            .collect();
        let heading = [
            "ID", "PHASE", "PROVIDER", "IMAGE", "CREATED", "ENDS", "LABELS",
        ];
        super::printed(output::table(&heading, &rows))?;
    }
    Ok(0)
}

pub(crate) async fn inspect(engine: &Engine, args: &IdsArgs) -> Result<u8> {
    let mut found = Vec::new();
    for name in &args.sandboxes {
        found.push(engine.get(name).await?.info().await?);
    }
    super::printed(output::json(&found))?;
    Ok(0)
}

pub(crate) async fn ps(engine: &Engine, args: &IdArgs, json: bool) -> Result<u8> {
    let sandbox = engine.get(&args.sandbox).await?;
    let (execs, processes) = (sandbox.execs().await?, sandbox.processes().await?);
    if json {
        super::printed(output::json(
            &json!({ "execs": execs, "processes": processes }),
        ))?;
        return Ok(0);
    }
    let rows: Vec<Vec<String>> = processes
        .iter()
        .map(|p| {
            vec![
                p.pid.to_string(),
                p.parent.to_string(),
                p.uid.to_string(),
                p.state.clone(),
                format!("{} MiB", p.resident_bytes / (1024 * 1024)),
                format!("{}.{:02}s", p.cpu_us / 1_000_000, p.cpu_us / 10_000 % 100),
                p.exec.clone().unwrap_or_else(|| "-".into()),
                p.argv.join(" "),
            ]
        })
        .collect();
    let heading = [
        "PID", "PARENT", "UID", "STATE", "MEMORY", "CPU", "EXEC", "COMMAND",
    ];
    super::printed(output::table(&heading, &rows))?;
    Ok(0)
}

pub(crate) async fn providers(engine: &Engine, json: bool) -> Result<u8> {
    let providers = engine.providers().await;
    if json {
        super::printed(output::json(&providers))?;
        return Ok(0);
    }
    let rows: Vec<Vec<String>> = providers
        .iter()
        .map(|p| {
            let reasons = p.probe.findings.iter().filter(|f| !f.fine).map(|f| {
                if f.remedy.is_empty() {
                    f.seen.as_str()
                } else {
                    f.remedy.as_str()
                }
            });
            let reasons = p.error.as_deref().into_iter().chain(reasons);
            vec![
                p.name.clone(),
                p.runtime.clone(),
                if p.probe.usable { "yes" } else { "no" }.to_owned(),
                reasons.collect::<Vec<_>>().join("; "),
            ]
        })
        .collect();
    super::printed(output::table(
        &["PROVIDER", "RUNTIME", "USABLE", "REMARK"],
        &rows,
    ))?;
    Ok(0)
}

pub(crate) fn config(config: &Config, origin: bool, json: bool) -> Result<u8> {
    let settings = config.settings();
    if json {
        super::printed(output::json(&settings))?;
        return Ok(0);
    }
    let rows: Vec<Vec<String>> = settings
        .iter()
        .map(|s| {
            let mut row = vec![s.name.clone(), s.value.clone()];
            if origin {
                row.push(s.origin.to_string());
            }
            row
        })
        .collect();
    let heading: &[&str] = if origin {
        &["SETTING", "VALUE", "ORIGIN"]
    } else {
        &["SETTING", "VALUE"]
    };
    super::printed(output::table(heading, &rows))?;
    Ok(0)
}

fn source(source: &Source) -> String {
    let (Source::Image(name) | Source::Template(name) | Source::Snapshot(name)) = source;
    name.clone()
}

fn ago(time: Option<SystemTime>) -> String {
    time.and_then(|t| SystemTime::now().duration_since(t).ok())
        .map_or_else(|| "-".into(), |d| format!("{} ago", rough(d)))
}

fn until(time: Option<SystemTime>) -> String {
    match time.map(|t| t.duration_since(SystemTime::now())) {
        None => "-".into(),
        Some(Ok(left)) => format!("in {}", rough(left)),
        Some(Err(_)) => "now".into(),
    }
}

/// The largest unit only.
fn rough(duration: std::time::Duration) -> String {
    let seconds = duration.as_secs();
    let unit = [86_400, 3_600, 60, 1]
        .into_iter()
        .find(|unit| seconds >= *unit)
        .unwrap_or(1);
    format_duration(std::time::Duration::from_secs(seconds / unit * unit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn spans_are_shown_by_their_largest_unit() {
        for (seconds, shown) in [
            (0, "0s"),
            (59, "59s"),
            (61, "1m"),
            (3_700, "1h"),
            (90_000, "1d"),
        ] {
            assert_eq!(rough(Duration::from_secs(seconds)), shown);
        }
    }
}
