// SPDX-License-Identifier: GPL-2.0

//! Safe wrappers for C interfaces of the kernel, one concept per file.
//!
//! They are written as if for `rust/kernel/` and do not depend on kstat. To use them in another
//! module, copy this directory, the shim (`netfilter_shim.c` and `netfilter_shim.h`), and the rules
//! for bindgen in `Kbuild`.

mod bindings;
pub(crate) mod modinfo;
pub(crate) mod netfilter;
pub(crate) mod netns;
pub(crate) mod param;
pub(crate) mod percpu;
pub(crate) mod proc_fs;
pub(crate) mod proc_net;
