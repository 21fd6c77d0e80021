// SPDX-License-Identifier: GPL-2.0

//! Settings of the kernel's that are other than usual for as long as a test needs.

use crate::guest::file;
use std::thread;

/// A file of the kernel's that says something else until this is dropped.
pub struct Setting {
    path: &'static str,
    usual: String,
}

impl Setting {
    /// It says this from now on.
    #[track_caller]
    pub fn new(path: &'static str, value: &str) -> Self {
        let usual = file::read(path);

        file::set(path, value);
        Self { path, usual }
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        let result = file::put(self.path, &self.usual);

        // If the test has failed already, that is what should be told.
        if !thread::panicking() {
            result.unwrap_or_else(|error| panic!("setting {} back: {error}", self.path));
        }
    }
}

/// Has RCU's grace periods end as soon as they can, at the expense of all CPUs: a hundred times as many
/// fit into a test, and a reader is missed as surely if nobody waits for it.
#[track_caller]
pub fn expedite_grace_periods() -> [Setting; 2] {
    [
        Setting::new("/sys/kernel/rcu_expedited", "1"),
        // So many ticks it waits before it looks for CPUs that have nothing to say.
        Setting::new("/sys/module/rcutree/parameters/jiffies_till_first_fqs", "0"),
    ]
}

/// Has KCSAN, where there is one, watch every 500th memory access or so, instead of every 4,000th.
#[track_caller]
pub fn watch_closely() -> Option<Setting> {
    const SKIP_WATCH: &str = "/sys/module/kcsan/parameters/skip_watch";

    file::exists(SKIP_WATCH).then(|| Setting::new(SKIP_WATCH, "500"))
}
