// SPDX-License-Identifier: GPL-2.0

//! What was measured, and how it is written down.

use serde::{Deserialize, Serialize};

/// What was measured: all but the numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Of {
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
}

/// What rounds in one guest have found, one sample at least for each. Those of different subjects that stand
/// at the same place were taken in the same round, on the same CPU.
#[derive(Debug, Serialize, Deserialize)]
pub struct Samples {
    pub of: Of,
    pub rounds: usize,
    pub samples: Vec<f64>,
}

/// The middle of samples.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Spread {
    pub median: f64,
    /// A quarter of the samples were below.
    pub low: f64,
    /// A quarter of the samples were above.
    pub high: f64,
}

impl Spread {
    /// There has to be a sample.
    pub fn of(mut samples: Vec<f64>) -> Self {
        samples.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let place = share * (samples.len() - 1) as f64;
            let (below, above) = (samples[place as usize], samples[place.ceil() as usize]);
            below + (above - below) * place.fract()
        };

        Self {
            median: at(0.5),
            low: at(0.25),
            high: at(0.75),
        }
    }

    /// What can be had at once.
    pub fn exactly(value: f64) -> Self {
        Self::of(vec![value])
    }
}

/// One number, from many rounds.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    #[serde(flatten)]
    pub of: Of,
    #[serde(flatten)]
    pub spread: Spread,
    pub rounds: usize,
    #[serde(skip)]
    pub samples: Vec<f64>,
}

impl Figure {
    /// From what guests have found, each of some of it.
    pub fn all(samples: Vec<Samples>) -> Vec<Self> {
        let mut all: Vec<Samples> = vec![];

        for more in samples {
            match all.iter_mut().find(|one| one.of == more.of) {
                Some(one) => {
                    one.rounds += more.rounds;
                    one.samples.extend(more.samples);
                }
                None => all.push(more),
            }
        }
        all.into_iter()
            .map(|one| Self {
                of: one.of,
                rounds: one.rounds,
                spread: Spread::of(one.samples.clone()),
                samples: one.samples,
            })
            .collect()
    }
}

/// Who could not run somewhere, and why not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    #[serde(flatten)]
    pub spread: Spread,
    pub rounds: usize,
}

impl Point {
    /// From what each round found; there was one at least.
    pub fn new(what: &str, unit: &str, against: &str, number: u64, samples: Vec<f64>) -> Self {
        Self {
            what: what.to_owned(),
            unit: unit.to_owned(),
            against: against.to_owned(),
            number,
            rounds: samples.len(),
            spread: Spread::of(samples),
        }
    }
}

/// What guests found.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Part {
    pub samples: Vec<Samples>,
    pub not_run: Vec<NotRun>,
    pub points: Vec<Point>,
}
