// SPDX-License-Identifier: GPL-2.0

//! A control group whose sockets cannot send, as systemd makes one for `IPAddressDeny=any`.

use crate::{guest::file, unless_panicking, wait};
use nix::errno::Errno;
use std::{
    fs::{self, File},
    mem,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

// From include/uapi/linux/bpf.h.
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_ATTACH: libc::c_long = 8;
const BPF_PROG_TYPE_CGROUP_SKB: u32 = 8;
const BPF_CGROUP_INET_EGRESS: u32 = 1;

/// A BPF program that denies every packet: `r0 = 0; exit`.
const DENY: [u64; 2] = [0xb7, 0x95];

/// The first fields of `union bpf_attr` for `BPF_PROG_LOAD`.
#[repr(C)]
#[derive(Default)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

/// The first fields of `union bpf_attr` for `BPF_PROG_ATTACH`.
#[repr(C)]
struct Attach {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
}

/// A control group with an egress program that drops every packet. This process is in it until this
/// is dropped.
///
/// A socket belongs to the control group of the process that makes it. So the sockets that this
/// process makes in the meantime cannot send.
pub struct EgressDenied {
    path: String,
    home: String,
}

impl EgressDenied {
    /// Makes the control group and moves this process into it.
    #[track_caller]
    pub fn enter() -> Self {
        const ROOT: &str = "/sys/fs/cgroup";

        let own = file::read("/proc/self/cgroup");
        let home = own
            .lines()
            .find_map(|line| line.strip_prefix("0::"))
            .unwrap_or_else(|| panic!("this process is in no control group of version 2: {own}"));
        let denied = Self {
            path: format!("{ROOT}/kstat-denied"),
            home: format!("{ROOT}{home}/cgroup.procs"),
        };

        fs::create_dir(&denied.path)
            .unwrap_or_else(|error| panic!("making {}: {error}", denied.path));
        attach(&file::reader(&denied.path));
        file::set(&format!("{}/cgroup.procs", denied.path), "0");
        denied
    }
}

impl Drop for EgressDenied {
    fn drop(&mut self) {
        let moved = file::put(&self.home, "0");
        // The program stays attached until its control group is removed.
        let remove = || fs::remove_dir(&self.path).map_err(file::errno);
        let mut removed = remove();

        unless_panicking(|| {
            assert_eq!(moved, Ok(()), "moving this process to {}", self.home);
            // A thread that has ended stays in its control group for a moment, and removing the
            // group fails with EBUSY.
            wait::until("the control group was removed", || {
                if removed == Err(Errno::EBUSY) {
                    removed = remove();
                }
                removed != Err(Errno::EBUSY)
            });
            assert_eq!(removed, Ok(()), "removing {}", self.path);
        });
    }
}

/// Loads [`DENY`] and attaches it to a control group.
#[track_caller]
fn attach(group: &File) {
    let program = bpf(
        BPF_PROG_LOAD,
        &Load {
            prog_type: BPF_PROG_TYPE_CGROUP_SKB,
            insn_cnt: DENY.len() as u32,
            insns: DENY.as_ptr() as u64,
            license: c"GPL".as_ptr() as u64,
            expected_attach_type: BPF_CGROUP_INET_EGRESS,
            ..Default::default()
        },
    )
    .unwrap_or_else(|error| panic!("loading a BPF program: {error}"));
    // SAFETY: The kernel has just returned this descriptor for the program, and nothing else owns
    // it.
    let program = unsafe { OwnedFd::from_raw_fd(program as i32) };

    bpf(
        BPF_PROG_ATTACH,
        &Attach {
            target_fd: group.as_raw_fd() as u32,
            attach_bpf_fd: program.as_raw_fd() as u32,
            attach_type: BPF_CGROUP_INET_EGRESS,
            attach_flags: 0,
        },
    )
    .unwrap_or_else(|error| panic!("attaching a BPF program to a control group: {error}"));
}

/// Calls bpf(2) with [`Load`] or [`Attach`] as its attributes.
fn bpf<T>(command: libc::c_long, attributes: &T) -> Result<i64, Errno> {
    // SAFETY: The kernel reads no more bytes than the size that it is given, and the pointers in
    // the structure are valid.
    Errno::result(unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            &raw const *attributes,
            mem::size_of::<T>(),
        )
    })
}
