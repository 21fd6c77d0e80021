// SPDX-License-Identifier: GPL-2.0

//! Firewalls that drop, translate or queue packets.
//!
//! A firewall's hooks run before kstat's hook, which is at the last priority. So kstat counts each
//! packet that passes the firewall once.

use kstat_tests::{
    assert_agrees,
    guest::{
        exclusive::KernelLock,
        file::{self, NOUT},
        host::Host,
        module::Kstat,
        network::Network,
        nft::{self, HookPoint, TcpCounter},
        packet,
        queue::Queue,
        tcp,
    },
    tool, wait,
};
use nix::errno::Errno;
use std::net::{TcpListener, TcpStream};

#[test]
fn translated_packet_of_a_local_socket_is_counted_once() {
    let lock = KernelLock::take();
    let _kstat = Kstat::started(&lock, "counter=1 hook=post_routing");
    let network = Network::new(&lock);
    let nft = TcpCounter::new(&network.near, HookPoint::Postrouting);
    nft::load(
        &network.near,
        "table inet firewall {
             counter sent { }
             chain nat_output {
                 type nat hook output priority dstnat;
                 ip daddr 192.0.2.9 dnat to 203.0.113.2
                 ip6 daddr 2001:db8:9::9 dnat to 2001:db8:2::2
             }
             chain postrouting {
                 type nat hook postrouting priority srcnat;
                 ip daddr 203.0.113.2 snat to 198.51.100.9
                 ip6 daddr 2001:db8:2::2 snat to 2001:db8:1::9
             }
             chain output {
                 type filter hook output priority filter;
                 meta l4proto tcp counter name sent
             }
         }",
    );

    network.near.run(|| {
        tool::run_with(
            "ip",
            &["-batch", "-"],
            "addr add 198.51.100.9/24 dev eth0\naddr add 2001:db8:1::9/64 dev eth0 nodad\n",
        )
    });

    for (known_as, address, client) in [
        ("192.0.2.9", Network::FAR[0], "198.51.100.9"),
        ("2001:db8:9::9", Network::FAR[1], "2001:db8:1::9"),
    ] {
        let known_as = known_as.parse().expect("an address");
        let peer = tcp::exchange_at(&network.near, &network.far, address, known_as, 30_000);
        assert_eq!(
            peer.to_string(),
            client,
            "client address that {address} sees"
        );
    }

    let nout = nft.assert_agrees_when_quiet();
    assert_agrees(
        nout,
        nft::counter(&network.near, "firewall", "sent"),
        "nftables at output",
    );
    assert!(nout > 10, "{nout} packets");
}

#[test]
fn router_counts_a_translated_packet_once_and_a_dropped_one_never() {
    let lock = KernelLock::take();
    let _kstat = Kstat::started(&lock, "counter=1 hook=post_routing");
    let network = Network::new(&lock);
    let nft = TcpCounter::new(&network.router, HookPoint::Postrouting);
    nft::load(
        &network.router,
        "table inet firewall {
             counter passed { }
             counter dropped { }
             chain forward {
                 type filter hook forward priority filter;
                 meta l4proto tcp numgen inc mod 20 == 0 counter name dropped drop
                 meta l4proto tcp counter name passed
             }
             chain output {
                 type filter hook output priority filter;
                 meta l4proto tcp counter name passed
             }
             chain prerouting {
                 type nat hook prerouting priority dstnat;
                 tcp dport 81 redirect to :8081
             }
             chain postrouting {
                 type nat hook postrouting priority srcnat;
                 ip saddr 198.51.100.0/24 masquerade
                 ip6 saddr 2001:db8:1::/64 snat to 2001:db8:2::1
             }
         }",
    );
    // The router redirects connections to port 81 of `far` to this listener.
    let listener = network
        .router
        .run(|| TcpListener::bind("[::]:8081").expect("listening on the router"));

    for (address, router_address) in Network::FAR.into_iter().zip(Network::ROUTER) {
        for _ in 0..5 {
            let peer = tcp::exchange(&network.near, &network.far, address, 30_000);
            assert_eq!(peer, router_address, "client address that {address} sees");
        }
        let redirected = network
            .near
            .run(|| TcpStream::connect((address, 81)).expect("connecting to port 81"));
        let (accepted, _) = listener.accept().expect("accepting on the router");
        drop(accepted);
        drop(redirected);
    }
    for host in [&network.near, &network.router, &network.far] {
        tcp::settle(host);
    }

    let nout = nft.assert_agrees_when_quiet();
    let count = |name| nft::counter(&network.router, "firewall", name);
    assert_agrees(
        nout,
        count("passed"),
        "nftables after the drop rule (forward and output)",
    );
    println!("the router dropped {} packets", count("dropped"));
    assert!(count("dropped") > 0, "no packet was dropped");
}

/// Sends the TCP packets that pass the hook of `chain` to a queue.
#[track_caller]
fn queue_tcp(host: &Host<'_>, chain: &str) -> Queue {
    nft::load(
        host.net(),
        &format!(
            "table inet firewall {{
                 chain queued {{
                     type filter hook {chain} priority filter;
                     meta l4proto tcp queue num 7
                 }}
             }}"
        ),
    );
    Queue::new(host.net(), 7)
}

#[test]
fn queued_packet_is_counted_once_if_accepted_and_not_if_dropped() {
    const PACKETS: u64 = 300;

    for (hook, point, chain) in [
        ("local_out", HookPoint::Output, "output"),
        ("post_routing", HookPoint::Postrouting, "output"),
        ("post_routing", HookPoint::Postrouting, "postrouting"),
    ] {
        let lock = KernelLock::take();
        let _kstat = Kstat::started(&lock, &format!("counter=1 hook={hook}"));
        let host = Host::new(&lock);
        let nft = host.nft(point);

        // Every third packet gets the verdict drop.
        let taker = queue_tcp(&host, chain).take(PACKETS, |number| number % 3 != 0);
        for round in 1..=PACKETS / 3 {
            for packet in [packet::tcp4(), packet::tcp6(), packet::tcp4()] {
                host.send(&packet);
            }
            // The kernel drops packets for which the queue has no room.
            wait::until("all packets sent so far had their verdicts", || {
                taker.taken() == 3 * round
            });
        }
        taker.finish();
        let accepted = PACKETS / 3 * 2;

        assert_agrees(
            nft.assert_agrees(host.nout()),
            accepted,
            &format!("the accept verdicts of the queue at {chain}"),
        );
    }
}

/// The kernel drops them whenever a netfilter hook is removed, as kstat(4) warns.
#[test]
fn stopping_kstat_drops_the_packets_that_wait_in_an_nfqueue() {
    let lock = KernelLock::take();
    let kstat = Kstat::started(&lock, "counter=1");
    let host = Host::new(&lock);
    let queue = queue_tcp(&host, "output");
    let waiting = || {
        let queues = host.run(|| file::read("/proc/thread-self/net/netfilter/nfnetlink_queue"));

        // A line for each queue: its number, port and length, and other numbers.
        queues
            .split_whitespace()
            .nth(2)
            .and_then(|length| length.parse::<u64>().ok())
            .unwrap_or_else(|| panic!("nfnetlink_queue says {queues:?}"))
    };

    host.send_tcp(5);
    assert_eq!(waiting(), 5, "packets that wait");
    kstat.stop();
    assert_eq!(waiting(), 0, "packets that wait after stop");
    drop(queue);
    assert_eq!(host.run(|| file::number(NOUT)), 0);
}

/// netfilter puts a new hook before older hooks of the same priority, so kstat counts packets that
/// the older hook then drops.
#[test]
fn earlier_hook_at_last_priority_runs_after_kstat() {
    let lock = KernelLock::take();
    let kstat = Kstat::load(&lock, "counter=1");
    let host = Host::new(&lock);
    nft::load(
        host.net(),
        "table inet firewall {
             counter dropped { }
             chain last {
                 type filter hook output priority 2147483647;
                 meta l4proto tcp counter name dropped drop
             }
         }",
    );

    kstat.start();
    for _ in 0..25 {
        assert_eq!(host.try_send(&packet::tcp4()), Err(Errno::EPERM));
    }
    assert_agrees(
        host.nout(),
        nft::counter(host.net(), "firewall", "dropped"),
        "the nftables chain that drops after kstat",
    );
    assert_eq!(host.nout(), 25);
}
