// SPDX-License-Identifier: GPL-2.0

//! A program that packets wait for, and that lets them pass or not: NFQUEUE.

use crate::guest::netns::Netns;
use nfq::Verdict;
use std::{
    sync::{
        atomic::{AtomicU64, Ordering},
        Arc,
    },
    thread::{self, JoinHandle},
};

/// A queue in which packets wait.
pub struct Queue(nfq::Queue);

impl Queue {
    /// From now on, until this is dropped.
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

    /// Takes so many packets from now on, and lets those pass whose number, from 0, `accept` says
    /// so of.
    pub fn take(mut self, packets: u64, accept: fn(u64) -> bool) -> Taker {
        let taken = Arc::new(AtomicU64::new(0));
        let theirs = taken.clone();

        Taker {
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
                    theirs.fetch_add(1, Ordering::SeqCst);
                }
            }),
        }
    }
}

/// Who takes packets from a queue.
pub struct Taker {
    taken: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Taker {
    /// How many packets were taken so far; their verdicts have been carried out.
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::SeqCst)
    }

    /// Returns when all have been taken.
    #[track_caller]
    pub fn finish(self) {
        self.thread.join().expect("who takes packets failed");
    }
}
