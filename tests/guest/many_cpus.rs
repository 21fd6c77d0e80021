// SPDX-License-Identifier: GPL-2.0

//! A sender and a reader on each of four CPUs.

use kstat_tests::{
    assert_agrees,
    guest::{
        cpu,
        exclusive::KernelLock,
        file::{self, NOUT},
        host::Host,
        module::Kstat,
        nft::HookPoint,
    },
};
use std::{
    fs::OpenOptions,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};

/// A million packets and some: the largest N below shows them once.
const EACH: u64 = 250_004;

#[track_caller]
fn assert_exact(n: u64) {
    let lock = KernelLock::take();
    let cpus = cpu::count();
    let packets = EACH * cpus as u64;
    let _kstat = Kstat::started(&lock, &format!("counter={n}"));
    let host = Host::new(&lock);
    let nft = host.nft(HookPoint::Output);
    let sending = AtomicBool::new(true);
    let reads: Vec<_> = (0..cpus).map(|_| AtomicU64::new(0)).collect();

    assert!(cpus >= 4, "this takes a guest with 4 CPUs");
    thread::scope(|scope| {
        for cpu in 0..cpus {
            let nout = host.open(NOUT, OpenOptions::new().read(true));
            let (sending, reads) = (&sending, &reads[cpu]);

            scope.spawn(move || {
                cpu::stay_on(cpu);
                let mut last = 0;

                while sending.load(Ordering::SeqCst) {
                    let now = file::reread(NOUT, &nout);

                    assert!(
                        now >= last,
                        "nout went back from {last} to {now} on CPU {cpu}"
                    );
                    assert!(
                        now % n == 0 && now <= packets,
                        "nout is {now} while {packets} packets are sent, N is {n}"
                    );
                    last = now;
                    reads.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        let senders: Vec<_> = (0..cpus)
            .map(|cpu| {
                let host = &host;

                scope.spawn(move || {
                    cpu::stay_on(cpu);
                    host.send_tcp_at_once(EACH);
                })
            })
            .collect();
        let failed = senders
            .into_iter()
            .map(|sender| sender.join())
            .filter(Result::is_err)
            .count();
        // Or the readers would never end.
        sending.store(false, Ordering::SeqCst);
        assert_eq!(failed, 0, "senders that failed");
    });

    println!("{packets} packets, {reads:?} reads, N is {n}");
    assert!(
        reads.iter().all(|reads| reads.load(Ordering::SeqCst) > 20),
        "a reader hardly read: {reads:?}"
    );
    assert_eq!(host.nout(), packets / n * n, "nout of {packets} packets");
    // What is not published yet was counted as well.
    host.set_counter(1);
    assert_agrees(host.nout(), packets, "the senders");
    nft.assert_agrees(host.nout());
}

#[test]
fn with_n_1_nothing_is_lost_or_counted_twice_and_no_reader_sees_it_go_back() {
    assert_exact(1);
}

#[test]
fn with_n_10_nothing_is_lost_or_counted_twice_and_no_reader_sees_it_go_back() {
    assert_exact(10);
}

#[test]
fn with_n_1_000_003_nothing_is_lost_or_counted_twice_and_no_reader_sees_it_go_back() {
    assert_exact(1_000_003);
}
