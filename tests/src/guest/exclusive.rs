// SPDX-License-Identifier: GPL-2.0

//! There is one kernel and it holds one kstat, so tests take turns.

use crate::guest::module;
use nix::errno::Errno;
use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
};

/// The right to do things to the kernel, which one test has at a time.
///
/// Whatever is made for a test borrows it, so it is gone when the turn ends; and whatever a test did,
/// also if it failed, kstat is not loaded then.
pub struct KernelLock {
    _guard: MutexGuard<'static, ()>,
}

impl KernelLock {
    /// Waits for it.
    #[track_caller]
    pub fn take() -> Self {
        static LOCK: Mutex<()> = Mutex::new(());

        // A test that failed has given back the kernel as it was, like any other.
        let lock = Self {
            _guard: LOCK.lock().unwrap_or_else(PoisonError::into_inner),
        };
        assert!(!module::is_loaded(), "kstat is loaded, and by no test");
        lock
    }
}

impl Drop for KernelLock {
    fn drop(&mut self) {
        let result = module::unload(self);

        // If the test has failed already, that is what should be told.
        if !thread::panicking() {
            assert!(
                matches!(result, Ok(()) | Err(Errno::ENOENT)),
                "unloading kstat: {result:?}"
            );
        }
    }
}
