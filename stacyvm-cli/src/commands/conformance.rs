//! `conformance`: the suite that every provider is run against.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use stacyvm::config::Config;
use stacyvm::engine::Engine;
use stacyvm::sandbox::spec::Lifetime;
use stacyvm::units::parse_duration;
use stacyvm::{Error, ErrorKind, Result, SandboxSpec};
use stacyvm_conformance::{CASES, Harness, Level, Options, Outcome, Report, Selection, Subject};

use crate::args::ConformanceArgs;
use crate::{exit, output};

/// A provider as it is configured.
struct Configured {
    engine: Engine,
    provider: String,
    spec: SandboxSpec,
}

#[async_trait]
impl Harness for Configured {
    fn name(&self) -> &str {
        &self.provider
    }

    async fn open(&self) -> Result<Subject> {
        Subject::of_engine(self.engine.clone(), &self.provider, self.spec.clone()).await
    }
}

pub(crate) async fn run(
    engine: &Engine,
    config: &Config,
    args: &ConformanceArgs,
    json: bool,
) -> Result<u8> {
    if let (Some(file), false) = (&args.report, json) {
        return Err(Error::invalid(
            "FILE",
            file.display(),
            "a file only together with --json",
            "add --json, or name cases with --case",
        ));
    }
    let selection = Selection {
        suites: args.suite.clone(),
        patterns: args.case.clone(),
    };
    let cases = selection.of(&CASES)?;
    let options = Options {
        deadline: parse_duration("deadline", &args.deadline)?,
        jobs: usize::from(args.jobs),
    };
    let provider = args.provider.clone();
    let provider = provider.unwrap_or_else(|| config.default_provider.clone());
    // One that cannot be opened fails the run once, and not each of its cases.
    let claims = engine.provider(&provider).await?.capabilities();
    let mut spec = SandboxSpec::image(&args.image);
    if claims.attached_lifetime {
        spec = spec.lifetime(Lifetime::Attached);
    }
    let harness: Arc<dyn Harness> = Arc::new(Configured {
        engine: engine.clone(),
        provider,
        spec,
    });
    let report = stacyvm_conformance::run(&harness, &cases, &options).await;
    if let Some(file) = &args.junit {
        write(file, &report.to_junit())?;
    }
    match &args.report {
        Some(file) => {
            write(file, &report.to_json())?;
            super::printed(output::line(&sum(&report)))?;
        }
        None if json => super::printed(output::json(&report))?,
        None => super::printed(show(&report))?,
    }
    Ok(if report.count(Outcome::Failed) > 0 {
        exit::FIRED
    } else if !report.fulfils() || report.count(Outcome::NotRun) > 0 {
        exit::UNPROVED
    } else {
        0
    })
}

fn write(file: &Path, text: &str) -> Result<()> {
    stacyvm_conformance::write_file(file, text).map_err(|error| {
        let kind = match error.kind() {
            std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            std::io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
            std::io::ErrorKind::StorageFull => ErrorKind::NoSpace,
            _ => ErrorKind::Internal,
        };
        Error::new(
            kind,
            format!("the report could not be written to {}", file.display()),
        )
        .context(
            "remedy",
            "name a file in a directory that is there and can be written",
        )
        .source(error)
    })
}

fn show(report: &Report) -> std::io::Result<()> {
    let row = |case: &stacyvm_conformance::CaseReport| {
        vec![
            case.id.clone(),
            level(case.level).to_owned(),
            case.outcome.name().to_owned(),
            format!("{} ms", case.duration_ms),
            case.evidence.clone(),
        ]
    };
    let rows: Vec<Vec<String>> = report.cases.iter().map(row).collect();
    output::table(&["ID", "LEVEL", "OUTCOME", "TOOK", "EVIDENCE"], &rows)?;
    output::line(&sum(report))
}

fn sum(report: &Report) -> String {
    let counts = Outcome::ALL.map(|o| format!("{} {}", report.count(o), o.name()));
    counts.join(", ").replace('_', " ")
}

fn level(level: Level) -> &'static str {
    match level {
        Level::Must => "must",
        Level::Should => "should",
    }
}

pub(crate) fn list(json: bool) -> Result<u8> {
    if json {
        let rows: Vec<_> = CASES
            .iter()
            .map(|case| {
                serde_json::json!({
                    "id": case.id,
                    "level": case.level,
                    "promises": case.promises.split_whitespace().collect::<Vec<_>>(),
                    "needs": case.needs.iter().map(|need| need.name).collect::<Vec<_>>(),
                })
            })
            .collect();
        super::printed(output::json(&rows))?;
        return Ok(0);
    }
    for case in CASES.iter() {
        let needs: Vec<&str> = case.needs.iter().map(|need| need.name).collect();
        let line = format!("{} {} {}", case.id, level(case.level), needs.join(" "));
        super::printed(output::line(line.trim_end()))?;
    }
    Ok(0)
}
