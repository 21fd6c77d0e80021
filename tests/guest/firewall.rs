// SPDX-License-Identifier: GPL-2.0

//! Firewalls that drop, translate and queue: what leaves the host is counted, once.

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
fn what_a_router_translates_and_forwards_is_counted_once_and_what_it_drops_is_not() {
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
    // Who listens on the router gets what is sent to the far host's port 81.
    let listener = network
        .router
        .run(|| TcpListener::bind("[::]:8081").expect("listening on the router"));

    for (address, routers) in Network::FAR.into_iter().zip(Network::ROUTER) {
        for _ in 0..5 {
            let peer = tcp::exchange(&network.near, &network.far, address, 30_000);
            assert_eq!(peer, routers, "who {address} thinks it talks to");
        }
        let redirected = network
            .near
            .run(|| TcpStream::connect((address, 81)).expect("connecting to port 81"));
        let (accepted, _) = listener.accept().expect("a connection that was redirected");
        drop(accepted);
        drop(redirected);
    }
    for host in [&network.near, &network.router, &network.far] {
        tcp::settle(host);
    }

    let nout = nft.assert_agrees_when_quiet();
    let of = |name| nft::counter(&network.router, "firewall", name);
    assert_agrees(
        nout,
        of("passed"),
        "nftables behind the rule that drops (forward and output)",
    );
    println!("the router dropped {}", of("dropped"));
    assert!(of("dropped") > 0, "nothing was dropped");
}

#[test]
fn local_traffic_that_is_translated_is_counted_once() {
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
        assert_eq!(peer.to_string(), client, "who {address} thinks it talks to");
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
fn packets_that_go_through_an_nfqueue_are_counted_once_and_those_refused_there_are_not() {
    const PACKETS: u64 = 300;

    for (hook, chain) in [
        ("local_out", "output"),
        ("post_routing", "output"),
        ("post_routing", "postrouting"),
    ] {
        let lock = KernelLock::take();
        let _kstat = Kstat::started(&lock, &format!("counter=1 hook={hook}"));
        let host = Host::new(&lock);
        let nft = host.nft(match hook {
            "local_out" => HookPoint::Output,
            _ => HookPoint::Postrouting,
        });
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

        // Every third one is refused.
        let taker = Queue::new(host.net(), 7).take(PACKETS, |number| number % 3 != 0);
        for round in 1..=PACKETS / 3 {
            for packet in [packet::tcp4(), packet::tcp6(), packet::tcp4()] {
                host.send(&packet);
            }
            // The kernel drops what is too much for a queue.
            wait::until("what was sent went through the queue", || {
                taker.taken() == 3 * round
            });
        }
        taker.finish();
        let accepted = PACKETS / 3 * 2;

        assert_agrees(
            nft.assert_agrees(host.nout()),
            accepted,
            &format!("who took them from the queue at {chain}"),
        );
    }
}

#[test]
fn stopping_drops_what_waits_in_an_nfqueue_as_the_readme_warns() {
    let lock = KernelLock::take();
    let kstat = Kstat::started(&lock, "counter=1");
    let host = Host::new(&lock);
    nft::load(
        host.net(),
        "table inet firewall {
             chain queued {
                 type filter hook output priority filter;
                 meta l4proto tcp queue num 7
             }
         }",
    );
    let waiting = || {
        let queues = host.run(|| file::read("/proc/thread-self/net/netfilter/nfnetlink_queue"));

        // Number, port and length of each queue.
        queues
            .split_whitespace()
            .nth(2)
            .and_then(|length| length.parse::<u64>().ok())
            .unwrap_or_else(|| panic!("nfnetlink_queue says {queues:?}"))
    };

    let queue = Queue::new(host.net(), 7);
    host.send_tcp(5);
    assert_eq!(waiting(), 5, "packets that wait");
    kstat.stop();
    assert_eq!(waiting(), 0, "packets that wait after kstat stopped");
    drop(queue);
    assert_eq!(host.run(|| file::number(NOUT)), 0);
}

#[test]
fn who_was_at_the_last_priority_before_is_asked_after_kstat_as_the_readme_says() {
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
