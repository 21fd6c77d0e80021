// SPDX-License-Identifier: GPL-2.0

//! Functions of the kernel's that take longer than usual, by a module of the debug kernels.

use crate::{
    guest::{file, module},
    tool,
};
use std::{thread, time::Duration};

/// While this is there, who is in a hook of kstat's for IPv6 stays there for a time, before it counts; the kernel
/// reports a fault if the count is freed meanwhile.
pub struct Linger(());

impl Linger {
    /// From now on. kstat is loaded, and stays so.
    #[track_caller]
    pub fn in_hooks(time: Duration) -> Self {
        let symbols = file::read("/proc/kallsyms");
        // The Rust compiler's names have the lengths of their parts before these.
        let hooks: Vec<_> = symbols
            .lines()
            .filter(|line| line.ends_with("[kstat]"))
            .filter_map(|line| line.split_whitespace().nth(2))
            .filter(|name| name.contains("12abstractions9netfilter") && name.contains("4ipv6"))
            .collect();
        let &[hook] = hooks.as_slice() else {
            panic!("which is kstat's hook for IPv6? {hooks:?}");
        };

        tool::run(
            "insmod",
            &[
                &module::debug_object("linger"),
                &format!("function=kstat:{hook}"),
                &format!("milliseconds={}", time.as_millis()),
            ],
        );
        Self(())
    }
}

impl Drop for Linger {
    fn drop(&mut self) {
        let removed = tool::attempt("rmmod", &["linger"], "");

        // If the test has failed already, that is what should be told.
        if !thread::panicking() {
            assert!(removed.status.success(), "rmmod linger: {removed:?}");
        }
    }
}
