// SPDX-License-Identifier: GPL-2.0

//! What the tests of kstat are made of: the module, hosts that send packets, and those whose word
//! kstat's is compared with.
//!
//! A test takes its [`KernelLock`](guest::exclusive::KernelLock), loads [`Kstat`](guest::module::Kstat), and makes
//! [`Host`](guest::host::Host)s, each in a network namespace of its own, so that no test sees the packets
//! of another. What fails says what was attempted, and panics.

pub mod guest;
pub mod lab;
pub mod scale;
pub mod seed;
pub mod stress;
pub mod tool;
pub mod wait;

/// Asserts that kstat counts what somebody else, `source`, counts.
#[track_caller]
pub fn assert_agrees(nout: u64, other: u64, source: &str) {
    println!("nout says {nout}, {source} says {other}");
    assert_eq!(
        nout, other,
        "nout says {nout}, but {source} says {other} (left: nout)"
    );
}
