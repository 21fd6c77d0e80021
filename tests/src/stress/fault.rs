// SPDX-License-Identifier: GPL-2.0

//! Fault injection: makes chosen kernel functions and allocations fail.
//!
//! Allocations fail by the kernel's own means (`Documentation/fault-injection`), other functions by
//! `lab/modules/fail_points.c`, a module that comes with the debug kernels.

use crate::{
    guest::{file, module},
    tool, unless_panicking,
};
use std::{
    fs::{File, OpenOptions},
    os::unix::fs::FileExt,
};

const DEBUGFS: &str = "/sys/kernel/debug";

/// The kernel's fault attributes for allocations.
const ALLOCATIONS: [&str; 2] = ["failslab", "fail_page_alloc"];

/// Enables fault injection until this is dropped, for threads that ask for it.
pub struct FaultInjection(());

impl FaultInjection {
    /// Configures the kernel's fault injection, and loads `fail_points`. Nothing fails yet.
    #[track_caller]
    pub fn enable() -> Self {
        tool::run("insmod", &[&module::debug_object("fail_points")]);
        for attribute in ALLOCATIONS {
            // Allocations that may sleep and reclaim memory can fail, too.
            set(&format!("{attribute}/ignore-gfp-wait"), "N");
            set(&format!("{attribute}/verbose"), "0");
            set(&format!("{attribute}/times"), "-1");
            set(&format!("{attribute}/task-filter"), "Y");
        }
        set("fail_page_alloc/min-order", "0");
        Self(())
    }

    /// Restricts failures to allocations that kstat makes, or that the kernel makes for kstat:
    /// those with kstat in the stack trace.
    ///
    /// kstat must be loaded, and must stay loaded.
    #[track_caller]
    pub fn restrict_to_kstat(&self) {
        let start = file::read("/sys/module/kstat/sections/.text");
        let start = u64::from_str_radix(start.trim().trim_start_matches("0x"), 16)
            .unwrap_or_else(|error| panic!("the address of kstat's .text, {start:?}: {error}"));
        // The .text of kstat is smaller than 64 KiB. No other module lies that near.
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

    /// Does `work`, in which the `nth` call of `function` by kstat in the calling thread fails.
    /// The first call is 1.
    ///
    /// `function` is one of those that `fail_points` knows. Returns whether a call has failed,
    /// which is false if there were fewer than `nth`, and the result of `work`.
    #[track_caller]
    pub fn fail_nth_call<T>(
        &self,
        function: &str,
        nth: u32,
        work: impl FnOnce() -> T,
    ) -> (bool, T) {
        let point = format!("fail_points/{function}");

        set(&point, &nth.to_string());
        let result = {
            let _make_it_fail = MakeItFail::new();
            work()
        };
        let left = file::number(&format!("{DEBUGFS}/{point}"));
        set(&point, "0");
        (left == 0, result)
    }

    /// Does `work`, in which one of `one_in` allocations of the calling thread fails, at random.
    pub fn fail_at_random<T>(&self, one_in: u32, work: impl FnOnce() -> T) -> T {
        for attribute in ALLOCATIONS {
            // One allocation in each interval fails with a probability of 10 per cent.
            set(&format!("{attribute}/interval"), &(one_in / 10).to_string());
            set(&format!("{attribute}/probability"), "10");
        }
        let _make_it_fail = MakeItFail::new();
        work()
    }
}

/// Asks for failures in the calling thread until this is dropped, by `/proc/PID/make-it-fail`.
struct MakeItFail(File);

impl MakeItFail {
    #[track_caller]
    fn new() -> Self {
        let file = file::writer("/proc/thread-self/make-it-fail");

        file.write_at(b"1", 0)
            .unwrap_or_else(|error| panic!("writing 1 to make-it-fail: {error}"));
        Self(file)
    }
}

impl Drop for MakeItFail {
    fn drop(&mut self) {
        let result = self.0.write_at(b"0", 0);

        unless_panicking(|| {
            result.unwrap_or_else(|error| panic!("writing 0 to make-it-fail: {error}"));
        });
    }
}

impl Drop for FaultInjection {
    fn drop(&mut self) {
        let whole_address_space = u64::MAX.to_string();
        let disabled = ALLOCATIONS.iter().try_for_each(|attribute| {
            [
                ("probability", "0"),
                ("require-start", "0"),
                ("require-end", &whole_address_space),
            ]
            .iter()
            .try_for_each(|(name, value)| {
                file::put(&format!("{DEBUGFS}/{attribute}/{name}"), value)
            })
        });
        let removed = tool::attempt("rmmod", &["fail_points"], "");

        unless_panicking(|| {
            assert_eq!(disabled, Ok(()), "disabling fault injection");
            assert!(removed.status.success(), "rmmod fail_points: {removed:?}");
        });
    }
}

/// The `fail-nth` file of a thread: makes the n-th operation that can fail do so.
///
/// This takes any kind of fault that the kernel can inject, not only allocations.
pub struct FailNth(File);

impl FailNth {
    /// Opens the file of the calling thread.
    #[track_caller]
    pub fn of_this_thread() -> Self {
        Self(file::open(
            "/proc/thread-self/fail-nth",
            OpenOptions::new().read(true).write(true),
        ))
    }

    /// Does `work`, in which the `nth` operation that can fail does so. The first is 1.
    ///
    /// Returns whether an operation has failed, which is false if there were fewer than `nth`, and
    /// the result of `work`.
    #[track_caller]
    pub fn fail<T>(&self, nth: u32, work: impl FnOnce() -> T) -> (bool, T) {
        let mut left = [0; 16];

        self.set(nth);
        let result = work();
        let length = self
            .0
            .read_at(&mut left, 0)
            .unwrap_or_else(|error| panic!("reading fail-nth: {error}"));
        self.set(0);
        (left[..length] == *b"0\n", result)
    }

    #[track_caller]
    fn set(&self, nth: u32) {
        self.0
            .write_at(nth.to_string().as_bytes(), 0)
            .unwrap_or_else(|error| panic!("writing {nth} to fail-nth: {error}"));
    }
}

/// Writes `value` to the file `name` in debugfs.
#[track_caller]
fn set(name: &str, value: &str) {
    file::set(&format!("{DEBUGFS}/{name}"), value);
}
