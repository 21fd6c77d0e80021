// SPDX-License-Identifier: GPL-2.0

//! Packets that flow while a test does something else.

use crate::{
    guest::{cpu, host::Wire, packet},
    wait,
};
use std::{
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering},
        Arc,
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// TCP packets from every CPU, until this is stopped or dropped.
pub struct Traffic {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    senders: Vec<JoinHandle<()>>,
}

impl Traffic {
    /// After each burst of so many packets, a sender sleeps for so long.
    pub(crate) fn new(wire: Arc<Wire>, burst: u64, pause: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(AtomicU64::new(0));
        let senders = (0..cpu::count())
            .map(|cpu| {
                let (wire, stop, sent) = (wire.clone(), stop.clone(), sent.clone());

                thread::spawn(move || {
                    cpu::stay_on(cpu);
                    let both = [packet::tcp4(), packet::tcp6()];

                    for (i, packet) in (1..).zip(both.iter().cycle()) {
                        if stop.load(Ordering::SeqCst) {
                            break;
                        }
                        wire.send(packet)
                            .unwrap_or_else(|error| panic!("sending on CPU {cpu}: {error}"));
                        sent.fetch_add(1, Ordering::SeqCst);
                        if i % burst == 0 {
                            thread::sleep(pause);
                        }
                    }
                })
            })
            .collect();

        Self {
            stop,
            sent,
            senders,
        }
    }

    /// The packets sent so far; there may be one more on its way from each CPU.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }

    /// Returns when so many more packets have been sent.
    #[track_caller]
    pub fn wait_for(&self, packets: u64) {
        let goal = self.sent() + packets;

        wait::until("more packets were sent", || self.sent() >= goal);
    }

    /// Sends no more, and returns how many packets were sent in all.
    #[track_caller]
    pub fn stop(mut self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        for sender in self.senders.drain(..) {
            sender.join().expect("a sender failed");
        }
        self.sent()
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for sender in self.senders.drain(..) {
            // If a sender failed, it has said so, and a test that cares calls `stop`.
            let _ = sender.join();
        }
    }
}
