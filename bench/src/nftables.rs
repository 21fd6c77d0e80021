// SPDX-License-Identifier: GPL-2.0

//! nftables without a process: to start `nft` takes longer than what it does.

use std::ffi::{c_char, c_int, CString};

/// `struct nft_ctx` of libnftables(3).
#[repr(C)]
struct Context {
    _private: [u8; 0],
}

// Not the name without the number, which takes a package more.
#[link(name = "libnftables.so.1", modifiers = "+verbatim")]
extern "C" {
    fn nft_ctx_new(flags: u32) -> *mut Context;
    fn nft_ctx_free(context: *mut Context);
    fn nft_ctx_buffer_error(context: *mut Context) -> c_int;
    fn nft_run_cmd_from_buffer(context: *mut Context, buffer: *const c_char) -> c_int;
}

/// Has nftables do what `nft` would with this input, in the thread's network namespace.
#[track_caller]
pub fn run(commands: &str) {
    let commands = CString::new(commands).expect("commands have no NUL");

    // SAFETY: The context is made, used and freed here, and the commands end with NUL.
    let failed = unsafe {
        let context = nft_ctx_new(0);
        assert!(!context.is_null(), "libnftables could not be set up");
        nft_ctx_buffer_error(context);
        let failed = nft_run_cmd_from_buffer(context, commands.as_ptr());
        nft_ctx_free(context);
        failed
    };
    assert_eq!(failed, 0, "libnftables said no to {commands:?}");
}
