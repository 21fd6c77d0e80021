// SPDX-License-Identifier: GPL-2.0

//! The statistics of a network namespace: its packet counter, and the publishing of the count.

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
    /// The number of TCP packets counted since the namespace was created or the module was loaded.
    packets: percpu::Counter,

    /// The lock is also held while `packets` is summed, so totals are used in the order in which
    /// they are taken. Therefore, a delayed reader cannot publish a total that is older than the
    /// total at which the step was set.
    #[pin]
    publish: Mutex<Publish>,
}

impl Stats {
    /// Returns the published count. May sleep.
    pub(crate) fn nout(&self) -> u64 {
        let publish = self.publish.lock();
        publish.public(self.packets.borrow().sum())
    }

    /// Returns the current step. May sleep.
    pub(crate) fn step(&self) -> Step {
        self.publish.lock().step()
    }

    /// Sets the step. May sleep.
    pub(crate) fn set_step(&self, step: Step) {
        let mut publish = self.publish.lock();
        publish.set_step(self.packets.borrow().sum(), step);
    }
}

static STATS: Slot<Stats> = Slot::new();
static HOOKS: Slot<Hooks<Stats>> = Slot::new();

impl PerNet for Stats {
    /// The initial step of every namespace.
    type Context = Step;
    const SLOT: SlotRef<Self> = STATS.slot_ref();

    fn init(initial: &Step, _net: &Net) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            packets: percpu::Counter::new()?,
            publish <- new_mutex!(Publish::new(*initial)),
        })
    }
}

impl Observer for Stats {
    const SLOT: SlotRef<Hooks<Self>> = HOOKS.slot_ref();

    /// The counter itself, so that the hook finds the part of its CPU without reading memory.
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

    /// Any user can create a network namespace and register the maximum number of hooks there. This
    /// must not prevent root from counting in other namespaces.
    fn may_leave_out(net: &Net, error: Error) -> bool {
        error == E2BIG && !net.is_owned_by_init_user_ns()
    }
}
