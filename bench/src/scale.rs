// SPDX-License-Identifier: GPL-2.0

//! How the costs of kstat grow with N, with network namespaces, and with CPUs.

use crate::{
    cost::{self, Environment, Senders},
    device::{self, CHook, Device},
    instructions,
    measurement::{Measurements, ScalePoint},
    memory, nftables,
};
use kstat_tests::guest::{
    cpu, exclusive::KernelLock, file, link, module::Kstat, netns::Netns, setting,
};
use std::{fs::File, os::unix::fs::FileExt, time::Instant};

/// The numbers of network namespaces that are measured, not counting the initial one.
const NAMESPACE_COUNTS: [usize; 4] = [1, 10, 100, 1000];

/// How many packets are sent for a sample.
const PACKETS: u32 = 100_000;

/// How many times quick measurements are repeated in a round.
const REPETITIONS: usize = 5;

// The names of measurements that the report compares with each other.
pub const PACKET: &str = "a packet";
pub const PACKET_OVER_EMPTY_HOOK: &str = "a packet, divided by a packet with an empty hook";
pub const START: &str = "start";
pub const STOP: &str = "stop";
pub const NFT_LOAD: &str = "loading an nft rule in each namespace";
pub const NFT_DELETE: &str = "deleting the nft rule in each namespace";

/// Measures the cost of an IPv4 TCP packet by N and by the number of network namespaces, and the
/// time of start and stop by the number of network namespaces.
pub fn measure(rounds: usize) -> Measurements {
    device::load_module();
    let mut measurements = Measurements::default();
    let lock = KernelLock::take();
    let kstat = Kstat::load(&lock, "");
    let mut namespaces = Namespaces::default();

    namespaces.grow_to(1);
    let net = &namespaces.0[0];
    net.run(|| link::set_up("lo"));
    let senders = Senders::new(net, &cost::packets()[0], 1);
    let device = Device::open(net);

    eprintln!("bench: the cost of a packet by N");
    let ns = [1, 10, 1000, u64::MAX];
    let mut samples = vec![vec![]; ns.len()];
    kstat.start();
    let mut cpu_speed = vec![];
    for round in 0..REPETITIONS * rounds {
        cpu_speed.push(cost::nanoseconds_per_iteration(round % 2));
        for (n, samples) in ns.iter().zip(&mut samples) {
            net.run(|| file::set(file::COUNTER, &n.to_string()));
            samples.push(senders.cost(Environment::Uml, round % 2, PACKETS));
        }
    }
    kstat.stop();
    let mut add = |name, unit, parameter, value, samples| {
        let point = ScalePoint::new(name, unit, parameter, value, samples);
        measurements.points.push(point);
    };
    add(cost::CPU_SPEED, "ns", "guest", 0, cpu_speed);
    for (n, samples) in ns.iter().zip(samples) {
        add(PACKET, "ns", "N", *n, samples);
    }

    for count in NAMESPACE_COUNTS {
        eprintln!("bench: the cost of a packet, of start and of stop with {count} namespaces");
        namespaces.grow_to(count);
        let all = &namespaces.0[..];
        let [mut with_kstat, mut with_empty_hook, mut ratios, mut stopped] =
            [const { Vec::new() }; 4];
        let [mut starts, mut stops, mut nft_loads, mut nft_deletes] = [const { Vec::new() }; 4];
        let [mut normal_starts, mut normal_stops] = [const { Vec::new() }; 2];

        for _ in 0..rounds {
            normal_starts.push(milliseconds(|| kstat.start()));
            normal_stops.push(milliseconds(|| kstat.stop()));
        }
        // kstat and nft wait for RCU grace periods. When these are short, the comparison shows the
        // work of kstat and nft themselves.
        let _expedited = setting::expedite_grace_periods();
        for round in 0..rounds {
            eprintln!("bench: round {} of {rounds}", round + 1);
            // A grace period ends at this tick or at the next, so the sample of a round is a mean.
            let [mut start_time, mut stop_time] = [0.0; 2];

            for repetition in 0..REPETITIONS {
                let cost = || senders.cost(Environment::Uml, (round + repetition) % 2, PACKETS);

                start_time += milliseconds(|| kstat.start());
                let kstat_cost = cost();
                stop_time += milliseconds(|| kstat.stop());
                stopped.push(cost());
                device.set_hook(CHook::Empty);
                let empty_hook_cost = cost();
                device.set_hook(CHook::None);
                with_kstat.push(kstat_cost);
                with_empty_hook.push(empty_hook_cost);
                ratios.push(kstat_cost / empty_hook_cost);
            }
            starts.push(start_time / REPETITIONS as f64);
            stops.push(stop_time / REPETITIONS as f64);
            nft_loads.push(milliseconds_in_each(all, || nftables::run(NFT_RULE)));
            nft_deletes.push(milliseconds_in_each(all, || {
                nftables::run("delete table ip counted")
            }));
        }
        for (name, unit, samples) in [
            (PACKET, "ns", with_kstat),
            ("a packet with an empty hook", "ns", with_empty_hook),
            (PACKET_OVER_EMPTY_HOOK, "1", ratios),
            ("a packet when kstat is stopped", "ns", stopped),
            ("start with normal grace periods", "ms", normal_starts),
            ("stop with normal grace periods", "ms", normal_stops),
            (START, "ms", starts),
            (STOP, "ms", stops),
            (NFT_LOAD, "ms", nft_loads),
            (NFT_DELETE, "ms", nft_deletes),
        ] {
            add(name, unit, "namespaces", count as u64, samples);
        }
    }
    measurements
}

const NFT_RULE: &str = "
table ip counted {
    chain output {
        type filter hook output priority 0;
        meta l4proto tcp counter;
    }
}
";

/// Network namespaces, without the initial one.
#[derive(Default)]
struct Namespaces(Vec<Netns>);

impl Namespaces {
    /// Makes further namespaces until there are `count`.
    fn grow_to(&mut self, count: usize) {
        while self.0.len() < count {
            self.0.push(Netns::new());
        }
    }
}

/// Returns how long `work` takes.
fn milliseconds(work: impl FnOnce()) -> f64 {
    let start = Instant::now();

    work();
    start.elapsed().as_secs_f64() * 1e3
}

/// Returns how long `work` takes in all namespaces, one after the other, without the time to enter
/// them.
fn milliseconds_in_each(namespaces: &[Netns], work: impl Fn() + Sync) -> f64 {
    namespaces
        .iter()
        .map(|net| net.run(|| milliseconds(&work)))
        .sum()
}

/// Measures the costs that depend on the number of possible CPUs: the instructions of a read of
/// nout, and the memory of a network namespace.
pub fn measure_by_cpus(rounds: usize) -> Measurements {
    const READS: u64 = 10;

    let lock = KernelLock::take();
    let cpus = possible_cpus();
    let mut measurements = Measurements::default();
    let mut add = |name: &str, unit: &str, samples| {
        let point = ScalePoint::new(name, unit, "possible CPUs", cpus, samples);
        measurements.points.push(point);
    };

    let loaded = memory::bytes_per_namespace(|| Kstat::load(&lock, ""));
    let started = memory::bytes_per_namespace(|| Kstat::started(&lock, ""));
    for (state, bytes) in [("loaded", loaded), ("started", started)] {
        let name = format!("memory of a namespace when kstat is {state}");
        add(&name, "bytes", vec![bytes as f64]);
    }

    let kstat = Kstat::started(&lock, "");
    let nout = file::reader(file::NOUT);
    cpu::stay_on(0);
    let samples = (0..rounds)
        .map(|_| {
            let reads = instructions::of(|| (0..READS).for_each(|_| read(&nout)));
            reads as f64 / READS as f64
        })
        .collect();
    add("a read of nout", "instructions", samples);
    let size = file::number("/sys/module/kstat/coresize");
    add("memory of the module", "bytes", vec![size as f64]);
    kstat.unload();
    measurements
}

/// Returns the number of possible CPUs.
fn possible_cpus() -> u64 {
    let list = file::read("/sys/devices/system/cpu/possible");
    let last = list
        .trim()
        .rsplit(['-', ','])
        .next()
        .expect("the list has a CPU");

    last.parse::<u64>()
        .unwrap_or_else(|error| panic!("the possible CPUs {list:?}: {error}"))
        + 1
}

/// Reads nout from its start.
fn read(nout: &File) {
    let read = nout.read_at(&mut [0; 32], 0);

    assert!(read.is_ok_and(|length| length > 1), "reading nout");
}
