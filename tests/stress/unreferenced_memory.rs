// SPDX-License-Identifier: GPL-2.0

//! Memory leaks of all other tests, found by kmemleak.
//!
//! This check must come after all other tests of the program. libtest runs tests in the
//! alphabetical order of their full names, so this module must stay the last in that order.

use kstat_tests::{
    guest::{exclusive::KernelLock, file},
    scale::did,
};
use std::{thread, time::Duration};

const KMEMLEAK: &str = "/sys/kernel/debug/kmemleak";

#[test]
fn kmemleak_reports_nothing_after_all_other_tests() {
    let _lock = KernelLock::take();

    // kmemleak reports an object that nothing refers to only if it is older than 5 seconds
    // (`MSECS_MIN_AGE` in `mm/kmemleak.c`) and has not changed since the scan before. No file shows
    // when these seconds are over, so this sleeps.
    file::set(KMEMLEAK, "scan");
    thread::sleep(Duration::from_secs(6));
    file::set(KMEMLEAK, "scan");
    let report = file::read(KMEMLEAK);
    assert_eq!(report, "", "memory that nothing refers to");
    did(2, "kmemleak scans after all other tests");
}
