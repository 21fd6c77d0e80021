// SPDX-License-Identifier: GPL-2.0

//! nftables by libnftables(3), without a process.
//!
//! Starting a process of `nft` would take longer than the operation that is measured.

use std::ffi::{c_char, c_int, CString};

/// `struct nft_ctx` of libnftables(3).
#[repr(C)]
struct Context {
    _private: [u8; 0],
}

// The name without a number is in a development package, which would also have to be installed.
#[link(name = "libnftables.so.1", modifiers = "+verbatim")]
extern "C" {
    fn nft_ctx_new(flags: u32) -> *mut Context;
    fn nft_ctx_free(context: *mut Context);
    fn nft_ctx_buffer_error(context: *mut Context) -> c_int;
    fn nft_run_cmd_from_buffer(context: *mut Context, buffer: *const c_char) -> c_int;
}

/// Runs nft commands in the network namespace of the calling thread.
#[track_caller]
pub fn run(commands: &str) {
    let commands = CString::new(commands).expect("commands have no NUL");

    // SAFETY: The context is valid from `nft_ctx_new()` to `nft_ctx_free()`, and the commands end
    // with NUL.
    let failed = unsafe {
        let context = nft_ctx_new(0);
        assert!(!context.is_null(), "nft_ctx_new() failed");
        nft_ctx_buffer_error(context);
        let failed = nft_run_cmd_from_buffer(context, commands.as_ptr());
        nft_ctx_free(context);
        failed
    };
    assert_eq!(failed, 0, "libnftables failed to run {commands:?}");
}
