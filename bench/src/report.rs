// SPDX-License-Identifier: GPL-2.0

//! The report: results as JSON, tables and a chart, and whether the claims about kstat hold.

use crate::{
    chart, connections, cost,
    measurement::Quartiles,
    namespaces,
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
    let claims = instruction_claims(results, ARM64);
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
/// They are: the machine, the costs of packets and of connections, the subjects that did not run, the
/// claims, and the measurements by a parameter.
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
    text.push('\n');
    text.push_str(&connection_table(results));
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

/// Returns a table with the instructions of whole connections, and their share above those without a
/// hook.
fn connection_table(results: &Results) -> String {
    let mut table =
        String::from("| | instructions: none | empty | kstat |\n| --- | ---: | ---: | ---: |\n");

    for (work, _) in connections::WORKS {
        let samples = |subject| {
            let summary = results.summary(subject, "icount", work, 1)?;
            Some(summary.samples.clone())
        };
        let none = samples("none").map_or("not run".to_owned(), |none| {
            format!("{}", Quartiles::of(none).median)
        });
        table.push_str(&format!("| {work} | {none} |"));
        for subject in ["empty", "kstat"] {
            let more = ratio(samples(subject), samples("none"));
            let cell = more.map_or("not run".to_owned(), |more| {
                let Quartiles {
                    lower,
                    median,
                    upper,
                } = per_cent_above_1(more);
                format!("+{median:.2} % ({lower:.2} to {upper:.2})")
            });
            table.push_str(&format!(" {cell} |"));
        }
        table.push('\n');
    }
    table
}

/// Converts a ratio: 1.02 is 2 per cent above 1.
fn per_cent_above_1(ratio: Quartiles) -> Quartiles {
    let per_cent = |ratio| (ratio - 1.0) * 100.0;

    Quartiles {
        lower: per_cent(ratio.lower),
        median: per_cent(ratio.median),
        upper: per_cent(ratio.upper),
    }
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
    text: String,
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

fn claim(text: impl Into<String>, measured: Option<Quartiles>, bound: Bound) -> Claim {
    Claim {
        text: text.into(),
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
    // What kstat adds to whole connections, in per cent of what they take without it, or with another
    // subject instead.
    let per_cent_added = |work, subject| {
        let samples = |subject| {
            let summary = results.summary(subject, "icount", work, 1)?;
            Some(summary.samples.clone())
        };
        Some(per_cent_above_1(ratio(samples("kstat"), samples(subject))?))
    };
    let spread = |work| {
        let Quartiles { lower, upper, .. } = per_cent_added(work, "none")?;
        Some(Quartiles::exact(upper - lower))
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
    let over_in_namespaces = |one, other| {
        let one = results.median_at_largest(one, "namespaces")?;
        let other = results.median_at_largest(other, "namespaces")?;
        Some(Quartiles::exact(one / other))
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
            over_in_namespaces(scale::START, scale::NFT_LOAD),
            Bound::AtMost(2.0),
        ),
        claim(
            "stop with 1,000 namespaces over deleting the nft rule in each",
            over_in_namespaces(scale::STOP, scale::NFT_DELETE),
            Bound::AtMost(2.0),
        ),
        claim(
            "reading /proc/net/kstat of 1,000 namespaces over reading /proc/net/snmp",
            over_in_namespaces(namespaces::KSTAT, namespaces::SNMP),
            Bound::AtMost(1.0),
        ),
    ];
    for (work, per_cent) in [
        (connections::TRANSFER, 0.5),
        (connections::HTTP, 0.5),
        (connections::SHORT, 1.0),
    ] {
        claims.push(claim(
            format!("{work}: per cent of instructions that kstat adds"),
            per_cent_added(work, "none"),
            Bound::AtMost(per_cent),
        ));
        claims.push(claim(
            format!("{work}: upper quartile of that minus lower quartile"),
            spread(work),
            Bound::AtMost(0.1),
        ));
    }
    claims.push(claim(
        format!(
            "{}: per cent of instructions that kstat adds to those with the empty hook",
            connections::SHORT
        ),
        per_cent_added(connections::SHORT, "empty"),
        Bound::AtMost(0.5),
    ));
    claims.extend(instruction_claims(results, AMD64));
    claims
}

/// How many instructions more than the empty hook a TCP packet may cost on amd64, where kstat counts
/// by instructions of its own, and on arm64, where it calls a C function.
const AMD64: f64 = 14.0;
const ARM64: f64 = 26.0;

/// Returns the claims about what kstat costs a packet in instructions.
fn instruction_claims(results: &Results, above_empty_hook: f64) -> Vec<Claim> {
    let instructions = |subject, packet| results.median_cost(subject, "icount", packet, 1);
    let minus = |packet, other| {
        let more = instructions("kstat", packet)? - instructions(other, packet)?;
        Some(Quartiles::exact(more))
    };
    let over_nft = || {
        let empty = instructions("empty", "ipv4-tcp")?;
        let kstat = instructions("kstat", "ipv4-tcp")? - empty;
        let nft = instructions("nft", "ipv4-tcp")? - empty;
        Some(Quartiles::exact(kstat / nft))
    };
    let varying_instructions = || {
        let samples = results
            .summaries
            .iter()
            .filter(|summary| summary.quantity.environment == "icount")
            .filter(|summary| {
                let mut packets = cost::packets().into_iter();
                packets.any(|packet| packet.name == summary.quantity.packet)
            })
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
            minus("ipv4-tcp", "empty"),
            Bound::AtMost(above_empty_hook),
        ),
        claim(
            "IPv4 TCP: instructions of kstat over those of nft, both above the empty hook",
            over_nft(),
            Bound::AtMost(0.25),
        ),
        claim(
            "IPv6 TCP behind an extension header: instructions of kstat minus those of \
             global-atomic, which calls ipv6_find_hdr()",
            minus("ipv6-tcp-ext", "global-atomic"),
            Bound::AtMost(0.0),
        ),
        claim(
            "UDP: instructions of kstat minus those of the empty hook",
            minus("ipv4-udp", "empty"),
            Bound::AtMost(12.0),
        ),
        claim(
            "a packet: instructions of none, empty and kstat that varied between rounds",
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
