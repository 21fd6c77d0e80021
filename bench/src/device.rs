// SPDX-License-Identifier: GPL-2.0

//! `/dev/kstat_bench`, which sends packets past the hooks; kstat_bench.h says what it understands.

use kstat_tests::{
    guest::{file, netns::Netns},
    tool,
};
use nix::{ioctl_readwrite, ioctl_write_int_bad, ioctl_write_ptr, request_code_none};
use std::{
    env,
    fs::{File, OpenOptions},
    os::fd::AsRawFd,
};

#[repr(C)]
struct Packet {
    length: u32,
    bytes: [u8; 252],
}

/// How packets are to be sent, and what it took.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Run {
    /// How many are timed.
    pub count: u32,
    /// How many threads do this together, each with a device of its own.
    pub threads: u32,
    /// How often threads will have met when all of them have come.
    pub meet: u32,
    /// Whether nothing may interrupt.
    pub irqs_off: u32,
    /// How long those that are timed took.
    pub ns: u64,
    /// The same, in cycles.
    pub cycles: u64,
    /// How many were sent in all, those before and after included.
    pub sent: u64,
}

/// A hook in C.
#[derive(Clone, Copy, Debug)]
pub enum Hook {
    Nothing = 0,
    /// One that does nothing.
    Empty = 1,
    /// One that adds to a count that all CPUs share.
    Global = 2,
}

ioctl_write_ptr!(set_packet, b'k', 1, Packet);
ioctl_write_int_bad!(set_hook, request_code_none!(b'k', 2));
ioctl_readwrite!(run, b'k', 3, Run);

/// Loads what makes the device.
#[track_caller]
pub fn load() {
    let module = env::var("KSTAT_BENCH_KO")
        .unwrap_or_else(|_| panic!("KSTAT_BENCH_KO does not name the module: see scripts/bench"));

    tool::run("insmod", &[&module]);
}

/// An open device: a socket of a network namespace, and a packet.
pub struct Device(File);

impl Device {
    /// Opens it in a namespace.
    #[track_caller]
    pub fn open(net: &Netns) -> Self {
        Self(net.run(|| file::open("/dev/kstat_bench", OpenOptions::new().read(true))))
    }

    /// The same, to send this packet.
    #[track_caller]
    pub fn with_packet(net: &Netns, bytes: &[u8]) -> Self {
        let device = Self::open(net);
        let mut packet = Packet {
            length: bytes.len() as u32,
            bytes: [0; 252],
        };

        packet.bytes[..bytes.len()].copy_from_slice(bytes);
        // SAFETY: The device reads as much as the struct is long.
        unsafe { set_packet(device.0.as_raw_fd(), &packet) }
            .unwrap_or_else(|error| panic!("setting the packet: {error}"));
        device
    }

    /// Hooks this, until it is told otherwise or closed.
    #[track_caller]
    pub fn hook(&self, hook: Hook) {
        // SAFETY: The device takes a number.
        unsafe { set_hook(self.0.as_raw_fd(), hook as i32) }
            .unwrap_or_else(|error| panic!("hooking {hook:?}: {error}"));
    }

    /// Sends packets.
    #[track_caller]
    pub fn run(&self, mut how: Run) -> Run {
        // SAFETY: The device reads and writes as much as the struct is long.
        unsafe { run(self.0.as_raw_fd(), &mut how) }
            .unwrap_or_else(|error| panic!("sending packets: {error}"));
        how
    }
}
