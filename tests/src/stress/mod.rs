// SPDX-License-Identifier: GPL-2.0

//! What runs in a guest of a debug kernel: fault injection, slow functions, containers.

pub mod container;
pub mod fault;
pub mod linger;
pub mod neighbours;
