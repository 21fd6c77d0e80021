// SPDX-License-Identifier: GPL-2.0

//! Each network namespace has a count and an N of its own.

use kstat_tests::{
    guest::{
        exclusive::KernelLock,
        file::{self, COUNTER, NOUT},
        host::Host,
        module::Kstat,
        netns::Netns,
        nft::HookPoint,
    },
    tool, wait,
};
use std::fs::OpenOptions;

#[test]
fn two_with_their_own_traffic_and_n_disturb_each_other_in_nothing() {
    let lock = KernelLock::take();
    let _kstat = Kstat::started(&lock, "");
    let initial = Host::initial(&lock);
    let (a, b) = (Host::new(&lock), Host::new(&lock));
    let (nft_a, nft_b) = (a.nft(HookPoint::Output), b.nft(HookPoint::Output));

    a.set_counter(7);
    b.set_counter(100);
    for _ in 0..10 {
        a.send_tcp(5);
        b.send_tcp(25);
    }

    assert_eq!((a.counter(), b.counter(), initial.counter()), (7, 100, 10));
    assert_eq!(a.nout(), 49, "50 packets, N is 7");
    assert_eq!(b.nout(), 200, "250 packets, N is 100");
    assert_eq!(initial.nout(), 0, "no packets");

    a.set_counter(1);
    assert_eq!((a.counter(), b.counter(), initial.counter()), (1, 100, 10));
    assert_eq!((a.nout(), b.nout()), (50, 200));
    nft_a.assert_agrees(a.nout());
    b.set_counter(50);
    b.set_counter(1);
    nft_b.assert_agrees(b.nout());
}

#[test]
fn they_disturb_each_other_in_nothing_while_both_send_on_all_cpus() {
    let lock = KernelLock::take();
    let _kstat = Kstat::started(&lock, "counter=1");
    let (a, b) = (Host::new(&lock), Host::new(&lock));
    let (nft_a, nft_b) = (a.nft(HookPoint::Output), b.nft(HookPoint::Output));

    let (traffic_a, traffic_b) = (a.traffic(), b.traffic());
    traffic_a.wait_for(500);
    traffic_b.wait_for(500);
    let (sent_a, sent_b) = (traffic_a.stop(), traffic_b.stop());

    kstat_tests::assert_agrees(a.nout(), sent_a, "the senders' own count");
    kstat_tests::assert_agrees(b.nout(), sent_b, "the senders' own count");
    nft_a.assert_agrees(a.nout());
    nft_b.assert_agrees(b.nout());
}

#[test]
fn one_made_while_kstat_counts_is_counted_from_its_first_packet() {
    let lock = KernelLock::take();
    let _kstat = Kstat::started(&lock, "counter=1");

    for packets in [1, 10] {
        let host = Host::new(&lock);
        host.send_tcp(packets);
        assert_eq!(host.nout(), packets);
    }
}

#[test]
fn one_made_while_kstat_is_stopped_is_counted_after_start() {
    let lock = KernelLock::take();
    let kstat = Kstat::load(&lock, "counter=1");
    let host = Host::new(&lock);

    host.send_tcp(5);
    kstat.start();
    host.send_tcp(5);
    assert_eq!(host.nout(), 5);
}

#[test]
fn one_made_before_kstat_was_loaded_is_counted() {
    let lock = KernelLock::take();
    let host = Host::new(&lock);
    let _kstat = Kstat::started(&lock, "counter=1");

    host.send_tcp(5);
    assert_eq!(host.nout(), 5);
}

#[test]
fn the_first_n_of_each_is_that_of_the_load() {
    let lock = KernelLock::take();
    let before = Host::new(&lock);
    let kstat = Kstat::load(&lock, "counter=100");
    let after = Host::new(&lock);
    assert_eq!((before.counter(), after.counter()), (100, 100));

    // However N is set in others.
    Host::initial(&lock).set_counter(7);
    before.set_counter(8);
    kstat.start();
    assert_eq!(Host::new(&lock).counter(), 100);
    assert_eq!((before.counter(), after.counter()), (8, 100));
    assert_eq!(
        file::read("/sys/module/kstat/parameters/counter"),
        "100\n",
        "what the parameter shows"
    );
}

#[test]
fn one_that_goes_away_takes_its_count_and_its_n_with_it() {
    const NAME: &str = "kstat-test";

    let lock = KernelLock::take();
    let _kstat = Kstat::started(&lock, "counter=1");
    let make = || {
        tool::run("ip", &["netns", "add", NAME]);
        Host::with_netns(&lock, Netns::open(&format!("/run/netns/{NAME}")))
    };

    let first = make();
    first.set_counter(5);
    first.send_tcp(25);
    assert_eq!((first.nout(), first.counter()), (25, 5));
    drop(first);
    tool::run("ip", &["netns", "del", NAME]);

    let second = make();
    assert_eq!((second.nout(), second.counter()), (0, 1));
    second.send_tcp(3);
    assert_eq!(second.nout(), 3);
    drop(second);
    tool::run("ip", &["netns", "del", NAME]);
}

#[test]
fn a_descriptor_shows_that_in_which_it_was_opened_whoever_reads_it() {
    let lock = KernelLock::take();
    let _kstat = Kstat::started(&lock, "counter=1");
    let (a, b) = (Host::new(&lock), Host::new(&lock));
    a.send_tcp(5);
    b.send_tcp(7);

    let nout = a.open(NOUT, OpenOptions::new().read(true));
    let counter = a.open(COUNTER, OpenOptions::new().read(true).write(true));
    b.run(|| {
        assert_eq!(file::reread(NOUT, &nout), 5);
        assert_eq!(file::number(NOUT), 7, "what the reader's own shows");
        a.send_tcp(1);
        assert_eq!(file::reread(NOUT, &nout), 6);

        // So it is with N, and with setting it.
        assert_eq!(file::write(&counter, b"3\n"), Ok(()));
        assert_eq!(file::reread(COUNTER, &counter), 3);
        assert_eq!(file::number(COUNTER), 1, "what the writer's own shows");
    });
    assert_eq!((a.counter(), b.counter()), (3, 1));
}

#[test]
fn an_open_descriptor_keeps_the_count_of_one_that_has_no_other_user() {
    const PEER: &str = "kstat-test1";

    let lock = KernelLock::take();
    let _kstat = Kstat::started(&lock, "counter=1");
    let host = Host::new(&lock);
    let nout = host.open(NOUT, OpenOptions::new().read(true));
    host.send_tcp(5);

    drop(host);

    // Namespaces are taken apart one after the other, and with them go the peers of their devices.
    let other = Netns::new();
    tool::run_with(
        "ip",
        &["-batch", "-"],
        &format!(
            "link add {PEER} type veth peer name eth0 netns {}\n",
            other.path()
        ),
    );
    drop(other);
    wait::until("a namespace that was left later is gone", || {
        !file::exists(&format!("/sys/class/net/{PEER}"))
    });
    assert_eq!(file::reread(NOUT, &nout), 5);
}
