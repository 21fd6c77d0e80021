// SPDX-License-Identifier: GPL-2.0

//! A lock that lets one test at a time use the kernel, which can hold only one kstat.

use crate::{guest::module, unless_panicking};
use nix::errno::Errno;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The lock on the kernel: its holder may load kstat and make hosts.
///
/// The objects that a test makes borrow the lock, so they are dropped before it is released.
/// Dropping it unloads kstat, also if the test has failed.
pub struct KernelLock {
    _guard: MutexGuard<'static, ()>,
}

impl KernelLock {
    /// Waits for the lock, and asserts that kstat is not loaded.
    #[track_caller]
    pub fn take() -> Self {
        static LOCK: Mutex<()> = Mutex::new(());

        // A test that panicked has also unloaded kstat, so a poisoned lock is as good as any.
        let lock = Self {
            _guard: LOCK.lock().unwrap_or_else(PoisonError::into_inner),
        };
        assert!(!module::is_loaded(), "kstat is loaded, but no test runs");
        lock
    }
}

impl Drop for KernelLock {
    fn drop(&mut self) {
        let result = module::unload(self);

        unless_panicking(|| {
            assert!(
                matches!(result, Ok(()) | Err(Errno::ENOENT)),
                "unloading kstat: {result:?}"
            );
        });
    }
}
