// SPDX-License-Identifier: GPL-2.0

//! What one network namespace has: its count, and how it is published.

#![forbid(unsafe_code)]

use crate::{
    abstractions::{
        netfilter::{
            Hooks,
            Observer,
            Packet,
            L4PROTO_TCP, //
        },
        netns::{
            Net,
            PerNet,
            Slot,
            SlotRef, //
        },
        percpu, //
    },
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

    /// Held while `packets` is added up too, so that totals are used in the order they were taken: no
    /// reader publishes an older total than the one at which a step was set.
    #[pin]
    publish: Mutex<Publish>,
}

impl Stats {
    /// The count as published. May sleep.
    pub(crate) fn nout(&self) -> u64 {
        let publish = self.publish.lock();
        publish.public(self.packets.borrow().sum())
    }

    /// The step in force. May sleep.
    pub(crate) fn step(&self) -> Step {
        self.publish.lock().step()
    }

    /// Makes `step` the step from now on. May sleep.
    pub(crate) fn set_step(&self, step: Step) {
        let mut publish = self.publish.lock();
        publish.set_step(self.packets.borrow().sum(), step);
    }
}

static STATS: Slot<Stats> = Slot::new();
static HOOKS: Slot<Hooks<Stats>> = Slot::new();

impl PerNet for Stats {
    /// The first step of every namespace.
    type Context = Step;
    const SLOT: SlotRef<Self> = STATS.slot_ref();

    fn init(first: &Step, _net: &Net) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            packets: percpu::Counter::new()?,
            publish <- new_mutex!(Publish::new(*first)),
        })
    }
}

impl Observer for Stats {
    const SLOT: SlotRef<Hooks<Self>> = HOOKS.slot_ref();

    /// The counter itself, so that a packet reads nothing to find its CPU's part.
    type HookData<'a> = percpu::CounterRef<'a>;

    fn hook_data(&self) -> percpu::CounterRef<'_> {
        self.packets.borrow()
    }

    #[inline(always)]
    fn observe(packets: percpu::CounterRef<'_>, packet: Packet<'_>) {
        if packet.l4proto() == Some(L4PROTO_TCP) {
            packets.inc();
        }
    }

    /// Any user can fill a hook of a namespace of their own, and must not keep root from counting.
    fn may_leave_out(net: &Net, error: Error) -> bool {
        error == E2BIG && !net.is_owned_by_init_user_ns()
    }
}
