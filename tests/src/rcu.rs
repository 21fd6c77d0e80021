// SPDX-License-Identifier: GPL-2.0

//! How long RCU's grace periods take.

use crate::file;

const EXPEDITED: &str = "/sys/kernel/rcu_expedited";

/// While this is there, grace periods end as soon as they can, at the expense of all CPUs: a hundred
/// times as many fit into a test, and a reader is missed as surely if nobody waits for it.
pub struct Expedited(());

impl Expedited {
    /// From now on.
    #[track_caller]
    pub fn new() -> Self {
        set("1");
        Self(())
    }
}

impl Default for Expedited {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Expedited {
    fn drop(&mut self) {
        set("0");
    }
}

#[track_caller]
fn set(value: &str) {
    file::put(EXPEDITED, value)
        .unwrap_or_else(|error| panic!("writing {value} to {EXPEDITED}: {error}"));
}
