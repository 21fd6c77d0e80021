// SPDX-License-Identifier: GPL-2.0

//! How what kstat costs grows: with N, with network namespaces, with CPUs.

use crate::{
    cost::{
        self,
        Place,
        Senders, //
    },
    device,
    figure::{
        Part,
        Point, //
    },
    nftables,
};
use kstat_tests::{
    cpu,
    file,
    link,
    memory,
    module::Kstat,
    netns::Netns,
    setting,
    turn::Turn, //
};
use std::{
    fs::File,
    os::unix::fs::FileExt,
    time::Instant, //
};

/// How many there are of what grows, in a namespace more than the initial one.
const NAMESPACES: [usize; 4] = [1, 10, 100, 1000];

/// Packets a round.
const PACKETS: u32 = 200_000;

/// What a TCP packet over IPv4 costs, with many Ns, and many namespaces; what starting and stopping
/// takes with these, and memory.
pub fn measure(rounds: usize) -> Part {
    device::load();
    let mut part = Part::default();
    let turn = Turn::take();
    let kstat = Kstat::load(&turn, "");
    let mut namespaces = Namespaces::default();

    // Both wait for RCU's grace periods: what is compared is what they do themselves.
    let _quick = setting::expedite_grace_periods();

    namespaces.grow_to(1);
    let net = &namespaces.0[0];
    net.run(|| link::set_up("lo"));
    let senders = Senders::new(net, &cost::packets()[0].1, 1);

    eprintln!("bench: what a packet costs with each N");
    let steps = [1, 10, 1000, u64::MAX];
    let mut samples = vec![vec![]; steps.len()];
    kstat.start();
    for _ in 0..rounds {
        for (n, samples) in steps.iter().zip(&mut samples) {
            net.run(|| file::set(file::COUNTER, &n.to_string()));
            samples.push(senders.cost(Place::Uml, 1, PACKETS).0);
        }
    }
    kstat.stop();
    for (n, samples) in steps.iter().zip(samples) {
        part.points
            .push(Point::new("a packet", "ns", "N", *n, samples));
    }

    for number in NAMESPACES {
        eprintln!("bench: what a packet, starting and stopping cost with {number} namespaces");
        namespaces.grow_to(number);
        let all = &namespaces.0[..];
        let (mut costs, mut costs_stopped) = (vec![], vec![]);
        let [mut starts, mut stops, mut loads, mut deletions] = [const { Vec::new() }; 4];

        for _ in 0..rounds {
            starts.push(milliseconds(|| kstat.start()));
            costs.push(senders.cost(Place::Uml, 1, PACKETS).0);
            stops.push(milliseconds(|| kstat.stop()));
            costs_stopped.push(senders.cost(Place::Uml, 1, PACKETS).0);
            loads.push(in_each(all, || nftables::run(RULE)));
            deletions.push(in_each(all, || nftables::run("delete table ip counted")));
        }
        for (what, unit, samples) in [
            ("a packet", "ns", costs),
            ("a packet, when stopped", "ns", costs_stopped),
            ("start", "ms", starts),
            ("stop", "ms", stops),
            ("loading one nft rule in each", "ms", loads),
            ("deleting it in each", "ms", deletions),
        ] {
            part.points
                .push(Point::new(what, unit, "namespaces", number as u64, samples));
        }
    }

    kstat.unload();
    eprintln!("bench: memory");
    let number = namespaces.0.len() as f64;
    let before = memory::taken();
    let kstat = Kstat::load(&turn, "");
    let loaded = memory::taken();
    kstat.start();
    let started = memory::taken();
    for (what, more) in [
        (
            "memory of a namespace, when loaded",
            loaded as f64 - before as f64,
        ),
        (
            "memory of a namespace, when started too",
            started as f64 - loaded as f64,
        ),
    ] {
        let cpus = cpu::count() as u64;
        part.points
            .push(Point::new(what, "bytes", "CPUs", cpus, vec![more / number]));
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

/// How many instructions a read of nout takes: so many CPUs are possible here.
pub fn measure_reading(cpus: u64, rounds: usize) -> Part {
    const READS: u64 = 10;

    let turn = Turn::take();
    let _kstat = Kstat::started(&turn, "");
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

    Part {
        points: vec![
            Point::new(
                "a read of nout",
                "instructions",
                "possible CPUs",
                cpus,
                samples,
            ),
            Point::new(
                "the module in memory",
                "bytes",
                "possible CPUs",
                cpus,
                vec![file::number("/sys/module/kstat/coresize") as f64],
            ),
        ],
        ..Part::default()
    }
}

fn read(file: &File) {
    let read = file.read_at(&mut [0; 32], 0);

    assert!(read.is_ok_and(|length| length > 1), "reading nout");
}

fn cycles() -> u64 {
    // SAFETY: All x86-64 CPUs have it.
    unsafe { std::arch::x86_64::_rdtsc() }
}
