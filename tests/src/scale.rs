// SPDX-License-Identifier: GPL-2.0

//! How much is done, and what has been.

use std::env;

/// How many times to do what is done so many times by default: KSTAT_STRESS=10 makes it ten times as
/// many, 0.1 a tenth.
#[track_caller]
pub fn times(by_default: u64) -> u64 {
    let factor: f64 = match env::var("KSTAT_STRESS") {
        Ok(factor) => factor
            .parse()
            .unwrap_or_else(|error| panic!("KSTAT_STRESS is a number, not {factor:?}: {error}")),
        Err(_) => 1.0,
    };

    (by_default as f64 * factor).ceil() as u64
}

/// Tells that something was done so many times: a line that scripts/stress makes a table of.
pub fn did(times: u64, what: &str) {
    println!("did: {times} {what}");
}
