// SPDX-License-Identifier: GPL-2.0

//! The public count, which is published every N packets.
//!
//! Let T be the number of packets counted so far, N the step, and B the public count at the time
//! when N was last set (initially 0). The public count is `B + floor((T - B) / N) * N`. It is
//! computed when it is read, so counting a packet needs no division and no shared state.
//!
//! This file uses no kernel types, so that tests can build it on the host.

#![forbid(unsafe_code)]

use crate::step::Step;

/// The state from which the public count is computed: B and N.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Publish {
    base: u64,
    step: Step,
}

impl Publish {
    /// Returns the state of a counter that has counted no packets: the public count is 0 until
    /// `step` packets have been counted.
    pub(crate) const fn new(step: Step) -> Self {
        Self { base: 0, step }
    }

    /// Returns the current step.
    pub(crate) const fn step(&self) -> Step {
        self.step
    }

    /// Returns the public count when `total` packets have been counted.
    ///
    /// It never decreases as `total` grows. It is at most `total`, and greater than `total - N`.
    pub(crate) fn public(&self, total: u64) -> u64 {
        // The total of the caller only grows, so it is at least the base. If it were smaller, the
        // result would be the base, so the public count would still not decrease.
        let since = total.saturating_sub(self.base);
        self.base + (since - since % self.step.get())
    }

    /// Sets the step when `total` packets have been counted.
    ///
    /// The public count does not decrease. It next increases when the number of counted packets is
    /// `step` greater than the public count, which may already be the case.
    pub(crate) fn set_step(&mut self, total: u64, step: Step) {
        self.base = self.public(total);
        self.step = step;
    }
}
