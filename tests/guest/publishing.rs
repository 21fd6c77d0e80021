// SPDX-License-Identifier: GPL-2.0

//! When nout moves, and to what: `nout = B + floor((T - B) / N) * N`, where T is the packets counted
//! so far, and B what nout showed when N was last set.

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
fn after_25_packets_nout_is_20_after_30_it_is_30_and_with_n_7_from_there_30_until_37() {
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
fn steps_are_counted_from_what_nout_showed_when_n_was_set() {
    let lock = KernelLock::take();
    let _kstat = Kstat::started(&lock, "");
    let host = Host::new(&lock);
    host.send_tcp(25);

    host.set_counter(7);

    // From 20, not from the 25 counted, and not from 0.
    assert_eq!(host.nout(), 20, "after 25 packets");
    host.send_tcp(1);
    assert_eq!(host.nout(), 20, "after 26 packets");
    host.send_tcp(1);
    assert_eq!(host.nout(), 27, "after 27 packets");
}

#[test]
fn a_smaller_n_publishes_at_once_what_is_a_whole_number_of_steps() {
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
fn setting_n_never_makes_nout_go_back_and_every_read_is_as_the_formula_says() {
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
        // What nout shows when N is set.
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
fn with_the_largest_n_nout_stands_still() {
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
fn the_count_survives_stop_and_start_with_what_is_not_published_yet() {
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
fn a_module_that_is_loaded_again_begins_at_0_and_with_n_10() {
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
