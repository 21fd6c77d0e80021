// SPDX-License-Identifier: GPL-2.0

//! The CPUs of the guest, and threads that are bound to one of them.

use crate::{
    guest::{file, netns},
    unless_panicking,
};
use nix::{
    sched::{sched_setaffinity, CpuSet},
    unistd::Pid,
};
use std::thread;

/// Returns the number of CPUs. Asserts that there are at least two, as its callers test
/// concurrency.
#[track_caller]
pub fn count() -> usize {
    let count = thread::available_parallelism()
        .unwrap_or_else(|error| panic!("counting the CPUs: {error}"))
        .get();

    assert!(count > 1, "this takes a guest with more than one CPU");
    count
}

/// Binds the calling thread to `cpu`.
#[track_caller]
pub fn stay_on(cpu: usize) {
    let mut set = CpuSet::new();

    set.set(cpu)
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &set))
        .unwrap_or_else(|error| panic!("staying on CPU {cpu}: {error}"));
}

/// Does `work` on `cpu`, in a thread of its own.
#[track_caller]
pub fn on<T: Send>(cpu: usize, work: impl FnOnce() -> T + Send) -> T {
    netns::in_thread(|| {
        stay_on(cpu);
        work()
    })
}

/// A CPU that is offline until this is dropped. The kernel moves threads that are bound to it to
/// other CPUs.
pub struct Offline(String);

impl Offline {
    /// Takes `cpu` offline.
    #[track_caller]
    pub fn new(cpu: usize) -> Self {
        let path = format!("/sys/devices/system/cpu/cpu{cpu}/online");

        file::set(&path, "0");
        Self(path)
    }
}

impl Drop for Offline {
    fn drop(&mut self) {
        let result = file::put(&self.0, "1");

        unless_panicking(|| result.unwrap_or_else(|error| panic!("{}: {error}", self.0)));
    }
}
