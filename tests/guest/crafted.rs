// SPDX-License-Identifier: GPL-2.0

//! Packets as nobody's stack would send them: kstat and nftables have to agree on each.

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
        nft::{self, HookPoint, Seen},
        packet::*,
    },
    seed,
};
use rand::{rngs::StdRng, seq::IndexedRandom, Rng};
use std::{collections::BTreeSet, fs::OpenOptions};

const MOBILITY: u8 = 135;
const HIP: u8 = 139;
const SHIM6: u8 = 140;

/// A protocol number: one that means something to somebody, as a rule, and TCP more often.
fn protocol(random: &mut StdRng) -> u8 {
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
        5..9 => *KNOWN.choose(random).expect("it is not empty"),
        _ => random.random(),
    }
}

/// What is behind the IP header: a TCP header, whole or cut short or with anything in it.
fn payload(random: &mut StdRng) -> Vec<u8> {
    let mut payload = segment(random.random());

    match random.random_range(0..4) {
        0 => payload.truncate(random.random_range(0..20)),
        1 => payload.extend((0..random.random_range(0..100)).map(|_| 0x6b)),
        2 => random.fill(payload.as_mut_slice()),
        _ => {}
    }
    payload
}

fn crafted_ipv4(random: &mut StdRng) -> Vec<u8> {
    let mut options = vec![1; 4 * random.random_range(0..=10)];
    let fragment = match random.random_range(0..5) {
        0 => 0x4000,                              // must not be fragmented
        1 => 0x2000,                              // a first fragment
        2 => random.random_range(0..0x2000),      // the last one
        3 => 0x2000 | random.random_range(0..64), // one in the middle
        _ => 0,
    };

    if random.random_bool(0.3) {
        random.fill(options.as_mut_slice());
    }
    let mut packet = ipv4_with(protocol(random), fragment, &options, &payload(random));
    packet[1] = random.random(); // type of service
    packet[8] = random.random_range(2..=255); // time to live
    packet
}

fn crafted_ipv6(random: &mut StdRng) -> Vec<u8> {
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
            let kind = *KINDS.choose(random).expect("it is not empty");
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
    let mut packet = ipv6(&chain, protocol(random), &payload(random));

    match random.random_range(0..10) {
        // Cut short in any of the headers, with the length as it was, or as it is now.
        0 | 1 => {
            packet.truncate(random.random_range(40..=packet.len()));
            if random.random() {
                let length = (packet.len() - 40) as u16;
                packet[4..6].copy_from_slice(&length.to_be_bytes());
            }
        }
        // A wrong length in the header.
        2 => {
            let length: u16 = random.random_range(0..200);
            packet[4..6].copy_from_slice(&length.to_be_bytes());
        }
        // A wrong byte anywhere: a type, or a length.
        3 | 4 if packet.len() > 40 => {
            let at = random.random_range(40..packet.len());
            packet[at] = random.random();
        }
        5 => packet[6] = random.random(),
        _ => {}
    }
    packet[7] = random.random_range(2..=255); // hop limit
    packet
}

fn crafted(random: &mut StdRng) -> Vec<u8> {
    if random.random_bool(0.4) {
        crafted_ipv4(random)
    } else {
        crafted_ipv6(random)
    }
}

/// Sends so many packets from a host, and asserts of each that kstat counted it exactly if nftables
/// did.
#[track_caller]
fn assert_agree_on_each(hook: &str, point: HookPoint, packets: u32) {
    const BATCH: u32 = 2_000;

    let lock = KernelLock::take();
    let mut random = seed::random();
    let _kstat = Kstat::started(&lock, &format!("counter=1 hook={hook}"));
    let host = Host::new(&lock);
    let nout = host.open(NOUT, OpenOptions::new().read(true));
    let seen = Seen::new(host.net(), point, &[("meta mark", "")]);
    let (mut all, mut tcp) = (0, 0);

    assert_eq!(packets % BATCH, 0);
    for _ in 0..packets / BATCH {
        let mut sent = Vec::new();
        let mut counted = BTreeSet::new();

        for mark in 1..=BATCH {
            let packet = crafted(&mut random);
            let before = file::reread(NOUT, &nout);

            host.try_send_marked(&packet, mark)
                .unwrap_or_else(|error| panic!("sending {packet:02x?}: {error}"));
            match file::reread(NOUT, &nout) - before {
                0 => {}
                1 => drop(counted.insert(u64::from(mark))),
                more => panic!("kstat counted {more} packets of one: {packet:02x?}"),
            }
            sent.push(packet);
        }

        let mut any = seen.any();
        any.remove(&0); // What the kernel sends of its own accord has no mark.
        assert_eq!(
            any,
            (1..=u64::from(BATCH)).collect(),
            "the packets that nftables saw are not those that were sent"
        );
        let matched = seen.tcp();
        if let Some(mark) = counted.symmetric_difference(&matched).next() {
            let (who, other) = if counted.contains(mark) {
                (
                    "kstat counted",
                    "nftables' `meta l4proto tcp` did not match",
                )
            } else {
                (
                    "nftables' `meta l4proto tcp` matched",
                    "kstat did not count",
                )
            };
            panic!("{who} what {other}: {:02x?}", sent[*mark as usize - 1]);
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
fn kstat_and_nftables_agree_on_each_of_20_000_packets_at_local_out() {
    assert_agree_on_each("local_out", HookPoint::Output, 20_000);
}

#[test]
fn kstat_and_nftables_agree_on_each_of_6_000_packets_at_post_routing() {
    assert_agree_on_each("post_routing", HookPoint::Postrouting, 6_000);
}

/// Where connections are tracked, fragments are put together first, and those that do not fit are
/// dropped.
#[test]
fn kstat_and_nftables_agree_where_fragments_are_put_together() {
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
    let mut whole = 0;

    for round in 0..100 {
        for _ in 0..10 {
            // Somebody may refuse a fragment; then neither counts it.
            let _ = host.try_send(&crafted(&mut random));
        }
        // Two fragments that fit, with a number that no others have.
        let tcp = [segment(80), vec![0; 28]].concat();
        let before = host.nout();
        for (fragment, part) in [(0x2000, &tcp[..24]), (0x0003, &tcp[24..])] {
            let mut packet = ipv4_with(TCP, fragment, &[], part);
            packet[4..6].copy_from_slice(&(0x7000u16 + round).to_be_bytes());
            host.send(&packet);
        }
        whole += host.nout() - before;
        nft.assert_agrees(host.nout());
    }
    assert_eq!(whole, 100, "packets that two fragments each made");
}

/// A raw socket's IPv4 packets get a length and a checksum from the kernel; those that come over a
/// wire have what they have. IP drops the worst of them before any hook.
#[test]
fn kstat_and_nftables_agree_on_each_forwarded_packet_with_wrong_lengths_and_checksums() {
    const PACKETS: u32 = 1_500;

    let lock = KernelLock::take();
    let mut random = seed::random();
    let _kstat = Kstat::started(&lock, "counter=1 hook=post_routing");
    let network = Network::new(&lock);
    let nout = network.router.run(|| file::reader(NOUT));
    let seen = Seen::new(
        &network.router,
        HookPoint::Postrouting,
        &[
            ("ip id", "meta nfproto ipv4"),
            ("ip6 flowlabel", "meta nfproto ipv6"),
        ],
    );
    // Nobody answers, or the answers would be forwarded, too.
    nft::load(
        &network.far,
        "table inet silent {
             chain prerouting { type filter hook prerouting priority raw; policy drop; }
         }",
    );
    let near = Link::new(&network.near, "eth0", &network.router, "near");
    let far = Link::new(&network.far, "eth0", &network.router, "far");
    let (mut counted, mut sent) = (BTreeSet::new(), Vec::new());

    // What one CPU sends, the router takes in that order, so a packet that nobody counts shows that
    // the one before it has been through.
    cpu::stay_on(0);
    for number in 1..=PACKETS {
        let packet = forwarded(&mut random, number);
        let before = file::reread(NOUT, &nout);
        let end = udp_to_far(number as u16);

        near.send(&packet);
        near.send(&end);
        far.await_packet(|packet| packet[20..] == end[20..]);
        match file::reread(NOUT, &nout) - before {
            0 => {}
            1 => drop(counted.insert(u64::from(number))),
            more => panic!("kstat counted {more} packets of one: {packet:02x?}"),
        }
        sent.push(packet);
    }

    let (any, matched) = (seen.any(), seen.tcp());
    if let Some(number) = counted.symmetric_difference(&matched).next() {
        panic!(
            "kstat or nftables' `meta l4proto tcp` counted what the other did not: {:02x?}",
            sent[*number as usize - 1]
        );
    }
    println!(
        "of {PACKETS} packets {} were forwarded, of which nftables' `meta l4proto tcp` matched {}",
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
        "{} and {} of {PACKETS} packets",
        matched.len(),
        any.len()
    );
}

/// A packet from near to far with a number, and with any length and checksum.
fn forwarded(random: &mut StdRng, number: u32) -> Vec<u8> {
    let mut packet = if random.random_bool(0.6) {
        let mut packet = crafted_ipv4(random);
        let length = match random.random_range(0..4) {
            0 => random.random_range(0..100),
            1 => packet.len() as u16 - 1,
            _ => packet.len() as u16,
        };
        from_near_to_far(&mut packet, number as u16, length);
        if random.random_bool(0.1) {
            packet[11] ^= 1; // of the checksum
        }
        packet
    } else {
        let mut packet = crafted_ipv6(random);
        packet[1..4].copy_from_slice(&number.to_be_bytes()[1..]); // flow label
        packet[8..24].copy_from_slice(&Network::NEAR_IPV6.octets());
        packet[24..40].copy_from_slice(&Network::FAR_IPV6.octets());
        packet
    };

    // What is behind the end of the IP packet is padding, if an Ethernet frame is short.
    if random.random_bool(0.2) {
        packet.resize(packet.len().max(60), 0);
    }
    packet
}

/// A packet that is forwarded, and that nobody counts.
fn udp_to_far(port: u16) -> Vec<u8> {
    let mut packet = ipv4(UDP, &datagram(port));

    from_near_to_far(&mut packet, 0, 28);
    packet
}

/// Fills in an IPv4 header.
fn from_near_to_far(packet: &mut [u8], identification: u16, length: u16) {
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    packet[4..6].copy_from_slice(&identification.to_be_bytes());
    packet[12..16].copy_from_slice(&Network::NEAR_IPV4.octets());
    packet[16..20].copy_from_slice(&Network::FAR_IPV4.octets());
    packet[10..12].fill(0);
    let checksum = checksum(&packet[..usize::from(packet[0] & 15) * 4]);
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
}
