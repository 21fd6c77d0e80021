// SPDX-License-Identifier: GPL-2.0

//! How what kstat costs grows: with N, with network namespaces, with CPUs.

use crate::{
    cost::{self, Place, Senders},
    device::{self, Device, Hook},
    figure::{Part, Point},
    memory, nftables,
};
use kstat_tests::guest::{
    cpu, exclusive::KernelLock, file, link, module::Kstat, netns::Netns, setting,
};
use std::{fs::File, os::unix::fs::FileExt, time::Instant};

/// How many there are of what grows, in a namespace more than the initial one.
const NAMESPACES: [usize; 4] = [1, 10, 100, 1000];

/// Packets a round.
const PACKETS: u32 = 100_000;

/// How many times as many rounds there are of what is quickly done.
const QUICK: usize = 5;

/// What a TCP packet over IPv4 costs, with many Ns, and many namespaces; what starting and stopping
/// takes with these, and memory.
pub fn measure(rounds: usize) -> Part {
    device::load();
    let mut part = Part::default();
    let lock = KernelLock::take();
    let kstat = Kstat::load(&lock, "");
    let mut namespaces = Namespaces::default();

    namespaces.grow_to(1);
    let net = &namespaces.0[0];
    net.run(|| link::set_up("lo"));
    let senders = Senders::new(net, &cost::packets()[0].1, 1);
    let device = Device::open(net);

    eprintln!("bench: what a packet costs with each N");
    let steps = [1, 10, 1000, u64::MAX];
    let mut samples = vec![vec![]; steps.len()];
    kstat.start();
    let mut speed = vec![];
    for round in 0..QUICK * rounds {
        speed.push(cost::step(round % 2));
        for (n, samples) in steps.iter().zip(&mut samples) {
            net.run(|| file::set(file::COUNTER, &n.to_string()));
            samples.push(senders.cost(Place::Uml, round % 2, PACKETS));
        }
    }
    kstat.stop();
    part.points
        .push(Point::new(cost::STEP, "ns", "guests", 0, speed));
    for (n, samples) in steps.iter().zip(samples) {
        part.points
            .push(Point::new("a packet", "ns", "N", *n, samples));
    }

    for number in NAMESPACES {
        eprintln!("bench: what a packet, starting and stopping cost with {number} namespaces");
        namespaces.grow_to(number);
        let all = &namespaces.0[..];
        let [mut costs, mut empty, mut over_empty, mut stopped] = [const { Vec::new() }; 4];
        let [mut starts, mut stops, mut loads, mut deletions] = [const { Vec::new() }; 4];
        let [mut usual_starts, mut usual_stops] = [const { Vec::new() }; 2];

        for _ in 0..rounds {
            usual_starts.push(milliseconds(|| kstat.start()));
            usual_stops.push(milliseconds(|| kstat.stop()));
        }
        // kstat and nft wait for RCU's grace periods: what is compared is what they do themselves.
        let _quick = setting::expedite_grace_periods();
        for round in 0..rounds {
            eprintln!("bench: round {} of {rounds}", round + 1);
            // A grace period ends at a tick, this or the next: so a round's is the mean of some.
            let [mut starting, mut stopping] = [0.0; 2];

            for time in 0..QUICK {
                let cost = || senders.cost(Place::Uml, (round + time) % 2, PACKETS);

                starting += milliseconds(|| kstat.start());
                let with_kstat = cost();
                stopping += milliseconds(|| kstat.stop());
                stopped.push(cost());
                device.hook(Hook::Empty);
                let with_empty = cost();
                device.hook(Hook::Nothing);
                costs.push(with_kstat);
                empty.push(with_empty);
                over_empty.push(with_kstat / with_empty);
            }
            starts.push(starting / QUICK as f64);
            stops.push(stopping / QUICK as f64);
            loads.push(in_each(all, || nftables::run(RULE)));
            deletions.push(in_each(all, || nftables::run("delete table ip counted")));
        }
        for (what, unit, samples) in [
            ("a packet", "ns", costs),
            ("a packet with an empty hook", "ns", empty),
            ("a packet over that", "1", over_empty),
            ("a packet when stopped", "ns", stopped),
            ("start as RCU usually goes", "ms", usual_starts),
            ("stop as RCU usually goes", "ms", usual_stops),
            ("start", "ms", starts),
            ("stop", "ms", stops),
            ("loading one nft rule in each", "ms", loads),
            ("deleting it in each", "ms", deletions),
        ] {
            part.points
                .push(Point::new(what, unit, "namespaces", number as u64, samples));
        }
    }
    part
}

const RULE: &str = "
table ip counted {
    chain output {
        type filter hook output priority 0;
        meta l4proto tcp counter;
    }
}
";

/// Network namespaces beside the initial one.
#[derive(Default)]
struct Namespaces(Vec<Netns>);

impl Namespaces {
    fn grow_to(&mut self, number: usize) {
        while self.0.len() < number {
            self.0.push(Netns::new());
        }
    }
}

fn milliseconds(work: impl FnOnce()) -> f64 {
    let start = Instant::now();

    work();
    start.elapsed().as_secs_f64() * 1e3
}

/// Does `work` in one namespace after the other; how long that took, but for the way there.
fn in_each(namespaces: &[Netns], work: impl Fn() + Sync) -> f64 {
    namespaces
        .iter()
        .map(|net| net.run(|| milliseconds(&work)))
        .sum()
}

/// What depends on how many CPUs are possible: how many instructions a read of nout takes, and how much
/// memory a namespace.
pub fn measure_cpus(rounds: usize) -> Part {
    const READS: u64 = 10;

    let lock = KernelLock::take();
    let cpus = possible_cpus();
    let mut part = Part::default();
    let mut tell = |what: &str, unit: &str, samples| {
        let point = Point::new(what, unit, "possible CPUs", cpus, samples);
        part.points.push(point);
    };

    let loaded = memory::of_a_namespace(|| Kstat::load(&lock, ""));
    let started = memory::of_a_namespace(|| Kstat::started(&lock, ""));
    for (when, bytes) in [("loaded", loaded), ("started", started)] {
        let what = format!("memory of a namespace when {when}");
        tell(&what, "bytes", vec![bytes as f64]);
    }

    let kstat = Kstat::started(&lock, "");
    let nout = file::reader(file::NOUT);
    cpu::stay_on(0);
    let samples = (0..rounds)
        .map(|_| {
            let start = cycles();
            for _ in 0..READS {
                read(&nout);
            }
            (cycles() - start) as f64 / READS as f64
        })
        .collect();
    tell("a read of nout", "instructions", samples);
    let size = file::number("/sys/module/kstat/coresize");
    tell("the module in memory", "bytes", vec![size as f64]);
    kstat.unload();
    part
}

/// How many CPUs are possible.
fn possible_cpus() -> u64 {
    let list = file::read("/sys/devices/system/cpu/possible");
    let last = list.trim().rsplit(['-', ',']).next().expect("some");

    last.parse::<u64>()
        .unwrap_or_else(|error| panic!("the possible CPUs {list:?}: {error}"))
        + 1
}

fn read(file: &File) {
    let read = file.read_at(&mut [0; 32], 0);

    assert!(read.is_ok_and(|length| length > 1), "reading nout");
}

fn cycles() -> u64 {
    // SAFETY: All x86-64 CPUs have it.
    unsafe { std::arch::x86_64::_rdtsc() }
}
