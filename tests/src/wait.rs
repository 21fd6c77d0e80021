// SPDX-License-Identifier: GPL-2.0

//! Waits for a condition, with a time limit.

use std::{
    thread,
    time::{Duration, Instant},
};

/// The time limit of a wait: far more than an emulated CPU needs.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Returns when `condition` holds. Panics after [`PATIENCE`] with `event`, a clause in the past
/// tense that names the condition.
#[track_caller]
pub fn until(event: &str, condition: impl FnMut() -> bool) {
    until_within(PATIENCE, event, condition);
}

/// As [`until`], with another time limit.
#[track_caller]
pub fn until_within(limit: Duration, event: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;

    while !condition() {
        assert!(
            Instant::now() < deadline,
            "waited {limit:?} in vain until {event}"
        );
        thread::sleep(Duration::from_millis(2));
    }
}
