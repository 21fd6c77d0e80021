// SPDX-License-Identifier: GPL-2.0

//! Loads and unloads kstat.

use crate::{
    guest::{exclusive::KernelLock, file},
    tool, unless_panicking,
};
use nix::{
    errno::Errno,
    kmod::{delete_module, finit_module, DeleteModuleFlags, ModuleInitFlags},
};
use std::{env, ffi::CString, fs::File, mem};

/// A loaded kstat. Dropping it unloads kstat.
pub struct Kstat<'t>(&'t KernelLock);

impl<'t> Kstat<'t> {
    /// Loads kstat with `parameters`, separated by spaces as on the command line of insmod(8).
    #[track_caller]
    pub fn load(lock: &'t KernelLock, parameters: &str) -> Self {
        load(lock, parameters)
            .unwrap_or_else(|error| panic!("loading kstat {parameters}: {error}"));
        Self(lock)
    }

    /// Loads kstat with `start=1` and `parameters`.
    #[track_caller]
    pub fn started(lock: &'t KernelLock, parameters: &str) -> Self {
        Self::load(lock, &format!("start=1 {parameters}"))
    }

    /// Loads kstat by running insmod(8).
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

    /// Tells whether the parameter `start` reads as 1.
    #[track_caller]
    pub fn is_started(&self) -> bool {
        match file::read(file::START).as_str() {
            "1\n" => true,
            "0\n" => false,
            text => panic!("{} is neither 0 nor 1, but {text:?}", file::START),
        }
    }

    /// Leaves kstat loaded: the test unloads it by other means.
    pub fn forget(self) {
        mem::forget(self);
    }

    /// Unloads kstat, and panics if that fails.
    #[track_caller]
    pub fn unload(self) {
        drop(self);
    }
}

impl Drop for Kstat<'_> {
    fn drop(&mut self) {
        let result = unload(self.0);

        unless_panicking(|| result.unwrap_or_else(|error| panic!("unloading kstat: {error}")));
    }
}

/// Returns the path of kstat.ko.
#[track_caller]
pub fn object() -> String {
    env::var("KSTAT_KO").unwrap_or_else(|_| {
        panic!("KSTAT_KO does not name kstat.ko: these tests are for a guest (see scripts/vm)")
    })
}

/// Returns the path of the helper module `name`, which is built together with a debug kernel.
#[track_caller]
pub fn debug_object(name: &str) -> String {
    let tree = env::var("KSTAT_TREE").unwrap_or_else(|_| {
        panic!("KSTAT_TREE does not name a debug kernel's folder: these tests are for scripts/vm -k kasan")
    });

    format!("{tree}/kstat-modules/{name}.ko")
}

/// Loads kstat by finit_module(2), and returns the result.
#[track_caller]
pub fn load(lock: &KernelLock, parameters: impl Into<Vec<u8>>) -> Result<(), Errno> {
    load_from(lock, &file::reader(&object()), parameters)
}

/// Loads kstat as [`load`] does, from an open file.
#[track_caller]
pub fn load_from(
    _lock: &KernelLock,
    object: &File,
    parameters: impl Into<Vec<u8>>,
) -> Result<(), Errno> {
    let parameters = CString::new(parameters).expect("parameters have no NUL");

    finit_module(object, &parameters, ModuleInitFlags::empty())
}

/// Unloads kstat by delete_module(2), and returns the result.
pub fn unload(_lock: &KernelLock) -> Result<(), Errno> {
    delete_module(c"kstat", DeleteModuleFlags::O_NONBLOCK)
}

/// Tells whether the module is loaded, or one of its folders exists.
#[track_caller]
pub fn is_loaded() -> bool {
    let modules = file::read("/proc/modules");

    modules.lines().any(|line| line.starts_with("kstat "))
        || file::exists("/sys/module/kstat")
        || file::exists("/proc/kstat")
}
