// SPDX-License-Identifier: GPL-2.0

//! Random sequences of actions, compared with a model of kstat.
//!
//! A failed run can be repeated with the KSTAT_SEED that it printed.

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

/// An action of a user.
#[derive(Clone, Debug)]
enum Action {
    /// Sends this number of packets.
    Send(u64),
    /// Sets N.
    Set(u64),
    /// Opens nout and reads it.
    Read,
    Start,
    Stop,
    /// Opens nout.
    Open,
    /// Reads nout through a descriptor that was opened before.
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

/// The state that kstat should have.
struct Model {
    started: bool,
    total: u64,
    base: u64,
    n: u64,
}

impl Model {
    fn nout(&self) -> u64 {
        self.base + (self.total - self.base) / self.n * self.n
    }

    fn apply(&mut self, action: &Action) {
        match *action {
            Action::Send(packets) if self.started => self.total += packets,
            Action::Set(n) => (self.base, self.n) = (self.nout(), n),
            Action::Start => self.started = true,
            Action::Stop => self.started = false,
            _ => {}
        }
    }
}

#[test]
fn every_read_agrees_with_the_model_after_any_sequence_of_actions() {
    const CASES: u32 = 80;

    let lock = KernelLock::take();
    let kstat = Kstat::load(&lock, "");
    let initial = Host::initial(&lock);
    let (reads, packets) = (AtomicU64::new(0), AtomicU64::new(0));

    let result = seed::runner(CASES).run(&prop::collection::vec(action(), 1..60), |actions| {
        let host = Host::new(&lock);
        let mut model = Model {
            started: false,
            total: 0,
            base: 0,
            n: 10,
        };
        let reader = || host.open(NOUT, OpenOptions::new().read(true));
        let writer = host.open(COUNTER, OpenOptions::new().write(true));
        let mut descriptors = vec![reader()];

        kstat.stop();
        for (i, action) in actions.iter().enumerate() {
            model.apply(action);
            let read = match action {
                Action::Send(packets) => {
                    host.send_tcp(*packets);
                    // A packet of another namespace must not be counted here.
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
        prop_assert_eq!(host.nout(), model.nout(), "nout (right: the model)");
        prop_assert_eq!(host.counter(), model.n, "N (right: the model)");
        packets.fetch_add(model.total, Ordering::Relaxed);
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
    println!(
        "{reads:?} reads agree with the model, in {CASES} sequences with {packets:?} packets counted"
    );
    assert!(
        reads.into_inner() > u64::from(CASES),
        "nout was read too rarely"
    );
}
