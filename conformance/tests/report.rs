//! Reports have the form that is promised, whatever stands in them.

mod common;

use common::{DECLINED, FAILS, HOSTILE, OverMock, PANICS, PASSES, UNTRIED, reported};
use serde_json::{Value, json};
use stacyvm_conformance::{CASES, Case, Report};

fn schema() -> Value {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../docs/schemas/conformance-report-v1.json"
    );
    let text = std::fs::read_to_string(path).expect("the schema beside the documents");
    serde_json::from_str(&text).expect("a schema is JSON")
}

/// Why a value is not as the schema says; the keywords that the schema uses, and a
/// panic for any other, so that none is passed over.
fn refusals(root: &Value, schema: &Value, value: &Value, at: &str) -> Vec<String> {
    let mut found = Vec::new();
    let fields = schema.as_object().expect("a schema is an object");
    for (keyword, wanted) in fields {
        let each = |values: Vec<(String, &Value)>| -> Vec<String> {
            let inner = values.into_iter();
            inner
                .flat_map(|(name, one)| refusals(root, wanted, one, &format!("{at}/{name}")))
                .collect()
        };
        let known = |name: &str| schema.pointer(&format!("/properties/{name}"));
        let object = value.as_object();
        let more: Vec<String> = match keyword.as_str() {
            "$schema" | "$id" | "$defs" | "title" | "description" => Vec::new(),
            "$ref" => {
                let path = wanted.as_str().and_then(|text| text.strip_prefix('#'));
                let target = path
                    .and_then(|path| root.pointer(path))
                    .expect("a definition");
                refusals(root, target, value, at)
            }
            "type" => {
                let is = |name: &Value| match name.as_str().expect("a type") {
                    "object" => value.is_object(),
                    "array" => value.is_array(),
                    "string" => value.is_string(),
                    "boolean" => value.is_boolean(),
                    "null" => value.is_null(),
                    "integer" => value.is_u64() || value.is_i64(),
                    other => panic!("the type {other} is not checked"),
                };
                let fine = wanted
                    .as_array()
                    .map_or_else(|| is(wanted), |all| all.iter().any(is));
                not(fine, at, keyword)
            }
            "const" => not(value == wanted, at, keyword),
            "enum" => not(
                wanted.as_array().expect("values").contains(value),
                at,
                keyword,
            ),
            "minimum" => not(value.as_i64() >= wanted.as_i64(), at, keyword),
            "minLength" => not(value.as_str().map(str::len) >= Some(1), at, keyword),
            // One pattern is used: an id.
            "pattern" => not(value.as_str().is_some_and(is_id), at, keyword),
            "required" => {
                let names = wanted
                    .as_array()
                    .expect("names")
                    .iter()
                    .filter_map(Value::as_str);
                let missing = names.filter(|name| object.is_some_and(|o| !o.contains_key(*name)));
                missing
                    .map(|name| format!("{at}: {name} is missing"))
                    .collect()
            }
            "properties" => {
                let there = wanted.as_object().expect("properties").iter();
                let pairs =
                    there.filter_map(|(name, inner)| Some((name, inner, object?.get(name)?)));
                pairs
                    .flat_map(|(name, inner, one)| {
                        refusals(root, inner, one, &format!("{at}/{name}"))
                    })
                    .collect()
            }
            "additionalProperties" => {
                let all = object.into_iter().flatten();
                each(
                    all.filter(|(name, _)| known(name).is_none())
                        .map(|(name, one)| (name.clone(), one))
                        .collect(),
                )
            }
            "propertyNames" => {
                let names: Vec<Value> = object
                    .into_iter()
                    .flatten()
                    .map(|(name, _)| json!(name))
                    .collect();
                each(names.iter().map(|name| ("name".to_owned(), name)).collect())
            }
            "items" => {
                let all = value.as_array().into_iter().flatten().enumerate();
                each(all.map(|(n, one)| (n.to_string(), one)).collect())
            }
            other => panic!("the keyword {other} is not checked"),
        };
        found.extend(more);
    }
    found
}

fn not(fine: bool, at: &str, keyword: &str) -> Vec<String> {
    if fine {
        Vec::new()
    } else {
        vec![format!("{at}: {keyword}")]
    }
}

fn is_id(text: &str) -> bool {
    let word = |word: &str| {
        word.starts_with(|c: char| c.is_ascii_lowercase())
            && word
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    text.split_once('.')
        .is_some_and(|(suite, name)| word(suite) && word(name))
}

/// A part of the suite on the mock, and cases of every outcome.
async fn report() -> Report {
    let suites = ["errors", "exec", "honesty"];
    let real = CASES
        .iter()
        .filter(|case| suites.contains(&case.suite()))
        .copied();
    let made = [FAILS, PANICS, DECLINED, UNTRIED, PASSES];
    let cases: Vec<Case> = real.chain(made).collect();
    let harness = OverMock {
        name: HOSTILE,
        ..OverMock::new()
    };
    reported(harness, &cases).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_is_as_its_schema_says() {
    let (schema, report) = (schema(), report().await);
    assert_eq!(
        schema["properties"]["schema"]["const"],
        json!(stacyvm_conformance::SCHEMA)
    );
    let value: Value = serde_json::from_str(&report.to_json()).expect("a report is JSON");
    assert_eq!(refusals(&schema, &schema, &value, ""), Vec::<String>::new());
    assert_eq!(value["subject"]["harness"], json!(HOSTILE));
    let read: Report = serde_json::from_value(value.clone()).expect("what was written is read");
    assert_eq!(read, report);

    for (path, wrong) in [
        ("/cases/0/outcome", json!("probably")),
        ("/cases/0/level", json!("may")),
        ("/cases/0/id", json!("no id")),
        ("/cases/0/duration_ms", json!(-1)),
        ("/cases/0/evidence", Value::Null),
        ("/schema", json!(2)),
        ("/summary", json!({"passed": 1})),
        ("/subject/capabilities/dial", json!(1)),
        ("/subject/provider", json!("mock")),
    ] {
        let mut other = value.clone();
        *other.pointer_mut(path).expect("a field of a report") = wrong;
        let told = refusals(&schema, &schema, &other, "");
        assert!(
            told.iter().any(|one| one.starts_with(path)),
            "{path}: {told:?}"
        );
    }
    let unknown = report
        .to_json()
        .replace("\"outcome\": \"passed\"", "\"outcome\": \"probably\"");
    assert!(serde_json::from_str::<Report>(&unknown).is_err());
}

/// The attributes of the tags of an XML document, or a panic where it is none.
fn tags(text: &str) -> Vec<(String, Vec<(String, String)>)> {
    let fine = |c: char| {
        matches!(c, '\n' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
            && c != '\u{7f}'
    };
    assert!(
        text.chars().all(fine),
        "a character that XML has not: {text:?}"
    );
    let mut rest = text
        .strip_prefix("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n")
        .expect("a declaration");
    let (mut open, mut seen) = (Vec::new(), Vec::new());
    while let Some((before, after)) = rest.split_once('<') {
        assert_eq!(before.trim(), "", "text between tags");
        // In values `>` and `<` are escaped.
        let (tag, after) = after.split_once('>').expect("the end of a tag");
        assert!(!tag.contains('<'), "{tag:?}");
        rest = after;
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(name), "what is closed");
            continue;
        }
        let body = tag.strip_suffix('/').unwrap_or(tag);
        let (name, attributes) = body.split_once(' ').unwrap_or((body, ""));
        if !tag.ends_with('/') {
            open.push(name.to_owned());
        }
        let mut pairs = Vec::new();
        let mut left = attributes;
        while !left.is_empty() {
            let (key, value) = left.split_once("=\"").expect("a value in quotes");
            let (value, after) = value.split_once('"').expect("the end of a value");
            let bare = ["&amp;", "&lt;", "&gt;", "&quot;"]
                .iter()
                .fold(value.to_owned(), |text, one| text.replace(one, ""));
            assert!(!bare.contains('&'), "an entity that is none: {value:?}");
            pairs.push((key.to_owned(), value.to_owned()));
            left = after.trim_start();
        }
        seen.push((name.to_owned(), pairs));
    }
    assert_eq!(
        (rest.trim(), open),
        ("", Vec::new()),
        "the end of the document"
    );
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn junit_is_well_formed_whatever_a_sandbox_says() {
    let report = report().await;
    let tags = tags(&report.to_junit());
    let count = |name: &str| tags.iter().filter(|(tag, _)| tag == name).count();
    assert_eq!(count("testsuite"), 1);
    assert_eq!(count("testcase"), report.cases.len());
    assert_eq!(count("failure"), report.summary["failed"]);
    assert_eq!(
        count("skipped"),
        report.summary["not_run"] + report.summary["deviates"]
    );
    let number = |name: &str| {
        let (_, pairs) = &tags[0];
        let found = pairs.iter().find(|(key, _)| key == name).expect("a count");
        found.1.parse::<usize>().expect("a number")
    };
    assert_eq!(number("tests"), report.cases.len());
    assert_eq!(number("failures"), count("failure"));
    assert_eq!(number("skipped"), count("skipped"));
    assert!(count("failure") >= 2, "the hostile case and the panic");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_runs_differ_in_times_alone() {
    let timeless = |mut report: Report| {
        for case in &mut report.cases {
            case.duration_ms = 0;
        }
        report.to_json()
    };
    let (one, two) = (report().await, report().await);
    assert!(
        one.cases
            .iter()
            .any(|case| case.evidence.contains("sandbox-1 says"))
    );
    assert!(timeless(one) == timeless(two), "another report");
}
