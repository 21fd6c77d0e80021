// SPDX-License-Identifier: GPL-2.0

//! A per-CPU counter: CPUs add to it without contention.
//!
//! C header: [`include/linux/percpu.h`](srctree/include/linux/percpu.h)

use super::bindings;
use core::{
    marker::PhantomData,
    ptr::NonNull, //
};
use kernel::{
    alloc::AllocError,
    cpu,
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
};

/// A 64-bit counter that has one part for each possible CPU, in the per-CPU memory of that CPU.
///
/// Adding costs one instruction on x86-64, and one call of a C function on other architectures. It
/// writes to a cache line that no other CPU writes to. Reading sums the parts of all possible CPUs,
/// online and offline, so the count of a CPU that goes offline is kept.
///
/// # Examples
///
/// ```
/// use crate::abstractions::percpu;
///
/// let packets = percpu::Counter::new()?;
///
/// packets.borrow().inc();
/// assert_eq!(packets.borrow().sum(), 1);
/// # Ok::<(), Error>(())
/// ```
///
/// # Invariants
///
/// The pointer is a per-CPU allocation of an [`Atomic<u64>`] that belongs to this counter.
pub(crate) struct Counter(NonNull<c_void>);

/// A borrowed [`Counter`]: its per-CPU address, which is a `u64 __percpu *` in C.
///
/// # Invariants
///
/// `ptr` is a per-CPU allocation of an [`Atomic<u64>`] that is not freed during `'a`. The only
/// accesses to a part are reads, and additions that are either one instruction of its CPU or
/// atomic.
#[derive(Clone, Copy)]
pub(crate) struct CounterRef<'a> {
    ptr: NonNull<c_void>,
    _counter: PhantomData<&'a Counter>,
}

// SAFETY: A per-CPU allocation may be freed by any task.
unsafe impl Send for Counter {}

// SAFETY: By the type invariant of `CounterRef`, no addition is lost, and parts are read
// atomically.
unsafe impl Sync for Counter {}

// SAFETY: A `CounterRef` is a reference to a `Counter`, which is `Sync`.
unsafe impl Send for CounterRef<'_> {}

// SAFETY: A `CounterRef` is a reference to a `Counter`, which is `Sync`.
unsafe impl Sync for CounterRef<'_> {}

impl Counter {
    /// Allocates a counter whose value is 0.
    ///
    /// May sleep. Fails if there is not enough memory for the parts of all possible CPUs.
    pub(crate) fn new() -> Result<Self, AllocError> {
        // SAFETY: The size is not 0. The alignment is a power of two, and smaller than a page.
        let ptr = unsafe {
            bindings::shim_alloc_percpu(size_of::<Atomic<u64>>(), align_of::<Atomic<u64>>())
        };

        // INVARIANT: For each possible CPU, the allocator returned zeroed memory of this size and
        // alignment. Zeroed memory is a valid `Atomic<u64>`.
        Ok(Self(NonNull::new(ptr).ok_or(AllocError)?))
    }

    /// Borrows the counter.
    pub(crate) fn borrow(&self) -> CounterRef<'_> {
        // INVARIANT: By the type invariant, this is a per-CPU allocation. It is not freed while the
        // counter is borrowed.
        CounterRef {
            ptr: self.0,
            _counter: PhantomData,
        }
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        // SAFETY: The memory comes from the per-CPU allocator, and the counter is not borrowed.
        unsafe { bindings::free_percpu(self.0.as_ptr()) };
    }
}

impl CounterRef<'_> {
    /// Returns the per-CPU address. It must not be dereferenced directly.
    pub(crate) fn into_raw(self) -> *mut c_void {
        self.ptr.as_ptr()
    }

    /// Returns the counter at a per-CPU address.
    ///
    /// # Safety
    ///
    /// `ptr` must come from [`Self::into_raw`], and its counter must not be dropped while the
    /// result exists.
    pub(crate) unsafe fn from_raw(ptr: *mut c_void) -> Self {
        // INVARIANT: By the safety requirements, `ptr` is the per-CPU address of a counter that is
        // not dropped.
        Self {
            // SAFETY: `into_raw` never returns a null pointer.
            ptr: unsafe { NonNull::new_unchecked(ptr) },
            _counter: PhantomData,
        }
    }

    /// Adds one.
    ///
    /// Callable from any context. Not ordered with other memory accesses.
    #[inline(always)]
    pub(crate) fn inc(self) {
        #[cfg(all(CONFIG_X86_64, CONFIG_SMP, not(CONFIG_UML)))]
        // This is `this_cpu_inc()` on x86-64. An interrupt or a migration to another CPU happens
        // before or after the instruction.
        //
        // SAFETY: The base of `gs` is the offset of this CPU's per-CPU memory. By the type
        // invariant, `ptr` plus that offset is the address of this CPU's part, and no other CPU
        // adds to it.
        unsafe {
            core::arch::asm!(
                "incq %gs:({})",
                in(reg) self.into_raw(),
                options(att_syntax, nostack)
            )
        };

        #[cfg(not(all(CONFIG_X86_64, CONFIG_SMP, not(CONFIG_UML))))]
        // SAFETY: By the type invariant, this is a live per-CPU allocation of a 64-bit integer.
        unsafe {
            bindings::shim_raw_cpu_inc(self.into_raw().cast())
        };
    }

    /// Returns the sum of all parts.
    ///
    /// An addition before the call is in the sum exactly once. An addition during the call may or
    /// may not be in the sum. Each part only grows, and reads of one part are coherent on all CPUs.
    /// Therefore, a sum that is taken after another sum is never smaller.
    pub(crate) fn sum(self) -> u64 {
        let mut sum = 0u64;
        let mut cpu = -1;

        loop {
            // SAFETY: -1 requests the first possible CPU; a CPU number requests the next one.
            cpu = unsafe { bindings::shim_cpumask_next_possible(cpu) };
            if cpu as u32 >= cpu::nr_cpu_ids() {
                return sum;
            }
            // SAFETY: By the type invariant, this is a live per-CPU allocation, and `cpu` is a
            // possible CPU.
            let part = unsafe { bindings::shim_per_cpu_ptr(self.into_raw(), cpu) };
            // SAFETY: By the type invariant, the part of any possible CPU is a valid `Atomic<u64>`.
            let part = unsafe { &*part.cast::<Atomic<u64>>() };
            sum = sum.wrapping_add(part.load(Relaxed));
        }
    }
}
