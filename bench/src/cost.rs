// SPDX-License-Identifier: GPL-2.0

//! The cost of a packet, with each subject in turn, in rounds.

use crate::{
    bpf,
    device::{self, Device, Run},
    measurement::{Measurements, NotRun, Quantity, Samples, ScalePoint},
    subject::{ActiveSubject, Subject, Testbed},
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

/// The kind of guest, which decides how the cost is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Environment {
    /// User-mode Linux: nanoseconds.
    Uml,
    /// QEMU with `-icount`, where each instruction takes one cycle: instructions.
    Icount,
}

impl Environment {
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

    /// Returns the sets of CPUs that each round measures. There is one thread on each CPU of a set.
    ///
    /// One thread is measured on each of the CPUs that two threads use, because one CPU of a
    /// virtual machine may be slower than another.
    fn cpu_sets(self) -> &'static [&'static [usize]] {
        match self {
            Self::Uml => &[&[0], &[0, 1], &[1]],
            Self::Icount => &[&[0]],
        }
    }
}

/// The name of the result of [`nanoseconds_per_iteration`], which each guest of
/// [`Environment::Uml`] reports.
pub const CPU_SPEED: &str = "an iteration of a loop that accesses no memory";
pub const BEFORE_LOADING: &str = "a packet before kstat is loaded";
pub const LOADED: &str = "a packet when kstat is loaded";
pub const STOPPED: &str = "a packet when kstat has been started and stopped";

/// A packet that is sent, from the IP header on.
pub struct TestPacket {
    /// The name that results and tables have.
    pub name: &'static str,
    pub bytes: Vec<u8>,
    pub is_tcp: bool,
}

/// Returns all packets whose cost is measured.
pub fn packets() -> [TestPacket; 4] {
    let padding: [(u8, &[u8]); 1] = [(packet::DESTINATION, &[1, 4, 0, 0, 0, 0])];
    let with_destination_options = packet::ipv6(&padding, packet::TCP, &packet::segment(9));
    let packet = |name, bytes, is_tcp| TestPacket {
        name,
        bytes,
        is_tcp,
    };

    [
        packet("ipv4-tcp", packet::tcp4(), true),
        packet("ipv6-tcp", packet::tcp6(), true),
        packet("ipv6-tcp-ext", with_destination_options, true),
        packet(
            "ipv4-udp",
            packet::ipv4(packet::UDP, &packet::datagram(9)),
            false,
        ),
    ]
}

/// Measures how fast `cpu` is at the moment: the time of an iteration of a loop that accesses no
/// memory.
pub fn nanoseconds_per_iteration(cpu: usize) -> f64 {
    const ITERATIONS: u32 = 100_000;

    thread::scope(|scope| {
        let time = scope.spawn(|| {
            cpu::stay_on(cpu);
            let start = Instant::now();
            let last = (0..ITERATIONS).fold(black_box(1u64), |x, _| {
                x.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(7)
            });
            black_box(last);
            start.elapsed().as_nanos() as f64 / f64::from(ITERATIONS)
        });
        time.join().expect("the loop failed")
    })
}

/// Devices that send the same packet, one for each thread.
pub struct Senders {
    devices: Vec<Device>,
}

impl Senders {
    /// Opens `threads` devices in a network namespace, to send `packet`.
    pub fn new(net: &Netns, packet: &TestPacket, threads: usize) -> Self {
        Self {
            devices: (0..threads)
                .map(|_| Device::with_packet(net, &packet.bytes))
                .collect(),
        }
    }

    /// Measures a packet, while one thread sends `packets` packets on `cpu`.
    pub fn cost(&self, environment: Environment, cpu: usize, packets: u32) -> f64 {
        self.costs(environment, &[cpu], packets).0[0]
    }

    /// Measures a packet, while one thread on each of `cpus` sends `packets` packets.
    ///
    /// Returns the cost of a packet for each thread, and how many packets all threads sent,
    /// including those before and after the measurement.
    fn costs(&self, environment: Environment, cpus: &[usize], packets: u32) -> (Vec<f64>, u64) {
        let per_packet = |total: u64| total as f64 / f64::from(packets);
        let sent = |runs: &[Run]| runs.iter().map(|run| run.sent).sum::<u64>();

        match environment {
            Environment::Uml => {
                let runs = self.run(cpus, packets, false);
                let costs = runs.iter().map(|run| per_packet(run.ns)).collect();

                (costs, sent(&runs))
            }
            Environment::Icount => {
                // The difference of two runs does not have the cost of the call itself.
                let once = self.run(cpus, packets, true);
                let twice = self.run(cpus, 2 * packets, true);
                let costs = once
                    .iter()
                    .zip(&twice)
                    .map(|(once, twice)| per_packet(twice.cycles - once.cycles))
                    .collect();

                (costs, sent(&once) + sent(&twice))
            }
        }
    }

    /// Sends `packets` packets from one thread on each of `cpus`, at the same time.
    fn run(&self, cpus: &[usize], packets: u32, irqs_off: bool) -> Vec<Run> {
        // The arrivals that the kernel module has counted when all runs so far are over. Each
        // thread arrives twice in a run: before the measurement and after it.
        static ARRIVALS: AtomicU32 = AtomicU32::new(0);

        let threads = cpus.len() as u32;
        let arrivals = ARRIVALS.fetch_add(2 * threads, Ordering::SeqCst) + threads;
        let parameters = Run {
            packets,
            threads,
            arrivals,
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
                        device.run(parameters)
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

/// Measures all subjects with all packets and numbers of threads, by `packets` packets in each of
/// `rounds` rounds.
///
/// Each round has a sample for each thread.
pub fn measure(environment: Environment, rounds: usize, packets: u32) -> Measurements {
    device::load_module();
    let lock = KernelLock::take();
    // This thread stays in the new namespace.
    unshare(CloneFlags::CLONE_NEWNET)
        .unwrap_or_else(|error| panic!("making a network namespace: {error}"));
    let net = Netns::current();
    link::set_up("lo");
    let max_threads = environment
        .cpu_sets()
        .iter()
        .map(|cpus| cpus.len())
        .max()
        .expect("there is a set of CPUs");
    let senders = self::packets().map(|packet| {
        let senders = Senders::new(&net, &packet, max_threads);
        (packet, senders)
    });

    let cost = || senders[0].1.cost(environment, 0, packets);
    let before = cost();
    let kstat = Kstat::load(&lock, "counter=1");
    let loaded = cost();
    kstat.start();
    kstat.stop();
    let stopped = cost();
    let mut points = vec![];
    // A single sample is exact in instructions, but not in nanoseconds.
    if environment == Environment::Icount {
        for (name, cost) in [
            (BEFORE_LOADING, before),
            (LOADED, loaded),
            (STOPPED, stopped),
        ] {
            let unit = environment.unit();
            points.push(ScalePoint::new(name, unit, "rounds", 1, vec![cost]));
        }
    }

    let bpf = bpf::Programs::load();
    let device = Device::open(&net);
    let testbed = Testbed {
        net: &net,
        kstat: &kstat,
        bpf: &bpf,
        device: &device,
    };
    let mut samples: BTreeMap<(usize, usize, usize), Vec<f64>> = BTreeMap::new();
    let mut causes: BTreeMap<usize, String> = BTreeMap::new();
    let mut cpu_speed = vec![];
    for round in 0..rounds {
        eprintln!(
            "bench: {}: round {} of {rounds}",
            environment.name(),
            round + 1
        );
        cpu_speed.extend([0, max_threads - 1].map(nanoseconds_per_iteration));
        // Each round begins with another subject.
        for i in 0..Subject::ALL.len() {
            let i = (i + round) % Subject::ALL.len();
            let subject = match ActiveSubject::new(&testbed, Subject::ALL[i]) {
                Ok(subject) => subject,
                Err(cause) => {
                    causes.insert(i, cause);
                    continue;
                }
            };

            let before = subject.packets();
            let mut tcp_packets = 0;
            for (p, (packet, senders)) in senders.iter().enumerate() {
                for cpus in environment.cpu_sets() {
                    let (costs, sent) = senders.costs(environment, cpus, packets);

                    tcp_packets += if packet.is_tcp { sent } else { 0 };
                    samples.entry((i, p, cpus.len())).or_default().extend(costs);
                }
            }
            if let Some((after, before)) = subject.packets().zip(before) {
                let name = Subject::ALL[i].name();
                assert_eq!(after - before, tcp_packets, "packets that {name} counted");
            }
        }
    }

    if environment == Environment::Uml {
        let unit = environment.unit();
        points.push(ScalePoint::new(CPU_SPEED, unit, "guest", 0, cpu_speed));
    }
    Measurements {
        samples: samples
            .into_iter()
            .map(|((i, p, threads), samples)| Samples {
                quantity: Quantity {
                    subject: Subject::ALL[i].name().to_owned(),
                    environment: environment.name().to_owned(),
                    unit: environment.unit().to_owned(),
                    threads: threads as u32,
                    packet: senders[p].0.name.to_owned(),
                },
                rounds,
                samples,
            })
            .collect(),
        not_run: causes
            .into_iter()
            .map(|(i, cause)| NotRun {
                subject: Subject::ALL[i].name().to_owned(),
                environment: environment.name().to_owned(),
                cause,
            })
            .collect(),
        points,
    }
}
