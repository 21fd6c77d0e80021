// SPDX-License-Identifier: GPL-2.0

//! kstat, loaded and unloaded.

use crate::{
    guest::{exclusive::KernelLock, file},
    tool,
};
use nix::errno::Errno;
use std::{env, ffi::CString, fs::File, mem, os::fd::AsRawFd, thread};

/// A loaded kstat, unloaded when this is dropped.
pub struct Kstat<'t>(&'t KernelLock);

impl<'t> Kstat<'t> {
    /// Loads kstat, with parameters as `insmod` takes them.
    #[track_caller]
    pub fn load(lock: &'t KernelLock, parameters: &str) -> Self {
        load(lock, parameters)
            .unwrap_or_else(|error| panic!("loading kstat {parameters}: {error}"));
        Self(lock)
    }

    /// The same with `start=1`.
    #[track_caller]
    pub fn started(lock: &'t KernelLock, parameters: &str) -> Self {
        Self::load(lock, &format!("start=1 {parameters}"))
    }

    /// Loads kstat by `insmod`.
    #[track_caller]
    pub fn insmod(lock: &'t KernelLock, parameters: &[&str]) -> Self {
        tool::run("insmod", &[&[object().as_str()], parameters].concat());
        Self(lock)
    }

    /// Starts counting.
    #[track_caller]
    pub fn start(&self) {
        file::set(file::START, "1\n");
    }

    /// Stops counting.
    #[track_caller]
    pub fn stop(&self) {
        file::set(file::START, "0\n");
    }

    /// What `start` says.
    #[track_caller]
    pub fn is_started(&self) -> bool {
        match file::read(file::START).as_str() {
            "1\n" => true,
            "0\n" => false,
            text => panic!("{} is neither 0 nor 1, but {text:?}", file::START),
        }
    }

    /// Leaves it to the test to unload kstat by other means.
    pub fn forget(self) {
        mem::forget(self);
    }

    /// Unloads kstat, which must be possible.
    #[track_caller]
    pub fn unload(self) {
        drop(self);
    }
}

impl Drop for Kstat<'_> {
    fn drop(&mut self) {
        let result = unload(self.0);

        // If the test has failed already, that is what should be told.
        if !thread::panicking() {
            result.unwrap_or_else(|error| panic!("unloading kstat: {error}"));
        }
    }
}

/// Where the built module is.
#[track_caller]
pub fn object() -> String {
    env::var("KSTAT_KO").unwrap_or_else(|_| {
        panic!("KSTAT_KO does not name kstat.ko: these tests are for a guest (see scripts/vm)")
    })
}

/// Where the module of that name is that comes with a debug kernel.
#[track_caller]
pub fn debug_object(name: &str) -> String {
    let tree = env::var("KSTAT_TREE").unwrap_or_else(|_| {
        panic!("KSTAT_TREE does not name a debug kernel's folder: these tests are for scripts/vm -k kasan")
    });

    format!("{tree}/kstat-modules/{name}.ko")
}

/// Loads kstat, and returns what the kernel says.
#[track_caller]
pub fn load(lock: &KernelLock, parameters: impl Into<Vec<u8>>) -> Result<(), Errno> {
    load_from(lock, &file::reader(&object()), parameters)
}

/// The same, with the file of the module open already.
#[track_caller]
pub fn load_from(
    _lock: &KernelLock,
    object: &File,
    parameters: impl Into<Vec<u8>>,
) -> Result<(), Errno> {
    let parameters = CString::new(parameters).expect("parameters have no NUL");

    // SAFETY: The descriptor is open, and the string ends with NUL.
    let result = unsafe {
        libc::syscall(
            libc::SYS_finit_module,
            object.as_raw_fd(),
            parameters.as_ptr(),
            0,
        )
    };
    Errno::result(result).map(drop)
}

/// Unloads kstat, and returns what the kernel says.
pub fn unload(_lock: &KernelLock) -> Result<(), Errno> {
    // SAFETY: The string ends with NUL.
    let result =
        unsafe { libc::syscall(libc::SYS_delete_module, c"kstat".as_ptr(), libc::O_NONBLOCK) };
    Errno::result(result).map(drop)
}

/// Whether there is anything of kstat: the module, or its files.
#[track_caller]
pub fn is_loaded() -> bool {
    let modules = file::read("/proc/modules");

    modules.lines().any(|line| line.starts_with("kstat "))
        || file::exists("/sys/module/kstat")
        || file::exists("/proc/kstat")
}
