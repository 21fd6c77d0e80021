// SPDX-License-Identifier: GPL-2.0

//! Kernel settings that a test changes, restored on drop.

use crate::{guest::file, unless_panicking};

/// A changed kernel setting. Dropping it restores the previous value.
pub struct Setting {
    path: &'static str,
    previous: String,
}

impl Setting {
    /// Sets the setting in the file `path` to `value`.
    #[track_caller]
    pub fn new(path: &'static str, value: &str) -> Self {
        let previous = file::read(path);

        file::set(path, value);
        Self { path, previous }
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        let result = file::put(self.path, &self.previous);

        unless_panicking(|| {
            result.unwrap_or_else(|error| panic!("restoring {}: {error}", self.path));
        });
    }
}

/// Makes RCU grace periods as short as possible, at the expense of all CPUs.
///
/// About a hundred times as many grace periods then fit into a test. A missing wait for readers is
/// found as surely as with longer ones.
#[track_caller]
pub fn expedite_grace_periods() -> [Setting; 2] {
    [
        Setting::new("/sys/kernel/rcu_expedited", "1"),
        // The number of ticks before RCU first looks for CPUs that are in a quiescent state.
        Setting::new("/sys/module/rcutree/parameters/jiffies_till_first_fqs", "0"),
    ]
}

/// Makes KCSAN watch about every 500th memory access instead of every 4,000th, if the kernel has
/// KCSAN.
#[track_caller]
pub fn increase_kcsan_sampling() -> Option<Setting> {
    const SKIP_WATCH: &str = "/sys/module/kcsan/parameters/skip_watch";

    file::exists(SKIP_WATCH).then(|| Setting::new(SKIP_WATCH, "500"))
}
