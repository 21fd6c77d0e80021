// SPDX-License-Identifier: GPL-2.0

//! Each operation of kstat, repeated under traffic.

use kstat_tests::{
    guest::{
        background::while_repeating,
        exclusive::KernelLock,
        file::{self, COUNTER, NOUT},
        host::Host,
        link,
        module::Kstat,
        netns::{self, Netns},
        setting,
        wire::{Counts, OWN},
    },
    scale::{did, times},
    stress::{responders::Responders, slow_function::SlowFunction},
    wait,
};
use std::{
    fs::OpenOptions,
    net::{Ipv4Addr, TcpStream},
    time::Duration,
};

#[test]
fn each_load_counts_from_zero_and_each_unload_succeeds() {
    let lock = KernelLock::take();
    let _expedited = setting::expedite_grace_periods();
    let busy = Host::new(&lock);
    let quiet = Host::new(&lock);
    let traffic = busy.bursts();
    let rounds = times(750);

    for round in 0..rounds {
        // In every other round, kstat has no hooks when it is unloaded.
        let start = 1 - round % 2;
        let kstat = Kstat::load(&lock, &format!("start={start} counter=1"));
        quiet.send_tcp(1);
        assert_eq!(quiet.nout(), start, "nout in round {round}");
        kstat.unload();
    }
    traffic.stop();
    did(rounds, "loads and unloads");
}

#[test]
fn packets_are_counted_only_between_start_and_stop() {
    let lock = KernelLock::take();
    let _expedited = setting::expedite_grace_periods();
    let kstat = Kstat::load(&lock, "counter=1");
    let busy = Host::new(&lock);
    let quiet = Host::new(&lock);
    let nout = quiet.open(NOUT, OpenOptions::new().read(true));
    let traffic = busy.bursts();
    let rounds = times(9000);

    for round in 0..rounds {
        kstat.start();
        quiet.send_tcp(1);
        assert_eq!(file::reread(NOUT, &nout), round + 1, "nout after start");
        kstat.stop();
        quiet.send_tcp(1);
        assert_eq!(file::reread(NOUT, &nout), round + 1, "nout after stop");
    }
    traffic.stop();
    did(rounds, "starts and stops");
}

#[test]
fn nout_never_decreases_while_n_is_set() {
    let lock = KernelLock::take();
    let _kstat = Kstat::started(&lock, "");
    let host = Host::new(&lock);
    let traffic = host.bursts();
    let rounds = times(1000);
    let nout_reader = || {
        let nout = host.open(NOUT, OpenOptions::new().read(true));
        let mut last = 0;
        move || {
            let now = file::reread(NOUT, &nout);
            assert!(now >= last, "nout decreased from {last} to {now}");
            last = now;
        }
    };
    let read_100_times = || {
        let mut read = nout_reader();
        (0..100).for_each(|_| read());
    };

    while_repeating(&[&read_100_times], || {
        let mut read = nout_reader();
        for n in 1..=rounds {
            host.set_counter(n);
            assert_eq!(host.counter(), n);
            read();
        }
    });
    let sent = traffic.stop();
    host.set_counter(1);
    assert_eq!(host.nout(), sent, "nout with N = 1, and packets sent");
    did(rounds, "settings of N, and readings of counter and nout");
}

#[test]
fn new_namespaces_are_counted_from_zero_and_freed() {
    let lock = KernelLock::take();
    let _expedited = setting::expedite_grace_periods();
    let _kstat = Kstat::started(&lock, "counter=1");
    let before = netns::settled_count();
    let busy = Host::new(&lock);
    let traffic = busy.bursts();
    let rounds = times(900).max(netns::MIN_FOR_LEAK_CHECK);

    for _ in 0..rounds {
        Netns::new().run(|| {
            link::set_up("lo");
            // No socket listens on port 9, so there are two packets: a SYN and a RST.
            TcpStream::connect((Ipv4Addr::LOCALHOST, 9)).expect_err("no socket listens");
            assert_eq!(file::number(NOUT), 2, "nout of a new namespace");
            assert_eq!(Counts::parse(&file::read(OWN)).packets, 2, "OutPackets");
        });
    }
    traffic.stop();
    drop(busy);
    netns::await_count(before);
    did(rounds, "namespaces made and destroyed");
}

#[test]
fn namespace_teardown_waits_for_hooks_that_are_running() {
    let lock = KernelLock::take();
    let _kstat = Kstat::started(&lock, "counter=1");
    // With this delay, a hook is nearly always running in a namespace that is being destroyed.
    let _slow_hook = SlowFunction::kstat_ipv6_hook(Duration::from_millis(50));
    let before = netns::settled_count();
    let rounds = times(10);

    for _ in 0..rounds {
        // One namespace in each round. Of several that are destroyed together, those that no longer
        // answer would have to wait for the first, and no hook would be running in them.
        let responders = Responders::new(&lock, 1);
        let connect = || responders.connect_all();

        while_repeating(&[&connect, &connect], || {
            responders.run_in_each(|| {
                wait::until("the answers were counted", || file::number(NOUT) > 3);
                file::set(COUNTER, "7");
            });
            responders.destroy_all();
        });
    }
    netns::await_count(before);
    did(rounds, "namespaces made, and destroyed while they answered");
}
