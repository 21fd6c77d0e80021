// SPDX-License-Identifier: GPL-2.0

//! Each thing that can be done to kstat, again and again, while packets flow on all CPUs.

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
    },
    scale::{did, times},
    stress::{linger::Linger, neighbours::Neighbours},
    wait,
};
use std::{
    fs::OpenOptions,
    net::{Ipv4Addr, TcpStream},
    time::Duration,
};

#[test]
fn loading_and_unloading() {
    let lock = KernelLock::take();
    let _quick = setting::expedite_grace_periods();
    let busy = Host::new(&lock);
    let quiet = Host::new(&lock);
    let traffic = busy.bursts();
    let rounds = times(750);

    for round in 0..rounds {
        // Every other time there is nothing hooked when it is unloaded.
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
fn starting_and_stopping() {
    let lock = KernelLock::take();
    let _quick = setting::expedite_grace_periods();
    let kstat = Kstat::load(&lock, "counter=1");
    let busy = Host::new(&lock);
    let quiet = Host::new(&lock);
    let nout = quiet.open(NOUT, OpenOptions::new().read(true));
    let traffic = busy.bursts();
    let rounds = times(9000);

    for round in 0..rounds {
        kstat.start();
        quiet.send_tcp(1);
        assert_eq!(file::reread(NOUT, &nout), round + 1, "started");
        kstat.stop();
        quiet.send_tcp(1);
        assert_eq!(file::reread(NOUT, &nout), round + 1, "stopped");
    }
    traffic.stop();
    did(rounds, "starts and stops");
}

#[test]
fn setting_n_and_reading() {
    let lock = KernelLock::take();
    let _kstat = Kstat::started(&lock, "");
    let host = Host::new(&lock);
    let traffic = host.bursts();
    let rounds = times(1000);
    let reader = || {
        let nout = host.open(NOUT, OpenOptions::new().read(true));
        let mut last = 0;
        move || {
            let now = file::reread(NOUT, &nout);
            assert!(now >= last, "nout went back from {last} to {now}");
            last = now;
        }
    };
    let read_often = || {
        let mut read = reader();
        (0..100).for_each(|_| read());
    };

    while_repeating(&[&read_often], || {
        let mut read = reader();
        for n in 1..=rounds {
            host.set_counter(n);
            assert_eq!(host.counter(), n);
            read();
        }
    });
    let sent = traffic.stop();
    host.set_counter(1);
    assert_eq!(host.nout(), sent, "(right: what was sent)");
    did(rounds, "settings of N, and readings of counter and nout");
}

#[test]
fn namespaces_that_come_and_go() {
    let lock = KernelLock::take();
    let _quick = setting::expedite_grace_periods();
    let _kstat = Kstat::started(&lock, "counter=1");
    let before = netns::settled_count();
    let busy = Host::new(&lock);
    let traffic = busy.bursts();
    let rounds = times(900).max(netns::ENOUGH);

    for _ in 0..rounds {
        Netns::new().run(|| {
            link::set_up("lo");
            // Nobody listens there: a SYN and a RST.
            TcpStream::connect((Ipv4Addr::LOCALHOST, 9)).expect_err("nobody listens");
            assert_eq!(file::number(NOUT), 2, "nout of a new namespace");
        });
    }
    traffic.stop();
    drop(busy);
    netns::await_count(before);
    did(rounds, "namespaces made and destroyed");
}

#[test]
fn namespaces_that_go_while_packets_make_them_answer() {
    let lock = KernelLock::take();
    let _kstat = Kstat::started(&lock, "counter=1");
    // As good as always, somebody is in a hook of a namespace that goes.
    let _linger = Linger::in_hooks(Duration::from_millis(50));
    let before = netns::settled_count();
    let rounds = times(10);

    for _ in 0..rounds {
        // Of several, those that answer no more when they are dying would have to wait for the first.
        let neighbours = Neighbours::new(&lock, 1);
        let knock = || neighbours.knock();

        while_repeating(&[&knock, &knock], || {
            neighbours.visit(|| {
                wait::until("its answers were counted", || file::number(NOUT) > 3);
                file::set(COUNTER, "7");
            });
            neighbours.leave();
        });
    }
    netns::await_count(before);
    did(rounds, "namespaces made, and destroyed while they answered");
}
