// SPDX-License-Identifier: GPL-2.0

//! Random packets: kstat and nftables agree on each.
//!
//! No network stack would send most of these packets. A failed run can be repeated with the
//! KSTAT_SEED that it printed.

use kstat_tests::{
    assert_agrees,
    guest::{
        cpu,
        exclusive::KernelLock,
        file::{self, NOUT},
        host::Host,
        link::Link,
        module::Kstat,
        network::Network,
        nft::{self, HookPoint, SeenPackets},
        packet::*,
    },
    seed,
};
use rand::{rngs::StdRng, seq::IndexedRandom, Rng};
use std::{collections::BTreeSet, fs::OpenOptions};

const MOBILITY: u8 = 135;
const HIP: u8 = 139;
const SHIM6: u8 = 140;

/// Returns TCP in half of all calls, and otherwise usually one of `KNOWN`.
fn random_protocol(random: &mut StdRng) -> u8 {
    const KNOWN: &[u8] = &[
        HOP_BY_HOP,
        ICMP,
        4,
        UDP,
        41,
        ROUTING,
        FRAGMENT,
        47,
        ESP,
        AUTHENTICATION,
        ICMPV6,
        NO_NEXT_HEADER,
        DESTINATION,
        132,
        MOBILITY,
        HIP,
        SHIM6,
        253,
        255,
    ];

    match random.random_range(0..10) {
        0..5 => TCP,
        5..9 => *KNOWN.choose(random).expect("KNOWN is not empty"),
        _ => random.random(),
    }
}

/// Returns the bytes after the IP headers: a TCP header that is complete, truncated, followed by
/// data, or overwritten with random bytes.
fn random_payload(random: &mut StdRng) -> Vec<u8> {
    let mut payload = segment(random.random());

    match random.random_range(0..4) {
        0 => payload.truncate(random.random_range(0..20)),
        1 => payload.extend((0..random.random_range(0..100)).map(|_| 0x6b)),
        2 => random.fill(payload.as_mut_slice()),
        _ => {}
    }
    payload
}

fn random_ipv4(random: &mut StdRng) -> Vec<u8> {
    let mut options = vec![1; 4 * random.random_range(0..=10)];
    let fragment = match random.random_range(0..5) {
        0 => 0x4000,                              // don't fragment
        1 => 0x2000,                              // first fragment
        2 => random.random_range(0..0x2000),      // last fragment
        3 => 0x2000 | random.random_range(0..64), // middle fragment
        _ => 0,
    };

    if random.random_bool(0.3) {
        random.fill(options.as_mut_slice());
    }
    let mut packet = ipv4_with(
        random_protocol(random),
        fragment,
        &options,
        &random_payload(random),
    );
    packet[1] = random.random(); // type of service
    packet[8] = random.random_range(2..=255); // time to live
    packet
}

fn random_ipv6(random: &mut StdRng) -> Vec<u8> {
    const KINDS: &[u8] = &[
        HOP_BY_HOP,
        DESTINATION,
        ROUTING,
        FRAGMENT,
        AUTHENTICATION,
        MOBILITY,
        HIP,
        SHIM6,
    ];
    let bodies: Vec<(u8, Vec<u8>)> = (0..random.random_range(0..=6))
        .map(|_| {
            let kind = *KINDS.choose(random).expect("KINDS is not empty");
            let body = match kind {
                FRAGMENT => {
                    let offset = if random.random_bool(0.5) {
                        0
                    } else {
                        random.random_range(0..0x2000)
                    };
                    fragment(offset, random.random()).to_vec()
                }
                _ => {
                    let mut body = vec![0; 8 * random.random_range(1..=4) - 2];
                    if random.random_bool(0.5) {
                        random.fill(body.as_mut_slice());
                    } else {
                        (body[0], body[1]) = (1, body.len() as u8 - 2); // PadN
                    }
                    body
                }
            };
            (kind, body)
        })
        .collect();
    let chain: Vec<_> = bodies
        .iter()
        .map(|(kind, body)| (*kind, body.as_slice()))
        .collect();
    let mut packet = ipv6(&chain, random_protocol(random), &random_payload(random));

    match random.random_range(0..10) {
        // Truncated anywhere after the IPv6 header, with the old payload length or the new one.
        0 | 1 => {
            packet.truncate(random.random_range(40..=packet.len()));
            if random.random() {
                let length = (packet.len() - 40) as u16;
                packet[4..6].copy_from_slice(&length.to_be_bytes());
            }
        }
        // A wrong payload length.
        2 => {
            let length: u16 = random.random_range(0..200);
            packet[4..6].copy_from_slice(&length.to_be_bytes());
        }
        // A random byte after the IPv6 header, which may be a type or a length.
        3 | 4 if packet.len() > 40 => {
            let at = random.random_range(40..packet.len());
            packet[at] = random.random();
        }
        // A random next header.
        5 => packet[6] = random.random(),
        _ => {}
    }
    packet[7] = random.random_range(2..=255); // hop limit
    packet
}

/// Returns an IPv4 or IPv6 packet from a [`Host`].
fn random_packet(random: &mut StdRng) -> Vec<u8> {
    if random.random_bool(0.4) {
        random_ipv4(random)
    } else {
        random_ipv6(random)
    }
}

/// Sends `packets` packets from a host where kstat counts at `hook` and nftables at `point`, which
/// is the same hook. Asserts for each packet that kstat counted it exactly if nftables matched it.
#[track_caller]
fn assert_agree_on_each_packet(hook: &str, point: HookPoint, packets: u32) {
    const BATCH: u32 = 2_000;

    let lock = KernelLock::take();
    let mut random = seed::random();
    let _kstat = Kstat::started(&lock, &format!("counter=1 hook={hook}"));
    let host = Host::new(&lock);
    let nout = host.open(NOUT, OpenOptions::new().read(true));
    let seen = SeenPackets::new(host.net(), point, &[("meta mark", "")]);
    let (mut all, mut tcp) = (0, 0);

    assert_eq!(packets % BATCH, 0);
    for _ in 0..packets / BATCH {
        let mut sent = Vec::new();
        let mut counted = BTreeSet::new();

        for mark in 1..=BATCH {
            let packet = random_packet(&mut random);
            let before = file::reread(NOUT, &nout);

            host.try_send_marked(&packet, mark)
                .unwrap_or_else(|error| panic!("sending {packet:02x?}: {error}"));
            match file::reread(NOUT, &nout) - before {
                0 => {}
                1 => drop(counted.insert(u64::from(mark))),
                more => panic!("kstat counted one packet {more} times: {packet:02x?}"),
            }
            sent.push(packet);
        }

        let mut any = seen.any();
        any.remove(&0); // Packets that the kernel sends by itself have mark 0.
        assert_eq!(
            any,
            (1..=u64::from(BATCH)).collect(),
            "marks of the packets that nftables saw (left) and that were sent (right)"
        );
        let matched = seen.tcp();
        if let Some(mark) = counted.symmetric_difference(&matched).next() {
            let disagreement = if counted.contains(mark) {
                "kstat counted a packet that nftables' `meta l4proto tcp` did not match"
            } else {
                "kstat did not count a packet that nftables' `meta l4proto tcp` matched"
            };
            panic!("{disagreement}: {:02x?}", sent[*mark as usize - 1]);
        }
        seen.forget();
        all += BATCH;
        tcp += matched.len();
    }

    println!("of {all} packets nftables' `meta l4proto tcp` matched {tcp}");
    assert_agrees(
        host.nout(),
        tcp as u64,
        "nftables' `meta l4proto tcp add @tcp0 { meta mark }`",
    );
    assert!(
        tcp as u32 > packets / 4 && (tcp as u32) < packets * 3 / 4,
        "{tcp} of {all} packets were TCP"
    );
}

#[test]
fn kstat_agrees_with_nftables_on_20_000_random_packets_at_local_out() {
    assert_agree_on_each_packet("local_out", HookPoint::Output, 20_000);
}

#[test]
fn kstat_agrees_with_nftables_on_6_000_random_packets_at_post_routing() {
    assert_agree_on_each_packet("post_routing", HookPoint::Postrouting, 6_000);
}

/// Connection tracking reassembles fragments before kstat's hook, and drops those that do not fit
/// together.
#[test]
fn kstat_agrees_with_nftables_after_conntrack_reassembles_fragments() {
    let lock = KernelLock::take();
    let mut random = seed::random();
    let _kstat = Kstat::started(&lock, "counter=1");
    let host = Host::new(&lock);
    nft::load(
        host.net(),
        "table inet tracked {
             chain output {
                 type filter hook output priority 0;
                 ct state new counter
             }
         }",
    );
    let nft = host.nft(HookPoint::Output);
    let mut reassembled = 0;

    for round in 0..100 {
        for _ in 0..10 {
            // The kernel may refuse a fragment; then neither kstat nor nftables counts it.
            let _ = host.try_send(&random_packet(&mut random));
        }
        // Two fragments that fit together, with an identification that no other packets have.
        let tcp = [segment(80), vec![0; 28]].concat();
        let before = host.nout();
        for (fragment, part) in [(0x2000, &tcp[..24]), (0x0003, &tcp[24..])] {
            let mut packet = ipv4_with(TCP, fragment, &[], part);
            packet[4..6].copy_from_slice(&(0x7000u16 + round).to_be_bytes());
            host.send(&packet);
        }
        reassembled += host.nout() - before;
        nft.assert_agrees(host.nout());
    }
    assert_eq!(reassembled, 100, "packets reassembled from two fragments");
}

/// The kernel fills in the length and the checksum of an IPv4 packet that a raw socket sends. A
/// packet that arrives over a link can have wrong ones. The IP stack drops the worst of these
/// packets before any hook.
#[test]
fn kstat_agrees_with_nftables_on_1_500_malformed_forwarded_packets() {
    const PACKETS: u32 = 1_500;

    let lock = KernelLock::take();
    let mut random = seed::random();
    let _kstat = Kstat::started(&lock, "counter=1 hook=post_routing");
    let network = Network::new(&lock);
    let nout = network.router.run(|| file::reader(NOUT));
    let seen = SeenPackets::new(
        &network.router,
        HookPoint::Postrouting,
        &[
            ("ip id", "meta nfproto ipv4"),
            ("ip6 flowlabel", "meta nfproto ipv6"),
        ],
    );
    // `far` must not answer, as the router would forward its answers too.
    nft::load(
        &network.far,
        "table inet silent {
             chain prerouting { type filter hook prerouting priority raw; policy drop; }
         }",
    );
    let near = Link::new(&network.near, "eth0", &network.router, "near");
    let far = Link::new(&network.far, "eth0", &network.router, "far");
    let (mut counted, mut sent) = (BTreeSet::new(), Vec::new());

    // The router handles packets that one CPU sends in their order. When the marker arrives at
    // `far`, the packet before it has passed the hook or was dropped.
    cpu::stay_on(0);
    for number in 1..=PACKETS {
        let packet = random_forwarded(&mut random, number);
        let before = file::reread(NOUT, &nout);
        let marker = udp_marker(number as u16);

        near.send(&packet);
        near.send(&marker);
        far.await_packet(|packet| packet[20..] == marker[20..]);
        match file::reread(NOUT, &nout) - before {
            0 => {}
            1 => drop(counted.insert(u64::from(number))),
            more => panic!("kstat counted one packet {more} times: {packet:02x?}"),
        }
        sent.push(packet);
    }

    let (any, matched) = (seen.any(), seen.tcp());
    if let Some(number) = counted.symmetric_difference(&matched).next() {
        panic!(
            "kstat and nftables' `meta l4proto tcp` do not agree on {:02x?}",
            sent[*number as usize - 1]
        );
    }
    println!(
        "of {PACKETS} packets, nftables saw {} and matched {} by `meta l4proto tcp`",
        any.len(),
        matched.len()
    );
    assert_agrees(
        file::reread(NOUT, &nout),
        matched.len() as u64,
        "nftables' `meta l4proto tcp add @tcp0 { ip id }` and `@tcp1 { ip6 flowlabel }`",
    );
    assert!(
        matched.len() > 200 && any.len() < PACKETS as usize,
        "of {PACKETS} packets, nftables saw {} and matched {}",
        any.len(),
        matched.len()
    );
}

/// Returns a packet from `near` to `far` whose lengths and checksum may be wrong. It carries
/// `number` as its IPv4 identification or IPv6 flow label.
fn random_forwarded(random: &mut StdRng, number: u32) -> Vec<u8> {
    let mut packet = if random.random_bool(0.6) {
        let mut packet = random_ipv4(random);
        let length = match random.random_range(0..4) {
            0 => random.random_range(0..100),
            1 => packet.len() as u16 - 1,
            _ => packet.len() as u16,
        };
        fill_in_ipv4_header(&mut packet, number as u16, length);
        if random.random_bool(0.1) {
            packet[11] ^= 1; // checksum
        }
        packet
    } else {
        let mut packet = random_ipv6(random);
        packet[1..4].copy_from_slice(&number.to_be_bytes()[1..]); // flow label
        packet[8..24].copy_from_slice(&Network::NEAR_IPV6.octets());
        packet[24..40].copy_from_slice(&Network::FAR_IPV6.octets());
        packet
    };

    // Bytes after the end of the IP packet are padding, as a short Ethernet frame has it.
    if random.random_bool(0.2) {
        packet.resize(packet.len().max(60), 0);
    }
    packet
}

/// Returns a UDP packet from `near` to `far`, which the router lets pass, and which is not counted.
fn udp_marker(port: u16) -> Vec<u8> {
    let mut packet = ipv4(UDP, &datagram(port));

    fill_in_ipv4_header(&mut packet, 0, 28);
    packet
}

/// Fills in the length, identification, addresses and checksum of an IPv4 packet from `near` to
/// `far`.
fn fill_in_ipv4_header(packet: &mut [u8], identification: u16, length: u16) {
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    packet[4..6].copy_from_slice(&identification.to_be_bytes());
    packet[12..16].copy_from_slice(&Network::NEAR_IPV4.octets());
    packet[16..20].copy_from_slice(&Network::FAR_IPV4.octets());
    packet[10..12].fill(0);
    let checksum = checksum(&packet[..usize::from(packet[0] & 15) * 4]);
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
}
