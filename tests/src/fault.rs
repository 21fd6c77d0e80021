// SPDX-License-Identifier: GPL-2.0

//! Failures on demand: the kernel's fault injection (Documentation/fault-injection).

use crate::{
    file,
    module,
    tool, //
};
use nix::errno::Errno;
use std::{
    fs::{
        File,
        OpenOptions, //
    },
    os::unix::fs::FileExt, //
};

const DEBUGFS: &str = "/sys/kernel/debug";

/// As `fail_function` takes it.
const ENOMEM: &str = "0xfffffffffffffff4";
const NULL: &str = "0";

/// What can fail beside allocations, by name, and what it returns then.
const FUNCTIONS: [(&str, &str); 6] = [
    ("nf_register_net_hooks", ENOMEM),
    ("pcpu_alloc_noprof", NULL),
    ("proc_create_data", NULL),
    ("proc_mkdir", NULL),
    ("register_pernet_subsys", ENOMEM),
    ("single_open", ENOMEM),
];

const ALLOCATIONS: [&str; 2] = ["failslab", "fail_page_alloc"];
const ATTRIBUTES: [&str; 3] = [ALLOCATIONS[0], ALLOCATIONS[1], "fail_function"];

/// While this is there, allocations and registrations of threads that ask for it can fail.
pub struct Faults(());

impl Faults {
    /// Makes it possible. The debug kernel comes with the module that this needs.
    #[track_caller]
    pub fn allow() -> Self {
        if !file::exists("/sys/module/fail_points") {
            tool::run("insmod", &[&module::debug_object("fail_points")]);
        }
        for attribute in ALLOCATIONS {
            // Those that may sleep and reclaim memory can fail as well.
            set(&format!("{attribute}/ignore-gfp-wait"), "N");
        }
        set("fail_page_alloc/min-order", "0");
        for attribute in ATTRIBUTES {
            set(&format!("{attribute}/verbose"), "0");
            set(&format!("{attribute}/times"), "-1");
            set(&format!("{attribute}/task-filter"), "Y");
        }
        for (function, value) in FUNCTIONS {
            set("fail_function/inject", function);
            set(&format!("fail_function/{function}/retval"), value);
        }
        Self(())
    }

    /// From now on, only what kstat does itself can fail, and what is done on its behalf.
    ///
    /// kstat is loaded, and stays so.
    #[track_caller]
    pub fn only_in_kstat(&self) {
        let start = file::read("/sys/module/kstat/sections/.text");
        let start = u64::from_str_radix(start.trim().trim_start_matches("0x"), 16)
            .unwrap_or_else(|error| panic!("the address of kstat: {start:?}: {error}"));
        // Modules lie apart, and none is so large.
        let end = start + (1 << 16);

        for attribute in ATTRIBUTES {
            set(
                &format!("{attribute}/require-start"),
                &format!("{start:#x}"),
            );
            set(&format!("{attribute}/require-end"), &format!("{end:#x}"));
            set(&format!("{attribute}/stacktrace-depth"), "32");
        }
    }

    /// Does `work` with allocations of the calling thread failing by chance, one in so many.
    pub fn at_random<T>(&self, one_in: u32, work: impl FnOnce() -> T) -> T {
        struct Reset(File);

        impl Drop for Reset {
            fn drop(&mut self) {
                self.0
                    .write_at(b"0", 0)
                    .unwrap_or_else(|error| panic!("make-it-fail: {error}"));
            }
        }

        for attribute in ALLOCATIONS {
            // Of every so many, one in ten.
            set(&format!("{attribute}/interval"), &(one_in / 10).to_string());
            set(&format!("{attribute}/probability"), "10");
        }
        let reset = Reset(file::writer("/proc/thread-self/make-it-fail"));
        reset
            .0
            .write_at(b"1", 0)
            .unwrap_or_else(|error| panic!("make-it-fail: {error}"));
        let result = work();
        drop(reset);
        result
    }
}

impl Drop for Faults {
    fn drop(&mut self) {
        for attribute in ATTRIBUTES {
            set(&format!("{attribute}/probability"), "0");
            set(&format!("{attribute}/require-start"), "0");
            set(&format!("{attribute}/require-end"), &u64::MAX.to_string());
        }
        // Takes all functions away.
        set("fail_function/inject", "\n");
    }
}

/// Makes the next failures of the calling thread happen where it is told.
pub struct Nth(File);

impl Nth {
    /// For the calling thread.
    #[track_caller]
    pub fn of_this_thread() -> Self {
        Self(file::open(
            "/proc/thread-self/fail-nth",
            OpenOptions::new().read(true).write(true),
        ))
    }

    /// Does `work`, and has the `nth` of all that can fail in it do so; the first is 1. Returns
    /// whether there were so many, and what `work` returned.
    #[track_caller]
    pub fn fail<T>(&self, nth: u32, work: impl FnOnce() -> T) -> (bool, T) {
        let mut left = [0; 16];

        self.put(nth);
        let result = work();
        let length = self
            .0
            .read_at(&mut left, 0)
            .unwrap_or_else(|error| panic!("reading fail-nth: {error}"));
        self.put(0);
        (left[..length] == *b"0\n", result)
    }

    #[track_caller]
    fn put(&self, nth: u32) {
        self.0
            .write_at(nth.to_string().as_bytes(), 0)
            .unwrap_or_else(|error| panic!("writing {nth} to fail-nth: {error}"));
    }
}

#[track_caller]
fn set(attribute: &str, value: &str) {
    let path = format!("{DEBUGFS}/{attribute}");

    match file::put(&path, value) {
        Ok(()) => {}
        // It is there from the last time.
        Err(Errno::EBUSY) if attribute.ends_with("/inject") => {}
        Err(error) => panic!("writing {value:?} to {path}: {error}"),
    }
}
