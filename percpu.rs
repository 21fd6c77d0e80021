// SPDX-License-Identifier: GPL-2.0

//! A counter that no two CPUs contend for.
//!
//! C header: [`include/linux/percpu.h`](srctree/include/linux/percpu.h)

use crate::bindings;
use core::ptr::NonNull;
use kernel::{
    alloc::AllocError,
    cpu,
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
};

/// A 64-bit counter with a part for each possible CPU, in memory that belongs to that CPU.
///
/// Adding costs one atomic operation on a cache line that no other CPU writes; reading adds up the
/// parts of all possible CPUs, online or not, so a CPU that goes offline takes nothing with it.
///
/// # Examples
///
/// ```
/// let packets = percpu::Counter::new()?;
///
/// packets.inc();
/// assert_eq!(packets.sum(), 1);
/// # Ok::<(), Error>(())
/// ```
///
/// # Invariants
///
/// `parts` came from the per-CPU allocator, is not freed while the counter lives, and is reached as
/// an [`Atomic<u64>`] only.
pub(crate) struct Counter {
    parts: NonNull<c_void>,
}

// SAFETY: The per-CPU allocator does not care who frees what it gave, and the parts are atomics.
unsafe impl Send for Counter {}

// SAFETY: The parts are only reached as atomics, by any number of CPUs.
unsafe impl Sync for Counter {}

impl Counter {
    /// Allocates a counter that stands at 0.
    ///
    /// May sleep. Fails if there is no memory for a part of every possible CPU.
    pub(crate) fn new() -> Result<Self, AllocError> {
        // SAFETY: The size is not 0, and the alignment is a power of two below a page.
        let parts = unsafe {
            bindings::shim_alloc_percpu(size_of::<Atomic<u64>>(), align_of::<Atomic<u64>>())
        };

        // INVARIANT: The allocator gave `parts`, zeroed, which is a valid `Atomic<u64>`, and of this
        // size and alignment for each possible CPU.
        Ok(Self {
            parts: NonNull::new(parts).ok_or(AllocError)?,
        })
    }

    /// Adds one.
    ///
    /// Callable from any context. The task may move to another CPU on the way, and then adds to
    /// the part of the CPU it came from: that is why the parts are atomic. The order with other
    /// memory accesses is not defined.
    #[inline]
    pub(crate) fn inc(&self) {
        // SAFETY: By the type invariant, `parts` is a live per-CPU allocation.
        let part = unsafe { bindings::shim_raw_cpu_ptr(self.parts.as_ptr()) };
        // SAFETY: By the type invariant, the part of any CPU is a valid `Atomic<u64>`.
        unsafe { &*part.cast::<Atomic<u64>>() }.add(1, Relaxed);
    }

    /// Adds up the parts.
    ///
    /// Every addition that happened before the call is in the sum, once; one that happens during
    /// the call may be or not. As each part only grows, so do sums: a sum that was taken after
    /// another is not smaller (each part is read coherently, wherever the reader runs).
    pub(crate) fn sum(&self) -> u64 {
        let mut sum = 0u64;
        let mut cpu = -1;

        loop {
            // SAFETY: -1 asks for the first CPU, a CPU number for the one after it.
            cpu = unsafe { bindings::shim_cpumask_next_possible(cpu) };
            if cpu as u32 >= cpu::nr_cpu_ids() {
                return sum;
            }
            // SAFETY: `parts` is a live per-CPU allocation by the type invariant, and `cpu` is a
            // possible CPU.
            let part = unsafe { bindings::shim_per_cpu_ptr(self.parts.as_ptr(), cpu) };
            // SAFETY: By the type invariant, the part of any possible CPU is a valid `Atomic<u64>`.
            let part = unsafe { &*part.cast::<Atomic<u64>>() };
            sum = sum.wrapping_add(part.load(Relaxed));
        }
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        // SAFETY: `parts` came from the per-CPU allocator, and `&mut self` says that nobody counts.
        unsafe { bindings::free_percpu(self.parts.as_ptr()) };
    }
}
