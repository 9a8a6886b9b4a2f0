//! The documents agree with the source.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("a workspace")
        .to_owned()
}

fn text(path: &str) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// What stands between `start` and the first line that is `}` alone.
fn block<'a>(source: &'a str, start: &str) -> &'a str {
    let at = source.find(start).unwrap_or_else(|| panic!("no `{start}`"));
    let rest = &source[at..];
    &rest[..rest.find("\n}").expect("an end")]
}

fn fields(block: &str) -> Vec<String> {
    let names = block.lines().filter_map(|line| {
        let line = line.strip_prefix("    pub ")?;
        let (name, _) = line.split_once(':')?;
        Some(name.to_owned())
    });
    names.collect()
}

/// The rows of a section of a document: the name in the first cell, and the other cells.
fn rows(document: &str, section: &str) -> Vec<(String, Vec<String>)> {
    let at = document
        .find(section)
        .unwrap_or_else(|| panic!("no `{section}`"));
    let rest = &document[at + section.len()..];
    let body = rest.split("\n## ").next().unwrap_or(rest);
    body.lines()
        .filter_map(|line| {
            let line = line.strip_prefix("| `")?.strip_suffix(" |")?;
            let (name, cells) = line.split_once("` | ")?;
            let cells = cells.split(" | ").map(|c| c.trim().to_owned()).collect();
            Some((name.to_owned(), cells))
        })
        .collect()
}

fn compare(expected: &[String], section: &str) {
    let document = text("docs/decisions/0001-provider-contract.md");
    let rows = rows(&document, section);
    assert!(
        expected.len() > 10,
        "the source was not understood: {expected:?}"
    );
    let expected: BTreeSet<&str> = expected.iter().map(String::as_str).collect();
    let found: BTreeSet<&str> = rows.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(expected, found, "{section} against the source");
    assert_eq!(rows.len(), found.len(), "a row stands twice");
    for (name, cells) in rows {
        assert_eq!(cells.len(), 7, "`{name}` needs a cell for each provider");
        assert!(
            cells.iter().all(|c| !c.is_empty()),
            "`{name}` has an empty cell"
        );
    }
}

#[test]
fn every_method_of_the_provider_is_mapped() {
    let source = text("stacyvm/src/provider/mod.rs");
    let methods: Vec<String> = block(&source, "pub trait Provider")
        .lines()
        .filter_map(|line| {
            let line = line.strip_prefix("    ")?;
            let line = line
                .strip_prefix("async fn ")
                .or_else(|| line.strip_prefix("fn "))?;
            let (name, _) = line.split_once('(')?;
            Some(name.to_owned())
        })
        .collect();
    compare(&methods, "\n## Methods\n");
}

#[test]
fn every_field_of_the_spec_is_mapped() {
    let source = text("stacyvm/src/sandbox/spec.rs");
    let mut names = fields(block(&source, "pub struct SandboxSpec {"));
    let parts = fields(block(&source, "pub struct Resources {"));
    names.extend(parts.iter().map(|part| format!("resources.{part}")));
    compare(&names, "\n## Fields of the spec\n");
}

/// Whether `path/of/file.rs#name` names a test function of that file, a case that its
/// suite makes a test of, or the function of a conformance case.
fn is_test(id: &str) -> bool {
    let Some((file, name)) = id.split_once('#') else {
        return false;
    };
    let Ok(source) = std::fs::read_to_string(root().join(file)) else {
        return false;
    };
    let kind = Path::new(file).extension().and_then(|kind| kind.to_str());
    if kind == Some("py") {
        // pytest runs what begins so, where it stands at the margin.
        let defined = ["def", "async def"].map(|def| format!("\n{def} {name}("));
        return name.starts_with("test_") && defined.iter().any(|def| source.contains(def));
    }
    if kind == Some("mjs") {
        let runs = ["it", "test"].map(|call| format!("{call}('{name}'"));
        return !name.is_empty() && runs.iter().any(|run| source.contains(run));
    }
    let lines: Vec<&str> = source.lines().map(str::trim).collect();
    if source.contains("suite!(") && lines.contains(&name) {
        return true;
    }
    if file.starts_with("conformance/tests/") && source.contains("provider_main!(") {
        // It runs every case, but for those that it declares to fail.
        let declared = text("conformance/tests/common/package.rs");
        return is_case(name) && ![source, declared].iter().any(|text| text.contains(name));
    }
    if let Some(folder) = file.strip_prefix("conformance/src/") {
        // A case stands in the table of its suite, in its own file or beside it.
        let folder = folder.split('/').next().unwrap_or_default();
        let table =
            std::fs::read_to_string(root().join(format!("conformance/src/{folder}/mod.rs")));
        let listed = table.is_ok_and(|table| table.lines().any(|line| line.trim() == name));
        return source.contains(&format!("async fn {name}(f: &"))
            && (listed || source.contains(&format!("=> {name};")));
    }
    let starts = [format!("fn {name}("), format!("async fn {name}(")];
    lines.iter().enumerate().any(|(at, line)| {
        starts.iter().any(|start| line.starts_with(start.as_str()))
            && lines[..at]
                .iter()
                .rev()
                .take_while(|above| above.starts_with("#[") || above.starts_with("//"))
                .any(|above| above.starts_with("#[") && above.contains("test"))
    })
}

/// Whether a suite has a case of this id.
fn is_case(id: &str) -> bool {
    let suites = std::fs::read_dir(root().join("conformance/src/suites")).expect("a directory");
    suites
        .map(|file| file.expect("an entry").path())
        .any(|file| {
            let suite = std::fs::read_to_string(file).expect("a suite");
            suite.contains(&format!("\"{id}\" ["))
        })
}

#[test]
fn every_test_that_the_specification_names_exists() {
    let document = text("docs/specification.md");
    let mut numbers = BTreeSet::new();
    let mut named = 0;
    for line in document.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = line
            .trim_start_matches("| ")
            .trim_end_matches(" |")
            .split(" | ")
            .map(str::trim)
            .collect();
        let is_number = |c: &str| c.contains('.') && c.ends_with(|d: char| d.is_ascii_digit());
        if !is_number(cells[0]) {
            continue;
        }
        assert_eq!(cells.len(), 3, "{line}");
        assert!(numbers.insert(cells[0]), "{} stands twice", cells[0]);
        if let Some(reason) = cells[2].strip_prefix("test pending: ") {
            assert!(!reason.trim().is_empty(), "{} gives no reason", cells[0]);
            continue;
        }
        let ids: Vec<&str> = cells[2].split('`').skip(1).step_by(2).collect();
        assert!(!ids.is_empty(), "{} names no test", cells[0]);
        for id in ids {
            assert!(
                is_test(id),
                "{} names `{id}`, and there is no such test",
                cells[0]
            );
            named += 1;
        }
    }
    assert!(
        numbers.len() >= 40 && named >= 20,
        "{} promises, {named} tests: the table was not understood",
        numbers.len()
    );
}

/// The rows of the specification's tables and the tests that each names.
fn promises() -> BTreeMap<String, Vec<String>> {
    let document = text("docs/specification.md");
    let mut rows = BTreeMap::new();
    for line in document.lines().filter(|line| line.starts_with("| ")) {
        let mut cells = line.trim_matches(['|', ' ']).split(" | ");
        let (Some(number), Some(held)) = (cells.next(), cells.nth(1)) else {
            continue;
        };
        let tests = held.split('`').skip(1).step_by(2).map(str::to_owned);
        rows.insert(number.to_owned(), tests.collect());
    }
    rows
}

/// `scripts/mutants.sh` breaks each promise; that takes long. This sees that
/// no promise of the exec contract lacks its mutant, and that none is stale.
#[test]
fn every_promise_of_the_exec_contract_has_a_mutant() {
    let promises = promises();
    let mut mutants = BTreeSet::new();
    for entry in std::fs::read_dir(root().join("scripts/mutants")).expect("a directory") {
        let name = entry.expect("an entry").file_name();
        let name = name.to_str().expect("plain names");
        let patch = text(&format!("scripts/mutants/{name}"));
        let row = name.strip_suffix(".patch").expect("only patches");
        // `E1.2-user` is another mutant of E1.2.
        let number = row.split('-').next().unwrap_or(row);
        let held = promises
            .get(number)
            .unwrap_or_else(|| panic!("{name}: the specification has no row {number}"));
        assert!(
            patch.starts_with(&format!("{row}: ")),
            "{name} begins with another row"
        );
        let (head, body) = patch.split_once("\ndiff --git ").expect("a patch");
        let fails: Vec<&str> = head
            .lines()
            .filter_map(|line| line.strip_prefix("fails: "))
            .collect();
        assert!(!fails.is_empty(), "{name} names no test that must fail");
        for id in fails {
            assert!(
                held.iter().any(|test| test == id) && is_test(id),
                "{name} names `{id}`, which is no test of row {number}"
            );
        }
        for file in body.lines().filter_map(|line| line.strip_prefix("+++ b/")) {
            assert!(
                file.contains("/src/") && !file.contains("tests"),
                "{name} changes {file}: a mutant breaks the code, not its tests"
            );
        }
        for change in body.split("\n+++ b/").skip(1) {
            let (file, hunks) = change.split_once('\n').expect("a hunk");
            let code = text(file);
            for hunk in hunks.split("@@ -").skip(1) {
                let lines = hunk.lines().skip(1);
                let old: String = lines
                    .take_while(|line| line.starts_with([' ', '-', '+']))
                    .filter(|line| !line.starts_with('+'))
                    .flat_map(|line| [&line[1..], "\n"])
                    .collect();
                assert!(
                    code.contains(&old),
                    "{name} does not fit {file} any more:\n{old}"
                );
            }
        }
        mutants.insert(number.to_owned());
    }
    let expected: Vec<&String> = promises
        .iter()
        .filter(|(number, tests)| number.starts_with('E') && !tests.is_empty())
        .map(|(number, _)| number)
        .collect();
    assert!(expected.len() >= 25, "the table was not understood");
    for number in expected {
        assert!(mutants.contains(number), "{number} has no mutant");
    }
}

/// The feature `faults` is for this project's tests: neither a default nor the
/// command line may bring it. `scripts/package-test.sh` looks into the program.
#[test]
fn nothing_that_is_shipped_has_points_for_faults() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for (manifest, declares) in [("agent", true), ("stacyvm", true), ("stacyvm-cli", false)] {
        let path = root.join(manifest).join("Cargo.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        let uses = text
            .lines()
            .filter(|line| !line.trim_start().starts_with('#') && line.contains("faults"))
            .count();
        // Its own line is the only one.
        assert_eq!(uses, usize::from(declares), "{}", path.display());
    }
}

/// Files whose public functions are what a program calls.
const SURFACE: [&str; 19] = [
    "engine/create",
    "engine/creating",
    "engine/life",
    "engine/mod",
    "engine/open",
    "engine/pool/claim",
    "engine/pool/mod",
    "engine/reconcile",
    "engine/upkeep",
    "engine/view",
    "sandbox/code/mod",
    "sandbox/copy",
    "sandbox/exec_builder",
    "sandbox/files_handle",
    "sandbox/handle",
    "sandbox/logs",
    "sandbox/process",
    "sandbox/shared",
    "sandbox/writing",
];

/// What a binding does not call, and why.
const NOT_BOUND: [(&str, &[&str], &str); 16] = [
    (
        "engine/create",
        &["on_pull"],
        "`watched` tells where one waits",
    ),
    ("engine/life", &["scope"], "a block ends its sandbox"),
    (
        "engine/mod",
        &["default_provider", "instance", "scope"],
        "`providers` and `info` tell the names; a block ends its sandbox",
    ),
    (
        "engine/open",
        &["open_default"],
        "`open`, with the settings that it would load",
    ),
    (
        "engine/reconcile",
        &["reconcile", "record_ends"],
        "an engine does it by itself; an operator has the command line",
    ),
    (
        "engine/upkeep",
        &["leaks", "remove_leak", "sweep", "disk_use", "prune", "uses"],
        "an operator's, who has the command line",
    ),
    (
        "engine/view",
        &["get_in"],
        "a program has the tenant of its settings",
    ),
    (
        "sandbox/exec_builder",
        &["envs", "workdir", "user"],
        "fields of the spec that `exec_spec` takes",
    ),
    (
        "sandbox/exec_builder",
        &["stdout_text", "stderr_text"],
        "Node makes text of bytes by itself",
    ),
    (
        "sandbox/files_handle",
        &[
            "read",
            "read_stream",
            "write",
            "write_stream",
            "chmod",
            "chown",
            "export_tar",
            "import_tar",
        ],
        "`read_part`, `read_range`, `write_with`, `set_attributes`, `export_tar_with` and \
         `import_tar_with` say more",
    ),
    (
        "sandbox/handle",
        &["with_context"],
        "calls have timeouts of their own, and are cancelled as the language does it",
    ),
    ("sandbox/handle", &["attach"], "`attach_with` says more"),
    (
        "sandbox/handle",
        &["begin_scope"],
        "JavaScript tells nobody that a block has begun",
    ),
    ("sandbox/logs", &["commands"], "`execs` lists them"),
    (
        "sandbox/process",
        &["wait", "detach"],
        "the end is waited for with what was said; what is let go of is detached",
    ),
    (
        "sandbox/shared",
        &["port"],
        "Python keeps it beside the listener",
    ),
];

/// Python and Node call what a Rust program calls, or it is listed with its reason.
/// That each has the methods of the other is for `errors.test.mjs` to see.
#[test]
fn what_rust_has_is_bound_or_listed() {
    let bindings = ["stacyvm-py/src", "stacyvm-node/src"].map(|folder| {
        let files = std::fs::read_dir(root().join(folder)).expect("a directory");
        files
            .map(|file| std::fs::read_to_string(file.expect("an entry").path()).expect("text"))
            .collect::<String>()
    });
    let mut not_bound = BTreeSet::new();
    let mut seen = 0;
    for file in SURFACE {
        let source = text(&format!("stacyvm/src/{file}.rs"));
        for line in source.lines() {
            let function = line
                .strip_prefix("    pub async fn ")
                .or_else(|| line.strip_prefix("    pub fn "));
            let Some(function) = function else { continue };
            let name = function.split(['(', '<']).next().unwrap_or_default();
            seen += 1;
            let calls = [format!(".{name}("), format!("::{name}(")];
            let bound = |binding: &String| calls.iter().any(|call| binding.contains(call));
            if !bindings.iter().all(bound) {
                not_bound.insert((file, name.to_owned()));
            }
        }
    }
    assert!(
        seen > 120,
        "the source was not understood: {seen} functions"
    );
    let listed: BTreeSet<_> = NOT_BOUND
        .iter()
        .flat_map(|(file, names, reason)| {
            assert!(!reason.is_empty());
            names.iter().map(|name| (*file, (*name).to_owned()))
        })
        .collect();
    let missing: Vec<_> = not_bound.difference(&listed).collect();
    assert!(
        missing.is_empty(),
        "a binding lacks {missing:?}: bind it in both, or list it with its reason"
    );
    let stale: Vec<_> = listed.difference(&not_bound).collect();
    assert!(stale.is_empty(), "{stale:?} is bound, or gone: unlist it");
}
