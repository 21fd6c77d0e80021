// SPDX-License-Identifier: GPL-2.0

//! A counter that no two CPUs contend for.
//!
//! C header: [`include/linux/percpu.h`](srctree/include/linux/percpu.h)

use crate::bindings;
use core::{
    ops::Deref,
    ptr::{
        self,
        NonNull, //
    },
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
/// other CPU writes; reading adds up the parts of all possible CPUs, online or not, so a CPU that goes
/// offline takes nothing with it.
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
/// It points to [`Parts`] that came from the per-CPU allocator, and owns them.
pub(crate) struct Counter(NonNull<Parts>);

/// The parts of a [`Counter`]: what can be done with it by who does not own it.
///
/// A reference to this has the address that C calls a `u64 __percpu *`, so there is nothing to be looked
/// up on the way to a CPU's part.
///
/// # Invariants
///
/// At its address, and nowhere else, is a per-CPU allocation of an `Atomic<u64>`, which is not freed while
/// there are references; each part is only read, and added to by its CPU.
#[repr(C)]
pub(crate) struct Parts {
    // The address is an offset: there is nothing to be found right there. That it is of a type with interior
    // mutability keeps the compiler from taking what is reached by it for constant.
    _nothing: [Atomic<u64>; 0],
}

// SAFETY: The per-CPU allocator does not care who frees what it gave, and parts can be read and added to
// by any CPU.
unsafe impl Send for Counter {}

// SAFETY: A part is added to by the CPU it belongs to, so that nothing is lost, and read as an atomic.
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

        // INVARIANT: The allocator gave the parts, zeroed, which is a valid `Atomic<u64>`, and of this
        // size and alignment for each possible CPU.
        Ok(Self(NonNull::new(parts.cast()).ok_or(AllocError)?))
    }
}

impl Deref for Counter {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        // SAFETY: By the type invariant the parts are there as long as this is, aligned. A reference to
        // nothing is valid at any address but null.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        // SAFETY: The parts came from the per-CPU allocator, and `&mut self` says that nobody counts.
        unsafe { bindings::free_percpu(self.0.as_ptr().cast()) };
    }
}

impl Parts {
    fn as_percpu(&self) -> *mut c_void {
        ptr::from_ref(self).cast_mut().cast()
    }

    /// Adds one.
    ///
    /// Callable from any context. The order with other memory accesses is not defined.
    #[inline(always)]
    pub(crate) fn inc(&self) {
        #[cfg(all(CONFIG_X86_64, CONFIG_SMP, not(CONFIG_UML)))]
        // What `this_cpu_inc()` is there. An interrupt comes before or after the instruction, and
        // so does a move to another CPU.
        //
        // SAFETY: `gs` is where the parts of this CPU are; by the type invariant, one of this counter's
        // is at our address from there, and nobody else adds to it.
        unsafe {
            core::arch::asm!(
                "incq %gs:({})",
                in(reg) self.as_percpu(),
                options(att_syntax, nostack)
            )
        };

        #[cfg(not(all(CONFIG_X86_64, CONFIG_SMP, not(CONFIG_UML))))]
        {
            // The task may move to another CPU on the way, and then adds to the part of the CPU it
            // came from: so this has to be atomic.
            //
            // SAFETY: By the type invariant, this is a live per-CPU allocation.
            let part = unsafe { bindings::shim_raw_cpu_ptr(self.as_percpu()) };
            // SAFETY: By the type invariant, the part of any CPU is a valid `Atomic<u64>`.
            unsafe { &*part.cast::<Atomic<u64>>() }.add(1, Relaxed);
        }
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
            // SAFETY: By the type invariant, this is a live per-CPU allocation, and `cpu` is a
            // possible CPU.
            let part = unsafe { bindings::shim_per_cpu_ptr(self.as_percpu(), cpu) };
            // SAFETY: By the type invariant, the part of any possible CPU is a valid `Atomic<u64>`.
            let part = unsafe { &*part.cast::<Atomic<u64>>() };
            sum = sum.wrapping_add(part.load(Relaxed));
        }
    }
}
