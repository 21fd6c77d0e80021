// SPDX-License-Identifier: GPL-2.0

//! kstat against a model of it, in any order of all that can be done to it.

use kstat_tests::{
    guest::{
        exclusive::KernelLock,
        file::{self, COUNTER, NOUT},
        host::Host,
        module::Kstat,
    },
    seed,
};
use proptest::prelude::*;
use std::{
    fs::OpenOptions,
    os::unix::fs::FileExt,
    sync::atomic::{AtomicU64, Ordering},
};

/// What is done to kstat.
#[derive(Clone, Debug)]
enum Action {
    Send(u64),
    Set(u64),
    Read,
    Start,
    Stop,
    Open,
    /// Reads again from an old descriptor.
    Reread(prop::sample::Index),
}

fn action() -> impl Strategy<Value = Action> {
    let step = prop_oneof![6 => 1..30u64, 1 => Just(1), 1 => 30..1000u64, 1 => any::<u64>()];

    prop_oneof![
        5 => (0..60u64).prop_map(Action::Send),
        4 => step.prop_map(|n| Action::Set(n.max(1))),
        3 => Just(Action::Read),
        2 => Just(Action::Start),
        1 => Just(Action::Stop),
        1 => Just(Action::Open),
        3 => any::<prop::sample::Index>().prop_map(Action::Reread),
    ]
}

/// What kstat is to do.
struct Model {
    counts: bool,
    total: u64,
    base: u64,
    n: u64,
}

impl Model {
    fn nout(&self) -> u64 {
        self.base + (self.total - self.base) / self.n * self.n
    }

    fn act(&mut self, action: &Action) {
        match *action {
            Action::Send(packets) if self.counts => self.total += packets,
            Action::Set(n) => (self.base, self.n) = (self.nout(), n),
            Action::Start => self.counts = true,
            Action::Stop => self.counts = false,
            _ => {}
        }
    }
}

#[test]
fn every_read_is_as_the_model_says_whatever_is_done() {
    const CASES: u32 = 80;

    let lock = KernelLock::take();
    let kstat = Kstat::load(&lock, "");
    let initial = Host::initial(&lock);
    let (reads, packets) = (AtomicU64::new(0), AtomicU64::new(0));

    let result = seed::runner(CASES).run(&prop::collection::vec(action(), 1..60), |actions| {
        let host = Host::new(&lock);
        let mut model = Model {
            counts: false,
            total: 0,
            base: 0,
            n: 10,
        };
        let reader = || host.open(NOUT, OpenOptions::new().read(true));
        let writer = host.open(COUNTER, OpenOptions::new().write(true));
        let mut descriptors = vec![reader()];

        kstat.stop();
        for (i, action) in actions.iter().enumerate() {
            model.act(action);
            let read = match action {
                Action::Send(packets) => {
                    host.send_tcp(*packets);
                    // What others send is no concern of this host's.
                    initial.send_tcp(1);
                    None
                }
                Action::Set(n) => {
                    writer
                        .write_at(n.to_string().as_bytes(), 0)
                        .unwrap_or_else(|error| panic!("setting counter to {n}: {error}"));
                    None
                }
                Action::Read => Some(host.nout()),
                Action::Start => {
                    kstat.start();
                    None
                }
                Action::Stop => {
                    kstat.stop();
                    None
                }
                Action::Open => {
                    descriptors.push(reader());
                    None
                }
                Action::Reread(which) => Some(file::reread(NOUT, which.get(&descriptors))),
            };
            if let Some(read) = read {
                prop_assert_eq!(read, model.nout(), "action {} (right: the model)", i);
                reads.fetch_add(1, Ordering::Relaxed);
            }
        }
        prop_assert_eq!(host.nout(), model.nout(), "at last (right: the model)");
        prop_assert_eq!(host.counter(), model.n, "N (right: the model)");
        packets.fetch_add(model.total, Ordering::Relaxed);
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
    println!(
        "{reads:?} reads were as the model says, in {CASES} histories with {packets:?} packets counted"
    );
    assert!(
        reads.into_inner() > u64::from(CASES),
        "hardly anything was read"
    );
}
