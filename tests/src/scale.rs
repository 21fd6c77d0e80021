// SPDX-License-Identifier: GPL-2.0

//! How often tests repeat their operations, and the report of how often they did.

use std::env;

/// Scales a number of repetitions by KSTAT_STRESS: 10 makes it ten times as large, 0.1 a tenth.
#[track_caller]
pub fn times(default: u64) -> u64 {
    let factor: f64 = match env::var("KSTAT_STRESS") {
        Ok(factor) => factor.parse().unwrap_or_else(|error| {
            panic!("KSTAT_STRESS is not a number, but {factor:?}: {error}")
        }),
        Err(_) => 1.0,
    };

    (default as f64 * factor).ceil() as u64
}

/// Prints that `operation` was done `times` times. `make stress` adds up these lines in its table.
pub fn did(times: u64, operation: &str) {
    println!("did: {times} {operation}");
}
