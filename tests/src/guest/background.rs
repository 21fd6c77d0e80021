// SPDX-License-Identifier: GPL-2.0

//! Work that other CPUs repeat while a test does something else.

use crate::guest::cpu;
use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

/// Does `work` while threads repeat `others`, each in a thread of its own, and returns the result
/// of `work`.
///
/// The threads are spread over the CPUs in turn. Each of `others` runs at least once. A panic in
/// `work` or in any of `others` panics here.
#[track_caller]
pub fn while_repeating<T>(others: &[&(dyn Fn() + Sync)], work: impl FnOnce() -> T) -> T {
    struct Done<'a>(&'a AtomicBool);

    impl Drop for Done<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    let done = &AtomicBool::new(false);
    let cpus = cpu::count();

    thread::scope(|scope| {
        for (i, other) in others.iter().enumerate() {
            scope.spawn(move || {
                cpu::stay_on(i % cpus);
                loop {
                    other();
                    if done.load(Ordering::SeqCst) {
                        break;
                    }
                }
            });
        }
        // A guard, because a panic in `work` must stop the threads too: the scope waits for them.
        let _done = Done(done);
        work()
    })
}
