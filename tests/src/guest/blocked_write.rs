// SPDX-License-Identifier: GPL-2.0

//! A write(2) that blocks in the kernel until the test lets it go on.
//!
//! The buffer of the write is a page that is not present. The kernel faults on it when it copies
//! the text from user space, and waits until the test supplies the page by userfaultfd(2).

use crate::guest::memory::PAGE;
use nix::errno::Errno;
use std::{
    fs::File,
    io::Read,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    ptr,
    thread::{self, JoinHandle},
};

/// From include/uapi/linux/userfaultfd.h.
mod uffd {
    pub const API: u64 = 0xaa;
    pub const REGISTER_MODE_MISSING: u64 = 1;

    #[repr(C)]
    pub struct Api {
        pub api: u64,
        pub features: u64,
        pub ioctls: u64,
    }

    #[repr(C)]
    pub struct Register {
        pub start: u64,
        pub len: u64,
        pub mode: u64,
        pub ioctls: u64,
    }

    #[repr(C)]
    pub struct Copy {
        pub dst: u64,
        pub src: u64,
        pub len: u64,
        pub mode: u64,
        pub copy: i64,
    }

    nix::ioctl_readwrite!(api, API, 0x3f, Api);
    nix::ioctl_readwrite!(register, API, 0x00, Register);
    nix::ioctl_readwrite!(copy, API, 0x03, Copy);
}

/// A write to a kernel file, blocked where the kernel copies the text from user space.
pub struct BlockedWrite {
    faults: OwnedFd,
    address: usize,
    writer: JoinHandle<Result<usize, Errno>>,
}

impl BlockedWrite {
    /// Begins to write `length` bytes, and returns when the kernel waits for them.
    #[track_caller]
    pub fn new(file: File, length: usize) -> Self {
        assert!(length <= PAGE, "more than a page");

        // SAFETY: The mapping is new, so nothing else uses its memory, and the descriptor is new,
        // so nothing else owns it.
        let (address, faults) = unsafe {
            let address = libc::mmap(
                ptr::null_mut(),
                PAGE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            assert_ne!(address, libc::MAP_FAILED, "mmap: {}", Errno::last());

            let faults = libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC);
            assert!(faults >= 0, "userfaultfd: {}", Errno::last());
            (address as usize, OwnedFd::from_raw_fd(faults as i32))
        };
        let mut api = uffd::Api {
            api: uffd::API,
            features: 0,
            ioctls: 0,
        };
        let mut register = uffd::Register {
            start: address as u64,
            len: PAGE as u64,
            mode: uffd::REGISTER_MODE_MISSING,
            ioctls: 0,
        };
        // SAFETY: Each ioctl gets a pointer to the structure that it reads and writes.
        unsafe {
            uffd::api(faults.as_raw_fd(), &mut api).expect("UFFDIO_API");
            uffd::register(faults.as_raw_fd(), &mut register).expect("UFFDIO_REGISTER");
        }

        let writer = thread::spawn(move || {
            // SAFETY: The buffer is in the mapping, which is unmapped only after this thread has
            // ended. The kernel itself waits for the missing page.
            let written =
                unsafe { libc::write(file.as_raw_fd(), address as *const libc::c_void, length) };
            Errno::result(written).map(|written| written as usize)
        });
        // A `struct uffd_msg` (32 bytes) reports the page fault. There is only one page, so the
        // address in it is not looked at.
        let mut message = [0; 32];
        let mut reader = File::from(faults.try_clone().expect("duplicating a descriptor"));
        reader
            .read_exact(&mut message)
            .expect("waiting for a page fault");

        Self {
            faults,
            address,
            writer,
        }
    }

    /// Supplies `text` as the bytes to write, and returns the result of the write.
    #[track_caller]
    pub fn finish(self, text: &[u8]) -> Result<usize, Errno> {
        let mut page = [0u8; PAGE];
        page[..text.len()].copy_from_slice(text);
        let mut copy = uffd::Copy {
            dst: self.address as u64,
            src: page.as_ptr() as u64,
            len: PAGE as u64,
            mode: 0,
            copy: 0,
        };

        // SAFETY: The source is a page, and the destination is the page of the mapping.
        unsafe { uffd::copy(self.faults.as_raw_fd(), &mut copy).expect("UFFDIO_COPY") };
        let result = self.writer.join().expect("the writer panicked");
        // SAFETY: The writer has ended, and nothing else uses the mapping.
        unsafe { libc::munmap(self.address as *mut libc::c_void, PAGE) };
        result
    }
}
