//! Labels: free text by key, kept and found by.

use stacyvm::{ErrorKind, Filter, SandboxId};

use super::cases;
use super::common::spec_refused;
use crate::case::{Case, Checked, Level};
use crate::ensure_eq;
use crate::fixture::Fixture;

pub(super) const CASES: &[Case] = cases! {
    Must "labels.any_text_is_kept_as_it_is" [] => any_text;
    Must "labels.all_of_a_filter_must_fit" [] => all_must_fit;
    Must "labels.those_that_make_no_sense_are_refused" ["L1.1"] => nonsense;
    Must "labels.stay_with_one_that_ended" [] => stay;
};

async fn any_text(f: &Fixture) -> Checked {
    let long = "x".repeat(1024);
    let labels = [
        ("empty", ""),
        ("Grüße / 世界", "a b\tc\n\"quoted\" 'and' \\ $(true)"),
        ("long", long.as_str()),
    ];
    let spec = labels
        .iter()
        .fold(f.spec(), |spec, (key, value)| spec.label(*key, *value));
    let sandbox = f.make(spec).await?;
    let kept = sandbox.info().await?.labels;
    for (key, value) in labels {
        ensure_eq!(
            kept.get(key).map(String::as_str),
            Some(value),
            "the label {key}"
        );
    }
    ensure_eq!(kept.len(), labels.len(), "how many labels there are");
    f.shell(&sandbox, "true").await?;
    Ok(())
}

async fn found(f: &Fixture, labels: &[(&str, &str)]) -> Checked<Vec<SandboxId>> {
    let mut filter = Filter::default();
    for (key, value) in labels {
        filter.labels.insert((*key).to_owned(), (*value).to_owned());
    }
    let found = f.engine().list(filter).await?;
    Ok(found.into_iter().map(|info| info.id).collect())
}

async fn all_must_fit(f: &Fixture) -> Checked {
    let run = SandboxId::random().to_string();
    let spec = |role: &str| f.spec().label("run", &run).label("role", role);
    let (one, two) = (f.make(spec("one")).await?, f.make(spec("two")).await?);
    let mut both = [one.id().clone(), two.id().clone()];
    both.sort();
    ensure_eq!(found(f, &[("run", &run)]).await?, both, "those of the run");
    let first = found(f, &[("run", &run), ("role", "one")]).await?;
    ensure_eq!(first, [one.id().clone()], "those of the run with the role");
    let none = found(f, &[("run", &run), ("role", "")]).await?;
    ensure_eq!(none, [], "those of the run with another role");
    Ok(())
}

async fn nonsense(f: &Fixture) -> Checked {
    let (long_key, long_value) = ("k".repeat(129), "v".repeat(1025));
    for (key, value) in [
        ("", "x"),
        ("a\nb", "x"),
        (long_key.as_str(), "x"),
        ("key", long_value.as_str()),
        ("key", "a\0b"),
        ("stacyvm.sandbox", "x"),
    ] {
        let spec = f.spec().label(key, value);
        let what = format!("a label {:?}", key.get(..8).unwrap_or(key));
        let error = spec_refused(f, spec, &[ErrorKind::InvalidArgument], &what).await?;
        ensure_eq!(
            error.fact("field"),
            Some("labels"),
            "the field that is named"
        );
    }
    Ok(())
}

async fn stay(f: &Fixture) -> Checked {
    let value = SandboxId::random().to_string();
    let sandbox = f.make(f.spec().label("run", &value)).await?;
    sandbox.kill().await?;
    let kept = sandbox.info().await?.labels;
    ensure_eq!(kept.get("run"), Some(&value), "the label of one that ended");
    ensure_eq!(
        found(f, &[("run", &value)]).await?,
        [],
        "those that live with the label"
    );
    Ok(())
}
