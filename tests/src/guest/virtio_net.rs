// SPDX-License-Identifier: GPL-2.0

//! Packets with virtio-net headers, as a virtual machine sends them: the sender says how the kernel
//! is to segment them, and the kernel does not trust it.

use crate::{
    guest::{
        file,
        link::{self, Link},
        netns::Netns,
    },
    tool,
};
use nix::errno::Errno;
use std::{
    fs::{File, OpenOptions},
    io::Write,
    os::fd::AsRawFd,
};

/// `VIRTIO_NET_HDR_GSO_TCPV4`.
pub const GSO_TCPV4: u8 = 1;
/// `VIRTIO_NET_HDR_GSO_UDP`.
pub const GSO_UDP: u8 = 3;
/// `VIRTIO_NET_HDR_GSO_TCPV6`.
pub const GSO_TCPV6: u8 = 4;
/// `VIRTIO_NET_HDR_GSO_UDP_L4`.
pub const GSO_UDP_L4: u8 = 5;

/// The header in front of a packet: `struct virtio_net_hdr`, in `include/uapi/linux/virtio_net.h`.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    pub gso_type: u8,
    /// The length of the headers of the packet. The kernel takes it for a hint.
    pub headers: u16,
    /// The number of bytes of a segment.
    pub gso_size: u16,
    /// The offset at which the checksummed data begins: the transport header.
    pub transport: u16,
    /// The offset of the checksum from there.
    pub checksum: u16,
}

impl Header {
    /// Returns the header of an IPv4 UDP packet that is not to be segmented.
    pub fn udp() -> Self {
        Self {
            gso_type: 0,
            headers: 28,
            gso_size: 0,
            transport: 20,
            checksum: 6,
        }
    }

    /// Returns the bytes of the header, for a packet in front of which there are `link` more bytes.
    fn to_bytes(self, link: u16) -> Vec<u8> {
        const NEEDS_CHECKSUM: u8 = 1;

        let mut bytes = vec![NEEDS_CHECKSUM, self.gso_type];
        for field in [
            self.headers + link,
            self.gso_size,
            self.transport + link,
            self.checksum,
        ] {
            bytes.extend(field.to_ne_bytes());
        }
        bytes
    }
}

/// A device or socket that takes packets with virtio-net headers.
pub trait Sender: Sync {
    /// Sends a packet. Fails if the kernel refuses the header.
    fn send(&self, header: Header, packet: &[u8]) -> Result<(), Errno>;
}

/// A tun device of a namespace. Dropping it removes the device.
pub struct Tun(File);

impl Tun {
    /// Makes the device `name` in `net`, and sets it up.
    #[track_caller]
    pub fn new(net: &Netns, name: &str) -> Self {
        // The stock kernel has the driver as a module.
        tool::run("modprobe", &["tun"]);
        if !file::exists("/dev/net/tun") {
            tool::shell("mkdir -p /dev/net; mknod /dev/net/tun c 10 200");
        }
        net.run(|| {
            let tun = file::open("/dev/net/tun", OpenOptions::new().read(true).write(true));
            let mut request = link::request(name);
            request.ifr_ifru.ifru_flags =
                (libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
            // SAFETY: TUNSETIFF reads and writes an `ifreq`.
            let result = unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF, &mut request) };
            Errno::result(result).unwrap_or_else(|error| panic!("making {name}: {error}"));
            tool::run("ip", &["link", "set", name, "up"]);
            Self(tun)
        })
    }
}

impl Sender for Tun {
    /// Has the device receive the packet.
    fn send(&self, header: Header, packet: &[u8]) -> Result<(), Errno> {
        let bytes = [&header.to_bytes(0), packet].concat();
        let written = (&self.0).write(&bytes).map_err(file::errno)?;

        assert_eq!(written, bytes.len(), "bytes written");
        Ok(())
    }
}

/// A packet socket that takes virtio-net headers.
pub struct PacketSocket(Link);

impl PacketSocket {
    /// Opens the socket at one end of a link, as [`Link::new`] does.
    #[track_caller]
    pub fn new(net: &Netns, device: &str, neighbour: &Netns, neighbours_device: &str) -> Self {
        Self(Link::with_virtio_net_headers(
            net,
            device,
            neighbour,
            neighbours_device,
        ))
    }
}

impl Sender for PacketSocket {
    fn send(&self, header: Header, packet: &[u8]) -> Result<(), Errno> {
        const ETHERNET_HEADER: u16 = 14;

        self.0.try_send(&header.to_bytes(ETHERNET_HEADER), packet)
    }
}
