// SPDX-License-Identifier: GPL-2.0

//! The C declarations that the wrappers use: the bindings of the kernel crate, and those that
//! bindgen generates from `bindings_helper.h`.

#![allow(
    clippy::all,
    clippy::cast_lossless,
    clippy::ptr_as_ptr,
    clippy::ref_as_ptr,
    clippy::undocumented_unsafe_blocks,
    dead_code,
    missing_docs,
    non_camel_case_types,
    non_upper_case_globals,
    non_snake_case,
    improper_ctypes,
    unreachable_pub,
    unsafe_op_in_unsafe_fn
)]

pub(crate) use kernel::bindings::*;
use pin_init::MaybeZeroable;

include!(env!("BINDINGS_GENERATED"));
