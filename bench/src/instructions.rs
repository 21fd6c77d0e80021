// SPDX-License-Identifier: GPL-2.0

//! Counts instructions in QEMU with `-icount`, where each takes one cycle of the CPU's counter.

/// Returns how many instructions `work` takes. The calling thread must not sleep meanwhile, and
/// must stay on its CPU.
pub fn of(work: impl FnOnce()) -> u64 {
    let start = counter();

    work();
    counter() - start
}

/// Reads the CPU's timestamp counter.
#[cfg(target_arch = "x86_64")]
fn counter() -> u64 {
    // SAFETY: All x86-64 CPUs have this instruction.
    unsafe { std::arch::x86_64::_rdtsc() }
}

/// Reads the CPU's virtual counter.
#[cfg(target_arch = "aarch64")]
fn counter() -> u64 {
    let counter;
    // SAFETY: Linux lets programs read this register.
    unsafe { std::arch::asm!("mrs {}, cntvct_el0", out(reg) counter) };
    counter
}
