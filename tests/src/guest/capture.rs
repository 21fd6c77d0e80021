// SPDX-License-Identifier: GPL-2.0

//! Captures packets at the devices of a network namespace.

use crate::guest::{netns::Netns, packet};
use nix::{
    errno::Errno,
    sys::socket::{recv, socket, AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType},
};
use std::os::fd::{AsRawFd, OwnedFd};

/// A packet socket that gets a copy of each packet that leaves or reaches a device of a namespace.
pub struct Capture(OwnedFd);

impl Capture {
    /// Starts to capture in `net`.
    #[track_caller]
    pub fn new(net: &Netns) -> Self {
        net.run(|| {
            Self(
                socket(
                    AddressFamily::Packet,
                    // Packets come without their link-layer header.
                    SockType::Datagram,
                    SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
                    SockProtocol::EthAll,
                )
                .unwrap_or_else(|error| panic!("a packet socket: {error}")),
            )
        })
    }

    /// Returns the packets to [`packet::NOBODY_IPV4`] and [`packet::NOBODY_IPV6`] that were
    /// captured since the last call.
    #[track_caller]
    pub fn packets(&mut self) -> Vec<Vec<u8>> {
        let mut packets = Vec::new();
        let mut buffer = vec![0; 1 << 16];

        loop {
            match recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(length) => packets.push(buffer[..length].to_vec()),
                Err(Errno::EAGAIN) => break,
                Err(error) => panic!("reading a packet socket: {error}"),
            }
        }
        packets.retain(|packet| is_to_nobody(packet));
        packets
    }
}

/// Tells whether a packet goes to the address that tests send to. Hosts also send packets to other
/// addresses by themselves, for example multicast listener reports.
fn is_to_nobody(packet: &[u8]) -> bool {
    match packet.first().map(|byte| byte >> 4) {
        Some(4) => packet.get(16..20) == Some(&packet::NOBODY_IPV4.octets()),
        Some(6) => packet.get(24..40) == Some(&packet::NOBODY_IPV6.octets()),
        _ => false,
    }
}
