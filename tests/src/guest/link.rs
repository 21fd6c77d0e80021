// SPDX-License-Identifier: GPL-2.0

//! Sends and receives packets at a device directly, without the network stack of its namespace.

use crate::{guest::netns::Netns, tool, wait};
use nix::{
    errno::Errno,
    sys::{
        socket::{
            recv, setsockopt, socket, sockopt, AddressFamily, MsgFlags, SockFlag, SockProtocol,
            SockType,
        },
        time::{TimeVal, TimeValLike},
    },
};
use std::{
    mem,
    os::fd::{AsRawFd, OwnedFd},
};

/// One end of a link: a packet socket, and the addresses that it sends to.
pub struct Link {
    socket: OwnedFd,
    index: i32,
    neighbour: [u8; 6],
}

impl Link {
    /// Opens the end `device` in `net` of a link to `neighbours_device` in `neighbour`.
    #[track_caller]
    pub fn new(net: &Netns, device: &str, neighbour: &Netns, neighbours_device: &str) -> Self {
        let socket = net.run(|| {
            socket(
                AddressFamily::Packet,
                SockType::Datagram,
                SockFlag::SOCK_CLOEXEC,
                SockProtocol::EthAll,
            )
            .and_then(|socket| {
                setsockopt(
                    &socket,
                    sockopt::ReceiveTimeout,
                    &TimeVal::seconds(wait::PATIENCE.as_secs() as i64),
                )?;
                Ok(socket)
            })
            .unwrap_or_else(|error| panic!("a packet socket: {error}"))
        });
        let index = show(net, device)["ifindex"]
            .as_i64()
            .unwrap_or_else(|| panic!("ip shows no index of {device}"));
        let address = show(neighbour, neighbours_device)["address"].clone();
        let bytes: Vec<u8> = address
            .as_str()
            .into_iter()
            .flat_map(|address| address.split(':'))
            .filter_map(|byte| u8::from_str_radix(byte, 16).ok())
            .collect();

        Self {
            socket,
            index: index as i32,
            neighbour: bytes
                .try_into()
                .unwrap_or_else(|_| panic!("{address} is not an Ethernet address")),
        }
    }

    /// Returns when a packet has arrived for which `matches` returns true.
    #[track_caller]
    pub fn await_packet(&self, matches: impl Fn(&[u8]) -> bool) {
        let mut buffer = [0; 2048];

        loop {
            let length = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty())
                .unwrap_or_else(|error| panic!("waiting for a packet: {error}"));
            if matches(&buffer[..length]) {
                return;
            }
        }
    }

    /// Sends a packet that begins with an IP header. The sending host does not check the header.
    #[track_caller]
    pub fn send(&self, packet: &[u8]) {
        let protocol: u16 = if packet[0] >> 4 == 4 { 0x0800 } else { 0x86dd };
        let mut to = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: protocol.to_be(),
            sll_ifindex: self.index,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 6,
            sll_addr: [0; 8],
        };
        to.sll_addr[..6].copy_from_slice(&self.neighbour);

        // SAFETY: Both pointers are valid for reads of the length that is passed with them.
        let sent = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                packet.as_ptr().cast(),
                packet.len(),
                0,
                (&raw const to).cast(),
                mem::size_of_val(&to) as libc::socklen_t,
            )
        };
        assert_eq!(
            Errno::result(sent),
            Ok(packet.len() as isize),
            "sending {packet:02x?}"
        );
    }
}

/// Sets a device of the thread's namespace up, as `ip link set up` does, without running a program.
#[track_caller]
pub fn set_up(device: &str) {
    let socket = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .unwrap_or_else(|error| panic!("a socket: {error}"));
    // SAFETY: `ifreq` holds integers and pointers only, for which all zeroes are a valid value.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };

    for (to, from) in request.ifr_name.iter_mut().zip(device.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads an `ifreq`. Device names are shorter than `ifr_name`, so the name
    // ends with a NUL.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request) };
    Errno::result(result).unwrap_or_else(|error| panic!("setting {device} up: {error}"));
}

/// Returns what `ip -j link show` prints of a device.
#[track_caller]
fn show(net: &Netns, device: &str) -> serde_json::Value {
    let answer = net.run(|| tool::run("ip", &["-j", "link", "show", "dev", device]));

    match serde_json::from_str(&answer) {
        Ok(serde_json::Value::Array(mut links)) if links.len() == 1 => links.remove(0),
        other => panic!("ip -j link show dev {device}: {other:?}: {answer}"),
    }
}
