// SPDX-License-Identifier: GPL-2.0

//! Somebody else than root with all rights.
//!
//! The C library would change the identity of all threads; the kernel changes one thread's, so the
//! system calls are made directly, in a thread that ends with the work.

use crate::guest::netns::in_thread;
use nix::errno::Errno;

/// The user and the group nobody.
pub(crate) const NOBODY: u32 = 65534;

/// Does `work` as the user and group nobody.
pub fn as_nobody<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    in_thread(|| {
        let nobody = libc::c_long::from(NOBODY);
        // SAFETY: These take numbers, and a null pointer to an empty list.
        unsafe {
            succeed("setgroups", libc::syscall(libc::SYS_setgroups, 0, 0));
            succeed(
                "setresgid",
                libc::syscall(libc::SYS_setresgid, nobody, nobody, nobody),
            );
            succeed(
                "setresuid",
                libc::syscall(libc::SYS_setresuid, nobody, nobody, nobody),
            );
        }
        work()
    })
}

/// Does `work` as user 0 with all capabilities but CAP_NET_ADMIN.
pub fn without_net_admin<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    in_thread(|| {
        drop_net_admin();
        work()
    })
}

/// Takes CAP_NET_ADMIN from the calling thread.
fn drop_net_admin() {
    // `linux/capability.h`.
    const VERSION_3: u32 = 0x2008_0522;
    const CAP_NET_ADMIN: u32 = 12;

    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }

    #[repr(C)]
    #[derive(Clone, Copy, Default)]
    struct Sets {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }

    let mut header = Header {
        version: VERSION_3,
        pid: 0,
    };
    let mut sets = [Sets::default(); 2];

    // SAFETY: Both point to what version 3 of the calls takes.
    unsafe {
        succeed(
            "capget",
            libc::syscall(libc::SYS_capget, &mut header, &mut sets),
        );
    }
    let all_but = !(1 << CAP_NET_ADMIN);
    assert_ne!(
        sets[0].effective, // The first holds capabilities 0 to 31.
        sets[0].effective & all_but,
        "CAP_NET_ADMIN is not there to be taken"
    );
    sets[0].effective &= all_but;
    sets[0].permitted &= all_but;
    sets[0].inheritable &= all_but;
    // SAFETY: As above.
    unsafe {
        succeed(
            "capset",
            libc::syscall(libc::SYS_capset, &mut header, &sets),
        );
    }
}

#[track_caller]
fn succeed(call: &str, result: libc::c_long) {
    assert_eq!(result, 0, "{call}: {}", Errno::last());
}
