// SPDX-License-Identifier: GPL-2.0

//! Helpers for tests on debug kernels.

pub mod container;
pub mod fault;
pub mod responders;
pub mod slow_function;
