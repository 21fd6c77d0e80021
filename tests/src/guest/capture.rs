// SPDX-License-Identifier: GPL-2.0

//! Packets as they leave a host's devices.

use crate::guest::{netns::Netns, packet};
use nix::{
    errno::Errno,
    sys::socket::{recv, socket, AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType},
};
use std::os::fd::{AsRawFd, OwnedFd};

/// Takes a copy of each packet that leaves or reaches a device of a namespace.
pub struct Capture(OwnedFd);

impl Capture {
    /// From now on.
    #[track_caller]
    pub fn new(net: &Netns) -> Self {
        net.run(|| {
            Self(
                socket(
                    AddressFamily::Packet,
                    // Without the link layer's header.
                    SockType::Datagram,
                    SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
                    SockProtocol::EthAll,
                )
                .unwrap_or_else(|error| panic!("a packet socket: {error}")),
            )
        })
    }

    /// The packets to nobody's address that came since this was asked last.
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

/// Hosts talk to others as well, such as multicast listeners.
fn is_to_nobody(packet: &[u8]) -> bool {
    match packet.first().map(|byte| byte >> 4) {
        Some(4) => packet.get(16..20) == Some(&packet::NOBODY_IPV4.octets()),
        Some(6) => packet.get(24..40) == Some(&packet::NOBODY_IPV6.octets()),
        _ => false,
    }
}
