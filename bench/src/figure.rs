// SPDX-License-Identifier: GPL-2.0

//! What was measured, and how it is written down.

use serde::{
    Deserialize,
    Serialize, //
};

/// One number, from many rounds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Figure {
    /// Who counted.
    pub subject: String,
    /// `uml`, `icount` or `iperf3`.
    #[serde(rename = "where")]
    pub place: String,
    pub unit: String,
    /// How many threads sent at the same time.
    pub threads: u32,
    /// What they sent.
    pub packet: String,
    pub median: f64,
    /// A quarter of the samples were below.
    pub low: f64,
    /// A quarter of the samples were above.
    pub high: f64,
    pub rounds: usize,
}

/// What a figure is of: all but the numbers.
#[derive(Clone, Debug)]
pub struct Of<'a> {
    pub subject: &'a str,
    pub place: &'a str,
    pub unit: &'a str,
    pub threads: u32,
    pub packet: &'a str,
}

impl Figure {
    /// From what so many rounds found; there was one sample at least.
    pub fn new(of: Of<'_>, rounds: usize, mut samples: Vec<f64>) -> Self {
        samples.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let place = share * (samples.len() - 1) as f64;
            let (below, above) = (samples[place as usize], samples[place.ceil() as usize]);
            below + (above - below) * place.fract()
        };

        Self {
            subject: of.subject.to_owned(),
            place: of.place.to_owned(),
            unit: of.unit.to_owned(),
            threads: of.threads,
            packet: of.packet.to_owned(),
            median: at(0.5),
            low: at(0.25),
            high: at(0.75),
            rounds,
        }
    }
}

/// Who could not run somewhere, and why not.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NotRun {
    pub subject: String,
    #[serde(rename = "where")]
    pub place: String,
    pub cause: String,
}

/// How something of kstat's grows with something else.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Point {
    /// What was measured.
    pub what: String,
    pub unit: String,
    /// What there were more and more of.
    pub against: String,
    pub number: u64,
    pub median: f64,
    pub low: f64,
    pub high: f64,
    pub rounds: usize,
}

impl Point {
    /// From what each round found; there was one at least.
    pub fn new(what: &str, unit: &str, against: &str, number: u64, samples: Vec<f64>) -> Self {
        let of = Of {
            subject: what,
            place: "",
            unit,
            threads: 0,
            packet: "",
        };
        let figure = Figure::new(of, samples.len(), samples);

        Self {
            what: what.to_owned(),
            unit: unit.to_owned(),
            against: against.to_owned(),
            number,
            median: figure.median,
            low: figure.low,
            high: figure.high,
            rounds: figure.rounds,
        }
    }
}

/// What one guest found.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Part {
    pub figures: Vec<Figure>,
    pub not_run: Vec<NotRun>,
    pub points: Vec<Point>,
}
