// SPDX-License-Identifier: GPL-2.0

//! Failures on demand: the kernel's fault injection (Documentation/fault-injection).

use crate::{
    guest::{file, module},
    tool,
};
use std::{
    fs::{File, OpenOptions},
    os::unix::fs::FileExt,
    thread,
};

const DEBUGFS: &str = "/sys/kernel/debug";

const ALLOCATIONS: [&str; 2] = ["failslab", "fail_page_alloc"];

/// While this is there, allocations and registrations can fail, of threads that ask for it.
pub struct Faults(());

impl Faults {
    /// Makes it possible. The debug kernel comes with the module that this needs.
    #[track_caller]
    pub fn allow() -> Self {
        tool::run("insmod", &[&module::debug_object("fail_points")]);
        for attribute in ALLOCATIONS {
            // Those that may sleep and reclaim memory can fail as well.
            set(&format!("{attribute}/ignore-gfp-wait"), "N");
            set(&format!("{attribute}/verbose"), "0");
            set(&format!("{attribute}/times"), "-1");
            set(&format!("{attribute}/task-filter"), "Y");
        }
        set("fail_page_alloc/min-order", "0");
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

        for attribute in ALLOCATIONS {
            set(
                &format!("{attribute}/require-start"),
                &format!("{start:#x}"),
            );
            set(&format!("{attribute}/require-end"), &format!("{end:#x}"));
            set(&format!("{attribute}/stacktrace-depth"), "32");
        }
    }

    /// Does `work`, and has the `nth` call of this function fail that kstat makes for the calling thread;
    /// the first is 1. Returns whether there were so many, and what `work` returned.
    #[track_caller]
    pub fn fail_call<T>(&self, function: &str, nth: u32, work: impl FnOnce() -> T) -> (bool, T) {
        let point = format!("fail_points/{function}");

        set(&point, &nth.to_string());
        let result = {
            let _asking = MakeItFail::new();
            work()
        };
        let left = file::number(&format!("{DEBUGFS}/{point}"));
        set(&point, "0");
        (left == 0, result)
    }

    /// Does `work` with allocations of the calling thread failing by chance, one in so many.
    pub fn at_random<T>(&self, one_in: u32, work: impl FnOnce() -> T) -> T {
        for attribute in ALLOCATIONS {
            // Of every so many, one in ten.
            set(&format!("{attribute}/interval"), &(one_in / 10).to_string());
            set(&format!("{attribute}/probability"), "10");
        }
        let _asking = MakeItFail::new();
        work()
    }
}

/// While this is there, the calling thread asks for failures.
struct MakeItFail(File);

impl MakeItFail {
    #[track_caller]
    fn new() -> Self {
        let file = file::writer("/proc/thread-self/make-it-fail");

        file.write_at(b"1", 0)
            .unwrap_or_else(|error| panic!("make-it-fail: {error}"));
        Self(file)
    }
}

impl Drop for MakeItFail {
    fn drop(&mut self) {
        let result = self.0.write_at(b"0", 0);

        if !thread::panicking() {
            result.unwrap_or_else(|error| panic!("make-it-fail: {error}"));
        }
    }
}

impl Drop for Faults {
    fn drop(&mut self) {
        let everywhere = u64::MAX.to_string();
        let usual = ALLOCATIONS.iter().try_for_each(|attribute| {
            [
                ("probability", "0"),
                ("require-start", "0"),
                ("require-end", &everywhere),
            ]
            .iter()
            .try_for_each(|(name, value)| {
                file::put(&format!("{DEBUGFS}/{attribute}/{name}"), value)
            })
        });
        let removed = tool::attempt("rmmod", &["fail_points"], "");

        // If the test has failed already, that is what should be told.
        if !thread::panicking() {
            assert_eq!(usual, Ok(()), "having nothing fail");
            assert!(removed.status.success(), "rmmod fail_points: {removed:?}");
        }
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
    file::set(&format!("{DEBUGFS}/{attribute}"), value);
}
