// SPDX-License-Identifier: GPL-2.0

//! What wears things out or breaks them, for kernels that are built to see it: scripts/stress runs
//! this on several. A report of the kernel's ends the guest, and fails the run.
//!
//! What each test did, and how often, it tells by `scale::did`.

mod accuracy;
mod descriptors;
mod failures;
mod hostile;
mod mixed_operations;
mod privileges;
mod single_operations;
mod unreferenced_memory;
