// SPDX-License-Identifier: GPL-2.0

//! Network namespaces that come and go while packets flow and kstat is started and stopped.

use kstat_tests::{
    guest::{
        background::while_repeating, exclusive::KernelLock, file, host::Host, memory,
        module::Kstat, netns::Netns, nft::HookPoint,
    },
    wait,
};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const NAMESPACES: usize = 200;
/// What the kernel may have at hand for the next ones, and counts as in use.
const AT_HAND: u64 = 8;

#[test]
fn two_hundred_that_come_and_go_are_counted_right_and_none_is_left_behind() {
    let lock = KernelLock::take();
    let kstat = Kstat::started(&lock, "counter=1");
    let other = Host::new(&lock);
    let traffic = other.traffic();
    let before = memory::objects_of("net_namespace");
    // Even while nobody switches; what was switched last is said by the number's second bit.
    let switches = AtomicU64::new(0);
    let (steps, finished) = (AtomicU64::new(0), AtomicBool::new(false));
    let (mut while_started, mut while_stopped) = (0, 0);

    let switch = || {
        let number = switches.fetch_add(1, Ordering::SeqCst);
        let text = if number & 2 == 0 { "0\n" } else { "1\n" };
        file::set(file::START, text);
        switches.fetch_add(1, Ordering::SeqCst);

        // The burst that is on its way was disturbed; the next one will not be.
        let goal = steps.load(Ordering::SeqCst) + 2;
        wait::until("two more namespaces were made or sent a burst", || {
            steps.load(Ordering::SeqCst) >= goal || finished.load(Ordering::SeqCst)
        });
    };
    // Sends so many packets; whether they were counted as they should be, if nobody switched.
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
        // Half of them go while it is switched, the others are looked at later.
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

    // Now that nobody switches, each is counted as nftables does it.
    kstat.start();
    for (i, host) in hosts.iter().enumerate() {
        let nft = host.nft(HookPoint::Output);
        let nout = host.nout();

        host.send_tcp(1 + i as u64 % 5);
        nft.assert_agrees(host.nout() - nout);
    }
    drop(hosts);
    wait::until("all namespaces were gone", || {
        // The kernel frees those of one clean-up when it comes to the next (`net_complete_free()`).
        drop(Netns::new());
        memory::objects_of("net_namespace") <= before + AT_HAND
    });
}
