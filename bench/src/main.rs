// SPDX-License-Identifier: GPL-2.0

//! What counting costs a packet, beside what else counts: scripts/bench runs this, in guests first.

mod bpf;
mod chart;
mod cost;
mod device;
mod figure;
mod memory;
mod nftables;
mod report;
mod scale;
mod subject;
mod traffic;

use clap::{Parser, Subcommand};
use cost::Place;
use figure::Part;
use std::{fs, path::PathBuf};

/// Measures what counting costs a packet, beside what else counts.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// In a guest: what a packet costs.
    Cost {
        place: Place,
        rounds: usize,
        /// How many packets are sent in a round.
        packets: u32,
        /// Where to write what was found.
        part: PathBuf,
    },
    /// In a guest of user-mode Linux: how that grows.
    Scale { rounds: usize, part: PathBuf },
    /// In a guest that counts instructions: what its CPUs make more, reading nout above all.
    Cpus { rounds: usize, part: PathBuf },
    /// In a guest: what whole connections feel.
    Traffic { rounds: usize, part: PathBuf },
    /// Puts together what guests have found: results.json, scale.json, table.md and chart.svg in a
    /// folder.
    Report {
        folder: PathBuf,
        parts: Vec<PathBuf>,
    },
}

fn main() {
    let (found, path) = match Arguments::parse().command {
        Command::Cost {
            place,
            rounds,
            packets,
            part,
        } => (cost::measure(place, rounds, packets), part),
        Command::Scale { rounds, part } => (scale::measure(rounds), part),
        Command::Cpus { rounds, part } => (scale::measure_cpus(rounds), part),
        Command::Traffic { rounds, part } => (traffic::measure(rounds), part),
        Command::Report { folder, parts } => return report::write(&folder, read(&parts)),
    };
    let text = serde_json::to_string_pretty(&found).expect("it can be written down");

    fs::write(&path, text).unwrap_or_else(|error| panic!("writing {}: {error}", path.display()));
}

/// All of what was found, in one.
fn read(parts: &[PathBuf]) -> Part {
    let mut all = Part::default();

    for path in parts {
        let text = fs::read_to_string(path)
            .unwrap_or_else(|error| panic!("reading {}: {error}", path.display()));
        let part: Part = serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));

        all.samples.extend(part.samples);
        for not_run in part.not_run {
            if !all.not_run.contains(&not_run) {
                all.not_run.push(not_run);
            }
        }
        all.points.extend(part.points);
    }
    all
}
