// SPDX-License-Identifier: GPL-2.0

//! Delays the callers of a kernel function.
//!
//! This loads `lab/modules/linger.c`, a module that comes with the debug kernels. The module delays
//! each call by a kprobe, and warns if the per-CPU memory that a delayed call got as its first
//! argument is freed during the delay.

use crate::{
    guest::{file, module},
    tool, unless_panicking,
};
use std::time::Duration;

/// A kernel function whose calls take longer, until this is dropped.
pub struct SlowFunction(());

impl SlowFunction {
    /// Delays each call of kstat's hook for IPv6 by `delay`, before the hook counts the packet.
    ///
    /// kstat must be loaded, and must stay loaded until this is dropped.
    #[track_caller]
    pub fn kstat_ipv6_hook(delay: Duration) -> Self {
        let symbols = file::read("/proc/kallsyms");
        // In a mangled Rust name, the length of each path component stands before the component.
        let hooks: Vec<_> = symbols
            .lines()
            .filter(|line| line.ends_with("[kstat]"))
            .filter_map(|line| line.split_whitespace().nth(2))
            .filter(|name| name.contains("12abstractions9netfilter") && name.contains("4ipv6"))
            .collect();
        let &[hook] = hooks.as_slice() else {
            panic!("/proc/kallsyms should have one IPv6 hook of kstat, but has {hooks:?}");
        };

        tool::run(
            "insmod",
            &[
                &module::debug_object("linger"),
                &format!("function=kstat:{hook}"),
                &format!("milliseconds={}", delay.as_millis()),
            ],
        );
        Self(())
    }
}

impl Drop for SlowFunction {
    fn drop(&mut self) {
        let removed = tool::attempt("rmmod", &["linger"], "");

        unless_panicking(|| assert!(removed.status.success(), "rmmod linger: {removed:?}"));
    }
}
