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
    /// Whether the socket takes frames, with a `struct virtio_net_hdr` in front of each.
    takes_frames: bool,
}

impl Link {
    /// Opens the end `device` in `net` of a link to `neighbours_device` in `neighbour`.
    #[track_caller]
    pub fn new(net: &Netns, device: &str, neighbour: &Netns, neighbours_device: &str) -> Self {
        Self::open(
            net,
            device,
            neighbour,
            neighbours_device,
            SockType::Datagram,
        )
    }

    /// As [`Self::new`], with a socket that takes a `struct virtio_net_hdr` in front of each frame.
    #[track_caller]
    pub(super) fn with_virtio_net_headers(
        net: &Netns,
        device: &str,
        neighbour: &Netns,
        neighbours_device: &str,
    ) -> Self {
        let link = Self::open(net, device, neighbour, neighbours_device, SockType::Raw);
        let on: libc::c_int = 1;

        // SAFETY: The pointer is valid for reads of the length that is passed with it.
        let result = unsafe {
            libc::setsockopt(
                link.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_VNET_HDR,
                (&raw const on).cast(),
                mem::size_of_val(&on) as libc::socklen_t,
            )
        };
        Errno::result(result).unwrap_or_else(|error| panic!("setting PACKET_VNET_HDR: {error}"));
        link
    }

    #[track_caller]
    fn open(
        net: &Netns,
        device: &str,
        neighbour: &Netns,
        neighbours_device: &str,
        kind: SockType,
    ) -> Self {
        let socket = net.run(|| {
            socket(
                AddressFamily::Packet,
                kind,
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
            takes_frames: kind == SockType::Raw,
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
        self.try_send(&[], packet)
            .unwrap_or_else(|error| panic!("sending {packet:02x?}: {error}"));
    }

    /// Sends a packet that begins with an IP header, in a frame behind `header`, if the socket takes
    /// such a header.
    pub(super) fn try_send(&self, header: &[u8], packet: &[u8]) -> Result<(), Errno> {
        let protocol: u16 = if packet[0] >> 4 == 4 { 0x0800 } else { 0x86dd };
        let bytes = if self.takes_frames {
            let source = [2, 0, 0, 0, 0, 1];
            [
                header,
                &self.neighbour,
                &source,
                &protocol.to_be_bytes(),
                packet,
            ]
            .concat()
        } else {
            packet.to_vec()
        };
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
                bytes.as_ptr().cast(),
                bytes.len(),
                0,
                (&raw const to).cast(),
                mem::size_of_val(&to) as libc::socklen_t,
            )
        };
        assert_eq!(Errno::result(sent)?, bytes.len() as isize, "bytes sent");
        Ok(())
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
    let mut request = request(device);

    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads an `ifreq`.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request) };
    Errno::result(result).unwrap_or_else(|error| panic!("setting {device} up: {error}"));
}

/// Returns the argument of an ioctl of network devices, with the name of one.
#[track_caller]
pub(super) fn request(device: &str) -> libc::ifreq {
    assert!(
        device.len() < libc::IFNAMSIZ,
        "the name {device} is too long"
    );
    // SAFETY: `ifreq` holds integers and pointers only, for which all zeroes are a valid value.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };

    for (to, from) in request.ifr_name.iter_mut().zip(device.bytes()) {
        *to = from as libc::c_char;
    }
    request
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
