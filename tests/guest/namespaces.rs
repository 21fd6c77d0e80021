// SPDX-License-Identifier: GPL-2.0

//! Each network namespace has its own count and its own N.

use kstat_tests::{
    assert_agrees,
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
fn traffic_and_n_of_one_namespace_do_not_affect_another() {
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
fn namespaces_that_send_on_all_cpus_do_not_affect_each_other() {
    let lock = KernelLock::take();
    let _kstat = Kstat::started(&lock, "counter=1");
    let (a, b) = (Host::new(&lock), Host::new(&lock));
    let (nft_a, nft_b) = (a.nft(HookPoint::Output), b.nft(HookPoint::Output));

    let (traffic_a, traffic_b) = (a.traffic(), b.traffic());
    traffic_a.wait_for(500);
    traffic_b.wait_for(500);
    let (sent_a, sent_b) = (traffic_a.stop(), traffic_b.stop());

    assert_agrees(a.nout(), sent_a, "the count of the senders");
    assert_agrees(b.nout(), sent_b, "the count of the senders");
    nft_a.assert_agrees(a.nout());
    nft_b.assert_agrees(b.nout());
}

#[test]
fn first_n_of_each_namespace_is_the_parameter_counter() {
    let lock = KernelLock::take();
    let before = Host::new(&lock);
    let kstat = Kstat::load(&lock, "counter=100");
    let after = Host::new(&lock);
    assert_eq!((before.counter(), after.counter()), (100, 100));

    // Setting N in other namespaces does not change the first N of a new one.
    Host::initial(&lock).set_counter(7);
    before.set_counter(8);
    kstat.start();
    assert_eq!(Host::new(&lock).counter(), 100);
    assert_eq!((before.counter(), after.counter()), (8, 100));
    assert_eq!(
        file::read("/sys/module/kstat/parameters/counter"),
        "100\n",
        "the parameter counter"
    );
}

#[test]
fn namespace_made_before_kstat_is_loaded_is_counted() {
    let lock = KernelLock::take();
    let host = Host::new(&lock);
    let _kstat = Kstat::started(&lock, "counter=1");

    host.send_tcp(5);
    assert_eq!(host.nout(), 5);
}

#[test]
fn namespace_made_while_kstat_is_stopped_is_counted_after_start() {
    let lock = KernelLock::take();
    let kstat = Kstat::load(&lock, "counter=1");
    let host = Host::new(&lock);

    host.send_tcp(5);
    kstat.start();
    host.send_tcp(5);
    assert_eq!(host.nout(), 5);
}

#[test]
fn namespace_made_while_kstat_counts_is_counted_from_its_first_packet() {
    let lock = KernelLock::take();
    let _kstat = Kstat::started(&lock, "counter=1");

    for packets in [1, 10] {
        let host = Host::new(&lock);
        host.send_tcp(packets);
        assert_eq!(host.nout(), packets);
    }
}

#[test]
fn descriptor_shows_the_namespace_in_which_it_was_opened() {
    let lock = KernelLock::take();
    let _kstat = Kstat::started(&lock, "counter=1");
    let (a, b) = (Host::new(&lock), Host::new(&lock));
    a.send_tcp(5);
    b.send_tcp(7);

    let nout = a.open(NOUT, OpenOptions::new().read(true));
    let counter = a.open(COUNTER, OpenOptions::new().read(true).write(true));
    b.run(|| {
        assert_eq!(file::reread(NOUT, &nout), 5);
        assert_eq!(file::number(NOUT), 7, "nout of the reader's namespace");
        a.send_tcp(1);
        assert_eq!(file::reread(NOUT, &nout), 6);

        // N is read and set in that namespace too.
        assert_eq!(file::write(&counter, b"3\n"), Ok(()));
        assert_eq!(file::reread(COUNTER, &counter), 3);
        assert_eq!(file::number(COUNTER), 1, "N of the writer's namespace");
    });
    assert_eq!((a.counter(), b.counter()), (3, 1));
}

#[test]
fn count_and_n_of_a_namespace_are_gone_after_its_deletion() {
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
fn open_descriptor_keeps_the_count_of_a_namespace_without_other_users() {
    const PEER: &str = "kstat-test1";

    let lock = KernelLock::take();
    let _kstat = Kstat::started(&lock, "counter=1");
    let host = Host::new(&lock);
    let nout = host.open(NOUT, OpenOptions::new().read(true));
    host.send_tcp(5);

    drop(host);

    // The kernel destroys namespaces in the order in which they become unused, or several at once.
    // `other` becomes unused later than the host's namespace would without the descriptor. The peer
    // of its device is removed when it is destroyed.
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
    wait::until("the other namespace was destroyed", || {
        !file::exists(&format!("/sys/class/net/{PEER}"))
    });
    assert_eq!(file::reread(NOUT, &nout), 5);
}
