// SPDX-License-Identifier: GPL-2.0

//! How long RCU's grace periods take.

use crate::file;

const EXPEDITED: &str = "/sys/kernel/rcu_expedited";
/// How many ticks the others wait before they look for CPUs that have nothing to say.
const FIRST_FQS: &str = "/sys/module/rcutree/parameters/jiffies_till_first_fqs";

/// While this is there, grace periods end as soon as they can, at the expense of all CPUs: a hundred
/// times as many fit into a test, and a reader is missed as surely if nobody waits for it.
pub struct Expedited {
    first_fqs: String,
}

impl Expedited {
    /// From now on.
    #[track_caller]
    pub fn new() -> Self {
        let first_fqs = file::read(FIRST_FQS);

        set(EXPEDITED, "1");
        set(FIRST_FQS, "0");
        Self { first_fqs }
    }
}

impl Default for Expedited {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Expedited {
    fn drop(&mut self) {
        set(FIRST_FQS, &self.first_fqs);
        set(EXPEDITED, "0");
    }
}

#[track_caller]
fn set(path: &str, value: &str) {
    file::put(path, value).unwrap_or_else(|error| panic!("writing {value:?} to {path}: {error}"));
}
