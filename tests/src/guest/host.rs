// SPDX-License-Identifier: GPL-2.0

//! A host that sends packets: a network namespace with a device that leads nowhere.
//!
//! Nothing answers there, so what is sent, and only that, passes the hooks for outgoing packets, and
//! has done so when the system call that sends it returns.

use crate::{
    guest::{exclusive::KernelLock, file, netns::Netns, nft, packet, traffic::Traffic},
    tool,
};
use nix::{
    errno::Errno,
    sys::socket::{
        sendmmsg, sendto, setsockopt, socket, sockopt, AddressFamily, MsgFlags, MultiHeaders,
        SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, SockaddrLike,
    },
};
use std::{
    fs::{File, OpenOptions},
    io::IoSlice,
    marker::PhantomData,
    net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6},
    os::fd::{AsRawFd, OwnedFd},
    sync::Arc,
    thread,
    time::Duration,
};

const DEVICE: &str = "kstat-test0";

/// A network namespace with the addresses [`packet::HOST_IPV4`] and [`packet::HOST_IPV6`], for one
/// test's turn.
pub struct Host<'t> {
    net: Netns,
    wire: Arc<Wire>,
    /// The initial namespace is there after the test, so the device is to be taken away.
    lasts: bool,
    _lock: PhantomData<&'t KernelLock>,
}

impl<'t> Host<'t> {
    /// A host in a new namespace, with `lo` as well.
    #[track_caller]
    pub fn new(lock: &'t KernelLock) -> Self {
        Self::with(lock, Netns::new(), false)
    }

    /// The host that the tests run on.
    #[track_caller]
    pub fn initial(lock: &'t KernelLock) -> Self {
        Self::with(lock, Netns::current(), true)
    }

    /// A host in a namespace that somebody has made, and that ends with the test.
    #[track_caller]
    pub fn with_netns(lock: &'t KernelLock, net: Netns) -> Self {
        Self::with(lock, net, false)
    }

    #[track_caller]
    fn with(_lock: &'t KernelLock, net: Netns, lasts: bool) -> Self {
        let wire = net.run(|| {
            tool::run_with(
                "ip",
                &["-batch", "-"],
                &format!(
                    "link set lo up\n\
                     link add {DEVICE} type dummy\n\
                     addr add {}/24 dev {DEVICE}\n\
                     addr add {}/64 dev {DEVICE} nodad\n\
                     link set {DEVICE} up\n",
                    packet::HOST_IPV4,
                    packet::HOST_IPV6
                ),
            );
            Arc::new(Wire::new())
        });

        Self {
            net,
            wire,
            lasts,
            _lock: PhantomData,
        }
    }

    /// The host's namespace.
    pub fn net(&self) -> &Netns {
        &self.net
    }

    /// Does `work` on the host.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.net.run(work)
    }

    /// Sends a packet that begins with an IP header.
    #[track_caller]
    pub fn send(&self, packet: &[u8]) {
        self.try_send(packet)
            .unwrap_or_else(|error| panic!("sending {packet:02x?}: {error}"));
    }

    /// The same; the kernel may say no. If a firewall drops a packet, it says [`Errno::EPERM`].
    pub fn try_send(&self, packet: &[u8]) -> Result<(), Errno> {
        self.wire.send(packet)
    }

    /// The same, with a mark that firewalls see.
    pub fn try_send_marked(&self, packet: &[u8], mark: u32) -> Result<(), Errno> {
        self.wire.mark(mark)?;
        self.wire.send(packet)
    }

    /// Sends so many TCP packets, over IPv4 and IPv6 in turn.
    #[track_caller]
    pub fn send_tcp(&self, packets: u64) {
        let both = [packet::tcp4(), packet::tcp6()];

        for packet in both.iter().cycle().take(packets as usize) {
            self.send(packet);
        }
    }

    /// The same, many by each system call.
    #[track_caller]
    pub fn send_tcp_at_once(&self, packets: u64) {
        self.wire
            .send_many(packets)
            .unwrap_or_else(|error| panic!("sending {packets} packets: {error}"));
    }

    /// Sends TCP packets from every CPU until what is returned is stopped.
    pub fn traffic(&self) -> Traffic {
        Traffic::new(self.wire.clone(), u64::MAX, Duration::ZERO)
    }

    /// The same, in bursts that leave the CPUs some time for what else is to be done.
    pub fn bursts(&self) -> Traffic {
        Traffic::new(self.wire.clone(), 8, Duration::from_millis(5))
    }

    /// The same, a packet now and then, for what is slow enough by itself.
    pub fn trickle(&self) -> Traffic {
        Traffic::new(self.wire.clone(), 1, Duration::from_millis(20))
    }

    /// The count as the host's users see it.
    #[track_caller]
    pub fn nout(&self) -> u64 {
        self.run(|| file::number(file::NOUT))
    }

    /// N as the host's users see it.
    #[track_caller]
    pub fn counter(&self) -> u64 {
        self.run(|| file::number(file::COUNTER))
    }

    /// Sets N.
    #[track_caller]
    pub fn set_counter(&self, n: u64) {
        self.run(|| file::set(file::COUNTER, &format!("{n}\n")));
    }

    /// Opens one of kstat's files on this host.
    #[track_caller]
    pub fn open(&self, path: &str, options: &OpenOptions) -> File {
        self.run(|| file::open(path, options))
    }

    /// Has nftables count TCP packets here, from now on.
    #[track_caller]
    pub fn nft(&self, point: nft::HookPoint) -> nft::TcpCounter<'_> {
        nft::TcpCounter::new(&self.net, point)
    }

    /// kstat's hooks here, as nftables lists them.
    #[track_caller]
    pub fn hooks(&self) -> Vec<nft::RegisteredHook> {
        nft::kstat_hooks(&self.net)
    }
}

impl Drop for Host<'_> {
    fn drop(&mut self) {
        if self.lasts {
            let output = self
                .net
                .run(|| tool::attempt("ip", &["link", "del", DEVICE], ""));

            if !thread::panicking() {
                assert!(output.status.success(), "ip link del {DEVICE}: {output:?}");
            }
        }
    }
}

/// Sockets that take whole packets. They stay in the namespace in which they were made.
pub(crate) struct Wire {
    ipv4: OwnedFd,
    ipv6: OwnedFd,
}

impl Wire {
    #[track_caller]
    fn new() -> Self {
        // IPPROTO_RAW says that packets come with their header.
        let raw = |family| {
            socket(
                family,
                SockType::Raw,
                SockFlag::SOCK_CLOEXEC,
                SockProtocol::Raw,
            )
            .unwrap_or_else(|error| panic!("a raw socket of {family:?}: {error}"))
        };

        Self {
            ipv4: raw(AddressFamily::Inet),
            ipv6: raw(AddressFamily::Inet6),
        }
    }

    /// Sends so many TCP packets over IPv4 and IPv6, half and half.
    fn send_many(&self, packets: u64) -> Result<(), Errno> {
        let v4 = SockaddrIn::from(SocketAddrV4::new(packet::NOBODY_IPV4, 0));
        let v6 = SockaddrIn6::from(SocketAddrV6::new(packet::NOBODY_IPV6, 0, 0, 0));
        let half = packets / 2;

        many(&self.ipv4, &packet::tcp4(), &v4, half)?;
        many(&self.ipv6, &packet::tcp6(), &v6, packets - half)
    }

    fn mark(&self, mark: u32) -> Result<(), Errno> {
        setsockopt(&self.ipv4, sockopt::Mark, &mark)?;
        setsockopt(&self.ipv6, sockopt::Mark, &mark)
    }

    pub(crate) fn send(&self, packet: &[u8]) -> Result<(), Errno> {
        let sent = match packet[0] >> 4 {
            4 => {
                let to: [u8; 4] = packet[16..20].try_into().expect("4 bytes");
                let to = SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::from(to), 0));
                sendto(self.ipv4.as_raw_fd(), packet, &to, MsgFlags::empty())?
            }
            6 => {
                let to: [u8; 16] = packet[24..40].try_into().expect("16 bytes");
                let to = SockaddrIn6::from(SocketAddrV6::new(Ipv6Addr::from(to), 0, 0, 0));
                sendto(self.ipv6.as_raw_fd(), packet, &to, MsgFlags::empty())?
            }
            version => panic!("a packet of IP version {version}"),
        };

        assert_eq!(sent, packet.len(), "a part of a packet was sent");
        Ok(())
    }
}

/// Sends a packet so many times.
fn many<A: SockaddrLike + Copy>(
    socket: &OwnedFd,
    packet: &[u8],
    to: &A,
    packets: u64,
) -> Result<(), Errno> {
    const AT_ONCE: usize = 64;

    let mut headers = MultiHeaders::preallocate(AT_ONCE, None);
    let slices = [[IoSlice::new(packet)]; AT_ONCE];
    let addresses = [Some(*to); AT_ONCE];
    let mut left = packets;

    while left > 0 {
        let count = AT_ONCE.min(usize::try_from(left).unwrap_or(AT_ONCE));
        let sent = sendmmsg(
            socket.as_raw_fd(),
            &mut headers,
            &slices[..count],
            &addresses[..count],
            [],
            MsgFlags::empty(),
        )?
        .count();

        left -= sent as u64;
    }
    Ok(())
}
