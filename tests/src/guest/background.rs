// SPDX-License-Identifier: GPL-2.0

//! Work that goes on, on all CPUs, while a test does something else.

use crate::guest::cpu;
use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

/// Does `work` while each of `others` is done again and again, on a CPU of its own as long as there
/// are some, and at least once. It fails if any of them does.
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
        // Also if the work fails, or the others would never end.
        let _done = Done(done);
        work()
    })
}
