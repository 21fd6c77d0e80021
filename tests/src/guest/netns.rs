// SPDX-License-Identifier: GPL-2.0

//! Network namespaces, and work that is done in them.

use crate::{
    guest::{file, memory},
    wait,
};
use nix::sched::{setns, unshare, CloneFlags};
use std::{fs::File, os::fd::AsRawFd, panic, process, thread};

/// A network namespace, which is there at least as long as this is.
///
/// A thread is in one namespace, and what it opens and starts stays there: sockets, files of kstat,
/// and processes.
pub struct Netns(File);

impl Netns {
    /// Makes one. It has no device but `lo`, which is down.
    pub fn new() -> Self {
        in_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)
                .unwrap_or_else(|error| panic!("making a network namespace: {error}"));
            Self::current()
        })
    }

    /// That of the calling thread.
    pub fn current() -> Self {
        // Not `self`: that would be the main thread's.
        Self::open("/proc/thread-self/ns/net")
    }

    /// The one that a file stands for, such as those that `ip netns` makes.
    pub fn open(path: &str) -> Self {
        Self(file::reader(path))
    }

    /// A name of it that tools take, such as `ip link ... netns`.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", process::id(), self.0.as_raw_fd())
    }

    /// Does `work` in the namespace.
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

/// How many there are, with those that are being torn down.
#[track_caller]
pub fn count() -> u64 {
    memory::objects_of("net_namespace")
}

/// How many there are when those that are gone have been freed, as far as that can be had.
#[track_caller]
pub fn settled_count() -> u64 {
    (0..4)
        .map(|_| {
            drop(Netns::new());
            count()
        })
        .min()
        .expect("some")
}

/// The fewest namespaces that show it if each is kept: of two, one cannot tell whether they are
/// still being torn down.
pub const ENOUGH: u64 = 8;

/// Returns when there are no more than so many: the kernel keeps none of those that were made since.
#[track_caller]
pub fn await_count(before: u64) {
    // The memory of the last ones is freed when the next one is cleaned up.
    wait::until("the namespaces were freed", || {
        drop(Netns::new());
        count() <= before + 2
    });
}

/// Does `work` in a thread of its own, so that what it changes of itself ends with it.
pub(crate) fn in_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        scope
            .spawn(work)
            .join()
            .unwrap_or_else(|panic| panic::resume_unwind(panic))
    })
}
