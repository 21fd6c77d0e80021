// SPDX-License-Identifier: GPL-2.0

//! Exact counts under interruption and CPU hotplug.

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

/// Makes a host whose kernel sends TCP packets in softirqs, which interrupt a sending task.
///
/// Its loopback device delays packets by 1 ms. A timer delivers them, and TCP answers from there.
fn host_with_delayed_loopback(lock: &KernelLock) -> Host<'_> {
    let host = Host::new(lock);

    host.run(|| {
        tool::run(
            "tc",
            &["qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms"],
        )
    });
    host
}

/// Sends 200,000 bytes over a TCP connection on the loopback device of `host`.
fn exchange_over_loopback(host: &Host<'_>) {
    let localhost = IpAddr::V4(Ipv4Addr::LOCALHOST);

    tcp::exchange(host.net(), host.net(), localhost, 200_000);
}

#[test]
fn nout_equals_nftables_when_packets_interrupt_each_other() {
    let lock = KernelLock::take();
    let _kstat = Kstat::started(&lock, "counter=1");
    let host = host_with_delayed_loopback(&lock);
    let nft = host.nft(HookPoint::Output);
    let rounds = times(15);
    let _kcsan = setting::increase_kcsan_sampling();
    let read_nout = || {
        let nout = host.open(NOUT, OpenOptions::new().read(true));
        for _ in 0..100 {
            file::reread(NOUT, &nout);
        }
    };

    let traffic = host.traffic();
    while_repeating(&[&read_nout, &read_nout], || {
        (0..rounds).for_each(|_| exchange_over_loopback(&host));
    });
    let sent = traffic.stop();
    let packets = nft.assert_agrees_when_quiet();
    assert!(packets > sent, "no packet of TCP itself was counted");
    did(packets, "packets counted as nftables counts them");
    did(packets - sent, "packets of TCP itself among these");
}

#[test]
fn nout_equals_nftables_when_cpus_go_offline_and_online() {
    let lock = KernelLock::take();
    let _kstat = Kstat::started(&lock, "counter=1");
    let host = host_with_delayed_loopback(&lock);
    let nft = host.nft(HookPoint::Output);
    let rounds = times(10);
    let cpus = cpu::count();

    let exchange = || exchange_over_loopback(&host);
    let compare = || assert!(host.nout() <= nft.packets().total());
    while_repeating(&[&exchange, &compare], || {
        for _ in 0..rounds {
            for cpu in 1..cpus {
                // The CPU goes offline while it sends; the kernel moves its sender to another CPU.
                let traffic = host.bursts();
                cpu::on(cpu, || host.send_tcp(100));
                let before = host.nout();
                let offline = Offline::new(cpu);
                assert!(host.nout() >= before, "nout lost packets of CPU {cpu}");
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
