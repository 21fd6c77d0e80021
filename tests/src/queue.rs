// SPDX-License-Identifier: GPL-2.0

//! A program that packets wait for, and that lets them pass or not: NFQUEUE.

use crate::netns::Netns;
use nfq::Verdict;
use std::{
    io,
    sync::{
        atomic::{
            AtomicBool,
            AtomicU64,
            Ordering, //
        },
        Arc, //
    },
    thread::{
        self,
        JoinHandle, //
    },
    time::Duration,
};

/// Packets of one queue, taken from it until this is stopped or dropped.
pub struct Queue {
    shared: Arc<Shared>,
    taker: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    accepted: AtomicU64,
    refused: AtomicU64,
}

/// A queue from which nobody takes anything.
pub struct Held {
    _queue: nfq::Queue,
}

#[track_caller]
fn open(net: &Netns, number: u16) -> nfq::Queue {
    net.run(|| {
        let mut queue =
            nfq::Queue::open().unwrap_or_else(|error| panic!("opening nfnetlink: {error}"));
        queue
            .bind(number)
            .unwrap_or_else(|error| panic!("taking queue {number}: {error}"));
        queue
    })
}

impl Queue {
    /// Takes packets from now on, and lets those pass whose number, from 0, `accept` says so of.
    #[track_caller]
    pub fn new(net: &Netns, number: u16, accept: fn(u64) -> bool) -> Self {
        let mut queue = open(net, number);
        queue.set_nonblocking(true);
        let shared = Arc::new(Shared::default());
        let theirs = shared.clone();

        let taker = thread::spawn(move || {
            let mut count = 0;

            while !theirs.stop.load(Ordering::SeqCst) {
                let mut message = match queue.recv() {
                    Ok(message) => message,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        thread::sleep(Duration::from_millis(1));
                        continue;
                    }
                    Err(error) => panic!("taking a packet from a queue: {error}"),
                };
                let passes = accept(count);

                message.set_verdict(if passes {
                    Verdict::Accept
                } else {
                    Verdict::Drop
                });
                queue
                    .verdict(message)
                    .unwrap_or_else(|error| panic!("giving a verdict: {error}"));
                count += 1;
                if passes {
                    &theirs.accepted
                } else {
                    &theirs.refused
                }
                .fetch_add(1, Ordering::SeqCst);
            }
        });
        Self {
            shared,
            taker: Some(taker),
        }
    }

    /// A queue in which packets wait until it is dropped.
    #[track_caller]
    pub fn held(net: &Netns, number: u16) -> Held {
        Held {
            _queue: open(net, number),
        }
    }

    /// How many packets were taken so far; their verdicts have been carried out.
    pub fn taken(&self) -> u64 {
        self.shared.accepted.load(Ordering::SeqCst) + self.shared.refused.load(Ordering::SeqCst)
    }

    /// Takes no more, and returns how many were let pass, and how many not.
    #[track_caller]
    pub fn stop(mut self) -> (u64, u64) {
        self.shared.stop.store(true, Ordering::SeqCst);
        if let Some(taker) = self.taker.take() {
            taker.join().expect("who takes packets failed");
        }
        (
            self.shared.accepted.load(Ordering::SeqCst),
            self.shared.refused.load(Ordering::SeqCst),
        )
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        if let Some(taker) = self.taker.take() {
            // If it failed, it has said so, and a test that cares calls `stop`.
            let _ = taker.join();
        }
    }
}
