// SPDX-License-Identifier: GPL-2.0

//! Counting to the packet, where packets interrupt each other and CPUs come and go.

use kstat_tests::{
    guest::{
        background::while_repeating,
        cpu::{self, Offline},
        exclusive::KernelLock,
        file::{self, NOUT},
        host::Host,
        module::Kstat,
        nft::HookPoint,
        setting, tcp,
    },
    scale::{did, times},
    tool,
};
use std::{
    fs::OpenOptions,
    net::{IpAddr, Ipv4Addr},
};

/// A host whose kernel sends TCP packets by itself, in softirqs that interrupt whoever is sending:
/// its loopback is late, so what answers is set off by a timer.
fn host_that_interrupts_itself(lock: &KernelLock) -> Host<'_> {
    let host = Host::new(lock);

    host.run(|| {
        tool::run(
            "tc",
            &["qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms"],
        )
    });
    host
}

fn talk_to_itself(host: &Host<'_>) {
    let localhost = IpAddr::V4(Ipv4Addr::LOCALHOST);

    tcp::exchange(host.net(), host.net(), localhost, 200_000);
}

#[test]
fn packets_that_interrupt_each_other() {
    let lock = KernelLock::take();
    let _kstat = Kstat::started(&lock, "counter=1");
    let host = host_that_interrupts_itself(&lock);
    let nft = host.nft(HookPoint::Output);
    let rounds = times(15);
    let _closely = setting::watch_closely();
    let read_often = || {
        let nout = host.open(NOUT, OpenOptions::new().read(true));
        for _ in 0..100 {
            file::reread(NOUT, &nout);
        }
    };

    let traffic = host.traffic();
    while_repeating(&[&read_often, &read_often], || {
        (0..rounds).for_each(|_| talk_to_itself(&host));
    });
    let sent = traffic.stop();
    let packets = nft.assert_agrees_when_quiet();
    assert!(packets > sent, "nothing interrupted the senders");
    did(packets, "packets counted as nftables counts them");
    did(packets - sent, "of these from TCP itself");
}

#[test]
fn cpus_that_go_offline_and_online() {
    let lock = KernelLock::take();
    let _kstat = Kstat::started(&lock, "counter=1");
    let host = host_that_interrupts_itself(&lock);
    let nft = host.nft(HookPoint::Output);
    let rounds = times(10);
    let cpus = cpu::count();

    let talk = || talk_to_itself(&host);
    let read = || assert!(host.nout() <= nft.packets().total());
    while_repeating(&[&talk, &read], || {
        for _ in 0..rounds {
            for cpu in 1..cpus {
                // It goes while it sends, and who sends moves to another.
                let traffic = host.bursts();
                cpu::on(cpu, || host.send_tcp(100));
                let before = host.nout();
                let offline = Offline::new(cpu);
                assert!(host.nout() >= before, "what CPU {cpu} counted is gone");
                drop(offline);
                cpu::on(cpu, || host.send_tcp(100));
                traffic.stop();
            }
        }
    });
    did(
        nft.assert_agrees_when_quiet(),
        "packets counted as nftables counts them",
    );
    did(rounds * (cpus as u64 - 1), "CPUs offline and online again");
}
