// SPDX-License-Identifier: GPL-2.0

//! What all the other tests have lost. The name makes this the last one.

use kstat_tests::{
    guest::{exclusive::KernelLock, file},
    scale::did,
};
use std::{thread, time::Duration};

const KMEMLEAK: &str = "/sys/kernel/debug/kmemleak";

#[test]
fn kmemleak_has_nothing_to_report() {
    let _lock = KernelLock::take();

    // Reported is what is lost, has not changed since the last scan, and is older than 5 seconds
    // (`MSECS_MIN_AGE` in `mm/kmemleak.c`): those can be waited for, but not seen to pass.
    file::set(KMEMLEAK, "scan");
    thread::sleep(Duration::from_secs(6));
    file::set(KMEMLEAK, "scan");
    let lost = file::read(KMEMLEAK);
    assert_eq!(lost, "", "lost memory");
    did(2, "scans of kmemleak after all this");
}
