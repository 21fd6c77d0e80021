// SPDX-License-Identifier: GPL-2.0

//! The measurements of all guests, and how to look up costs and ratios in them.

use crate::{
    cost,
    measurement::{Measurements, NotRun, Quartiles, ScalePoint, Summary},
};

/// The measurements of all guests.
pub struct Results {
    pub summaries: Vec<Summary>,
    pub not_run: Vec<NotRun>,
    pub points: Vec<ScalePoint>,
}

impl Results {
    /// Summarizes the samples of all guests, and numbers the guests.
    pub fn new(mut measurements: Measurements) -> Self {
        // A guest measures the speed of its CPUs once, and does not know its own number.
        let speeds = measurements.points.iter_mut();
        for (number, speed) in (1..).zip(speeds.filter(|point| point.name == cost::CPU_SPEED)) {
            speed.parameter_value = number;
        }

        Self {
            summaries: Summary::all(measurements.samples),
            not_run: measurements.not_run,
            points: measurements.points,
        }
    }

    /// Returns the time or the instructions of a packet.
    pub fn summary(
        &self,
        subject: &str,
        environment: &str,
        packet: &str,
        threads: u32,
    ) -> Option<&Summary> {
        self.summaries.iter().find(|Summary { quantity, .. }| {
            quantity.subject == subject
                && quantity.environment == environment
                && quantity.packet == packet
                && quantity.threads == threads
        })
    }

    /// Returns the cost of a subject in each sample: the difference from a packet that no hook
    /// sees.
    pub fn costs(
        &self,
        subject: &str,
        environment: &str,
        packet: &str,
        threads: u32,
    ) -> Option<Vec<f64>> {
        let with = self.summary(subject, environment, packet, threads)?;
        let without = self.summary("none", environment, packet, threads)?;

        Some(combine(&with.samples, &without.samples, |with, without| {
            with - without
        }))
    }

    /// Returns the median of [`Self::costs`].
    pub fn median_cost(
        &self,
        subject: &str,
        environment: &str,
        packet: &str,
        threads: u32,
    ) -> Option<f64> {
        let costs = self.costs(subject, environment, packet, threads)?;

        Some(Quartiles::of(costs).median)
    }

    /// Returns the measurements of `name` at all values of `parameter`.
    pub fn points<'a>(
        &'a self,
        name: &'a str,
        parameter: &'a str,
    ) -> impl Iterator<Item = &'a ScalePoint> {
        self.points
            .iter()
            .filter(move |point| point.name == name && point.parameter == parameter)
    }

    /// Returns the median of `name` at the largest value of `parameter`, which is measured last.
    pub fn median_at_largest(&self, name: &str, parameter: &str) -> Option<f64> {
        self.points(name, parameter)
            .last()
            .map(|point| point.quartiles.median)
    }
}

/// Applies `operation` to each sample of `left` and the sample of `right` from the same round.
pub fn combine(left: &[f64], right: &[f64], operation: impl Fn(f64, f64) -> f64) -> Vec<f64> {
    assert_eq!(left.len(), right.len(), "samples of different rounds");
    left.iter()
        .zip(right)
        .map(|(left, right)| operation(*left, *right))
        .collect()
}

/// Returns the quartiles of the ratio that the samples of `numerator` and `denominator` have in
/// each round.
pub fn ratio(numerator: Option<Vec<f64>>, denominator: Option<Vec<f64>>) -> Option<Quartiles> {
    Some(Quartiles::of(combine(
        &numerator?,
        &denominator?,
        |numerator, denominator| numerator / denominator,
    )))
}
