//! One attack of a hostile command: the program that the escape suite copies
//! into a sandbox and starts there, and runs in a weak place for comparison.
//!
//! `stacyvm-probe ATTACK [NAME=VALUE...]` tries one thing and prints one line of
//! JSON. It needs nothing of the image. An attack that succeeds does no harm: it
//! opens and does not write, writes back what it read, or stops at a bound.
//!
//! `stacyvm-probe list` prints the names of all attacks, `stacyvm-probe bait`
//! lays out what others must not find and waits, and `stacyvm-probe weak`
//! starts an attack in a place without confinement.
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

mod agent;
mod answer;
mod bait;
mod calls;
mod capabilities;
mod cgroups;
mod devices;
mod foreign;
mod identity;
mod limits;
mod network;
mod output;
mod paths;
mod protocol;
mod sys;
mod weak;

use answer::Answer;

/// What an attack is told, by name.
#[derive(Debug, Default)]
pub(crate) struct Told(Vec<(String, String)>);

impl Told {
    fn parse(arguments: impl Iterator<Item = String>) -> Self {
        let pairs = arguments.filter_map(|argument| {
            let (name, value) = argument.split_once('=')?;
            Some((name.to_owned(), value.to_owned()))
        });
        Self(pairs.collect())
    }

    /// What is told under a name; nothing where it is not.
    pub(crate) fn text(&self, name: &str) -> &str {
        let found = self.0.iter().find(|(known, _)| known == name);
        found.map_or("", |(_, value)| value)
    }

    /// A number that is told under a name.
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.text(name).parse().ok()
    }
}

/// The program of this process, also where it has no name.
pub(crate) const OWN_PROGRAM: &str = "/proc/self/exe";

/// A name and what is tried.
pub(crate) type Attack = (&'static str, fn(&Told) -> Answer);

/// The attacks that are functions of their own; those of [`calls`] and
/// [`paths`] are rows of tables.
fn attacks() -> impl Iterator<Item = &'static Attack> {
    [
        agent::ATTACKS,
        capabilities::ATTACKS,
        cgroups::ATTACKS,
        devices::ATTACKS,
        foreign::ATTACKS,
        identity::ATTACKS,
        limits::ATTACKS,
        network::ATTACKS,
        output::ATTACKS,
        protocol::ATTACKS,
    ]
    .into_iter()
    .flatten()
}

fn names() -> Vec<&'static str> {
    let mut names: Vec<_> = attacks().map(|(name, _)| *name).collect();
    names.extend(calls::names());
    names.extend(paths::names());
    names.sort_unstable();
    names
}

fn run(name: &str, told: &Told) -> Option<Answer> {
    let attack = attacks().find(|(known, _)| *known == name);
    attack
        .map(|(_, attack)| attack(told))
        .or_else(|| calls::run(name))
        .or_else(|| paths::run(name))
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().unwrap_or_default();
    // Whatever hangs ends: nobody waits for an attack longer than this.
    sys::end_in(if name == "bait" { 1800 } else { 60 });
    match name.as_str() {
        "list" => println!("{}", names().join("\n")),
        "bait" => bait::lay(&Told::parse(arguments)),
        "weak" => std::process::exit(weak::start(&arguments.collect::<Vec<_>>())),
        _ => match run(&name, &Told::parse(arguments)) {
            Some(answer) => println!("{}", answer.line(&name)),
            None => std::process::exit(2),
        },
    }
}
