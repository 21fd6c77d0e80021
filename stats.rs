// SPDX-License-Identifier: GPL-2.0

//! What one network namespace has: its count, and how it is published.

#![forbid(unsafe_code)]

use crate::{
    netfilter::{
        Observer,
        Packet,
        L4PROTO_TCP, //
    },
    netns::{
        Net,
        PerNet, //
    },
    percpu,
    publish::Publish,
    step::Step, //
};
use kernel::{
    new_mutex,
    prelude::*,
    sync::Mutex, //
};

/// The statistics of one network namespace.
#[pin_data]
pub(crate) struct Stats {
    /// The TCP packets counted since the namespace was made, or the module loaded.
    packets: Line<percpu::Counter>,

    /// Held by who adds up `packets` too, so that totals are used in the order they were taken:
    /// nobody can publish an older total than the one that a step was set at.
    #[pin]
    publish: Mutex<Publish>,
}

/// What has a cache line of its own: every packet looks where the counter is, and no reader who
/// takes a lock beside it should take that line from it.
#[repr(align(64))]
struct Line<T>(T);

impl Stats {
    /// The count as published. May sleep.
    pub(crate) fn nout(&self) -> u64 {
        let publish = self.publish.lock();
        publish.public(self.packets.0.sum())
    }

    /// The step in force. May sleep.
    pub(crate) fn step(&self) -> Step {
        self.publish.lock().step()
    }

    /// Makes `step` the step from now on. May sleep.
    pub(crate) fn set_step(&self, step: Step) {
        let mut publish = self.publish.lock();
        publish.set_step(self.packets.0.sum(), step);
    }
}

impl PerNet for Stats {
    /// The first step of every namespace.
    type Context = Step;

    fn init(first: &Step, _net: &Net) -> Result<Pin<KBox<Self>>> {
        KBox::try_pin_init(
            try_pin_init!(Self {
                packets: Line(percpu::Counter::new()?),
                publish <- new_mutex!(Publish::new(*first)),
            }),
            GFP_KERNEL,
        )
    }
}

impl Observer for Stats {
    #[inline]
    fn observe(&self, packet: Packet<'_>) {
        if packet.l4proto() == Some(L4PROTO_TCP) {
            self.packets.0.inc();
        }
    }
}
