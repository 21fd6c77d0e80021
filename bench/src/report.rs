// SPDX-License-Identifier: GPL-2.0

//! Files for machines and for people from what was found, and whether it is as it should be.

use crate::{
    chart, cost,
    figure::{Figure, NotRun, Part, Point, Spread},
    subject::Subject,
};
use serde::Serialize;
use std::{fs, path::Path};

/// Writes the files; prints the tables, and whether what has to hold does.
pub fn write(folder: &Path, mut part: Part) {
    // A guest does not know which it is.
    let told = part.points.iter_mut();
    for (number, point) in (1..).zip(told.filter(|point| point.what == cost::STEP)) {
        point.number = number;
    }
    let results = Results {
        figures: Figure::all(part.samples),
        not_run: part.not_run,
        points: part.points,
    };
    let tables = tables(&results);

    save(&folder.join("results.json"), &json(&results.figures));
    save(&folder.join("scale.json"), &json(&results.points));
    save(&folder.join("table.md"), &tables);
    save(&folder.join("chart.svg"), &chart::draw(&results));
    println!("{tables}");
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).expect("it can be written down")
}

fn save(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|error| panic!("writing {}: {error}", path.display()));
}

/// All there is, to look some up.
pub struct Results {
    figures: Vec<Figure>,
    not_run: Vec<NotRun>,
    points: Vec<Point>,
}

impl Results {
    fn figure(&self, subject: &str, place: &str, packet: &str, threads: u32) -> Option<&Figure> {
        self.figures.iter().find(|Figure { of, .. }| {
            of.subject == subject
                && of.place == place
                && of.packet == packet
                && of.threads == threads
        })
    }

    /// What the subject adds to what a packet costs with nothing hooked, in each round.
    fn costs(&self, subject: &str, place: &str, packet: &str, threads: u32) -> Option<Vec<f64>> {
        let with = self.figure(subject, place, packet, threads)?;
        let without = self.figure("none", place, packet, threads)?;

        Some(each(&with.samples, &without.samples, |with, without| {
            with - without
        }))
    }

    /// The middle of that.
    pub fn cost(&self, subject: &str, place: &str, packet: &str, threads: u32) -> Option<f64> {
        let costs = self.costs(subject, place, packet, threads)?;

        Some(Spread::of(costs).median)
    }

    /// What was found of `what`, against more and more of `against`.
    fn points<'a>(&'a self, what: &'a str, against: &'a str) -> impl Iterator<Item = &'a Point> {
        self.points
            .iter()
            .filter(move |point| point.what == what && point.against == against)
    }

    /// The last of these: that with the most.
    fn most(&self, what: &str, against: &str) -> Option<f64> {
        self.points(what, against)
            .last()
            .map(|point| point.spread.median)
    }
}

/// Combines what two have found in the same rounds.
fn each(these: &[f64], those: &[f64], combine: impl Fn(f64, f64) -> f64) -> Vec<f64> {
    assert_eq!(these.len(), those.len(), "they had other rounds");
    these
        .iter()
        .zip(those)
        .map(|(this, that)| combine(*this, *that))
        .collect()
}

/// How many times as much these are as those, by the rounds.
fn ratio(these: Option<Vec<f64>>, those: Option<Vec<f64>>) -> Option<Spread> {
    Some(Spread::of(each(&these?, &those?, |this, that| this / that)))
}

/// The machine; what packets cost with each subject, in a table of IPv4's for the README and in those of all; who
/// did not run; what has to hold; and what grows.
fn tables(results: &Results) -> String {
    let short = [
        ("uml", 1, "ipv4-tcp"),
        ("uml", 2, "ipv4-tcp"),
        ("icount", 1, "ipv4-tcp"),
        ("icount", 1, "ipv4-udp"),
    ];
    let all = |place, threads| cost::packets().map(|packet| (place, threads, packet.0));
    let mut text = machine();

    text.push_str(&table(results, &short, false));
    for columns in [all("uml", 1), all("uml", 2), all("icount", 1)] {
        text.push('\n');
        text.push_str(&table(results, &columns, true));
    }
    for not_run in &results.not_run {
        text.push_str(&format!(
            "\n{} did not run on {}: {}\n",
            not_run.subject, not_run.place, not_run.cause
        ));
    }
    text.push_str("\n| | | has to be | |\n| --- | ---: | --- | --- |\n");
    for claim in claims(results) {
        text.push_str(&claim.row());
    }
    text.push_str("\n| | against | of these | |\n| --- | --- | ---: | ---: |\n");
    for point in &results.points {
        text.push_str(&format!(
            "| {} | {} | {} | {} {} |\n",
            point.what,
            point.against,
            point.number,
            with_spread(&point.spread),
            point.unit
        ));
    }
    text
}

/// What all this is measured on.
fn machine() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown", |(_, model)| model);
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let kernels = |folder| -> Vec<String> {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect()
    };

    format!(
        "{cpus} CPUs ({model}), kernel {}\n\n",
        kernels("/lib/modules").join(", ")
    )
}

/// A table in Markdown, with these columns.
fn table(results: &Results, columns: &[(&str, u32, &str)], spread: bool) -> String {
    let mut rows = vec![String::from("| |"), String::from("| --- |")];

    for (place, threads, packet) in columns {
        let unit = if *place == "uml" {
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
        for (place, threads, packet) in columns {
            let cell = match results.figure(subject.name(), place, packet, *threads) {
                Some(figure) if spread && *place == "uml" => {
                    let Spread { median, low, high } = figure.spread;
                    format!(" {median:.1} ({low:.1} to {high:.1}) |")
                }
                Some(figure) if *place == "uml" => format!(" {:.1} |", figure.spread.median),
                Some(figure) => format!(" {} |", figure.spread.median),
                None => " not run |".to_owned(),
            };
            row.push_str(&cell);
        }
        rows.push(row);
    }
    rows.join("\n") + "\n"
}

/// What has to hold of a number.
enum Bound {
    AtMost(f64),
    AtLeast(f64),
    /// It is the same as 1, as far as can be told.
    One,
}

/// Something that is said of kstat, and what was found.
struct Claim {
    what: &'static str,
    found: Option<Spread>,
    bound: Bound,
}

impl Claim {
    fn row(&self) -> String {
        let bound = match self.bound {
            Bound::AtMost(most) => format!("at most {most}"),
            Bound::AtLeast(least) => format!("at least {least}"),
            Bound::One => "1, within the spread".to_owned(),
        };
        let (found, verdict) = match self.found {
            None => ("not measured".to_owned(), ""),
            Some(found) => {
                let holds = match self.bound {
                    Bound::AtMost(most) => found.median <= most,
                    Bound::AtLeast(least) => found.median >= least,
                    Bound::One => found.low <= 1.0 && 1.0 <= found.high,
                };
                let verdict = if holds { "holds" } else { "**DOES NOT HOLD**" };
                (with_spread(&found), verdict)
            }
        };

        format!("| {} | {found} | {bound} | {verdict} |\n", self.what)
    }
}

/// All that has to hold.
fn claims(results: &Results) -> Vec<Claim> {
    let costs = |subject, packet, threads| results.costs(subject, "uml", packet, threads);
    let instructions = |subject, packet| results.cost(subject, "icount", packet, 1);
    let more_than_empty = |packet| {
        let more = instructions("kstat", packet)? - instructions("empty", packet)?;
        Some(Spread::exactly(more))
    };
    // The first three count nothing, or are kstat.
    let more_than_any = || {
        let others = Subject::ALL[3..].iter();
        let least = others
            .filter_map(|subject| instructions(subject.name(), "ipv4-tcp"))
            .reduce(f64::min)?;
        Some(Spread::exactly(instructions("kstat", "ipv4-tcp")? - least))
    };
    let inexact = || {
        let figures = results.figures.iter();
        let samples = figures
            .filter(|figure| figure.of.place == "icount")
            // The others are set up anew in each round, and may lie elsewhere then.
            .filter(|figure| ["none", "empty", "kstat"].contains(&figure.of.subject.as_str()))
            .map(|figure| &figure.samples);
        let inexact = samples.filter(|samples| samples.iter().any(|sample| *sample != samples[0]));
        Spread::exactly(inexact.count() as f64)
    };
    let unhooked = || {
        let instructions = |what| results.most(what, "rounds");
        let before = instructions(cost::BEFORE_LOADING)?;
        let loaded = instructions(cost::LOADED)? - before;
        let stopped = instructions(cost::STOPPED)? - before;
        Some(Spread::exactly(loaded.max(stopped)))
    };
    let connections = |unit| {
        let samples = |subject| {
            let mut all = results.figures.iter();
            all.find(|Figure { of, .. }| of.subject == subject && of.unit == unit)
                .map(|figure| figure.samples.clone())
        };
        ratio(samples("kstat"), samples("none"))
    };
    // The dearest over the cheapest; where the spreads of all have something in common, that of the ratio has 1.
    let flat = |what, against| {
        let spreads = || results.points(what, against).map(|point| point.spread);
        let most = |of: fn(Spread) -> f64| spreads().map(of).reduce(f64::max);
        let least = |of: fn(Spread) -> f64| spreads().map(of).reduce(f64::min);
        Some(Spread {
            median: most(|spread| spread.median)? / least(|spread| spread.median)?,
            low: most(|spread| spread.low)? / least(|spread| spread.high)?,
            high: most(|spread| spread.high)? / least(|spread| spread.low)?,
        })
    };
    let growth = |what| {
        let times: Vec<_> = results.points(what, "namespaces").collect();
        let before = times.len().checked_sub(2)?;
        Some(Spread::exactly(
            times.last()?.spread.median / times.get(before)?.spread.median,
        ))
    };
    let with_nft = |what, nft| {
        let ours = results.most(what, "namespaces")?;
        Some(Spread::exactly(ours / results.most(nft, "namespaces")?))
    };
    let claim = |what, found, bound| Claim { what, found, bound };

    vec![
        claim(
            "IPv4 TCP: kstat's cost over the empty hook's",
            ratio(costs("kstat", "ipv4-tcp", 1), costs("empty", "ipv4-tcp", 1)),
            Bound::AtMost(2.0),
        ),
        claim(
            "IPv4 TCP: kstat's cost over nft's",
            ratio(costs("kstat", "ipv4-tcp", 1), costs("nft", "ipv4-tcp", 1)),
            Bound::AtMost(0.30),
        ),
        claim(
            "the same with 2 threads",
            ratio(costs("kstat", "ipv4-tcp", 2), costs("nft", "ipv4-tcp", 2)),
            Bound::AtMost(0.25),
        ),
        claim(
            "kstat's cost with 2 threads over that with 1",
            ratio(costs("kstat", "ipv4-tcp", 2), costs("kstat", "ipv4-tcp", 1)),
            Bound::AtMost(1.10),
        ),
        claim(
            "the global atomic's cost with 2 threads over that with 1",
            ratio(
                costs("global-atomic", "ipv4-tcp", 2),
                costs("global-atomic", "ipv4-tcp", 1),
            ),
            Bound::AtLeast(1.4),
        ),
        claim(
            "UDP: kstat's cost over the empty hook's",
            ratio(costs("kstat", "ipv4-udp", 1), costs("empty", "ipv4-udp", 1)),
            Bound::AtMost(1.25),
        ),
        claim(
            "instructions of an IPv4 TCP packet, more than with the empty hook",
            more_than_empty("ipv4-tcp"),
            Bound::AtMost(40.0),
        ),
        claim(
            "the same, more than with the cheapest other counter",
            more_than_any(),
            Bound::AtMost(-1.0),
        ),
        claim(
            "instructions of a UDP packet, more than with the empty hook",
            more_than_empty("ipv4-udp"),
            Bound::AtMost(12.0),
        ),
        claim(
            "instructions of a packet with kstat loaded but not started, or stopped, more than before",
            unhooked(),
            Bound::AtMost(0.0),
        ),
        claim(
            "numbers of instructions of none, empty and kstat that were not the same in every round",
            Some(inexact()),
            Bound::AtMost(0.0),
        ),
        claim(
            "a packet with the dearest N over that with the cheapest",
            flat("a packet", "N"),
            Bound::One,
        ),
        claim(
            "a packet over one past the empty hook: the dearest number of namespaces over the cheapest",
            flat("a packet over that", "namespaces"),
            Bound::One,
        ),
        claim(
            "start with 1,000 namespaces over 100",
            growth("start"),
            Bound::AtMost(10.0),
        ),
        claim(
            "stop with 1,000 namespaces over 100",
            growth("stop"),
            Bound::AtMost(10.0),
        ),
        claim(
            "start with 1,000 namespaces over loading an nft rule in each",
            with_nft("start", "loading one nft rule in each"),
            Bound::AtMost(2.0),
        ),
        claim(
            "stop with 1,000 namespaces over deleting these",
            with_nft("stop", "deleting it in each"),
            Bound::AtMost(2.0),
        ),
        claim(
            "iperf3's throughput with kstat over that without",
            connections("Gbit/s"),
            Bound::One,
        ),
        claim(
            "short connections a second with kstat over those without",
            connections("connections/s"),
            Bound::One,
        ),
    ]
}

/// The median, and what is between the quartiles where that is something.
fn with_spread(spread: &Spread) -> String {
    let Spread { median, low, high } = *spread;
    let median = significant(median);

    if low == high {
        return median;
    }
    format!("{median} ({} to {})", significant(low), significant(high))
}

/// The three digits that matter; whole numbers are as they are.
fn significant(value: f64) -> String {
    if value.fract() == 0.0 {
        return value.to_string();
    }
    let before_the_point = value.abs().max(1e-9).log10().floor() as i32;
    let digits = (2 - before_the_point).clamp(0, 9) as usize;

    format!("{value:.digits$}")
}
