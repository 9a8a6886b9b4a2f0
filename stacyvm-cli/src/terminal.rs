//! The local terminal: its size, and raw mode that is always undone.

use rustix::termios::{self, OptionalActions, Termios};
use stacyvm::sandbox::exec::TtySize;

/// The size of the terminal on standard input or output.
pub(crate) fn size() -> Option<TtySize> {
    let measured = termios::tcgetwinsize(std::io::stdin())
        .or_else(|_| termios::tcgetwinsize(std::io::stdout()))
        .ok()?;
    (measured.ws_row > 0 && measured.ws_col > 0).then_some(TtySize {
        rows: measured.ws_row,
        columns: measured.ws_col,
    })
}

/// Raw mode of standard input, for as long as this lives.
#[derive(Debug)]
pub(crate) struct RawMode(Termios);

impl RawMode {
    /// Enters raw mode; `None` where standard input is no terminal.
    pub(crate) fn enter() -> Option<Self> {
        let before = termios::tcgetattr(std::io::stdin()).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(std::io::stdin(), OptionalActions::Flush, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // The terminal may be gone; then there is nothing to restore.
        let _ = termios::tcsetattr(std::io::stdin(), OptionalActions::Flush, &self.0);
    }
}
