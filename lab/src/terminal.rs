// SPDX-License-Identifier: GPL-2.0

//! The size of the terminal on which a guest's shell runs.

use nix::sys::signal::{SigSet, Signal};
use std::{io::Write, thread};

/// Writes the size of the standard output's terminal to `port`, now and whenever it changes: the rows and the
/// columns, a line each time. Call this before any other thread is made, as it blocks SIGWINCH.
pub fn send_size(mut port: impl Write + Send + 'static) -> nix::Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGWINCH);
    signals.thread_block()?;
    thread::spawn(move || loop {
        let Ok(size) = rustix::termios::tcgetwinsize(std::io::stdout()) else {
            return;
        };
        let sent = writeln!(port, "{} {}", size.ws_row, size.ws_col);
        if sent.is_err() || signals.wait().is_err() {
            return;
        }
    });
    Ok(())
}
