// SPDX-License-Identifier: GPL-2.0

//! What a measurement consists of, and how it is written to JSON files.

use serde::{Deserialize, Serialize};

/// A measured quantity, without its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quantity {
    /// The name of the [`Subject`](crate::subject::Subject) that counted.
    pub subject: String,
    /// `uml` or `icount`.
    pub environment: String,
    pub unit: String,
    /// How many threads sent at the same time.
    pub threads: u32,
    /// The name of the packet that they sent, or of what they did over connections.
    pub packet: String,
}

/// The samples of a quantity from one guest, at least one from each round.
///
/// Samples of different subjects that have the same index were taken in the same round, on the same
/// CPU.
#[derive(Debug, Serialize, Deserialize)]
pub struct Samples {
    pub quantity: Quantity,
    pub rounds: usize,
    pub samples: Vec<f64>,
}

/// The quartiles of some samples.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Quartiles {
    pub lower: f64,
    pub median: f64,
    pub upper: f64,
}

impl Quartiles {
    /// Returns the quartiles of `samples`, which must not be empty.
    pub fn of(mut samples: Vec<f64>) -> Self {
        samples.sort_by(f64::total_cmp);
        let quantile = |share: f64| {
            let index = share * (samples.len() - 1) as f64;
            let (below, above) = (samples[index as usize], samples[index.ceil() as usize]);
            below + (above - below) * index.fract()
        };

        Self {
            lower: quantile(0.25),
            median: quantile(0.5),
            upper: quantile(0.75),
        }
    }

    /// Returns the quartiles of a value that does not vary.
    pub fn exact(value: f64) -> Self {
        Self::of(vec![value])
    }
}

/// A quantity with its samples from all guests, and their quartiles.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    #[serde(flatten)]
    pub quantity: Quantity,
    #[serde(flatten)]
    pub quartiles: Quartiles,
    pub rounds: usize,
    #[serde(skip)]
    pub samples: Vec<f64>,
}

impl Summary {
    /// Returns a summary of each quantity in `samples`, which come from several guests.
    pub fn all(samples: Vec<Samples>) -> Vec<Self> {
        let mut merged: Vec<Samples> = vec![];

        for more in samples {
            match merged.iter_mut().find(|one| one.quantity == more.quantity) {
                Some(one) => {
                    one.rounds += more.rounds;
                    one.samples.extend(more.samples);
                }
                None => merged.push(more),
            }
        }
        merged
            .into_iter()
            .map(|one| Self {
                quantity: one.quantity,
                rounds: one.rounds,
                quartiles: Quartiles::of(one.samples.clone()),
                samples: one.samples,
            })
            .collect()
    }
}

/// A subject that could not run in an environment, and the cause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotRun {
    pub subject: String,
    pub environment: String,
    pub cause: String,
}

/// A measurement at one value of a parameter, such as the number of network namespaces.
///
/// Several of these, with different values of the parameter, show how the measured value grows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ScalePoint {
    /// What was measured.
    pub name: String,
    pub unit: String,
    /// The name of the parameter.
    pub parameter: String,
    pub parameter_value: u64,
    #[serde(flatten)]
    pub quartiles: Quartiles,
    pub rounds: usize,
}

impl ScalePoint {
    /// Makes a point of `samples`, one from each round. There must be at least one.
    pub fn new(
        name: &str,
        unit: &str,
        parameter: &str,
        parameter_value: u64,
        samples: Vec<f64>,
    ) -> Self {
        Self {
            name: name.to_owned(),
            unit: unit.to_owned(),
            parameter: parameter.to_owned(),
            parameter_value,
            rounds: samples.len(),
            quartiles: Quartiles::of(samples),
        }
    }
}

/// All that was measured in one guest, or in several.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Measurements {
    pub samples: Vec<Samples>,
    pub not_run: Vec<NotRun>,
    pub points: Vec<ScalePoint>,
}
