//! The front end for `cargo test` and nextest makes nothing look better than it was.
//! This program plays the target of somebody else too, when it is told so.

use std::process::{Command, ExitCode};
use std::sync::Arc;

use libtest_mimic::{Arguments, Trial};
use stacyvm::providers::mock::Mock;
use stacyvm::{Error, Result, SandboxSpec};
use stacyvm_conformance::{Deviation, Harness, Subject, provider_main};

/// Names the harness that this program plays.
const ROLE: &str = "STACYVM_TEST_FRONT_END";

/// What passes on the mock, and what is not run.
const PASSES: &str = "exec.code_is_told_as_it_was";
const NOT_RUN: &str = "files.a_gibibyte_is_streamed";

struct Role(String);

#[async_trait::async_trait]
impl Harness for Role {
    fn name(&self) -> &str {
        &self.0
    }

    fn absent(&self) -> Option<String> {
        (self.0 == "absent").then(|| "there is no such machine".to_owned())
    }

    async fn open(&self) -> Result<Subject> {
        match self.0.as_str() {
            "nothing" => return Err(Error::unsupported("there is nothing here")),
            // It blocks a thread of the runtime for ever.
            "blocks" => drop(tokio::spawn(async { forever() })),
            _ => {}
        }
        Subject::new(Arc::new(Mock::default()), SandboxSpec::image("scratch")).await
    }

    fn deviations(&self) -> &[Deviation] {
        match self.0.as_str() {
            "unknown" => &[Deviation {
                case: "exec.no_such_case",
                reason: "it was there once",
            }],
            _ => &[],
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a thread is blocked")]
fn forever() {
    loop {
        std::thread::sleep(std::time::Duration::from_hours(1));
    }
}

/// Whether it succeeded, and all that it said.
fn played(role: &str, arguments: &[&str]) -> (bool, String) {
    let program = std::env::current_exe().expect("this program");
    let mut command = Command::new(program);
    let output = command.args(arguments).env(ROLE, role).output();
    let output = output.expect("this program once more");
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    (output.status.success(), text)
}

fn expect(role: &str, arguments: &[&str], succeeds: bool, says: &[&str]) {
    let (succeeded, text) = played(role, arguments);
    assert_eq!(succeeded, succeeds, "{role} {arguments:?}: {text}");
    for part in says {
        assert!(text.contains(part), "{role} {arguments:?}: {part}: {text}");
    }
}

fn what_cannot_be_opened_fails() {
    let said = ["there is nothing here", "Harness::absent", "0 passed; "];
    expect("nothing", &[], false, &said);
    expect("nothing", &["--exact", PASSES], false, &said);
}

fn what_is_absent_is_ignored() {
    let fact = "there is no such machine";
    expect("absent", &[], true, &["0 passed; 0 failed; ", fact]);
    let line = format!("not run: {fact}");
    expect("absent", &["--exact", PASSES], true, &[&line]);
    expect("absent", &["--list"], true, &[PASSES]);
}

fn what_is_not_run_is_ignored() {
    let said = ["0 passed; 0 failed; 1 ignored", "not run: "];
    expect("mock", &["--exact", NOT_RUN], true, &said);
    let said = ["0 passed; 0 failed; 1 ignored", "proves nothing"];
    expect("mock", &[NOT_RUN], false, &said);
    // One that passes, and that one.
    expect("mock", &["streamed"], true, &["1 ignored", "1 not run ("]);
}

fn a_filter_that_fits_nothing_fails() {
    expect("mock", &["no.such"], false, &["no case was run"]);
    expect("mock", &["--exact", "no.such"], false, &["no case was run"]);
}

fn a_deviation_of_no_case_fails() {
    expect("unknown", &[PASSES], false, &["exec.no_such_case"]);
}

fn a_blocked_thread_does_not_hold_up_the_end() {
    expect("blocks", &["--exact", PASSES], true, &["1 passed; "]);
}

fn main() -> ExitCode {
    if let Some(role) = std::env::var_os(ROLE) {
        return provider_main(Role(role.to_string_lossy().into_owned()));
    }
    let tests: [(&str, fn()); 6] = [
        ("what_cannot_be_opened_fails", what_cannot_be_opened_fails),
        ("what_is_absent_is_ignored", what_is_absent_is_ignored),
        ("what_is_not_run_is_ignored", what_is_not_run_is_ignored),
        (
            "a_filter_that_fits_nothing_fails",
            a_filter_that_fits_nothing_fails,
        ),
        ("a_deviation_of_no_case_fails", a_deviation_of_no_case_fails),
        (
            "a_blocked_thread_does_not_hold_up_the_end",
            a_blocked_thread_does_not_hold_up_the_end,
        ),
    ];
    let trials = tests.map(|(name, test)| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.into()).exit_code()
}
