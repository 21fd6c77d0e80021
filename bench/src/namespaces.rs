// SPDX-License-Identifier: GPL-2.0

//! Reading the files of many network namespaces, as an agent does: through a process of each.

use crate::{
    cost::Environment,
    instructions,
    measurement::{Measurements, ScalePoint},
};
use kstat_tests::guest::{
    daemon::Daemon, exclusive::KernelLock, file, module::Kstat, netns::Netns,
};

const NAMESPACES: usize = 1000;

/// The files, and the names of the measurements.
const FILES: [(&str, &str); 2] = [("kstat", KSTAT), ("snmp", SNMP)];

pub const KSTAT: &str = "reading /proc/PID/net/kstat of each namespace";
pub const SNMP: &str = "reading /proc/PID/net/snmp of each namespace";

/// Measures how many instructions it takes to open, read and close a file of every namespace.
pub fn measure(rounds: usize) -> Measurements {
    let lock = KernelLock::take();
    let kstat = Kstat::started(&lock, "");
    let processes: Vec<_> = (0..NAMESPACES)
        .map(|_| Daemon::run(&Netns::new(), "sleep", &["infinity"]))
        .collect();
    let mut samples = [const { Vec::new() }; 2];

    for round in 0..=rounds {
        eprintln!("bench: {NAMESPACES} namespaces: round {round} of {rounds}");
        for i in [round % 2, 1 - round % 2] {
            let count = instructions::of(|| {
                for process in &processes {
                    file::read(&format!("/proc/{}/net/{}", process.pid(), FILES[i].0));
                }
            });
            // The first round makes the kernel's inodes and dentries.
            if round > 0 {
                samples[i].push(count as f64);
            }
        }
    }
    drop(processes);
    kstat.unload();

    let unit = Environment::Icount.unit();
    Measurements {
        points: FILES
            .iter()
            .zip(samples)
            .map(|((_, name), samples)| {
                ScalePoint::new(name, unit, "namespaces", NAMESPACES as u64, samples)
            })
            .collect(),
        ..Measurements::default()
    }
}
