// SPDX-License-Identifier: GPL-2.0

//! Per-CPU counters: CPUs add to them without contention.
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

/// `N` 64-bit counters, at most [`MAX_COUNTERS`], which one call updates.
///
/// Each possible CPU has a part with its own `N` counters, in one cache line. On x86-64, adding takes
/// one instruction for each counter, and no other CPU writes to the part. Elsewhere, and in user-mode
/// Linux, adding to two counters is one call of a C function, which may write to the part of another
/// CPU if the task is moved during the call. Reading sums the parts of all possible CPUs, online and
/// offline, so the counts of a CPU that goes offline are kept.
///
/// # Examples
///
/// ```
/// use crate::abstractions::percpu;
///
/// // Packets, bytes, and errors, of which there are few.
/// let seen = percpu::Counters::<3>::new()?;
///
/// seen.borrow().add([1, 1500]);
/// seen.borrow().add([1, 40, 1]);
/// assert_eq!(seen.borrow().sum(), [2, 1540, 1]);
///
/// let [packets] = seen.borrow().sum();
/// assert_eq!(packets, 2);
/// # Ok::<(), Error>(())
/// ```
///
/// # Invariants
///
/// The pointer is a per-CPU allocation of a [`Part<N>`] that belongs to these counters.
pub(crate) struct Counters<const N: usize>(NonNull<c_void>);

/// The largest `N` of [`Counters`].
const MAX_COUNTERS: usize = 4;

/// The part of one CPU.
type Part<const N: usize> = [Atomic<u64>; N];

/// Borrowed [`Counters`]: their per-CPU address, which is a `u64 __percpu *` in C.
///
/// # Invariants
///
/// `ptr` is a per-CPU allocation of a [`Part<N>`] that is not freed during `'a`. The only accesses
/// to a counter in it are reads, and additions that are either one instruction of its CPU or
/// atomic.
#[derive(Clone, Copy)]
pub(crate) struct CountersRef<'a, const N: usize> {
    ptr: NonNull<c_void>,
    _counters: PhantomData<&'a Counters<N>>,
}

// SAFETY: A per-CPU allocation may be freed by any task.
unsafe impl<const N: usize> Send for Counters<N> {}

// SAFETY: By the type invariant of `CountersRef`, no addition is lost, and parts are read
// atomically.
unsafe impl<const N: usize> Sync for Counters<N> {}

// SAFETY: A `CountersRef` is a reference to `Counters`, which is `Sync`.
unsafe impl<const N: usize> Send for CountersRef<'_, N> {}

// SAFETY: A `CountersRef` is a reference to `Counters`, which is `Sync`.
unsafe impl<const N: usize> Sync for CountersRef<'_, N> {}

impl<const N: usize> Counters<N> {
    /// Allocates counters whose values are 0.
    ///
    /// May sleep. Fails if there is not enough memory for the parts of all possible CPUs.
    pub(crate) fn new() -> Result<Self, AllocError> {
        const {
            assert!(0 < N && N <= MAX_COUNTERS);
        }
        // A part that is aligned to at least its size does not cross the end of a cache line.
        //
        // SAFETY: The size is not 0. The alignment is a power of two, and smaller than a page.
        let ptr = unsafe {
            bindings::shim_alloc_percpu(
                size_of::<Part<N>>(),
                size_of::<Part<N>>().next_power_of_two(),
            )
        };

        // INVARIANT: For each possible CPU, the allocator returned zeroed memory of this size and
        // at least the alignment of a `Part<N>`. Zeroed memory is a valid `Part<N>`.
        Ok(Self(NonNull::new(ptr).ok_or(AllocError)?))
    }

    /// Borrows the counters.
    pub(crate) fn borrow(&self) -> CountersRef<'_, N> {
        // INVARIANT: By the type invariant, this is a per-CPU allocation. It is not freed while the
        // counters are borrowed.
        CountersRef {
            ptr: self.0,
            _counters: PhantomData,
        }
    }
}

impl<const N: usize> Drop for Counters<N> {
    fn drop(&mut self) {
        // SAFETY: The memory comes from the per-CPU allocator, and the counters are not borrowed.
        unsafe { bindings::free_percpu(self.0.as_ptr()) };
    }
}

impl<const N: usize> CountersRef<'_, N> {
    /// Returns the per-CPU address. It must not be dereferenced directly.
    pub(crate) fn into_raw(self) -> *mut c_void {
        self.ptr.as_ptr()
    }

    /// Returns the counters at a per-CPU address.
    ///
    /// # Safety
    ///
    /// `ptr` must come from [`Self::into_raw`], and its counters must not be dropped while the
    /// result exists.
    pub(crate) unsafe fn from_raw(ptr: *mut c_void) -> Self {
        // INVARIANT: By the safety requirements, `ptr` is the per-CPU address of counters that are
        // not dropped.
        Self {
            // SAFETY: `into_raw` never returns a null pointer.
            ptr: unsafe { NonNull::new_unchecked(ptr) },
            _counters: PhantomData,
        }
    }

    /// Adds a value to each of the first `M` counters.
    ///
    /// Callable from any context. Not ordered with other memory accesses. The additions are separate,
    /// so a concurrent [`Self::sum`] may include only some of them.
    #[inline(always)]
    pub(crate) fn add<const M: usize>(self, values: [u64; M]) {
        const {
            assert!(0 < M && M <= N);
        }

        #[cfg(all(CONFIG_X86_64, CONFIG_SMP, not(CONFIG_UML)))]
        {
            // A loop would compute the address of each counter.
            if M > 0 {
                // SAFETY: 0 is less than `M`, which is at most `N`.
                unsafe { self.add_to::<0>(values[0]) };
            }
            if M > 1 {
                // SAFETY: 1 is less than `M`, which is at most `N`.
                unsafe { self.add_to::<1>(values[1]) };
            }
            if M > 2 {
                // SAFETY: 2 is less than `M`, which is at most `N`.
                unsafe { self.add_to::<2>(values[2]) };
            }
            if M > 3 {
                // SAFETY: 3 is less than `M`, which is at most `N`.
                unsafe { self.add_to::<3>(values[3]) };
            }
        }

        // Most callers have two values, which one call then adds.
        #[cfg(not(all(CONFIG_X86_64, CONFIG_SMP, not(CONFIG_UML))))]
        for (i, pair) in values.chunks(2).enumerate() {
            let counter = self
                .into_raw()
                .cast::<bindings::atomic64_t>()
                .wrapping_add(2 * i);

            // SAFETY: By the type invariant, this is a live per-CPU allocation of `N` 64-bit
            // integers. `counter` is the address of the first one that is not added to yet, and at
            // least as many follow as there are values left.
            unsafe {
                match *pair {
                    [first, second] => {
                        bindings::shim_raw_cpu_add2(counter, first as i64, second as i64)
                    }
                    [value] => bindings::shim_raw_cpu_add(counter, value as i64),
                    _ => {}
                }
            };
        }
    }

    /// Adds to the counter `I`.
    ///
    /// # Safety
    ///
    /// `I` must be less than `N`.
    #[cfg(all(CONFIG_X86_64, CONFIG_SMP, not(CONFIG_UML)))]
    #[inline(always)]
    unsafe fn add_to<const I: usize>(self, value: u64) {
        // This is `this_cpu_add()` on x86-64. An interrupt or a migration to another CPU happens
        // before or after the instruction.
        //
        // SAFETY: The base of `gs` is the offset of this CPU's per-CPU memory. By the type
        // invariant, `ptr` plus that offset is the address of this CPU's part, and no other CPU
        // adds to it. By the safety requirements, the counter is in the part.
        unsafe {
            core::arch::asm!(
                "addq {}, %gs:{}({})",
                in(reg) value,
                const I * size_of::<u64>(),
                in(reg) self.into_raw(),
                options(att_syntax, nostack)
            )
        };
    }

    /// Returns the sum of all parts, for each of the first `M` counters.
    ///
    /// An addition before the call is in the sum exactly once. An addition during the call may or
    /// may not be in the sum. Each part only grows, and reads of one part are coherent on all CPUs.
    /// Therefore, a sum that is taken after another sum is never smaller.
    pub(crate) fn sum<const M: usize>(self) -> [u64; M] {
        const {
            assert!(0 < M && M <= N);
        }
        let mut sum = [0u64; M];
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
            // SAFETY: By the type invariant, the part of any possible CPU is a valid `Part<N>`.
            let part = unsafe { &*part.cast::<Part<N>>() };
            for (sum, counter) in sum.iter_mut().zip(part) {
                *sum = sum.wrapping_add(counter.load(Relaxed));
            }
        }
    }
}
