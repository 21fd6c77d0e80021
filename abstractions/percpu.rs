// SPDX-License-Identifier: GPL-2.0

//! A counter that no two CPUs contend for.
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

/// A 64-bit counter with a part for each possible CPU, in memory that belongs to that CPU.
///
/// Adding costs one instruction on x86, and elsewhere one atomic operation, on a cache line that no
/// other CPU writes. Reading adds up the parts of all possible CPUs, online or not, so the count of a
/// CPU that goes offline is kept.
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
/// The pointer is a per-CPU allocation of an [`Atomic<u64>`], which is this counter's own.
pub(crate) struct Counter(NonNull<c_void>);

/// A borrowed [`Counter`]: its per-CPU address, which C calls a `u64 __percpu *`.
///
/// # Invariants
///
/// `ptr` is a per-CPU allocation of an [`Atomic<u64>`], which is not freed during `'a`. Each part is
/// only read, or added to: by one instruction of its CPU, or atomically.
#[derive(Clone, Copy)]
pub(crate) struct CounterRef<'a> {
    ptr: NonNull<c_void>,
    _counter: PhantomData<&'a Counter>,
}

// SAFETY: Any task may free what the per-CPU allocator returned.
unsafe impl Send for Counter {}

// SAFETY: By the type invariant of `CounterRef` no addition is lost, and parts are read as atomics.
unsafe impl Sync for Counter {}

// SAFETY: It is a reference to a `Counter`, which is `Sync`.
unsafe impl Send for CounterRef<'_> {}

// SAFETY: As above.
unsafe impl Sync for CounterRef<'_> {}

impl Counter {
    /// Allocates a counter that stands at 0.
    ///
    /// May sleep. Fails if there is no memory for a part of every possible CPU.
    pub(crate) fn new() -> Result<Self, AllocError> {
        // SAFETY: The size is not 0, and the alignment is a power of two below a page.
        let ptr = unsafe {
            bindings::shim_alloc_percpu(size_of::<Atomic<u64>>(), align_of::<Atomic<u64>>())
        };

        // INVARIANT: The allocator returned zeroed memory, which is a valid `Atomic<u64>`, of this size
        // and alignment for each possible CPU.
        Ok(Self(NonNull::new(ptr).ok_or(AllocError)?))
    }

    /// Borrows the counter.
    pub(crate) fn borrow(&self) -> CounterRef<'_> {
        // INVARIANT: By the type invariant, and this cannot be dropped while it is borrowed.
        CounterRef {
            ptr: self.0,
            _counter: PhantomData,
        }
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        // SAFETY: The memory came from the per-CPU allocator, and nobody borrows the counter.
        unsafe { bindings::free_percpu(self.0.as_ptr()) };
    }
}

impl CounterRef<'_> {
    /// Returns the per-CPU address, which is not to be dereferenced as it is.
    pub(crate) fn into_raw(self) -> *mut c_void {
        self.ptr.as_ptr()
    }

    /// Returns the counter at a per-CPU address.
    ///
    /// # Safety
    ///
    /// `ptr` must have come from [`Self::into_raw`] of a counter that is not dropped while the result lasts.
    pub(crate) unsafe fn from_raw(ptr: *mut c_void) -> Self {
        // INVARIANT: The caller promises that it is the address of a counter.
        Self {
            // SAFETY: No counter has address 0.
            ptr: unsafe { NonNull::new_unchecked(ptr) },
            _counter: PhantomData,
        }
    }

    /// Adds one.
    ///
    /// Callable from any context. The order with other memory accesses is not defined.
    #[inline(always)]
    pub(crate) fn inc(self) {
        #[cfg(all(CONFIG_X86_64, CONFIG_SMP, not(CONFIG_UML)))]
        // What `this_cpu_inc()` is there. An interrupt comes before or after the instruction, and
        // so does a move to another CPU.
        //
        // SAFETY: `gs` holds the offset of this CPU's per-CPU memory; by the type invariant, this
        // counter's part is at `ptr` from there, and no other CPU adds to it.
        unsafe {
            core::arch::asm!(
                "incq %gs:({})",
                in(reg) self.into_raw(),
                options(att_syntax, nostack)
            )
        };

        #[cfg(not(all(CONFIG_X86_64, CONFIG_SMP, not(CONFIG_UML))))]
        {
            // The task may move to another CPU in between, and then adds to the part of its former CPU:
            // so the addition has to be atomic.
            //
            // SAFETY: By the type invariant, this is a live per-CPU allocation.
            let part = unsafe { bindings::shim_raw_cpu_ptr(self.into_raw()) };
            // SAFETY: By the type invariant, the part of any CPU is a valid `Atomic<u64>`.
            unsafe { &*part.cast::<Atomic<u64>>() }.add(1, Relaxed);
        }
    }

    /// Adds up the parts.
    ///
    /// Every addition that happened before the call is in the sum, once; one that happens during
    /// the call may be or not. As each part only grows, so do sums: a sum that was taken after
    /// another is not smaller (each part is read coherently, wherever the reader runs).
    pub(crate) fn sum(self) -> u64 {
        let mut sum = 0u64;
        let mut cpu = -1;

        loop {
            // SAFETY: -1 asks for the first CPU, a CPU number for the one after it.
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
