//! `probe`: the escape suite.

use stacyvm::certify::{HostControl, Report, Subject, judge, probes};
use stacyvm::engine::Engine;
use stacyvm::{Error, Result, SandboxSpec};

use crate::args::ProbeArgs;
use crate::{exit, output};

pub(crate) async fn probe(engine: &Engine, args: &ProbeArgs, json: bool) -> Result<u8> {
    let checks = match &args.only {
        None => probes::all(),
        Some(family) => probes::family(family),
    };
    if checks.is_empty() {
        let family = args.only.as_deref().unwrap_or_default();
        let expected = format!("one of {}", probes::families().join(", "));
        return Err(Error::invalid(
            "only",
            family,
            &expected,
            "name a family, or leave it out",
        ));
    }
    let mut spec = SandboxSpec::image(&args.image);
    spec.privileges = crate::spec::privileges(args.privileges.as_deref())?;
    let mut subject = Subject::open_for(engine, args.provider.as_deref(), spec, &checks).await?;
    let judged = async {
        let control = HostControl::open(subject.facts()).await?;
        subject.tell(control.facts());
        Ok(judge(&subject, &control, &checks).await)
    }
    .await;
    subject.close().await?;
    let report = judged?;
    super::printed(if json {
        output::json(&report)
    } else {
        show(&report)
    })?;
    let summary = report.summary;
    Ok(if summary.fired > 0 {
        exit::FIRED
    } else if summary.proved + summary.granted < report.checks.len() {
        exit::UNPROVED
    } else {
        0
    })
}

fn show(report: &Report) -> std::io::Result<()> {
    let rows: Vec<Vec<String>> = report
        .checks
        .iter()
        .map(|check| {
            let seen = [check.subject.detail(), check.control.detail()];
            let remark = seen.into_iter().find(|_| !check.proved).unwrap_or_default();
            vec![
                check.id.clone(),
                check.level.name().to_owned(),
                check.subject.name().to_owned(),
                check.control.name().to_owned(),
                if check.proved { "yes" } else { "no" }.to_owned(),
                remark.to_owned(),
            ]
        })
        .collect();
    output::table(
        &["ID", "LEVEL", "VERDICT", "CONTROL", "PROVED", "REMARK"],
        &rows,
    )?;
    let summary = report.summary;
    output::line(&format!(
        "{} proved, {} fired, {} granted, {} proved nothing, {} could not be run; control: {}",
        summary.proved,
        summary.fired,
        summary.granted,
        summary.unproved,
        summary.not_run,
        report.control
    ))
}
