//! How far a pull is, on a terminal.

use std::io::IsTerminal as _;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use stacyvm::provider::PullProgress;

const TEMPLATE: &str = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec}";

/// A bar on standard error, from the first bytes until it is dropped. There is
/// none where that is no terminal, nor for programs.
#[derive(Debug)]
pub(crate) struct Bar(ProgressBar);

impl Bar {
    pub(crate) fn new(image: &str, json: bool) -> Self {
        if json || !std::io::stderr().is_terminal() {
            return Self(ProgressBar::hidden());
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
            bar.set_style(style);
        }
        bar.set_message(stacyvm::error::escape(image));
        Self(bar)
    }

    /// Whom to tell how far it is.
    pub(crate) fn observer(&self) -> impl Fn(PullProgress) + Send + Sync + 'static {
        let bar = self.0.clone();
        move |progress| {
            bar.set_length(progress.total);
            bar.set_position(progress.done);
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
