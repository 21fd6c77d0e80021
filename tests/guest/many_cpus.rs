// SPDX-License-Identifier: GPL-2.0

//! Exact counts with a sender and a reader on each of 4 CPUs.

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
    scale::times,
};
use std::{
    fs::OpenOptions,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};

/// The number of packets that each CPU sends, which KSTAT_STRESS multiplies. With a factor of 1,
/// four CPUs send 1,000,016, so that nout reaches the largest N below, 1,000,003.
const PACKETS_PER_CPU: u64 = 250_004;

/// Sends packets on all CPUs with N = `n`, while a reader on each CPU reads nout. Asserts that each
/// packet is counted once, and that no reader sees nout decrease.
#[track_caller]
fn assert_exact_count(n: u64) {
    let lock = KernelLock::take();
    let cpus = cpu::count();
    let each = times(PACKETS_PER_CPU);
    let packets = each * cpus as u64;
    let _kstat = Kstat::started(&lock, &format!("counter={n}"));
    let host = Host::new(&lock);
    let nft = host.nft(HookPoint::Output);
    let sending = AtomicBool::new(true);
    let reads: Vec<_> = (0..cpus).map(|_| AtomicU64::new(0)).collect();

    assert!(cpus >= 4, "this test needs a guest with 4 CPUs");
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
                        "nout decreased from {last} to {now} on CPU {cpu}"
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
                    host.send_tcp_at_once(each);
                })
            })
            .collect();
        let failed = senders
            .into_iter()
            .map(|sender| sender.join())
            .filter(Result::is_err)
            .count();
        // This ends the readers, also if a sender has failed.
        sending.store(false, Ordering::SeqCst);
        assert_eq!(failed, 0, "senders that failed");
    });

    println!("{packets} packets, {reads:?} reads, N is {n}");
    assert!(
        reads.iter().all(|reads| reads.load(Ordering::SeqCst) > 20),
        "a reader read too rarely: {reads:?}"
    );
    assert_eq!(host.nout(), packets / n * n, "nout of {packets} packets");
    // Packets that are not published yet were counted too.
    host.set_counter(1);
    assert_agrees(host.nout(), packets, "the senders");
    nft.assert_agrees(host.nout());
}

#[test]
fn every_packet_is_counted_once_and_nout_never_decreases_with_n_1() {
    assert_exact_count(1);
}

#[test]
fn every_packet_is_counted_once_and_nout_never_decreases_with_n_10() {
    assert_exact_count(10);
}

#[test]
fn every_packet_is_counted_once_and_nout_never_decreases_with_n_1_000_003() {
    assert_exact_count(1_000_003);
}
