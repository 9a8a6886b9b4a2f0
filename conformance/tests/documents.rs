//! What the documents say of the suite is so.

use stacyvm_conformance::CASES;
use stacyvm_conformance::store::STORE_CASES;

fn read(path: &str) -> String {
    let path = format!("{}/../{path}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).expect(&path)
}

/// The contents of the fenced blocks of this language.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let (mut found, mut inside, mut block) = (Vec::new(), None, String::new());
    for line in text.lines() {
        match (line.strip_prefix("```"), inside) {
            (Some(info), None) => inside = Some(info),
            (Some(_), Some(info)) => {
                let whole = std::mem::take(&mut block);
                found.extend((info == language).then_some(whole));
                inside = None;
            }
            (None, Some(_)) => block = block + line + "\n",
            (None, None) => {}
        }
    }
    found
}

/// Parts of a file stand on a page without the indentation that they have in it.
fn flush_left(text: &str) -> String {
    let lines = text.lines().map(|line| line.trim_start().to_owned() + "\n");
    lines.collect()
}

#[test]
fn the_page_for_authors_of_providers_shows_the_example_s_files() {
    let page = read("docs/write-a-provider.md");
    let example = |file: &str| read(&format!("conformance/examples/processes/{file}"));
    let (provider, harness) = (example("src/lib.rs"), example("tests/conformance.rs"));
    assert_eq!(blocks(&page, "toml"), [example("Cargo.toml")]);
    let mut shown = blocks(&page, "rust");
    assert!(shown.contains(&harness), "the page shows another harness");
    shown.retain(|block| *block != harness);
    assert!(!shown.is_empty(), "no part of the provider is shown");
    for part in shown {
        let there = flush_left(&provider).contains(&flush_left(&part));
        assert!(there, "the provider has no such part:\n{part}");
    }
    let lines = provider.lines().count();
    assert!(lines < 200, "{lines} lines");
    let said = page.contains(&format!("in {lines} lines"));
    assert!(said, "the page does not say that it has {lines} lines");
}

#[test]
fn the_server_in_python_is_as_short_as_it_is_said_to_be() {
    let page = read("docs/write-a-provider.md");
    assert!(page.contains("in some 200 lines of code"), "another length");
    let server = read("conformance/examples/server.py");
    let code = server.lines().filter(|line| !line.trim().is_empty());
    let code = code.count();
    assert!((150..=210).contains(&code), "{code} lines of code");
}

#[test]
fn every_complaint_has_a_case_that_exists_or_a_reason() {
    let text = read("docs/conformance.md");
    let (_, table) = text.split_once("## Complaints").expect("the section");
    let mut numbers = Vec::new();
    for line in table.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let Ok(number) = cells[0].parse::<usize>() else {
            assert_eq!(cells[0], "number", "{line}");
            continue;
        };
        assert_eq!(cells.len(), 3, "{line}");
        numbers.push(number);
        let words = cells[2].split('`').skip(1).step_by(2);
        let named: Vec<&str> = words.filter(|word| !word.contains('/')).collect();
        for id in named.iter().filter(|word| word.contains('.')) {
            let exists = CASES.iter().any(|case| case.id == *id)
                || STORE_CASES.iter().any(|case| case.id == *id);
            assert!(exists, "{number} names `{id}`, and there is no such case");
        }
        let reason = cells[2]
            .strip_prefix("why not: ")
            .is_some_and(|why| why.len() > 4);
        assert!(reason || !named.is_empty(), "{number} has neither");
    }
    assert_eq!(numbers, (1..=57).collect::<Vec<_>>(), "each number once");
}
