// SPDX-License-Identifier: GPL-2.0

//! Where packets are seen: the parameter `hook`.

use crate::loading::assert_refused;
use kstat_tests::{
    assert_agrees,
    guest::{
        exclusive::KernelLock,
        file,
        host::Host,
        module::Kstat,
        network::Network,
        nft::{self, HookPoint, TcpCounter},
        packet::{ipv4, ipv6, segment, TCP},
        tcp,
    },
};
use nix::errno::Errno;

#[test]
fn by_default_it_is_local_out_last_of_all_once_for_each_family() {
    let lock = KernelLock::take();
    let _kstat = Kstat::started(&lock, "");
    let host = Host::new(&lock);

    assert_eq!(
        file::read("/sys/module/kstat/parameters/hook"),
        "local_out\n"
    );
    assert_eq!(host.hooks(), nft::one_per_family(HookPoint::Output));
}

#[test]
fn local_out_can_be_said() {
    let lock = KernelLock::take();
    let _kstat = Kstat::started(&lock, "hook=local_out");

    assert_eq!(
        file::read("/sys/module/kstat/parameters/hook"),
        "local_out\n"
    );
    assert_eq!(
        Host::new(&lock).hooks(),
        nft::one_per_family(HookPoint::Output)
    );
}

#[test]
fn post_routing_is_last_of_all_once_for_each_family() {
    let lock = KernelLock::take();
    let _kstat = Kstat::started(&lock, "hook=post_routing");

    assert_eq!(
        file::read("/sys/module/kstat/parameters/hook"),
        "post_routing\n"
    );
    assert_eq!(
        Host::new(&lock).hooks(),
        nft::one_per_family(HookPoint::Postrouting)
    );
}

#[test]
fn anything_else_refuses_to_load_with_a_message_that_names_the_two() {
    let lock = KernelLock::take();

    for hook in [
        "hook=foo",
        "hook=",
        "hook=LOCAL_OUT",
        "hook=local_out,post_routing",
        "hook=local_outx",
        "hook=pre_routing",
        "hook=1",
        "hook",
    ] {
        let log = assert_refused(&lock, hook, Errno::EINVAL);
        assert!(
            log.iter()
                .any(|line| line.contains("local_out") && line.contains("post_routing")),
            "{hook}: the log names not both: {log:?}"
        );
    }
}

#[test]
fn it_cannot_be_changed_later() {
    let lock = KernelLock::take();
    let _kstat = Kstat::load(&lock, "");
    let path = "/sys/module/kstat/parameters/hook";

    assert_eq!(file::put(path, "post_routing\n"), Err(Errno::EACCES));
    assert_eq!(file::read(path), "local_out\n");
}

#[test]
fn local_out_counts_what_own_sockets_send_and_no_forwarded_packet() {
    let lock = KernelLock::take();
    let _kstat = Kstat::started(&lock, "counter=1");
    let network = Network::new(&lock);
    let near = TcpCounter::new(&network.near, HookPoint::Output);
    let far = TcpCounter::new(&network.far, HookPoint::Output);
    let forwarded = TcpCounter::new(&network.router, HookPoint::Postrouting);

    for address in Network::FAR {
        tcp::exchange(&network.near, &network.far, address, 50_000);
    }

    let nout = || file::number(file::NOUT);
    let near = near.assert_agrees(network.near.run(nout));
    let far = far.assert_agrees(network.far.run(nout));
    let forwarded = forwarded.packets();
    println!("the router forwarded {forwarded:?}");
    assert!(near > 0 && far > 0, "{near} and {far} packets were sent");
    assert!(
        forwarded.ipv4 > 0 && forwarded.ipv6 > 0,
        "the router forwarded {forwarded:?}"
    );
    assert_eq!(network.router.run(nout), 0, "the router sent nothing");
}

#[test]
fn post_routing_counts_what_leaves_the_host_forwarded_packets_included_each_once() {
    let lock = KernelLock::take();
    let _kstat = Kstat::started(&lock, "counter=1 hook=post_routing");
    let network = Network::new(&lock);
    let hosts = [&network.near, &network.router, &network.far];
    let [near, router, far] = hosts.map(|host| TcpCounter::new(host, HookPoint::Postrouting));
    let nout = || file::number(file::NOUT);

    for address in Network::FAR {
        tcp::exchange(&network.near, &network.far, address, 50_000);
    }

    let near_sent = near.assert_agrees(network.near.run(nout));
    let far_sent = far.assert_agrees(network.far.run(nout));
    let forwarded = router.assert_agrees(network.router.run(nout));
    assert!(
        near_sent > 0 && far_sent > 0,
        "{near_sent} and {far_sent} packets were sent"
    );
    assert_agrees(
        forwarded,
        near_sent + far_sent,
        "what nftables counted on the hosts at both ends",
    );

    // What the router sends itself is counted as well.
    for address in Network::FAR {
        tcp::exchange(&network.router, &network.far, address, 1_000);
    }
    let all = router.assert_agrees(network.router.run(nout));
    assert!(
        all > forwarded,
        "{all} packets, {forwarded} of them forwarded"
    );
}

#[test]
fn post_routing_counts_exactly_the_packets_that_are_sent() {
    let lock = KernelLock::take();
    let _kstat = Kstat::started(&lock, "counter=1 hook=post_routing");
    let host = Host::new(&lock);
    let nft = host.nft(HookPoint::Postrouting);
    nft::load(
        host.net(),
        "table inet firewall {
             chain output {
                 type filter hook output priority filter;
                 tcp dport 81 drop
             }
             chain postrouting {
                 type filter hook postrouting priority srcnat;
                 tcp dport 82 drop
             }
         }",
    );

    for port in [80, 81, 82] {
        for packet in [ipv4(TCP, &segment(port)), ipv6(&[], TCP, &segment(port))] {
            for _ in 0..25 {
                // Who sends may be told that a packet was dropped.
                let result = host.try_send(&packet);
                assert!(
                    result.is_ok() || port != 80,
                    "sending to port {port}: {result:?}"
                );
            }
        }
    }

    assert_eq!(nft.assert_agrees(host.nout()), 50, "packets that passed");
}
