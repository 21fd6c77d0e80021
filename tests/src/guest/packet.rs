// SPDX-License-Identifier: GPL-2.0

//! Packets made byte by byte.
//!
//! They go from a [`Host`](crate::guest::host::Host)'s own address to its neighbour's, where nobody is.

use std::net::{Ipv4Addr, Ipv6Addr};

/// The address of every host.
pub const HOST_IPV4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The address of every host.
pub const HOST_IPV6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
/// Nobody's address, to which packets are sent.
pub const NOBODY_IPV4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// Nobody's address, to which packets are sent.
pub const NOBODY_IPV6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);

// Protocol numbers.
pub const HOP_BY_HOP: u8 = 0;
pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ROUTING: u8 = 43;
pub const FRAGMENT: u8 = 44;
pub const ESP: u8 = 50;
pub const AUTHENTICATION: u8 = 51;
pub const ICMPV6: u8 = 58;
pub const NO_NEXT_HEADER: u8 = 59;
pub const DESTINATION: u8 = 60;

/// A TCP segment: SYN, from port 1024, with a checksum that is wrong.
pub fn segment(port: u16) -> Vec<u8> {
    let mut segment = vec![0; 20];

    segment[..2].copy_from_slice(&1024u16.to_be_bytes());
    segment[2..4].copy_from_slice(&port.to_be_bytes());
    segment[12] = 5 << 4; // words of header
    segment[13] = 0x02; // SYN
    segment
}

/// A UDP datagram without data.
pub fn datagram(port: u16) -> Vec<u8> {
    let mut datagram = vec![0; 8];

    datagram[..2].copy_from_slice(&1024u16.to_be_bytes());
    datagram[2..4].copy_from_slice(&port.to_be_bytes());
    datagram[5] = 8; // length
    datagram
}

/// An ICMP (type 8) or ICMPv6 (type 128) echo request; the checksum is wrong.
pub fn echo(kind: u8) -> Vec<u8> {
    vec![kind, 0, 0, 0, 0, 1, 0, 1]
}

/// An IPv4 packet with what `payload` says it is behind it.
pub fn ipv4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    ipv4_with(protocol, 0, &[], payload)
}

/// The same, where `fragment` is the 16 bits of flags and offset, and `options` are whole words.
///
/// The kernel fills in the length and the checksum, so these cannot be wrong.
pub fn ipv4_with(protocol: u8, fragment: u16, options: &[u8], payload: &[u8]) -> Vec<u8> {
    assert_eq!(options.len() % 4, 0, "options are whole words");

    let mut packet = vec![0; 20];
    packet[0] = (4 << 4) | (5 + options.len() / 4) as u8;
    packet[4..6].copy_from_slice(&0x6b73u16.to_be_bytes()); // an identification, or the kernel makes one
    packet[6..8].copy_from_slice(&fragment.to_be_bytes());
    packet[8] = 64; // time to live
    packet[9] = protocol;
    packet[12..16].copy_from_slice(&HOST_IPV4.octets());
    packet[16..20].copy_from_slice(&NOBODY_IPV4.octets());
    packet.extend(options);
    packet.extend(payload);
    packet
}

/// An IPv6 packet: a chain of extension headers, each a type and its bytes from the third on (the
/// first is the type of the next one, the second is made from the length), then what `last` says.
pub fn ipv6(chain: &[(u8, &[u8])], last: u8, payload: &[u8]) -> Vec<u8> {
    let mut rest = Vec::new();

    for (i, (kind, body)) in chain.iter().enumerate() {
        let length = 2 + body.len();
        let units = match *kind {
            FRAGMENT => 0,
            AUTHENTICATION => length / 4 - 2,
            _ => length / 8 - 1,
        };

        assert_eq!(
            length % 8,
            0,
            "extension headers are whole words of 8 bytes"
        );
        rest.push(chain.get(i + 1).map_or(last, |(next, _)| *next));
        rest.push(units as u8);
        rest.extend(*body);
    }
    rest.extend(payload);
    ipv6_raw(chain.first().map_or(last, |(first, _)| *first), &rest)
}

/// An IPv6 header and any bytes behind it.
pub fn ipv6_raw(next: u8, rest: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; 40];

    packet[0] = 6 << 4;
    packet[4..6].copy_from_slice(&(rest.len() as u16).to_be_bytes());
    packet[6] = next;
    packet[7] = 64; // hop limit
    packet[8..24].copy_from_slice(&HOST_IPV6.octets());
    packet[24..40].copy_from_slice(&NOBODY_IPV6.octets());
    packet.extend(rest);
    packet
}

/// Six bytes of options that mean nothing (PadN), for a hop-by-hop or destination options header.
pub const PADDING: &[u8] = &[1, 4, 0, 0, 0, 0];

/// A fragment header's body, for an offset in units of 8 bytes.
pub fn fragment(offset: u16, more: bool) -> [u8; 6] {
    let field = ((offset << 3) | u16::from(more)).to_be_bytes();

    [field[0], field[1], 0, 0, 0, 1]
}

/// The checksum of an IPv4 header whose own checksum is 0.
pub fn checksum(header: &[u8]) -> u16 {
    let mut sum: u32 = header
        .chunks_exact(2)
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
        .sum();

    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// A TCP packet over IPv4.
pub fn tcp4() -> Vec<u8> {
    ipv4(TCP, &segment(80))
}

/// A TCP packet over IPv6.
pub fn tcp6() -> Vec<u8> {
    ipv6(&[], TCP, &segment(80))
}
