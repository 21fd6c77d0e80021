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
    packets: percpu::Counter,

    /// Held by who adds up `packets` too, so that totals are used in the order they were taken:
    /// nobody can publish an older total than the one that a step was set at.
    #[pin]
    publish: Mutex<Publish>,
}

impl Stats {
    /// The count as published. May sleep.
    pub(crate) fn nout(&self) -> u64 {
        let publish = self.publish.lock();
        publish.public(self.packets.sum())
    }

    /// The step in force. May sleep.
    pub(crate) fn step(&self) -> Step {
        self.publish.lock().step()
    }

    /// Makes `step` the step from now on. May sleep.
    pub(crate) fn set_step(&self, step: Step) {
        let mut publish = self.publish.lock();
        publish.set_step(self.packets.sum(), step);
    }
}

impl PerNet for Stats {
    /// The first step of every namespace.
    type Context = Step;

    fn init(first: &Step, _net: &Net) -> Result<Pin<KBox<Self>>> {
        KBox::try_pin_init(
            try_pin_init!(Self {
                packets: percpu::Counter::new()?,
                publish <- new_mutex!(Publish::new(*first)),
            }),
            GFP_KERNEL,
        )
    }
}

impl Observer for Stats {
    /// So that a packet touches nothing on its way to its CPU's count.
    type Eye = percpu::Parts;

    fn eye(&self) -> &percpu::Parts {
        &self.packets
    }

    #[inline(always)]
    fn observe(packets: &percpu::Parts, packet: Packet<'_>) {
        if packet.l4proto() == Some(L4PROTO_TCP) {
            packets.inc();
        }
    }
}
