//! The cases, by suite.

mod background;
mod claims;
mod common;
mod concurrency;
mod errors;
mod exec;
mod files;
mod files_common;
mod files_links;
mod files_listed;
mod files_names;
mod files_streams;
mod files_tree;
mod honesty;
mod hostile;
mod hosts;
mod isolation;
mod kill;
mod labels;
mod lifecycle;
mod limits;
mod made;
mod mounts;
mod needs;
mod network;
mod ports;
#[cfg(all(target_os = "linux", feature = "certify"))]
mod probes;
mod reattach;
mod snapshots;
mod streaming;
mod tar;
mod tar_bytes;
mod tar_hostile;
mod tty;
mod usage;
mod watch;

use crate::case::Case;

/// Makes a list of cases of functions.
macro_rules! cases {
    ($($level:ident $id:literal [$($promise:literal)*] $(needs($($need:ident),+) $(else $declined:path)?)? => $run:path;)*) => {
        &[$(Case {
            id: $id,
            level: Level::$level,
            promises: concat!($($promise, " "),*),
            needs: &[$($($crate::suites::needs::$need),+)?],
            alone: false,
            run: |fixture| Box::pin($run(fixture)),
            declined: cases!(@declined $($($declined)?)?),
        }),*]
    };
    (@declined) => { None };
    (@declined $declined:path) => { Some(|fixture| Box::pin($declined(fixture))) };
}
use cases;

/// Every case, by suite.
pub static CASES: std::sync::LazyLock<Vec<Case>> = std::sync::LazyLock::new(|| {
    let suites = [
        lifecycle::CASES,
        exec::CASES,
        streaming::CASES,
        errors::CASES,
        concurrency::CASES,
        honesty::CASES,
        made::CASES,
        claims::CASES,
        kill::CASES,
        background::CASES,
        tty::CASES,
        files::CASES,
        files_streams::CASES,
        files_names::CASES,
        files_tree::CASES,
        files_listed::CASES,
        files_links::CASES,
        watch::CASES,
        tar::CASES,
        tar_hostile::CASES,
        ports::CASES,
        limits::CASES,
        mounts::CASES,
        network::CASES,
        isolation::CASES,
        hostile::CASES,
        reattach::CASES,
        hosts::CASES,
        usage::CASES,
        snapshots::CASES,
        labels::CASES,
    ];
    #[cfg_attr(
        not(all(target_os = "linux", feature = "certify")),
        expect(unused_mut, reason = "nothing is added without the feature")
    )]
    let mut all = suites.concat();
    #[cfg(all(target_os = "linux", feature = "certify"))]
    all.extend(probes::cases());
    all
});
