// SPDX-License-Identifier: GPL-2.0

//! `/dev/kstat_bench`, which sends packets past netfilter hooks.
//!
//! `bench/module/kstat_bench.h` has the same ioctl numbers and structs, and documents them.

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

/// `struct kstat_bench_packet`.
#[repr(C)]
struct Packet {
    length: u32,
    bytes: [u8; 252],
}

/// `struct kstat_bench_run`: how to send packets, and how long that took.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Run {
    /// How many packets to send while the time is measured.
    pub packets: u32,
    /// How many threads run at the same time, each with its own device.
    pub threads: u32,
    /// The number of arrivals, over all runs, at which the measurement starts.
    pub arrivals: u32,
    /// Whether interrupts are disabled while the time is measured.
    pub irqs_off: u32,
    /// The measured time, in nanoseconds.
    pub ns: u64,
    /// The measured time, in cycles.
    pub cycles: u64,
    /// All packets sent, including those before and after the measurement.
    pub sent: u64,
}

/// A hook written in C, in the kernel module of the benchmark.
#[derive(Clone, Copy, Debug)]
pub enum CHook {
    /// No hook.
    None = 0,
    /// A hook that does nothing.
    Empty = 1,
    /// A hook that counts TCP packets in one variable for all CPUs.
    GlobalAtomic = 2,
}

ioctl_write_ptr!(set_packet, b'k', 1, Packet);
ioctl_write_int_bad!(set_hook, request_code_none!(b'k', 2));
ioctl_readwrite!(run, b'k', 3, Run);

/// Loads the kernel module that has the device.
#[track_caller]
pub fn load_module() {
    let module = env::var("KSTAT_BENCH_KO")
        .unwrap_or_else(|_| panic!("KSTAT_BENCH_KO does not name the module: see `make bench`"));

    tool::run("insmod", &[&module]);
}

/// An open device. It belongs to a network namespace, and may have a packet to send.
pub struct Device(File);

impl Device {
    /// Opens the device in a network namespace.
    #[track_caller]
    pub fn open(net: &Netns) -> Self {
        Self(net.run(|| file::open("/dev/kstat_bench", OpenOptions::new().read(true))))
    }

    /// Opens the device in a network namespace, and sets the packet that [`Self::run`] sends.
    #[track_caller]
    pub fn with_packet(net: &Netns, bytes: &[u8]) -> Self {
        let device = Self::open(net);
        let mut packet = Packet {
            length: bytes.len() as u32,
            bytes: [0; 252],
        };

        packet.bytes[..bytes.len()].copy_from_slice(bytes);
        // SAFETY: The device reads a `struct kstat_bench_packet`, which is what `packet` is.
        unsafe { set_packet(device.0.as_raw_fd(), &packet) }
            .unwrap_or_else(|error| panic!("setting the packet: {error}"));
        device
    }

    /// Registers a hook in place of the one before, until the device is closed.
    #[track_caller]
    pub fn set_hook(&self, hook: CHook) {
        // SAFETY: The device takes a number, and accesses no memory.
        unsafe { set_hook(self.0.as_raw_fd(), hook as i32) }
            .unwrap_or_else(|error| panic!("setting the hook to {hook:?}: {error}"));
    }

    /// Sends packets. Returns `parameters` with the measured time and the number of packets sent.
    #[track_caller]
    pub fn run(&self, mut parameters: Run) -> Run {
        // SAFETY: The device reads and writes a `struct kstat_bench_run`, which is what
        // `parameters` is.
        unsafe { run(self.0.as_raw_fd(), &mut parameters) }
            .unwrap_or_else(|error| panic!("sending packets: {error}"));
        parameters
    }
}
