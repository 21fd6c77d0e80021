// SPDX-License-Identifier: GPL-2.0

//! The library of kstat's tests and of its benchmark.
//!
//! A test in a guest takes the [`KernelLock`](guest::exclusive::KernelLock), loads
//! [`Kstat`](guest::module::Kstat), and makes [`Host`](guest::host::Host)s. Each host is a network
//! namespace of its own, so no test sees the packets of another. Helpers panic with a message that
//! says what they attempted.

use std::thread;

pub mod guest;
pub mod lab;
pub mod scale;
pub mod seed;
pub mod stress;
pub mod tool;
pub mod wait;

/// Asserts that `nout` equals `other`, the count of the same packets by `source`.
#[track_caller]
pub fn assert_agrees(nout: u64, other: u64, source: &str) {
    println!("nout says {nout}, {source} says {other}");
    assert_eq!(
        nout, other,
        "nout says {nout}, but {source} says {other} (left: nout)"
    );
}

/// Runs `check` unless the calling thread panics already.
///
/// This is for checks in `drop`. A panic there during another panic would abort the test program,
/// and the first failure would not be reported.
pub fn unless_panicking(check: impl FnOnce()) {
    if !thread::panicking() {
        check();
    }
}
