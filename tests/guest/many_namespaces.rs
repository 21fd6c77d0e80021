// SPDX-License-Identifier: GPL-2.0

//! Many network namespaces while kstat is started and stopped.

use kstat_tests::{
    guest::{
        background::while_repeating, exclusive::KernelLock, file, host::Host, module::Kstat, netns,
        nft::HookPoint,
    },
    wait,
};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const NAMESPACES: usize = 200;

#[test]
fn each_of_200_namespaces_is_counted_exactly_and_freed_afterwards() {
    let lock = KernelLock::take();
    let kstat = Kstat::started(&lock, "counter=1");
    let other = Host::new(&lock);
    let traffic = other.traffic();
    let before = netns::settled_count();
    // Counts before and after each write to start, so that it is odd while a write is running. Bit
    // 1 tells the last write: it is clear after a write of 1, and set after a write of 0.
    let switches = AtomicU64::new(0);
    let (steps, finished) = (AtomicU64::new(0), AtomicBool::new(false));
    let (mut while_started, mut while_stopped) = (0, 0);

    let switch = || {
        let number = switches.fetch_add(1, Ordering::SeqCst);
        let text = if number & 2 == 0 { "0\n" } else { "1\n" };
        file::set(file::START, text);
        switches.fetch_add(1, Ordering::SeqCst);

        // This write disturbs a burst that is in progress. The next burst can end undisturbed.
        let goal = steps.load(Ordering::SeqCst) + 2;
        wait::until("two more namespaces were made or bursts sent", || {
            steps.load(Ordering::SeqCst) >= goal || finished.load(Ordering::SeqCst)
        });
    };
    // Sends `packets` packets, and asserts that the right number was counted. Returns false if a
    // write to start disturbed the burst, so that the right number is not known.
    let mut burst = |host: &Host<'_>, packets| {
        let first = switches.load(Ordering::SeqCst);
        let nout = host.nout();
        host.send_tcp(packets);
        let counted = host.nout() - nout;
        let last = switches.load(Ordering::SeqCst);

        steps.fetch_add(1, Ordering::SeqCst);
        if first % 2 != 0 || last != first {
            assert!(counted <= packets, "{counted} of {packets} packets");
            return false;
        }
        if first & 2 == 0 {
            assert_eq!(counted, packets, "packets while started");
            while_started += 1;
        } else {
            assert_eq!(counted, 0, "packets while stopped");
            while_stopped += 1;
        }
        true
    };

    let hosts = while_repeating(&[&switch], || {
        let hosts: Vec<_> = (0..NAMESPACES)
            .map(|_| {
                steps.fetch_add(1, Ordering::SeqCst);
                Host::new(&lock)
            })
            .collect();

        for (host, packets) in hosts.iter().zip((1..=5).cycle()) {
            wait::until("a burst was not disturbed", || burst(host, packets));
        }
        // Half of the namespaces are deleted while start is being written. The others are used
        // later.
        let hosts: Vec<_> = hosts.into_iter().step_by(2).collect();
        for host in &hosts {
            burst(host, 3);
        }
        finished.store(true, Ordering::SeqCst);
        hosts
    });
    println!(
        "{NAMESPACES} namespaces, {} switches, {while_started} bursts while started, \
         {while_stopped} while stopped",
        switches.into_inner() / 2
    );
    assert!(
        while_started > 20 && while_stopped > 20,
        "{while_started} bursts while started, {while_stopped} while stopped"
    );
    traffic.stop();

    // Now start is not written any more, and kstat and nftables agree. Each call of nft takes a tenth of a second, so
    // this asks in every fourth namespace.
    kstat.start();
    for (i, host) in hosts.iter().step_by(4).enumerate() {
        let nft = host.nft(HookPoint::Output);
        let nout = host.nout();

        host.send_tcp(1 + i as u64 % 5);
        nft.assert_agrees(host.nout() - nout);
    }
    drop(hosts);
    netns::await_count(before);
}
