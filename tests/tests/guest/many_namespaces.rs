// SPDX-License-Identifier: GPL-2.0

//! Network namespaces that come and go while packets flow and kstat is started and stopped.

use kstat_tests::{
    assert_agrees,
    file,
    host::Host,
    meanwhile::while_repeating,
    memory,
    module::Kstat,
    nft::Point,
    turn::Turn,
    wait, //
};
use std::sync::atomic::{
    AtomicU64,
    Ordering, //
};

const NAMESPACES: u64 = 200;
const BURSTS: u64 = 5;
/// What the kernel may have at hand for the next ones, and counts as in use.
const AT_HAND: u64 = 8;

#[test]
fn two_hundred_that_come_and_go_are_counted_right_and_none_is_left_behind() {
    let turn = Turn::take();
    let _kstat = Kstat::started(&turn, "counter=1");
    let other = Host::new(&turn);
    let nft = other.nft(Point::Output);
    let traffic = other.traffic();
    let before = memory::objects_of("net_namespace");
    // Even while nobody switches; what was switched last is said by the number's second bit.
    let switches = AtomicU64::new(0);
    let (mut while_started, mut while_stopped) = (0, 0);

    let switch = || {
        let number = switches.fetch_add(1, Ordering::SeqCst);
        let text = if number & 2 == 0 { "0\n" } else { "1\n" };
        file::put(file::START, text).unwrap_or_else(|error| panic!("switching: {error}"));
        switches.fetch_add(1, Ordering::SeqCst);
        // So that some bursts fall in between.
        std::thread::sleep(std::time::Duration::from_millis(20));
    };
    while_repeating(&[&switch], || {
        for _ in 0..NAMESPACES {
            let host = Host::new(&turn);

            for packets in 1..=BURSTS {
                let first = switches.load(Ordering::SeqCst);
                let nout = host.nout();
                host.send_tcp(packets);
                let counted = host.nout() - nout;

                if first % 2 != 0 || switches.load(Ordering::SeqCst) != first {
                    assert!(counted <= packets, "{counted} of {packets} packets");
                    continue;
                }
                if first & 2 == 0 {
                    assert_eq!(counted, packets, "packets while started");
                    while_started += 1;
                } else {
                    assert_eq!(counted, 0, "packets while stopped");
                    while_stopped += 1;
                }
            }
        }
    });
    println!(
        "{NAMESPACES} namespaces, {switches:?} / 2 switches, {while_started} bursts while started, \
         {while_stopped} while stopped"
    );
    assert!(
        while_started > 20 && while_stopped > 20,
        "{while_started} bursts while started, {while_stopped} while stopped"
    );
    wait::until("all namespaces were gone", || {
        memory::objects_of("net_namespace") <= before + AT_HAND
    });

    // The one that stayed was counted whenever kstat was started.
    let sent = traffic.stop();
    let counted = other.nout();
    println!("nout of the one that stayed is {counted} of {sent}");
    assert!(counted > 0 && counted < sent, "{counted} of {sent} packets");
    let before = (counted, nft.packets().total());
    file::put(file::START, "1").expect("starting");
    other.send_tcp(100);
    assert_agrees(
        other.nout() - before.0,
        nft.packets().total() - before.1,
        "nftables' `meta l4proto tcp counter`, afterwards",
    );
}
