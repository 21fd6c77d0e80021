// SPDX-License-Identifier: GPL-2.0

//! Files for machines and for people from what was found, and whether it is as it should be.

use crate::{
    chart,
    cost,
    figure::{
        Figure,
        NotRun,
        Part,
        Point, //
    },
    subject::Subject, //
};
use serde::Serialize;
use std::{
    fmt::Write,
    fs,
    path::Path, //
};

/// Writes the files; prints the table, and the bounds.
pub fn write(folder: &Path, part: Part) {
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
    for ratio in ratios(&results) {
        println!("{ratio}");
    }
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
    /// The median of a subject, if it was measured.
    pub fn median(&self, subject: &str, place: &str, packet: &str, threads: u32) -> Option<f64> {
        self.figures
            .iter()
            .find(|Figure { of, .. }| {
                of.subject == subject
                    && of.place == place
                    && of.packet == packet
                    && of.threads == threads
            })
            .map(|figure| figure.spread.median)
    }

    /// What the subject adds to what a packet costs with nothing hooked.
    pub fn cost(&self, subject: &str, place: &str, packet: &str, threads: u32) -> Option<f64> {
        let with = self.median(subject, place, packet, threads)?;
        let without = self.median("none", place, packet, threads)?;

        Some(with - without)
    }
}

/// What packets cost with each subject: a table of IPv4's for the README, those of all; and who did not run.
fn tables(results: &Results) -> String {
    let short = [
        ("uml", 1, "ipv4-tcp"),
        ("uml", 2, "ipv4-tcp"),
        ("icount", 1, "ipv4-tcp"),
        ("icount", 1, "ipv4-udp"),
    ];
    let all = |place, threads| cost::packets().map(|packet| (place, threads, packet.0));
    let mut text = [
        &short[..],
        &all("uml", 1),
        &all("uml", 2),
        &all("icount", 1),
    ]
    .map(|columns| table(results, columns))
    .join("\n");

    for not_run in &results.not_run {
        writeln!(
            text,
            "\n{} did not run on {}: {}",
            not_run.subject, not_run.place, not_run.cause
        )
        .expect("a string takes it");
    }
    text
}

/// A table in Markdown, with these columns.
fn table(results: &Results, columns: &[(&str, u32, &str)]) -> String {
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
            let cell = match results.median(subject.name(), place, packet, *threads) {
                Some(median) if *place == "uml" => format!(" {median:.1} |"),
                Some(median) => format!(" {median} |"),
                None => " not run |".to_owned(),
            };
            row.push_str(&cell);
        }
        rows.push(row);
    }
    rows.join("\n") + "\n"
}

/// What is to be at most, or at least, so much.
fn ratios(results: &Results) -> Vec<String> {
    let cost = |subject, packet, threads| results.cost(subject, "uml", packet, threads);
    let ratio = |a: Option<f64>, b: Option<f64>| Some(a? / b?);
    let threads = |subject| {
        ratio(
            results.median(subject, "uml", "ipv4-tcp", 2),
            results.median(subject, "uml", "ipv4-tcp", 1),
        )
    };
    let instructions = |packet| {
        let more = results.cost("kstat", "icount", packet, 1)?;
        Some(more - results.cost("empty", "icount", packet, 1)?)
    };
    let connections = |unit| {
        let median = |subject| {
            let mut all = results.figures.iter();
            all.find(|Figure { of, .. }| of.subject == subject && of.unit == unit)
                .map(|figure| figure.spread.median)
        };
        ratio(median("kstat"), median("none"))
    };
    let points = |what: &str, against: &str| -> Vec<f64> {
        results
            .points
            .iter()
            .filter(|point| point.what == what && point.against == against)
            .map(|point| point.spread.median)
            .collect()
    };
    let flat = |what, against| {
        let costs = points(what, against);
        let most = costs.iter().copied().reduce(f64::max);
        ratio(most, costs.iter().copied().reduce(f64::min))
    };
    let per_namespace = |what| {
        let times = points(what, "namespaces");
        Some(times.last()? / times.get(times.len() - 2)?)
    };
    let with_nft = |what, nft| {
        ratio(
            points(what, "namespaces").last().copied(),
            points(nft, "namespaces").last().copied(),
        )
    };

    let all = [
        (
            "IPv4 TCP: kstat's cost over the empty hook's",
            ratio(cost("kstat", "ipv4-tcp", 1), cost("empty", "ipv4-tcp", 1)),
            "at most 2.0",
        ),
        (
            "IPv4 TCP: kstat's cost over nft's",
            ratio(cost("kstat", "ipv4-tcp", 1), cost("nft", "ipv4-tcp", 1)),
            "at most 0.30",
        ),
        (
            "the same with 2 threads",
            ratio(cost("kstat", "ipv4-tcp", 2), cost("nft", "ipv4-tcp", 2)),
            "at most 0.25",
        ),
        (
            "kstat with 2 threads over 1",
            threads("kstat"),
            "at most 1.10",
        ),
        (
            "the global atomic with 2 threads over 1",
            threads("global-atomic"),
            "at least 1.4",
        ),
        (
            "UDP: kstat's cost over the empty hook's",
            ratio(cost("kstat", "ipv4-udp", 1), cost("empty", "ipv4-udp", 1)),
            "at most 1.25",
        ),
        (
            "instructions of an IPv4 TCP packet, more than the empty hook",
            instructions("ipv4-tcp"),
            "at most 40",
        ),
        (
            "instructions of a UDP packet, more than the empty hook",
            instructions("ipv4-udp"),
            "at most 12",
        ),
        (
            "a packet with the dearest N over the cheapest",
            flat("a packet", "N"),
            "1 but for noise",
        ),
        (
            "a packet over one past the empty hook, the dearest number of namespaces over the cheapest",
            flat("a packet over that", "namespaces"),
            "1 but for noise",
        ),
        (
            "start with 1,000 namespaces over 100",
            per_namespace("start"),
            "at most 10",
        ),
        (
            "stop with 1,000 namespaces over 100",
            per_namespace("stop"),
            "at most 10",
        ),
        (
            "start with 1,000 namespaces over an nft rule in each",
            with_nft("start", "loading one nft rule in each"),
            "at most 2",
        ),
        (
            "stop with 1,000 namespaces over deleting these",
            with_nft("stop", "deleting it in each"),
            "at most 2",
        ),
        (
            "iperf3's throughput with kstat over without",
            connections("Gbit/s"),
            "1 but for noise",
        ),
        (
            "short connections with kstat over without",
            connections("connections/s"),
            "1 but for noise",
        ),
    ];
    all.into_iter()
        .map(|(what, value, bound)| match value {
            Some(value) => format!("{what}: {} ({bound})", significant(value)),
            None => format!("{what}: not measured ({bound})"),
        })
        .collect()
}

/// The three digits that matter.
fn significant(value: f64) -> String {
    let before_the_point = value.abs().max(1e-9).log10().floor() as i32;
    let digits = (2 - before_the_point).clamp(0, 9) as usize;

    format!("{value:.digits$}")
}
