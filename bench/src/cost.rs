// SPDX-License-Identifier: GPL-2.0

//! What a packet costs, with one after the other counting it, in rounds.

use crate::{
    bpf,
    device::{self, Device, Run},
    figure::{NotRun, Of, Part, Point, Samples},
    subject::{Counting, Stage, Subject},
};
use kstat_tests::guest::{cpu, exclusive::KernelLock, link, module::Kstat, netns::Netns, packet};
use nix::sched::{unshare, CloneFlags};
use std::{
    collections::BTreeMap,
    hint::black_box,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Instant,
};

/// Where, and so how, it is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Place {
    /// In nanoseconds.
    Uml,
    /// In instructions: each takes a cycle there.
    Icount,
}

impl Place {
    pub fn name(self) -> &'static str {
        match self {
            Self::Uml => "uml",
            Self::Icount => "icount",
        }
    }

    pub fn unit(self) -> &'static str {
        match self {
            Self::Uml => "ns",
            Self::Icount => "instructions",
        }
    }

    /// On which CPUs there are threads: all that are tried, in one round. What is one thread's is so on
    /// each of the CPUs that two have, as a CPU of a virtual machine may be slower than its neighbour.
    fn threads(self) -> &'static [&'static [usize]] {
        match self {
            Self::Uml => &[&[0], &[0, 1], &[1]],
            Self::Icount => &[&[0]],
        }
    }
}

/// See [`step()`]; told by each guest.
pub const STEP: &str = "a step of a loop that touches no memory";
pub const BEFORE_LOADING: &str = "a packet before kstat is loaded";
pub const LOADED: &str = "a packet when kstat is loaded";
pub const STOPPED: &str = "a packet when kstat was started and stopped";

/// What is sent, by the name that results have.
pub fn packets() -> [(&'static str, Vec<u8>, bool); 4] {
    // Padding.
    let options: [(u8, &[u8]); 1] = [(packet::DESTINATION, &[1, 4, 0, 0, 0, 0])];

    [
        ("ipv4-tcp", packet::tcp4(), true),
        ("ipv6-tcp", packet::tcp6(), true),
        (
            "ipv6-tcp-ext",
            packet::ipv6(&options, packet::TCP, &packet::segment(9)),
            true,
        ),
        (
            "ipv4-udp",
            packet::ipv4(packet::UDP, &packet::datagram(9)),
            false,
        ),
    ]
}

/// How long a step of a loop takes that touches no memory, on that CPU: how fast that is just now.
pub fn step(cpu: usize) -> f64 {
    const STEPS: u32 = 100_000;

    thread::scope(|scope| {
        let steps = scope.spawn(|| {
            cpu::stay_on(cpu);
            let start = Instant::now();
            let last = (0..STEPS).fold(black_box(1u64), |x, _| {
                x.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(7)
            });
            black_box(last);
            start.elapsed().as_nanos() as f64 / f64::from(STEPS)
        });
        steps.join().expect("it did not fail")
    })
}

/// Senders of one packet, one for each CPU that there may be.
pub struct Senders {
    devices: Vec<Device>,
}

impl Senders {
    pub fn new(net: &Netns, packet: &[u8], threads: usize) -> Self {
        Self {
            devices: (0..threads)
                .map(|_| Device::with_packet(net, packet))
                .collect(),
        }
    }

    /// What a packet takes when one thread sends so many, on that CPU.
    pub fn cost(&self, place: Place, cpu: usize, count: u32) -> f64 {
        self.costs(place, &[cpu], count).0[0]
    }

    /// What a packet takes, for each of the threads that send so many at the same time, each on its CPU; and
    /// how many were sent in all.
    fn costs(&self, place: Place, cpus: &[usize], count: u32) -> (Vec<f64>, u64) {
        let packets = f64::from(count);
        let sent = |runs: &[Run]| runs.iter().map(|run| run.sent).sum::<u64>();

        match place {
            Place::Uml => {
                let runs = self.run(cpus, count, false);
                let costs = runs.iter().map(|run| run.ns as f64 / packets).collect();

                (costs, sent(&runs))
            }
            Place::Icount => {
                // What the call itself takes is in both.
                let once = self.run(cpus, count, true);
                let twice = self.run(cpus, 2 * count, true);
                let costs = once
                    .iter()
                    .zip(&twice)
                    .map(|(once, twice)| (twice.cycles - once.cycles) as f64 / packets)
                    .collect();

                (costs, sent(&once) + sent(&twice))
            }
        }
    }

    fn run(&self, cpus: &[usize], count: u32, irqs_off: bool) -> Vec<Run> {
        // How often threads have met, in all runs so far.
        static MET: AtomicU32 = AtomicU32::new(0);

        let threads = cpus.len() as u32;
        let meet = MET.fetch_add(2 * threads, Ordering::SeqCst) + threads;
        let how = Run {
            count,
            threads,
            meet,
            irqs_off: irqs_off.into(),
            ..Run::default()
        };
        thread::scope(|scope| {
            let senders: Vec<_> = cpus
                .iter()
                .zip(&self.devices)
                .map(|(&cpu, device)| {
                    scope.spawn(move || {
                        cpu::stay_on(cpu);
                        device.run(how)
                    })
                })
                .collect();

            senders
                .into_iter()
                .map(|sender| sender.join().expect("a sender failed"))
                .collect()
        })
    }
}

/// Measures all subjects, packets and numbers of threads, in so many rounds, of so many packets each: in
/// each round there is a sample for each thread.
pub fn measure(place: Place, rounds: usize, count: u32) -> Part {
    device::load();
    let lock = KernelLock::take();
    // This thread stays in there.
    unshare(CloneFlags::CLONE_NEWNET)
        .unwrap_or_else(|error| panic!("making a network namespace: {error}"));
    let net = Netns::current();
    link::set_up("lo");
    let most = place
        .threads()
        .iter()
        .map(|cpus| cpus.len())
        .max()
        .expect("some");
    let senders = packets().map(|(name, bytes, tcp)| (name, Senders::new(&net, &bytes, most), tcp));

    let cost = || senders[0].1.cost(place, 0, count);
    let before = cost();
    let kstat = Kstat::load(&lock, "counter=1");
    let loaded = cost();
    kstat.start();
    kstat.stop();
    let stopped = cost();
    let mut points = vec![];
    // One sample of nanoseconds says nothing.
    if place == Place::Icount {
        for (what, cost) in [
            (BEFORE_LOADING, before),
            (LOADED, loaded),
            (STOPPED, stopped),
        ] {
            points.push(Point::new(what, place.unit(), "rounds", 1, vec![cost]));
        }
    }

    let bpf = bpf::Programs::load();
    let device = Device::open(&net);
    let stage = Stage {
        net: &net,
        kstat: &kstat,
        bpf: &bpf,
        device: &device,
    };
    let mut samples: BTreeMap<(usize, usize, usize), Vec<f64>> = BTreeMap::new();
    let mut causes: BTreeMap<usize, String> = BTreeMap::new();
    let mut speed = vec![];
    for round in 0..rounds {
        eprintln!("bench: {}: round {} of {rounds}", place.name(), round + 1);
        speed.extend([step(0), step(most - 1)]);
        // Each round begins with another, so that nobody always comes after the same.
        for i in 0..Subject::ALL.len() {
            let i = (i + round) % Subject::ALL.len();
            let counting = match Counting::new(&stage, Subject::ALL[i]) {
                Ok(counting) => counting,
                Err(cause) => {
                    causes.insert(i, cause);
                    continue;
                }
            };

            let before = counting.packets();
            let mut tcp_packets = 0;
            for (p, (_, senders, tcp)) in senders.iter().enumerate() {
                for cpus in place.threads() {
                    let (costs, sent) = senders.costs(place, cpus, count);

                    tcp_packets += if *tcp { sent } else { 0 };
                    samples.entry((i, p, cpus.len())).or_default().extend(costs);
                }
            }
            if let Some((after, before)) = counting.packets().zip(before) {
                let name = Subject::ALL[i].name();
                assert_eq!(after - before, tcp_packets, "what {name} counted");
            }
        }
    }

    if place == Place::Uml {
        points.push(Point::new(STEP, place.unit(), "guests", 0, speed));
    }
    Part {
        samples: samples
            .into_iter()
            .map(|((i, p, threads), samples)| Samples {
                of: Of {
                    subject: Subject::ALL[i].name().to_owned(),
                    place: place.name().to_owned(),
                    unit: place.unit().to_owned(),
                    threads: threads as u32,
                    packet: senders[p].0.to_owned(),
                },
                rounds,
                samples,
            })
            .collect(),
        not_run: causes
            .into_iter()
            .map(|(i, cause)| NotRun {
                subject: Subject::ALL[i].name().to_owned(),
                place: place.name().to_owned(),
                cause,
            })
            .collect(),
        points,
    }
}
