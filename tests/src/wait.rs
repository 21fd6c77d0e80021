// SPDX-License-Identifier: GPL-2.0

//! Waiting for something to become true, and failing if it does not.

use std::{
    thread,
    time::{Duration, Instant},
};

/// What takes this long will not come: it is meant to be far more than an emulated CPU needs.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Returns when `condition` holds; `what` says what that means.
#[track_caller]
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;

    while !condition() {
        assert!(
            Instant::now() < deadline,
            "waited {PATIENCE:?} in vain until {what}"
        );
        thread::sleep(Duration::from_millis(2));
    }
}
