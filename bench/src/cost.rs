// SPDX-License-Identifier: GPL-2.0

//! What a packet costs, with one after the other counting it, in rounds.

use crate::{
    bpf,
    device::{
        self,
        Device,
        Run, //
    },
    figure::{
        Figure,
        NotRun,
        Of,
        Part,
        Point, //
    },
    subject::{
        Counting,
        Stage,
        Subject, //
    },
};
use kstat_tests::{
    cpu,
    link,
    module::Kstat,
    netns::Netns,
    packet,
    turn::Turn, //
};
use nix::sched::{
    unshare,
    CloneFlags, //
};
use std::{
    collections::BTreeMap,
    sync::atomic::{
        AtomicU32,
        Ordering, //
    },
    thread, //
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

    fn threads(self) -> &'static [u32] {
        match self {
            Self::Uml => &[1, 2],
            Self::Icount => &[1],
        }
    }
}

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

/// Senders of one packet, one for each CPU that there may be.
pub struct Senders {
    devices: Vec<Device>,
}

impl Senders {
    pub fn new(net: &Netns, packet: &[u8], threads: u32) -> Self {
        Self {
            devices: (0..threads)
                .map(|_| Device::with_packet(net, packet))
                .collect(),
        }
    }

    /// What a packet takes, when so many threads send so many each; and how many were sent in all.
    pub fn cost(&self, place: Place, threads: u32, count: u32) -> (f64, u64) {
        match place {
            Place::Uml => {
                let runs = self.run(threads, count, false);
                let ns: u64 = runs.iter().map(|run| run.ns).sum();

                (
                    ns as f64 / (f64::from(count) * f64::from(threads)),
                    runs.iter().map(|run| run.sent).sum(),
                )
            }
            Place::Icount => {
                // What the call itself takes is in both.
                let once = self.run(threads, count, true);
                let twice = self.run(threads, 2 * count, true);

                (
                    (twice[0].cycles - once[0].cycles) as f64 / f64::from(count),
                    once[0].sent + twice[0].sent,
                )
            }
        }
    }

    fn run(&self, threads: u32, count: u32, irqs_off: bool) -> Vec<Run> {
        // How often threads have met, in all runs so far.
        static MET: AtomicU32 = AtomicU32::new(0);

        let meet = MET.fetch_add(2 * threads, Ordering::SeqCst) + threads;
        let how = Run {
            count,
            threads,
            meet,
            irqs_off: irqs_off.into(),
            ..Run::default()
        };
        thread::scope(|scope| {
            let senders: Vec<_> = self.devices[..threads as usize]
                .iter()
                .enumerate()
                .map(|(cpu, device)| {
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

/// Measures all subjects, packets and numbers of threads, in so many rounds, of so many packets each.
pub fn measure(place: Place, rounds: usize, count: u32) -> Part {
    device::load();
    let turn = Turn::take();
    // This thread stays in there.
    unshare(CloneFlags::CLONE_NEWNET)
        .unwrap_or_else(|error| panic!("making a network namespace: {error}"));
    let net = Netns::current();
    link::set_up("lo");
    let most = *place.threads().iter().max().expect("some");
    let senders = packets().map(|(name, bytes, tcp)| (name, Senders::new(&net, &bytes, most), tcp));

    let cost = || vec![senders[0].1.cost(place, 1, count).0];
    let before = cost();
    let kstat = Kstat::load(&turn, "counter=1");
    let loaded = cost();
    kstat.start();
    kstat.stop();
    let stopped = cost();
    let points = [
        ("a packet, before kstat is loaded", before),
        ("a packet, when kstat is loaded", loaded),
        ("a packet, when kstat was started and stopped", stopped),
    ]
    .map(|(what, cost)| Point::new(what, place.unit(), "", 0, cost))
    .into();

    let bpf = bpf::Programs::load();
    let device = Device::open(&net);
    let stage = Stage {
        net: &net,
        kstat: &kstat,
        bpf: &bpf,
        device: &device,
    };
    let mut samples: BTreeMap<(usize, usize, u32), Vec<f64>> = BTreeMap::new();
    let mut causes: BTreeMap<usize, String> = BTreeMap::new();
    for round in 0..rounds {
        eprintln!("bench: {}: round {} of {rounds}", place.name(), round + 1);
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

            for (p, (name, senders, tcp)) in senders.iter().enumerate() {
                for &threads in place.threads() {
                    let before = counting.packets();
                    let (cost, sent) = senders.cost(place, threads, count);
                    let counted = counting.packets().zip(before);

                    if let Some((after, before)) = counted {
                        assert_eq!(
                            after - before,
                            if *tcp { sent } else { 0 },
                            "what {} counted of {sent} {name}",
                            Subject::ALL[i].name()
                        );
                    }
                    samples.entry((i, p, threads)).or_default().push(cost);
                }
            }
        }
    }

    Part {
        figures: samples
            .into_iter()
            .map(|((i, p, threads), samples)| {
                let of = Of {
                    subject: Subject::ALL[i].name(),
                    place: place.name(),
                    unit: place.unit(),
                    threads,
                    packet: senders[p].0,
                };
                Figure::new(of, samples)
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
