// SPDX-License-Identifier: GPL-2.0

//! Safe wrappers of the kernel's C side, one concept a file.
//!
//! They are written as if for `rust/kernel/`, and know nothing of kstat: another module may copy this
//! folder with the shim (`netfilter_shim.c`, `netfilter_shim.h`) and the rules for bindgen in `Kbuild`.

mod bindings;
pub(crate) mod netfilter;
pub(crate) mod netns;
pub(crate) mod param;
pub(crate) mod percpu;
pub(crate) mod proc_fs;
