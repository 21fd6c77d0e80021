// SPDX-License-Identifier: GPL-2.0

//! The parameter hook: where packets are counted.

use crate::loading::assert_load_fails;
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

const PARAMETER: &str = "/sys/module/kstat/parameters/hook";

/// Starts kstat with `parameters`. Asserts that the parameter `hook` then reads `value`, and that
/// kstat has one hook for each family at the last priority of `point`.
#[track_caller]
fn assert_hooked_at(parameters: &str, value: &str, point: HookPoint) {
    let lock = KernelLock::take();
    let _kstat = Kstat::started(&lock, parameters);
    let host = Host::new(&lock);

    assert_eq!(file::read(PARAMETER), format!("{value}\n"));
    assert_eq!(host.hooks(), nft::one_per_family(point));
}

#[test]
fn default_hook_is_local_out_at_last_priority_for_both_families() {
    assert_hooked_at("", "local_out", HookPoint::Output);
}

#[test]
fn local_out_is_accepted() {
    assert_hooked_at("hook=local_out", "local_out", HookPoint::Output);
}

#[test]
fn post_routing_is_accepted_and_hooked_at_last_priority_too() {
    assert_hooked_at("hook=post_routing", "post_routing", HookPoint::Postrouting);
}

#[test]
fn any_other_value_is_refused_with_a_message_that_names_both_hooks() {
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
        let log = assert_load_fails(&lock, hook, Errno::EINVAL);
        assert!(
            log.iter()
                .any(|line| line.contains("local_out") && line.contains("post_routing")),
            "{hook}: the log does not name both hooks: {log:?}"
        );
    }
}

#[test]
fn parameter_is_read_only_after_loading() {
    let lock = KernelLock::take();
    let _kstat = Kstat::load(&lock, "");

    assert_eq!(file::put(PARAMETER, "post_routing\n"), Err(Errno::EACCES));
    assert_eq!(file::read(PARAMETER), "local_out\n");
}

#[test]
fn local_out_counts_packets_of_local_sockets_and_no_forwarded_ones() {
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
    assert_eq!(network.router.run(nout), 0, "nout of the router");
}

#[test]
fn post_routing_counts_local_and_forwarded_packets_once_each() {
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
        "the nftables counts of both ends",
    );

    // Packets of the router's own sockets are counted too.
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
fn post_routing_counts_each_packet_that_passes_the_firewall_once() {
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
                // The sender may get an error for a packet that the firewall drops.
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
