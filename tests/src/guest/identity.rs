// SPDX-License-Identifier: GPL-2.0

//! Runs parts of a test with fewer privileges than root.
//!
//! In the kernel, each thread has credentials of its own; the C library changes those of all
//! threads at once. So these functions make the system calls directly, in a thread that ends with
//! the work.

use crate::guest::netns::in_thread;
use caps::{CapSet, Capability};
use nix::errno::Errno;

/// The number of the user and of the group nobody.
pub(crate) const NOBODY: u32 = 65534;

/// Does `work` as the user and group nobody.
pub fn as_nobody<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    in_thread(|| {
        let nobody = libc::c_long::from(NOBODY);
        // SAFETY: These calls take numbers, and setgroups(2) a null pointer to an empty list.
        unsafe {
            assert_succeeded("setgroups", libc::syscall(libc::SYS_setgroups, 0, 0));
            assert_succeeded(
                "setresgid",
                libc::syscall(libc::SYS_setresgid, nobody, nobody, nobody),
            );
            assert_succeeded(
                "setresuid",
                libc::syscall(libc::SYS_setresuid, nobody, nobody, nobody),
            );
        }
        work()
    })
}

/// Does `work` as user 0 with all capabilities except CAP_NET_ADMIN.
pub fn without_net_admin<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    const CAPABILITY: Capability = Capability::CAP_NET_ADMIN;

    in_thread(|| {
        assert!(
            caps::has_cap(None, CapSet::Effective, CAPABILITY).expect("reading capabilities"),
            "the test itself lacks {CAPABILITY}"
        );
        // The effective set comes first: capset(2) refuses one that holds more than the permitted
        // set.
        for set in [CapSet::Effective, CapSet::Permitted, CapSet::Inheritable] {
            caps::drop(None, set, CAPABILITY)
                .unwrap_or_else(|error| panic!("dropping {CAPABILITY}: {error}"));
        }
        work()
    })
}

#[track_caller]
fn assert_succeeded(call: &str, result: libc::c_long) {
    assert_eq!(result, 0, "{call}: {}", Errno::last());
}
