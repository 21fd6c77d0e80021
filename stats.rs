// SPDX-License-Identifier: GPL-2.0

//! The statistics of a network namespace: its counters, and the publishing of the count.

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
        percpu,
        proc_net::{
            Entry,
            NetFile, //
        }, //
    },
    publish::Publish,
    step::Step, //
};
use kernel::{
    new_mutex,
    prelude::*,
    seq_file::SeqFile,
    seq_print,
    sync::Mutex, //
};

/// The statistics of one network namespace.
#[pin_data]
pub(crate) struct Stats {
    /// The numbers of TCP packets, of their bytes, and of additional segments, since the namespace
    /// was created or the module was loaded. A super-packet of n segments adds n - 1 to the last;
    /// other packets add nothing to it.
    counters: percpu::Counters<3>,

    /// The lock is also held while packets are summed, so totals are used in the order in which
    /// they are taken. Therefore, a delayed reader cannot publish a total that is older than the
    /// total at which the step was set.
    #[pin]
    publish: Mutex<Publish>,
}

impl Stats {
    /// Returns the number of packets that have been counted.
    fn packets(&self) -> u64 {
        let [packets] = self.counters.borrow().sum();
        packets
    }

    /// Returns the published count. May sleep.
    pub(crate) fn nout(&self) -> u64 {
        let publish = self.publish.lock();
        publish.public(self.packets())
    }

    /// Returns the current step. May sleep.
    pub(crate) fn step(&self) -> Step {
        self.publish.lock().step()
    }

    /// Sets the step. May sleep.
    pub(crate) fn set_step(&self, step: Step) {
        let mut publish = self.publish.lock();
        publish.set_step(self.packets(), step);
    }
}

static STATS: Slot<Stats> = Slot::new();
static HOOKS: Slot<Hooks<Stats>> = Slot::new();
static FILES: Slot<Entry<Stats>> = Slot::new();

impl PerNet for Stats {
    /// The initial step of every namespace.
    type Context = Step;
    const SLOT: SlotRef<Self> = STATS.slot_ref();

    fn init(initial: &Step, _net: &Net) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            counters: percpu::Counters::new()?,
            publish <- new_mutex!(Publish::new(*initial)),
        })
    }
}

impl Observer for Stats {
    const SLOT: SlotRef<Hooks<Self>> = HOOKS.slot_ref();

    /// The counters themselves, so that the hook finds the part of its CPU without reading memory.
    type HookData<'a> = percpu::CountersRef<'a, 3>;

    fn hook_data(&self) -> percpu::CountersRef<'_, 3> {
        self.counters.borrow()
    }

    #[inline(always)]
    fn observe(counters: percpu::CountersRef<'_, 3>, packet: Packet<'_>) {
        if packet.may_have_extension_headers() {
            count_any(counters, packet);
        } else if packet.l4proto() == Some(L4PROTO_TCP) {
            if packet.is_gso() {
                count_any(counters, packet);
            } else {
                counters.add([1, packet.len().into()]);
            }
        }
    }

    /// Any user can create a network namespace and register the maximum number of hooks there. This
    /// must not prevent root from counting in other namespaces.
    fn may_leave_out(net: &Net, error: Error) -> bool {
        error == E2BIG && !net.is_owned_by_init_user_ns()
    }
}

/// Counts a packet of any kind if it is TCP. Out of line, so that the hook needs no stack frame for
/// the most frequent packets.
#[inline(never)]
fn count_any(counters: percpu::CountersRef<'_, 3>, packet: Packet<'_>) {
    if packet.l4proto() == Some(L4PROTO_TCP) {
        let more_segments = u64::from(packet.tcp_segments()).saturating_sub(1);
        counters.add([1, packet.len().into(), more_segments]);
    }
}

/// `/proc/net/kstat`, in the form of `/proc/net/snmp`. New names may only be added at the end.
impl NetFile for Stats {
    const NAME: &'static CStr = c"kstat";
    const SLOT: SlotRef<Entry<Self>> = FILES.slot_ref();

    fn show(&self, out: &SeqFile) {
        let Totals {
            packets,
            segments,
            octets,
        } = Totals::new(self.counters.borrow().sum());

        seq_print!(
            out,
            "Kstat: OutPackets OutSegs OutOctets\nKstat: {packets} {segments} {octets}\n"
        );
    }
}

/// What `/proc/net/kstat` shows. The numbers wrap around at 2^64.
pub(crate) struct Totals {
    pub(crate) packets: u64,
    pub(crate) segments: u64,
    pub(crate) octets: u64,
}

impl Totals {
    /// Converts the sums of [`Stats::counters`].
    pub(crate) fn new([packets, octets, more_segments]: [u64; 3]) -> Self {
        Self {
            packets,
            segments: packets.wrapping_add(more_segments),
            octets,
        }
    }
}
