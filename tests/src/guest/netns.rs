// SPDX-License-Identifier: GPL-2.0

//! Makes network namespaces, enters them, and counts them.

use crate::{
    guest::{file, memory},
    wait,
};
use nix::sched::{setns, unshare, CloneFlags};
use std::{
    fs::File,
    os::fd::AsRawFd,
    panic, process, thread,
    time::{Duration, Instant},
};

/// A reference to a network namespace, which keeps the namespace alive.
///
/// Each thread is in one network namespace. The sockets and files of kstat that it opens, and the
/// processes that it starts, stay in that namespace.
pub struct Netns(File);

impl Netns {
    /// Makes a network namespace. Its only device is `lo`, which is down.
    pub fn new() -> Self {
        in_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)
                .unwrap_or_else(|error| panic!("making a network namespace: {error}"));
            Self::current()
        })
    }

    /// Returns the network namespace of the calling thread.
    pub fn current() -> Self {
        // Not /proc/self, which is the main thread.
        Self::open("/proc/thread-self/ns/net")
    }

    /// Opens the network namespace that a file in /proc or a file of ip-netns(8) refers to.
    pub fn open(path: &str) -> Self {
        Self(file::reader(path))
    }

    /// Returns a path to the namespace for other programs, for example for `ip link ... netns`.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", process::id(), self.0.as_raw_fd())
    }

    /// Does `work` in the namespace, in a thread of its own.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        in_thread(|| {
            setns(&self.0, CloneFlags::CLONE_NEWNET)
                .unwrap_or_else(|error| panic!("entering a network namespace: {error}"));
            work()
        })
    }
}

impl Default for Netns {
    fn default() -> Self {
        Self::new()
    }
}

/// Returns the number of network namespaces, including those that are being torn down.
#[track_caller]
pub fn count() -> u64 {
    memory::objects_of("net_namespace")
}

/// Returns the number of network namespaces after most of those that were torn down have been
/// freed.
///
/// The memory of a namespace is freed when the next one is cleaned up, so this makes and drops
/// some, and returns the lowest number that it sees.
#[track_caller]
pub fn settled_count() -> u64 {
    (0..4)
        .map(|_| {
            drop(Netns::new());
            count()
        })
        .min()
        .expect("the range is not empty")
}

/// The least number of namespaces in a check for leaks. [`await_count`] tolerates 2 more namespaces
/// than before, as these may still be in teardown, so 2 leaked ones would not be noticed.
pub const MIN_FOR_LEAK_CHECK: u64 = 8;

/// Returns when the number of network namespaces is at most 2 more than `before`: the kernel has
/// then freed those that a test made and dropped since.
#[track_caller]
pub fn await_count(before: u64) {
    // The memory of the last namespaces is freed when the next one is cleaned up, so this makes
    // further namespaces. With PREEMPT_RT, the kernel cleans up only about 8 in a second, because
    // irq_work_sync() waits for a grace period. Therefore, this makes one in a second.
    const LIMIT: Duration = Duration::from_secs(120);
    const PACE: Duration = Duration::from_secs(1);
    let mut made: Option<Instant> = None;

    wait::until_within(LIMIT, "the namespaces were freed", || {
        if made.is_none_or(|made| made.elapsed() > PACE) {
            drop(Netns::new());
            made = Some(Instant::now());
        }
        count() <= before + 2
    });
}

/// Does `work` in a thread of its own, so that changes to the thread's namespace, credentials or
/// CPUs end with the work.
pub(crate) fn in_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        scope
            .spawn(work)
            .join()
            .unwrap_or_else(|panic| panic::resume_unwind(panic))
    })
}
