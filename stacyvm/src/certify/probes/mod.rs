//! The library's own checks: each is one attack of the program of attacks.
//!
//! `docs/probes.md` lists them; [`document`] makes it, and a test compares.

mod kernel;
mod table;
mod world;

use std::fmt::Write as _;

use async_trait::async_trait;

use super::answer::{Answer, AttackVerdict};
use super::{Check, CheckLevel, Need, Place, Verdict};
use crate::error::escape;
use table::{Group, Row};

/// Every check of the library, sorted by id.
pub fn all() -> Vec<Box<dyn Check>> {
    let mut all: Vec<Box<dyn Check>> = Vec::new();
    for group in groups() {
        for row in group.rows {
            all.push(Box::new(Probe { group, row }));
        }
    }
    all.sort_by(|a, b| a.id().cmp(b.id()));
    all
}

/// The checks of a family; none for a family that there is not.
pub fn family(name: &str) -> Vec<Box<dyn Check>> {
    let mut checks = all();
    checks.retain(|check| check.family() == name);
    checks
}

/// The families, sorted.
pub fn families() -> Vec<String> {
    let mut names: Vec<String> = all()
        .iter()
        .map(|check| check.family().to_owned())
        .collect();
    names.dedup();
    names
}

fn groups() -> impl Iterator<Item = &'static Group> {
    kernel::GROUPS.iter().chain(world::GROUPS)
}

/// The table of all checks, in Markdown.
pub fn document() -> String {
    let mut text =
        String::from("| id | level | what is tried | what it would mean |\n|---|---|---|---|\n");
    for check in all() {
        let cells = [
            check.id(),
            check.level().name(),
            check.tries(),
            check.means(),
        ];
        let _ = writeln!(
            text,
            "| `{}` | {} | {} | {} |",
            cells[0], cells[1], cells[2], cells[3]
        );
    }
    text.push_str(
        "\n## On a kernel that is not Linux\n\n\
         These need `linux_kernel`, which gVisor is not: there they are `not run`, since \
         what they ask for is gVisor's likeness of it.\n\n| id | why it is harmless there |\n|---|---|\n",
    );
    let mut rows: Vec<&Row> = groups().flat_map(|group| group.rows).collect();
    rows.retain(|row| !row.elsewhere.is_empty());
    rows.sort_by_key(|row| row.id);
    for row in rows {
        let _ = writeln!(text, "| `{}` | {} |", row.id, row.elsewhere);
    }
    text
}

/// A check that is one attack.
struct Probe {
    group: &'static Group,
    row: &'static Row,
}

#[async_trait]
impl Check for Probe {
    fn id(&self) -> &str {
        self.row.id
    }

    fn level(&self) -> CheckLevel {
        self.group.level
    }

    fn needs(&self) -> &[Need] {
        self.row.needs
    }

    fn tries(&self) -> &str {
        self.row.tries
    }

    fn means(&self) -> &str {
        self.group.means
    }

    async fn run(&self, place: &dyn Place) -> Verdict {
        let mut tried = false;
        let mut reason = String::from("nobody is there to try it");
        for user in place
            .users()
            .iter()
            .filter(|user| self.row.users.contains(user))
        {
            let attempt = match place.attack(self.id(), *user).await {
                Ok(attempt) => attempt,
                Err(error) => return Verdict::not_run(error.to_string()),
            };
            match attempt.answer {
                // The kernel ended it: a bomb, or what it must not even try.
                None => tried = true,
                Some(Answer {
                    verdict, evidence, ..
                }) => match verdict {
                    AttackVerdict::Fired => {
                        let evidence = escape(&format!("as {}: {evidence}", user.name()));
                        return Verdict::Fired { evidence };
                    }
                    AttackVerdict::Silent => tried = true,
                    AttackVerdict::Unable => reason = evidence,
                },
            }
        }
        if tried {
            Verdict::Silent
        } else {
            Verdict::not_run(reason)
        }
    }
}
