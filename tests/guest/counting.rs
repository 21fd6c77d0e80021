// SPDX-License-Identifier: GPL-2.0

//! Which packets are counted: those that nftables matches.
//!
//! The tests count at local_out with N = 1, and compare nout with the count of nftables'
//! `meta l4proto tcp` at the same hook.

use kstat_tests::{
    assert_agrees,
    guest::{
        capture::Capture,
        exclusive::KernelLock,
        host::Host,
        iptables::TcpRules,
        module::Kstat,
        nft::{self, HookPoint},
        packet::{self, ipv4, ipv6, ipv6_raw, segment, PADDING},
        proc_net_snmp, tcp,
    },
    tool,
};
use nix::errno::Errno;
use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket},
};

/// How many times a test sends each packet.
const PACKETS: u64 = 25;

/// Sends `packet` [`PACKETS`] times, and asserts that both kstat and nftables count each time.
#[track_caller]
fn assert_all_counted(packet: &[u8]) {
    let lock = KernelLock::take();
    let _kstat = Kstat::started(&lock, "counter=1");
    let host = Host::new(&lock);
    let nft = host.nft(HookPoint::Output);

    for _ in 0..PACKETS {
        host.send(packet);
    }

    assert_eq!(nft.assert_agrees(host.nout()), PACKETS, "packets sent");
}

#[test]
fn tcp_over_ipv4_is_counted() {
    assert_all_counted(&packet::tcp4());
}

#[test]
fn tcp_over_ipv6_is_counted() {
    assert_all_counted(&packet::tcp6());
}

#[test]
fn udp_and_icmp_are_not_counted() {
    let lock = KernelLock::take();
    let _kstat = Kstat::started(&lock, "counter=1");
    let host = Host::new(&lock);
    let nft = host.nft(HookPoint::Output);
    host.send_tcp(3);

    for packet in [
        ipv4(packet::UDP, &packet::datagram(80)),
        ipv4(packet::ICMP, &packet::echo(8)),
        ipv6(&[], packet::UDP, &packet::datagram(80)),
        ipv6(&[], packet::ICMPV6, &packet::echo(128)),
        ipv6(
            &[(packet::HOP_BY_HOP, PADDING)],
            packet::UDP,
            &packet::datagram(80),
        ),
    ] {
        for _ in 0..PACKETS {
            host.send(&packet);
        }
        assert_eq!(host.nout(), 3, "3 TCP packets, and {packet:02x?}");
    }
    host.run(|| {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let socket = UdpSocket::bind(address).expect("a UDP socket");
            let to = socket.local_addr().expect("the socket's address");

            for _ in 0..PACKETS {
                socket.send_to(b"hello", to).expect("sending to itself");
            }
        }
        for address in ["127.0.0.1", "::1"] {
            tool::run("ping", &["-q", "-c", "3", "-i", "0.01", address]);
        }
    });
    assert_eq!(nft.assert_agrees(host.nout()), 3, "TCP packets sent");

    host.send_tcp(1);
    assert_eq!(nft.assert_agrees(host.nout()), 4, "TCP packets sent");
}

#[test]
fn tcp_over_ipv6_behind_hop_by_hop_options_is_counted() {
    assert_all_counted(&ipv6(
        &[(packet::HOP_BY_HOP, PADDING)],
        packet::TCP,
        &segment(80),
    ));
}

#[test]
fn tcp_over_ipv6_behind_destination_options_is_counted() {
    assert_all_counted(&ipv6(
        &[(packet::DESTINATION, PADDING)],
        packet::TCP,
        &segment(80),
    ));
}

#[test]
fn tcp_over_ipv6_behind_hop_by_hop_and_destination_options_is_counted() {
    assert_all_counted(&ipv6(
        &[
            (packet::HOP_BY_HOP, PADDING),
            (packet::DESTINATION, PADDING),
        ],
        packet::TCP,
        &segment(80),
    ));
}

#[test]
fn connections_over_loopback_are_counted_as_by_nftables() {
    let lock = KernelLock::take();
    let _kstat = Kstat::started(&lock, "counter=1");
    let host = Host::new(&lock);
    let nft = host.nft(HookPoint::Output);

    for address in [IpAddr::V4(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        let before = nft.packets().total();

        for bytes in [0, 1, 5_000, 200_000] {
            tcp::exchange(host.net(), host.net(), address, bytes);
        }
        let now = nft.assert_agrees(host.nout());
        // Each of the two ends sends SYN, ACK and FIN in at least two packets.
        assert!(
            now >= before + 4 * 4,
            "4 connections to {address} are {} packets",
            now - before
        );
    }
}

#[test]
fn connections_of_curl_and_ncat_are_counted_as_by_nftables() {
    const PORT: &str = "4242";

    let lock = KernelLock::take();
    let _kstat = Kstat::started(&lock, "counter=1");
    let host = Host::new(&lock);
    let nft = host.nft(HookPoint::Output);

    host.run(|| {
        let server = TcpListener::bind("[::1]:0").expect("listening at ::1");
        let address = server.local_addr().expect("the server's address");

        std::thread::scope(|scope| {
            let curl = scope.spawn(move || {
                tool::run("curl", &["-sS", "-m", "30", &format!("http://{address}/")])
            });
            let (mut connection, _) = server.accept().expect("accepting from curl");
            let mut request = [0; 4096];
            let length = connection.read(&mut request).expect("reading a request");

            assert!(request[..length].starts_with(b"GET / "), "a request");
            connection
                .write_all(b"HTTP/1.0 200 OK\r\n\r\nhello")
                .expect("writing an answer");
            drop(connection);
            assert_eq!(curl.join().expect("curl"), "hello", "the output of curl");
        });
    });
    tcp::settle(host.net());
    let curl_packets = nft.assert_agrees(host.nout());

    std::thread::scope(|scope| {
        let listener = scope
            // With --recv-only, ncat 7.991 ends before a connection is made.
            .spawn(|| host.run(|| tool::run("ncat", &["-l", "127.0.0.1", PORT])));
        tcp::await_listener(host.net(), 4242);
        host.run(|| tool::run_with("ncat", &["--send-only", "127.0.0.1", PORT], "hello"));
        assert_eq!(
            listener.join().expect("ncat"),
            "hello",
            "the output of ncat"
        );
    });
    tcp::settle(host.net());
    let packets = nft.assert_agrees(host.nout());

    assert!(
        curl_packets >= 6 && packets >= curl_packets + 6,
        "{curl_packets} packets after curl, {packets} after ncat"
    );
}

#[test]
fn packets_sent_on_all_cpus_are_each_counted_once() {
    let lock = KernelLock::take();
    let _kstat = Kstat::started(&lock, "counter=1");
    let host = Host::new(&lock);
    let nft = host.nft(HookPoint::Output);

    let traffic = host.traffic();
    traffic.wait_for(2_000);
    let sent = traffic.stop();

    assert_agrees(host.nout(), sent, "the count of the senders");
    nft.assert_agrees(host.nout());
}

#[test]
fn gso_super_packet_counts_as_one_as_for_nftables_and_iptables() {
    const BYTES: usize = 1 << 20;

    let lock = KernelLock::take();
    let _kstat = Kstat::started(&lock, "counter=1");
    let host = Host::new(&lock);
    let nft = host.nft(HookPoint::Output);
    let rules = TcpRules::new(host.net());
    // The MTU of an Ethernet link, which is far smaller than a super-packet.
    host.run(|| tool::run("ip", &["link", "set", "lo", "mtu", "1500"]));

    tcp::exchange(host.net(), host.net(), Ipv4Addr::LOCALHOST.into(), BYTES);

    let packets = nft.assert_agrees(host.nout());
    assert_agrees(
        packets,
        rules.packets(),
        "iptables' and ip6tables' -A OUTPUT -p tcp",
    );
    let segments = proc_net_snmp::tcp_segments(host.net());
    println!("/proc/net/snmp says {segments} segments");
    assert!(
        segments >= (BYTES / 1500) as u64 && packets < segments,
        "/proc/net/snmp says {segments} segments in {packets} packets: none was a super-packet"
    );
}

#[test]
fn fragment_or_odd_packet_is_counted_exactly_if_nftables_counts_it() {
    let lock = KernelLock::take();
    use packet::*;

    let tcp = segment(80);
    let tcp = tcp.as_slice();
    let (first, later, only) = (fragment(0, true), fragment(8, true), fragment(0, false));
    let cases = [
        ("IPv4", ipv4(TCP, tcp)),
        (
            "IPv4 with options",
            ipv4_with(TCP, 0, &[1, 1, 1, 1, 1, 1, 1, 0], tcp),
        ),
        (
            "IPv4, a first fragment",
            ipv4_with(TCP, 0x2000, &[], &[tcp, &[0; 4]].concat()),
        ),
        (
            "IPv4, a later fragment",
            ipv4_with(TCP, 0x2008, &[], &[0; 16]),
        ),
        (
            "IPv4, the last fragment",
            ipv4_with(TCP, 0x0010, &[], &[0; 3]),
        ),
        ("IPv4, a TCP header cut short", ipv4(TCP, &tcp[..7])),
        ("IPv4, no TCP header", ipv4(TCP, &[])),
        ("IPv4, UDP", ipv4(UDP, &datagram(80))),
        ("IPv4, a fragment of UDP", ipv4_with(UDP, 0x2008, &[], tcp)),
        ("IPv4, TCP in IPv4", ipv4(4, &tcp4())),
        ("IPv4, an unknown protocol", ipv4(253, tcp)),
        ("IPv6", ipv6(&[], TCP, tcp)),
        ("IPv6, a TCP header cut short", ipv6(&[], TCP, &tcp[..7])),
        ("IPv6, no TCP header", ipv6(&[], TCP, &[])),
        (
            "IPv6, a routing header",
            ipv6(&[(ROUTING, &[253, 0, 0, 0, 0, 0])], TCP, tcp),
        ),
        (
            "IPv6, four extension headers",
            ipv6(
                &[
                    (HOP_BY_HOP, PADDING),
                    (DESTINATION, PADDING),
                    (ROUTING, &[253, 0, 0, 0, 0, 0]),
                    (DESTINATION, &[1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
                ],
                TCP,
                tcp,
            ),
        ),
        (
            "IPv6, hop-by-hop options that are not the first header",
            ipv6(&[(DESTINATION, PADDING), (HOP_BY_HOP, PADDING)], TCP, tcp),
        ),
        (
            "IPv6, a first fragment",
            ipv6(&[(FRAGMENT, &first)], TCP, tcp),
        ),
        (
            "IPv6, a later fragment",
            ipv6(&[(FRAGMENT, &later)], TCP, &[0; 16]),
        ),
        (
            "IPv6, an atomic fragment",
            ipv6(&[(FRAGMENT, &only)], TCP, tcp),
        ),
        (
            "IPv6, a first fragment, then destination options",
            ipv6(&[(FRAGMENT, &first), (DESTINATION, PADDING)], TCP, tcp),
        ),
        (
            "IPv6, a later fragment, then destination options",
            ipv6(&[(FRAGMENT, &later), (DESTINATION, PADDING)], TCP, tcp),
        ),
        (
            "IPv6, a later fragment of UDP",
            ipv6(&[(FRAGMENT, &later)], UDP, tcp),
        ),
        (
            "IPv6, a fragment header cut short",
            ipv6_raw(FRAGMENT, &[TCP, 0, 0, 0]),
        ),
        (
            "IPv6, an authentication header",
            ipv6(&[(AUTHENTICATION, &[0; 14])], TCP, tcp),
        ),
        (
            "IPv6, hop-by-hop options, then an authentication header",
            ipv6(
                &[(HOP_BY_HOP, PADDING), (AUTHENTICATION, &[0; 14])],
                TCP,
                tcp,
            ),
        ),
        ("IPv6, ESP", ipv6_raw(ESP, tcp)),
        ("IPv6, no next header", ipv6_raw(NO_NEXT_HEADER, tcp)),
        (
            "IPv6, destination options, then no next header",
            ipv6(&[(DESTINATION, PADDING)], NO_NEXT_HEADER, tcp),
        ),
        (
            "IPv6, destination options, then UDP",
            ipv6(&[(DESTINATION, PADDING)], UDP, &datagram(80)),
        ),
        (
            "IPv6, destination options, then ICMPv6",
            ipv6(&[(DESTINATION, PADDING)], ICMPV6, &echo(128)),
        ),
        ("IPv6, an unknown protocol", ipv6_raw(253, tcp)),
        (
            "IPv6, destination options, then no TCP header",
            ipv6(&[(DESTINATION, PADDING)], TCP, &[]),
        ),
        (
            "IPv6, options longer than the packet",
            ipv6_raw(DESTINATION, &[TCP, 9, 1, 4, 0, 0, 0, 0]),
        ),
        ("IPv6, options cut short", ipv6_raw(DESTINATION, &[TCP])),
        (
            "IPv6, hop-by-hop options missing",
            ipv6_raw(HOP_BY_HOP, &[]),
        ),
        ("IPv6, TCP in IPv6", ipv6_raw(41, &tcp6())),
    ];
    let _kstat = Kstat::started(&lock, "counter=1");
    let host = Host::new(&lock);
    let nft = host.nft(HookPoint::Output);
    let (mut before, mut copies) = ((0, 0), 0);

    for (name, packet) in &cases {
        // Each packet is sent another number of times, so that two errors cannot cancel out.
        copies += 1;
        for _ in 0..copies {
            host.send(packet);
        }
        let now = (host.nout(), nft.packets().total());

        println!("{name}: {copies} packets");
        assert_agrees(
            now.0 - before.0,
            now.1 - before.1,
            &format!("nftables' `meta l4proto tcp counter` of {name}"),
        );
        before = now;
    }
    println!("{} kinds of packet, nout {}", cases.len(), before.0);
    assert!(before.0 > 0, "nothing was counted");
    let sent = copies * (copies + 1) / 2;
    assert!(before.0 < sent, "all of {sent} packets were counted");
}

#[test]
fn packets_that_the_firewall_drops_are_not_counted() {
    let lock = KernelLock::take();
    let _kstat = Kstat::started(&lock, "counter=1");
    let host = Host::new(&lock);
    nft::load(
        host.net(),
        "table inet firewall {
             chain output {
                 type filter hook output priority filter;
                 tcp dport 81 drop
             }
             chain late {
                 type filter hook output priority 2147483645;
                 tcp dport 82 drop
             }
         }",
    );
    let nft = host.nft(HookPoint::Output);

    for (port, result) in [
        (80, Ok(())),
        (81, Err(Errno::EPERM)),
        (82, Err(Errno::EPERM)),
    ] {
        for packet in [
            ipv4(packet::TCP, &segment(port)),
            ipv6(&[], packet::TCP, &segment(port)),
        ] {
            for _ in 0..PACKETS {
                assert_eq!(host.try_send(&packet), result, "sending to port {port}");
            }
        }
    }

    assert_eq!(
        nft.assert_agrees(host.nout()),
        2 * PACKETS,
        "packets that passed"
    );
}

#[test]
fn every_packet_passes_unchanged() {
    let lock = KernelLock::take();
    let packets = [
        packet::tcp4(),
        packet::tcp6(),
        ipv6(&[(packet::HOP_BY_HOP, PADDING)], packet::TCP, &segment(80)),
        ipv4(packet::UDP, &packet::datagram(80)),
        ipv6(&[], packet::ICMPV6, &packet::echo(128)),
        ipv6_raw(packet::HOP_BY_HOP, &[]),
    ];
    let kstat = Kstat::load(&lock, "counter=1");
    let host = Host::new(&lock);
    let mut capture = Capture::new(host.net());
    let mut send_and_capture = || {
        for packet in &packets {
            host.send(packet);
        }
        capture.packets()
    };

    let stopped = send_and_capture();
    kstat.start();
    let started = send_and_capture();

    assert_eq!(stopped.len(), packets.len(), "packets without a hook");
    assert_eq!(host.nout(), 3, "TCP packets counted by the hook");
    assert_eq!(
        started, stopped,
        "packets with the hook (left) and without (right)"
    );
}
