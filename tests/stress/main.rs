// SPDX-License-Identifier: GPL-2.0

//! Stress tests for debug kernels.
//!
//! `make stress` runs this program on several kernels that detect errors, such as use after
//! free, data races and lost memory. When such a kernel reports an error, the guest ends and the
//! run fails.
//!
//! Each test reports what it did, and how often, by `scale::did`.

mod accuracy;
mod descriptors;
mod failures;
mod hostile;
mod mixed_operations;
mod privileges;
mod single_operations;
mod unreferenced_memory;
