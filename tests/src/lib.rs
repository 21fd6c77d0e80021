// SPDX-License-Identifier: GPL-2.0

//! What the tests of kstat are made of: the module, hosts that send packets, and those whose word
//! kstat's is compared with.
//!
//! A test takes its [`Turn`](turn::Turn), loads [`Kstat`](module::Kstat), and makes
//! [`Host`](host::Host)s, each in a network namespace of its own, so that no test sees the packets
//! of another. What fails says what was attempted, and panics.

pub mod capture;
pub mod cgroup;
pub mod container;
pub mod cpu;
pub mod daemon;
pub mod fault;
pub mod file;
pub mod frames;
pub mod host;
pub mod identity;
pub mod iptables;
pub mod linger;
pub mod link;
pub mod log;
pub mod meanwhile;
pub mod memory;
pub mod mib;
pub mod module;
pub mod neighbours;
pub mod netns;
pub mod network;
pub mod nft;
pub mod packet;
pub mod queue;
pub mod root;
pub mod seed;
pub mod setting;
pub mod stuck;
pub mod tally;
pub mod tcp;
pub mod tool;
pub mod traffic;
pub mod tree;
pub mod turn;
pub mod unprivileged;
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
