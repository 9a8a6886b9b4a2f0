//! What the documents say of the suite is so.

use stacyvm_conformance::CASES;
use stacyvm_conformance::store::STORE_CASES;

#[test]
fn every_complaint_has_a_case_that_exists_or_a_reason() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/conformance.md");
    let text = std::fs::read_to_string(path).expect("the document");
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
