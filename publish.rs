// SPDX-License-Identifier: GPL-2.0

//! When a count is published: every N packets.
//!
//! Let T be the packets counted so far, N the step, and B the count that was public when N was last
//! set (0 at first). The public count is `B + floor((T - B) / N) * N`. It is worked out when
//! somebody asks for it, so counting a packet costs no division and shares no state.
//!
//! No kernel type stands here, so that the host can test it.

#![forbid(unsafe_code)]

use crate::step::Step;

/// What has to be remembered to publish a count: B and N.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Publish {
    base: u64,
    step: Step,
}

impl Publish {
    /// Nothing is published yet, and `step` packets have to be counted before something is.
    pub(crate) const fn new(step: Step) -> Self {
        Self { base: 0, step }
    }

    /// The step in force.
    pub(crate) const fn step(&self) -> Step {
        self.step
    }

    /// The public count when `total` packets have been counted.
    ///
    /// It grows with `total`, and is at most `total` and more than `total - N`.
    pub(crate) fn public(&self, total: u64) -> u64 {
        // The caller's total only grows, so it is not below the base; were it, nothing would fall.
        let since = total.saturating_sub(self.base);
        self.base + (since - since % self.step.get())
    }

    /// Makes `step` the step when `total` packets have been counted.
    ///
    /// The public count moves next when `step` packets more than it shows have been counted, which
    /// may be now; it never falls.
    pub(crate) fn set_step(&mut self, total: u64, step: Step) {
        self.base = self.public(total);
        self.step = step;
    }
}
