// SPDX-License-Identifier: GPL-2.0

//! A user-space program that decides on packets: it reads them from an NFQUEUE and returns
//! verdicts.

use crate::guest::netns::Netns;
use nfq::Verdict;
use std::{
    sync::{
        atomic::{AtomicU64, Ordering},
        Arc,
    },
    thread::{self, JoinHandle},
};

/// A queue in which packets wait for a verdict.
pub struct Queue(nfq::Queue);

impl Queue {
    /// Opens queue `number` of the network namespace `net`. Dropping this closes the queue.
    #[track_caller]
    pub fn new(net: &Netns, number: u16) -> Self {
        net.run(|| {
            let mut queue =
                nfq::Queue::open().unwrap_or_else(|error| panic!("opening nfnetlink: {error}"));
            queue
                .bind(number)
                .unwrap_or_else(|error| panic!("taking queue {number}: {error}"));
            Self(queue)
        })
    }

    /// Takes `packets` packets from the queue, in a thread of its own. Accepts packet number `n`,
    /// counted from 0, if `accept(n)` is true, and drops it otherwise.
    pub fn take(mut self, packets: u64, accept: fn(u64) -> bool) -> QueueReader {
        let taken = Arc::new(AtomicU64::new(0));
        let counter = taken.clone();

        QueueReader {
            taken,
            thread: thread::spawn(move || {
                for number in 0..packets {
                    let mut message = self
                        .0
                        .recv()
                        .unwrap_or_else(|error| panic!("taking a packet from a queue: {error}"));
                    message.set_verdict(if accept(number) {
                        Verdict::Accept
                    } else {
                        Verdict::Drop
                    });
                    self.0
                        .verdict(message)
                        .unwrap_or_else(|error| panic!("giving a verdict: {error}"));
                    counter.fetch_add(1, Ordering::SeqCst);
                }
            }),
        }
    }
}

/// The thread that takes packets from a queue.
pub struct QueueReader {
    taken: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl QueueReader {
    /// Returns the number of packets taken so far. The kernel has carried out their verdicts.
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::SeqCst)
    }

    /// Returns when all packets have been taken.
    #[track_caller]
    pub fn finish(self) {
        self.thread.join().expect("the queue reader panicked");
    }
}
