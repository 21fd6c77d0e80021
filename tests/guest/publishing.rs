// SPDX-License-Identifier: GPL-2.0

//! When nout moves, and to which value.
//!
//! The formula is `nout = B + floor((T - B) / N) * N`: T is the number of packets counted so far,
//! and B is the value that nout showed when N was last set, or 0 if N was not set yet.

use kstat_tests::guest::{exclusive::KernelLock, host::Host, module::Kstat};

#[test]
fn nout_moves_on_every_nth_packet_and_shows_the_count_at_that_packet() {
    let lock = KernelLock::take();
    let _kstat = Kstat::started(&lock, "");
    let host = Host::new(&lock);

    for sent in 0..=35 {
        assert_eq!(host.nout(), sent / 10 * 10, "after {sent} packets");
        host.send_tcp(1);
    }
}

#[test]
fn nout_is_30_after_30_packets_and_moves_next_at_37_if_n_becomes_7() {
    let lock = KernelLock::take();
    let _kstat = Kstat::started(&lock, "");
    let host = Host::new(&lock);
    assert_eq!(host.counter(), 10);

    host.send_tcp(25);
    assert_eq!(host.nout(), 20, "after 25 packets");
    host.send_tcp(5);
    assert_eq!(host.nout(), 30, "after 30 packets");

    host.set_counter(7);
    for sent in 30..37 {
        assert_eq!(host.nout(), 30, "after {sent} packets");
        host.send_tcp(1);
    }
    assert_eq!(host.nout(), 37, "after 37 packets");
    host.send_tcp(6);
    assert_eq!(host.nout(), 37, "after 43 packets");
    host.send_tcp(1);
    assert_eq!(host.nout(), 44, "after 44 packets");
}

#[test]
fn steps_of_a_new_n_begin_at_the_published_count() {
    let lock = KernelLock::take();
    let _kstat = Kstat::started(&lock, "");
    let host = Host::new(&lock);
    host.send_tcp(25);

    host.set_counter(7);

    // Steps begin at 20, which is published: not at the 25 packets counted, and not at 0.
    assert_eq!(host.nout(), 20, "after 25 packets");
    host.send_tcp(1);
    assert_eq!(host.nout(), 20, "after 26 packets");
    host.send_tcp(1);
    assert_eq!(host.nout(), 27, "after 27 packets");
}

#[test]
fn smaller_n_publishes_pending_whole_steps_at_once() {
    let lock = KernelLock::take();
    let _kstat = Kstat::started(&lock, "counter=100");
    let host = Host::new(&lock);
    host.send_tcp(99);
    assert_eq!(host.nout(), 0);

    host.set_counter(10);
    assert_eq!(host.nout(), 90);
    host.set_counter(1);
    assert_eq!(host.nout(), 99);
}

#[test]
fn setting_n_never_lowers_nout_and_every_read_matches_the_formula() {
    let lock = KernelLock::take();
    let _kstat = Kstat::started(&lock, "");
    let host = Host::new(&lock);
    let (mut total, mut base, mut n) = (0, 0, 10);
    let mut shown = 0;

    // Packets to send, then N to set.
    for (packets, next) in [
        (25, 7),
        (0, 7),
        (6, 1000),
        (30, 3),
        (1, 3),
        (0, 1),
        (5, 2),
        (2, u64::MAX),
        (100, 50),
        (49, 49),
        (0, 10),
        (10, 1),
        (3, 4),
        (3, 10),
    ] {
        for _ in 0..packets {
            host.send_tcp(1);
            total += 1;
            let nout = host.nout();
            assert_eq!(
                nout,
                base + (total - base) / n * n,
                "T is {total}, N {n}, B {base}"
            );
            assert!(nout >= shown, "{nout} after {shown}");
            shown = nout;
        }
        // B is the value that nout shows when N is set.
        base = shown;
        host.set_counter(next);
        n = next;
        let nout = host.nout();
        assert_eq!(
            nout,
            base + (total - base) / n * n,
            "T is {total}, N was set to {n}, B is {base}"
        );
        assert!(nout >= shown, "{nout} after {shown} by setting N to {n}");
        shown = nout;
    }
}

#[test]
fn nout_does_not_move_with_the_largest_n() {
    let lock = KernelLock::take();
    let _kstat = Kstat::started(&lock, "");
    let host = Host::new(&lock);
    host.send_tcp(25);

    host.set_counter(u64::MAX);
    host.send_tcp(500);
    assert_eq!(host.nout(), 20);

    host.set_counter(1);
    assert_eq!(host.nout(), 525);
}

#[test]
fn published_and_unpublished_packets_survive_stop_and_start() {
    let lock = KernelLock::take();
    let kstat = Kstat::started(&lock, "");
    let host = Host::new(&lock);

    host.send_tcp(25);
    kstat.stop();
    assert_eq!(host.nout(), 20, "stopped after 25 packets");
    host.send_tcp(100);
    kstat.start();
    assert_eq!(host.nout(), 20, "started again after 25 packets");
    host.send_tcp(4);
    assert_eq!(host.nout(), 20, "after 29 packets");
    host.send_tcp(1);
    assert_eq!(host.nout(), 30, "after 30 packets");
}

#[test]
fn module_that_is_loaded_again_begins_at_0_with_n_10() {
    let lock = KernelLock::take();
    let kstat = Kstat::started(&lock, "counter=1");
    let host = Host::new(&lock);
    host.send_tcp(5);
    assert_eq!(host.nout(), 5);
    kstat.unload();

    let _kstat = Kstat::started(&lock, "");
    assert_eq!((host.nout(), host.counter()), (0, 10));
    host.send_tcp(10);
    assert_eq!(host.nout(), 10);
}
