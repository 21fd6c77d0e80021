// SPDX-License-Identifier: GPL-2.0

//! Builds packets byte by byte.
//!
//! The packets go from the address of a [`Host`](crate::guest::host::Host) to an address in its
//! subnet that no host has.

use std::net::{Ipv4Addr, Ipv6Addr};

/// The IPv4 address of every host.
pub const HOST_IPV4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The IPv6 address of every host.
pub const HOST_IPV6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
/// The destination of IPv4 packets, an address that no host has.
pub const NOBODY_IPV4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// The destination of IPv6 packets, an address that no host has.
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

/// Returns a TCP segment from port 1024 to `port`: a SYN with a wrong checksum.
pub fn segment(port: u16) -> Vec<u8> {
    let mut segment = vec![0; 20];

    segment[..2].copy_from_slice(&1024u16.to_be_bytes());
    segment[2..4].copy_from_slice(&port.to_be_bytes());
    segment[12] = 5 << 4; // header length in words
    segment[13] = 0x02; // SYN
    segment
}

/// Returns a UDP datagram from port 1024 to `port`, without data.
pub fn datagram(port: u16) -> Vec<u8> {
    let mut datagram = vec![0; 8];

    datagram[..2].copy_from_slice(&1024u16.to_be_bytes());
    datagram[2..4].copy_from_slice(&port.to_be_bytes());
    datagram[5] = 8; // length
    datagram
}

/// Returns an ICMP (type 8) or ICMPv6 (type 128) echo request with a wrong checksum.
pub fn echo(kind: u8) -> Vec<u8> {
    vec![kind, 0, 0, 0, 0, 1, 0, 1]
}

/// Returns an IPv4 packet with `payload`, which its header declares as `protocol`.
pub fn ipv4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    ipv4_with(protocol, 0, &[], payload)
}

/// Returns an IPv4 packet with further header fields: `fragment` is the 16 bits of flags and
/// fragment offset, and `options` are whole words.
///
/// The kernel fills in the total length and the header checksum, so a test cannot send wrong ones.
pub fn ipv4_with(protocol: u8, fragment: u16, options: &[u8], payload: &[u8]) -> Vec<u8> {
    assert_eq!(options.len() % 4, 0, "options are whole words");

    let mut packet = vec![0; 20];
    packet[0] = (4 << 4) | (5 + options.len() / 4) as u8;
    // The identification. The kernel would replace 0 by one of its own.
    packet[4..6].copy_from_slice(&0x6b73u16.to_be_bytes());
    packet[6..8].copy_from_slice(&fragment.to_be_bytes());
    packet[8] = 64; // time to live
    packet[9] = protocol;
    packet[12..16].copy_from_slice(&HOST_IPV4.octets());
    packet[16..20].copy_from_slice(&NOBODY_IPV4.octets());
    packet.extend(options);
    packet.extend(payload);
    packet
}

/// Returns an IPv6 packet with a chain of extension headers and then `payload`, which the last
/// header declares as `last`.
///
/// Each extension header is its type and its bytes from the third on. The first byte, the type of
/// the next header, and the second, the length, are filled in.
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

/// Returns an IPv6 header with the next header type `next`, followed by the bytes `rest`.
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

/// The body of a hop-by-hop or destination options header without effect: six bytes of padding
/// (PadN).
pub const PADDING: &[u8] = &[1, 4, 0, 0, 0, 0];

/// Returns the body of a fragment header. `offset` is in units of 8 bytes, and `more` tells that
/// further fragments follow.
pub fn fragment(offset: u16, more: bool) -> [u8; 6] {
    let field = ((offset << 3) | u16::from(more)).to_be_bytes();

    [field[0], field[1], 0, 0, 0, 1]
}

/// Returns the checksum of an IPv4 header whose checksum field is 0.
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

/// Returns a TCP packet over IPv4.
pub fn tcp4() -> Vec<u8> {
    ipv4(TCP, &segment(80))
}

/// Returns a TCP packet over IPv6.
pub fn tcp6() -> Vec<u8> {
    ipv6(&[], TCP, &segment(80))
}
