// SPDX-License-Identifier: GPL-2.0

//! Measures what counting costs a packet, with kstat and with other counters.
//!
//! `make bench` runs this program in several guests, which write what they measured to files,
//! and then outside of them, to make a report of these files.

mod bpf;
mod chart;
mod connections;
mod cost;
mod device;
mod instructions;
mod measurement;
mod memory;
mod namespaces;
mod nftables;
mod report;
mod results;
mod scale;
mod subject;

use clap::{Parser, Subcommand};
use cost::Environment;
use measurement::Measurements;
use results::Results;
use std::{fs, path::PathBuf, process};

/// Measures what counting costs a packet, with kstat and with other counters.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// In a guest: the cost of a packet.
    Cost {
        environment: Environment,
        rounds: usize,
        /// How many packets to send in a round.
        packets: u32,
        /// The file to write the measurements to.
        output: PathBuf,
    },
    /// In a user-mode Linux guest: the cost of a packet, of start and of stop, by N and by the
    /// number of network namespaces.
    Scale {
        rounds: usize,
        /// The file to write the measurements to.
        output: PathBuf,
    },
    /// In a guest that counts instructions: the cost of reading nout, and memory, by number of
    /// CPUs.
    Cpus {
        rounds: usize,
        /// The file to write the measurements to.
        output: PathBuf,
    },
    /// In a guest that counts instructions, with one CPU: whole connections.
    Connections {
        rounds: usize,
        /// The file to write the measurements to.
        output: PathBuf,
    },
    /// In a guest that counts instructions, with one CPU: reading the files in `/proc/PID/net` of
    /// 1,000 network namespaces.
    Namespaces {
        rounds: usize,
        /// The file to write the measurements to.
        output: PathBuf,
    },
    /// Makes a report of what the guests measured: results.json, scale.json, table.md and
    /// chart.svg.
    Report {
        /// Reports only what was measured in a guest that counts instructions: table.md.
        #[arg(long)]
        instructions: bool,
        /// The folder to write the report to.
        folder: PathBuf,
        /// The files that the guests wrote.
        inputs: Vec<PathBuf>,
    },
}

fn main() {
    let (measurements, output) = match Arguments::parse().command {
        Command::Cost {
            environment,
            rounds,
            packets,
            output,
        } => (cost::measure(environment, rounds, packets), output),
        Command::Scale { rounds, output } => (scale::measure(rounds), output),
        Command::Cpus { rounds, output } => (scale::measure_by_cpus(rounds), output),
        Command::Connections { rounds, output } => (connections::measure(rounds), output),
        Command::Namespaces { rounds, output } => (namespaces::measure(rounds), output),
        Command::Report {
            instructions,
            folder,
            inputs,
        } => {
            let results = Results::new(read_all(&inputs));
            let write = if instructions {
                report::write_instructions
            } else {
                report::write
            };
            if !write(&folder, &results) {
                eprintln!("bench: a claim does not hold: see the table of claims above");
                process::exit(1);
            }
            return;
        }
    };
    let text =
        serde_json::to_string_pretty(&measurements).expect("measurements can be written as JSON");

    fs::write(&output, text)
        .unwrap_or_else(|error| panic!("writing {}: {error}", output.display()));
}

/// Reads the files that the guests wrote.
fn read_all(inputs: &[PathBuf]) -> Measurements {
    let mut all = Measurements::default();

    for path in inputs {
        let text = fs::read_to_string(path)
            .unwrap_or_else(|error| panic!("reading {}: {error}", path.display()));
        let one: Measurements = serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));

        all.samples.extend(one.samples);
        for not_run in one.not_run {
            if !all.not_run.contains(&not_run) {
                all.not_run.push(not_run);
            }
        }
        all.points.extend(one.points);
    }
    all
}
