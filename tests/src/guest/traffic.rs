// SPDX-License-Identifier: GPL-2.0

//! Sends packets in the background of a test.

use crate::{
    guest::{cpu, host::RawSockets, packet},
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

/// A sender of TCP packets on every CPU, until this is stopped or dropped.
pub struct Traffic {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    senders: Vec<JoinHandle<()>>,
}

impl Traffic {
    /// Starts the senders. Each sleeps for `pause` after every `burst` packets.
    pub(crate) fn new(sockets: Arc<RawSockets>, burst: u64, pause: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(AtomicU64::new(0));
        let senders = (0..cpu::count())
            .map(|cpu| {
                let (sockets, stop, sent) = (sockets.clone(), stop.clone(), sent.clone());

                thread::spawn(move || {
                    cpu::stay_on(cpu);
                    let both = [packet::tcp4(), packet::tcp6()];

                    for (i, packet) in (1..).zip(both.iter().cycle()) {
                        if stop.load(Ordering::SeqCst) {
                            break;
                        }
                        sockets
                            .send(packet)
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

    /// Returns the number of packets sent so far. Each CPU may have sent one more that is not
    /// counted yet.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }

    /// Returns when `packets` more packets have been sent.
    #[track_caller]
    pub fn wait_for(&self, packets: u64) {
        let goal = self.sent() + packets;

        wait::until("more packets were sent", || self.sent() >= goal);
    }

    /// Stops the senders, and returns the number of packets that they sent.
    #[track_caller]
    pub fn stop(mut self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        for sender in self.senders.drain(..) {
            sender.join().expect("a sender panicked");
        }
        self.sent()
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for sender in self.senders.drain(..) {
            // A panic of a sender was printed when it happened. A test that has to fail then calls
            // `stop`.
            let _ = sender.join();
        }
    }
}
