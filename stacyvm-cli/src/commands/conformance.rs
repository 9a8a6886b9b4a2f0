//! `conformance`: the suite that every provider is run against.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use stacyvm::config::Config;
use stacyvm::engine::Engine;
use stacyvm::provider::Capabilities;
use stacyvm::sandbox::spec::Lifetime;
use stacyvm::units::parse_duration;
use stacyvm::{Error, ErrorKind, Result, SandboxSpec};
use stacyvm_conformance::{
    CASES, Harness, Level, Options, Outcome, Report, ReportFile, Selection, Subject, as_host,
    is_host, this_program,
};

use crate::args::ConformanceArgs;
use crate::{exit, output};

/// A provider as it is configured.
struct Configured {
    engine: Engine,
    /// What a second engine over the same state is opened with.
    config: Config,
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

    async fn reopen(&self, _: &Subject) -> Result<Subject> {
        let engine = Engine::open(self.config.clone()).await?;
        Subject::of_engine(engine, &self.provider, self.spec.clone()).await
    }

    /// The same call: its configuration leads to the same state.
    fn host(&self) -> Result<Command> {
        this_program()
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
        deadline: deadline(&args.deadline)?,
        jobs: usize::from(args.jobs),
    };
    let harness = configured(engine, config, args, options.deadline);
    if is_host() {
        // Reports are the business of the process whose case asks.
        let done = as_host(harness.await?).await;
        return Ok(u8::from(done != Some(ExitCode::SUCCESS)));
    }
    let reports = Reports::open(args)?;
    let harness = harness.await?;
    let report = stacyvm_conformance::run(&harness, &cases, &options).await;
    let is_kept = reports.json.is_some();
    let written = reports.write(&report);
    // What could not be written is told all the same.
    match (is_kept, json) {
        (true, _) => told(output::line(&sum(&report)))?,
        (false, true) => told(output::json(&report))?,
        (false, false) => told(show(&report))?,
    }
    written?;
    Ok(if report.count(Outcome::Failed) > 0 {
        exit::FIRED
    } else if !report.fulfils() || report.count(Outcome::NotRun) > 0 {
        exit::UNPROVED
    } else {
        0
    })
}

/// The provider that is to be tried.
async fn configured(
    engine: &Engine,
    config: &Config,
    args: &ConformanceArgs,
    within: Duration,
) -> Result<Arc<dyn Harness>> {
    let provider = args.provider.clone();
    let provider = provider.unwrap_or_else(|| config.default_provider.clone());
    // One that cannot be opened fails the run once, and not each of its cases.
    let claims = opened(engine, config, &provider, within).await?;
    let mut spec = SandboxSpec::image(&args.image);
    if claims.attached_lifetime {
        spec = spec.lifetime(Lifetime::Attached);
    }
    Ok(Arc::new(Configured {
        engine: engine.clone(),
        config: config.clone(),
        provider,
        spec,
    }))
}

/// How long a case may take.
fn deadline(text: &str) -> Result<Duration> {
    let deadline = parse_duration("deadline", text)?;
    if deadline.is_zero() {
        return Err(Error::invalid(
            "deadline",
            text,
            "more than no time",
            "say how long a case may take, such as 60s",
        ));
    }
    Ok(deadline)
}

/// What the provider claims; it is given up when it is not there in time.
async fn opened(
    engine: &Engine,
    config: &Config,
    provider: &str,
    within: Duration,
) -> Result<Capabilities> {
    let opening = tokio::time::timeout(within, engine.provider(provider));
    let opened = opening.await.map_err(|_| {
        let seconds = within.as_secs_f64();
        let text = format!("the provider {provider} could not be opened within {seconds} s");
        let configured = config.providers.get(provider);
        let url = configured.and_then(|one| one.url.clone());
        Error::new(ErrorKind::Timeout, text)
            .context("url", url.unwrap_or_default())
            .context(
                "remedy",
                "see whether what is behind it answers, or give it longer with --deadline",
            )
    })?;
    Ok(opened?.capabilities())
}

/// Where reports go: tried before the run.
struct Reports {
    junit: Option<(PathBuf, ReportFile)>,
    json: Option<(PathBuf, ReportFile)>,
}

impl Reports {
    fn open(args: &ConformanceArgs) -> Result<Self> {
        let open = |path: &Option<PathBuf>| match path {
            Some(path) => {
                let file = ReportFile::open(path).map_err(|error| unwritten(path, error))?;
                Ok(Some((path.clone(), file)))
            }
            None => Ok(None),
        };
        let reports = Self {
            junit: open(&args.junit)?,
            json: open(&args.report)?,
        };
        if let (Some((path, one)), Some((_, other))) = (&reports.junit, &reports.json)
            && one.is_same(other)
        {
            return Err(Error::invalid(
                "--junit",
                path.display(),
                "another file than that of --json: one report would be lost",
                "name two files",
            ));
        }
        Ok(reports)
    }

    /// Writes each of them, whatever becomes of the other.
    fn write(self, report: &Report) -> Result<()> {
        let write = |to: Option<(PathBuf, ReportFile)>, text: &dyn Fn() -> String| match to {
            Some((path, file)) => file.write(&text()).map_err(|error| unwritten(&path, error)),
            None => Ok(()),
        };
        let junit = write(self.junit, &|| report.to_junit());
        write(self.json, &|| report.to_json()).and(junit)
    }
}

fn unwritten(file: &Path, error: std::io::Error) -> Error {
    let kind = match error.kind() {
        std::io::ErrorKind::NotFound => ErrorKind::NotFound,
        std::io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
        std::io::ErrorKind::StorageFull => ErrorKind::NoSpace,
        std::io::ErrorKind::IsADirectory => ErrorKind::InvalidArgument,
        _ => ErrorKind::Internal,
    };
    let text = format!("the report cannot be written to {}", file.display());
    Error::new(kind, text)
        .context(
            "remedy",
            "name a file in a directory that is there and can be written",
        )
        .source(error)
}

/// What was written to standard output; whoever reads no further has read enough.
fn told(written: std::io::Result<()>) -> Result<()> {
    super::printed(written.or_else(|error| match error.kind() {
        std::io::ErrorKind::BrokenPipe => Ok(()),
        _ => Err(error),
    }))
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
    let heading = ["ID", "LEVEL", "OUTCOME", "TOOK", "EVIDENCE"];
    if std::io::stdout().is_terminal() {
        output::table(&heading, &rows)?;
    } else {
        output::whole_table(&heading, &rows)?;
    }
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
        told(output::json(&rows))?;
        return Ok(0);
    }
    let lines = CASES.iter().map(|case| {
        let needs: Vec<&str> = case.needs.iter().map(|need| need.name).collect();
        let line = format!("{} {} {}", case.id, level(case.level), needs.join(" "));
        line.trim_end().to_owned()
    });
    told(output::line(&lines.collect::<Vec<_>>().join("\n")))?;
    Ok(0)
}
