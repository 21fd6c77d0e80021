// SPDX-License-Identifier: GPL-2.0

//! The report: results as JSON, tables and a chart, and whether the claims about kstat hold.

use crate::{
    chart, cost,
    measurement::{Quartiles, Summary},
    results::{combine, ratio, Results},
    scale,
    subject::Subject,
};
use serde::Serialize;
use std::{fs, path::Path};

/// Writes the files of the report to `folder`, and prints the tables. Returns whether all claims
/// hold.
pub fn write(folder: &Path, results: &Results) -> bool {
    let claims = claims(results);
    let tables = tables(results, &claims);

    save(&folder.join("results.json"), &json(&results.summaries));
    save(&folder.join("scale.json"), &json(&results.points));
    save(&folder.join("table.md"), &tables);
    save(&folder.join("chart.svg"), &chart::draw(results));
    println!("{tables}");
    claims.iter().all(Claim::holds)
}

/// Writes the instructions alone to table.md in `folder`, and prints them. Returns whether the claims about them
/// hold.
pub fn write_instructions(folder: &Path, results: &Results) -> bool {
    let mut text = format!("Kernel {}\n\n", kernels());
    let columns = cost::packets().map(|packet| ("icount", 1, packet.name));
    text.push_str(&cost_table(results, &columns));
    let claims = instruction_claims(results, &ARM64);
    text.push_str(CLAIMS);
    for claim in &claims {
        text.push_str(&claim.row());
    }
    save(&folder.join("table.md"), &text);
    println!("{text}");
    claims.iter().all(Claim::holds)
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).expect("results can be written as JSON")
}

fn save(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|error| panic!("writing {}: {error}", path.display()));
}

/// How the table of claims begins.
const CLAIMS: &str = "\n| claim | measured | expected | |\n| --- | ---: | --- | --- |\n";

/// Returns all tables, in Markdown.
///
/// They are: the machine, the costs, the subjects that did not run, the claims, and the measurements
/// by a parameter.
fn tables(results: &Results, claims: &[Claim]) -> String {
    let all_packets =
        |environment, threads| cost::packets().map(|packet| (environment, threads, packet.name));
    let mut text = machine();

    for columns in [
        all_packets("uml", 1),
        all_packets("uml", 2),
        all_packets("icount", 1),
    ] {
        text.push('\n');
        text.push_str(&cost_table(results, &columns));
    }
    for not_run in &results.not_run {
        text.push_str(&format!(
            "\n{} did not run on {}: {}\n",
            not_run.subject, not_run.environment, not_run.cause
        ));
    }
    text.push_str(CLAIMS);
    for claim in claims {
        text.push_str(&claim.row());
    }
    text.push_str(
        "\n| measurement | parameter | value | measured |\n| --- | --- | ---: | ---: |\n",
    );
    for point in &results.points {
        text.push_str(&format!(
            "| {} | {} | {} | {} {} |\n",
            point.name,
            point.parameter,
            point.parameter_value,
            with_quartiles(&point.quartiles),
            point.unit
        ));
    }
    text
}

/// Returns a line about the machine and its kernels.
fn machine() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown", |(_, model)| model);
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);

    format!("{cpus} CPUs ({model}), kernel {}\n", kernels())
}

/// Returns the releases of the installed kernels.
fn kernels() -> String {
    let entries = fs::read_dir("/lib/modules").into_iter().flatten().flatten();
    let releases: Vec<_> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    releases.join(", ")
}

/// Returns a table with a row for each subject, and a column for each environment, number of
/// threads and packet in `columns`.
fn cost_table(results: &Results, columns: &[(&str, u32, &str)]) -> String {
    let mut rows = vec![String::from("| |"), String::from("| --- |")];

    for (environment, threads, packet) in columns {
        let unit = if *environment == "uml" {
            "ns"
        } else {
            "instructions"
        };
        let threads = if *threads == 1 { "" } else { ", 2 threads" };
        rows[0].push_str(&format!(" {packet}{threads}: {unit} |"));
        rows[1].push_str(" ---: |");
    }
    for subject in Subject::ALL {
        let mut row = format!("| {} |", subject.name());
        for (environment, threads, packet) in columns {
            let cell = match results.summary(subject.name(), environment, packet, *threads) {
                Some(summary) if *environment == "uml" => {
                    let Quartiles {
                        lower,
                        median,
                        upper,
                    } = summary.quartiles;
                    format!(" {median:.1} ({lower:.1} to {upper:.1}) |")
                }
                Some(summary) => format!(" {} |", summary.quartiles.median),
                None => " not run |".to_owned(),
            };
            row.push_str(&cell);
        }
        rows.push(row);
    }
    rows.join("\n") + "\n"
}

/// The values of a measurement for which a claim holds.
enum Bound {
    AtMost(f64),
    AtLeast(f64),
    /// 1 lies between the quartiles, so no difference from 1 was seen.
    One,
}

/// A claim about kstat, and what was measured.
struct Claim {
    text: &'static str,
    measured: Option<Quartiles>,
    bound: Bound,
}

impl Claim {
    /// Returns whether the claim was measured and holds.
    fn holds(&self) -> bool {
        self.measured.is_some_and(|quartiles| match self.bound {
            Bound::AtMost(bound) => quartiles.median <= bound,
            Bound::AtLeast(bound) => quartiles.median >= bound,
            Bound::One => quartiles.lower <= 1.0 && 1.0 <= quartiles.upper,
        })
    }

    /// Returns the row of the table of claims.
    fn row(&self) -> String {
        let bound = match self.bound {
            Bound::AtMost(bound) => format!("at most {bound}"),
            Bound::AtLeast(bound) => format!("at least {bound}"),
            Bound::One => "1, within the quartiles".to_owned(),
        };
        let measured = self
            .measured
            .map_or("not measured".to_owned(), |quartiles| {
                with_quartiles(&quartiles)
            });
        let verdict = if self.holds() {
            "holds"
        } else {
            "**DOES NOT HOLD**"
        };

        format!("| {} | {measured} | {bound} | {verdict} |\n", self.text)
    }
}

fn claim(text: &'static str, measured: Option<Quartiles>, bound: Bound) -> Claim {
    Claim {
        text,
        measured,
        bound,
    }
}

/// Returns all claims about kstat.
fn claims(results: &Results) -> Vec<Claim> {
    let costs = |subject, packet, threads| results.costs(subject, "uml", packet, threads);
    // The price of the empty hook, which every hook pays, depends on the processor.
    let above_empty = |subject, threads| {
        let empty = costs("empty", "ipv4-tcp", threads)?;
        let subject = costs(subject, "ipv4-tcp", threads)?;
        Some(combine(&subject, &empty, |subject, empty| subject - empty))
    };
    let more_when_not_counting = || {
        let instructions = |name| results.median_at_largest(name, "rounds");
        let before = instructions(cost::BEFORE_LOADING)?;
        let loaded = instructions(cost::LOADED)? - before;
        let stopped = instructions(cost::STOPPED)? - before;
        Some(Quartiles::exact(loaded.max(stopped)))
    };
    let with_kstat_over_without = |unit| {
        let samples = |subject| {
            let mut all = results.summaries.iter();
            all.find(|Summary { quantity, .. }| {
                quantity.subject == subject && quantity.unit == unit
            })
            .map(|summary| summary.samples.clone())
        };
        ratio(samples("kstat"), samples("none"))
    };
    // 1 lies between the quartiles of this ratio exactly if some value lies between the quartiles
    // of every point.
    let max_over_min = |name, parameter| {
        let quartiles = || results.points(name, parameter).map(|point| point.quartiles);
        let max = |of: fn(Quartiles) -> f64| quartiles().map(of).reduce(f64::max);
        let min = |of: fn(Quartiles) -> f64| quartiles().map(of).reduce(f64::min);
        Some(Quartiles {
            lower: max(|point| point.lower)? / min(|point| point.upper)?,
            median: max(|point| point.median)? / min(|point| point.median)?,
            upper: max(|point| point.upper)? / min(|point| point.lower)?,
        })
    };
    let last_over_previous = |name| {
        let points: Vec<_> = results.points(name, "namespaces").collect();
        let previous = points.len().checked_sub(2)?;
        Some(Quartiles::exact(
            points.last()?.quartiles.median / points.get(previous)?.quartiles.median,
        ))
    };
    let kstat_over_nft = |kstat, nft| {
        let kstat = results.median_at_largest(kstat, "namespaces")?;
        let nft = results.median_at_largest(nft, "namespaces")?;
        Some(Quartiles::exact(kstat / nft))
    };
    let mut claims = vec![
        claim(
            "IPv4 TCP: cost of kstat over cost of the empty hook",
            ratio(costs("kstat", "ipv4-tcp", 1), costs("empty", "ipv4-tcp", 1)),
            Bound::AtMost(1.8),
        ),
        claim(
            "IPv4 TCP: cost of kstat over cost of nft, both above the empty hook",
            ratio(above_empty("kstat", 1), above_empty("nft", 1)),
            Bound::AtMost(0.25),
        ),
        claim(
            "IPv4 TCP, 2 threads: cost of kstat over cost of nft, both above the empty hook",
            ratio(above_empty("kstat", 2), above_empty("nft", 2)),
            Bound::AtMost(0.25),
        ),
        claim(
            "IPv4 TCP: cost of kstat with 2 threads over cost with 1",
            ratio(costs("kstat", "ipv4-tcp", 2), costs("kstat", "ipv4-tcp", 1)),
            Bound::AtMost(1.10),
        ),
        claim(
            "IPv4 TCP: cost of global-atomic with 2 threads over cost with 1",
            ratio(
                costs("global-atomic", "ipv4-tcp", 2),
                costs("global-atomic", "ipv4-tcp", 1),
            ),
            Bound::AtLeast(1.4),
        ),
        claim(
            "UDP: cost of kstat over cost of the empty hook",
            ratio(costs("kstat", "ipv4-udp", 1), costs("empty", "ipv4-udp", 1)),
            Bound::AtMost(1.25),
        ),
        claim(
            "instructions that kstat adds to a packet when it is loaded, not started or stopped",
            more_when_not_counting(),
            Bound::AtMost(0.0),
        ),
        claim(
            "a packet: most expensive N over cheapest N",
            max_over_min(scale::PACKET, "N"),
            Bound::One,
        ),
        claim(
            "a packet, divided by a packet with an empty hook: most expensive number of namespaces \
             over cheapest",
            max_over_min(scale::PACKET_OVER_EMPTY_HOOK, "namespaces"),
            Bound::One,
        ),
        claim(
            "start with 1,000 namespaces over start with 100",
            last_over_previous(scale::START),
            Bound::AtMost(10.0),
        ),
        claim(
            "stop with 1,000 namespaces over stop with 100",
            last_over_previous(scale::STOP),
            Bound::AtMost(10.0),
        ),
        claim(
            "start with 1,000 namespaces over loading an nft rule in each",
            kstat_over_nft(scale::START, scale::NFT_LOAD),
            Bound::AtMost(2.0),
        ),
        claim(
            "stop with 1,000 namespaces over deleting the nft rule in each",
            kstat_over_nft(scale::STOP, scale::NFT_DELETE),
            Bound::AtMost(2.0),
        ),
        claim(
            "iperf3: throughput with kstat over throughput without",
            with_kstat_over_without("Gbit/s"),
            Bound::One,
        ),
        claim(
            "short connections a second with kstat over connections a second without",
            with_kstat_over_without("connections/s"),
            Bound::One,
        ),
    ];
    claims.extend(instruction_claims(results, &AMD64));
    claims
}

/// What a TCP packet may cost in instructions.
struct InstructionBounds {
    above_empty_hook: f64,
    above_cheapest_other: f64,
}

/// On amd64, kstat counts by one instruction, and is cheaper than every other counter.
const AMD64: InstructionBounds = InstructionBounds {
    above_empty_hook: 4.0,
    above_cheapest_other: -1.0,
};

/// On arm64, kstat calls a C function to count; a hook in C does this inline.
const ARM64: InstructionBounds = InstructionBounds {
    above_empty_hook: 20.0,
    above_cheapest_other: 8.0,
};

/// Returns the claims about what kstat costs a packet in instructions.
fn instruction_claims(results: &Results, bounds: &InstructionBounds) -> Vec<Claim> {
    let instructions = |subject, packet| results.median_cost(subject, "icount", packet, 1);
    let more_than_empty_hook = |packet| {
        let more = instructions("kstat", packet)? - instructions("empty", packet)?;
        Some(Quartiles::exact(more))
    };
    let more_than_cheapest_other = || {
        let cheapest = Subject::ALL
            .iter()
            .filter(|subject| subject.is_other_counter())
            .filter_map(|subject| instructions(subject.name(), "ipv4-tcp"))
            .reduce(f64::min)?;
        Some(Quartiles::exact(
            instructions("kstat", "ipv4-tcp")? - cheapest,
        ))
    };
    let varying_instructions = || {
        let samples = results
            .summaries
            .iter()
            .filter(|summary| summary.quantity.environment == "icount")
            // Other subjects are set up anew in each round, and may then lie at other addresses.
            .filter(|summary| {
                ["none", "empty", "kstat"].contains(&summary.quantity.subject.as_str())
            })
            .map(|summary| &summary.samples);
        let varying = samples.filter(|samples| samples.iter().any(|sample| *sample != samples[0]));
        Quartiles::exact(varying.count() as f64)
    };
    vec![
        claim(
            "IPv4 TCP: instructions of kstat minus those of the empty hook",
            more_than_empty_hook("ipv4-tcp"),
            Bound::AtMost(bounds.above_empty_hook),
        ),
        claim(
            "IPv4 TCP: instructions of kstat minus those of the cheapest other counter",
            more_than_cheapest_other(),
            Bound::AtMost(bounds.above_cheapest_other),
        ),
        claim(
            "UDP: instructions of kstat minus those of the empty hook",
            more_than_empty_hook("ipv4-udp"),
            Bound::AtMost(12.0),
        ),
        claim(
            "numbers of instructions of none, empty and kstat that varied between rounds",
            Some(varying_instructions()),
            Bound::AtMost(0.0),
        ),
    ]
}

/// Formats the median, with the quartiles if they differ.
fn with_quartiles(quartiles: &Quartiles) -> String {
    let Quartiles {
        lower,
        median,
        upper,
    } = *quartiles;
    let median = three_digits(median);

    if lower == upper {
        return median;
    }
    format!(
        "{median} ({} to {})",
        three_digits(lower),
        three_digits(upper)
    )
}

/// Formats `value` with three significant digits. An integer has all its digits.
fn three_digits(value: f64) -> String {
    if value.fract() == 0.0 {
        return value.to_string();
    }
    let exponent = value.abs().max(1e-9).log10().floor() as i32;
    let decimals = (2 - exponent).clamp(0, 9) as usize;

    format!("{value:.decimals$}")
}
