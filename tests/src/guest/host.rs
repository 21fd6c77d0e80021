// SPDX-License-Identifier: GPL-2.0

//! A host that sends packets: a network namespace with a dummy device.
//!
//! Nothing answers on the device, so only the packets that a test sends pass the hooks for outgoing
//! packets. A packet has passed them when the system call that sends it returns.

use crate::{
    guest::{exclusive::KernelLock, file, netns::Netns, nft, packet, traffic::Traffic},
    tool, unless_panicking,
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
    time::Duration,
};

const DEVICE: &str = "kstat-test0";

/// A network namespace with the addresses [`packet::HOST_IPV4`] and [`packet::HOST_IPV6`].
pub struct Host<'t> {
    net: Netns,
    sockets: Arc<RawSockets>,
    /// The namespace outlives the test, so dropping the host deletes the device.
    lasts: bool,
    _lock: PhantomData<&'t KernelLock>,
}

impl<'t> Host<'t> {
    /// Makes a host in a new network namespace. Its `lo` is up.
    #[track_caller]
    pub fn new(lock: &'t KernelLock) -> Self {
        Self::with(lock, Netns::new(), false)
    }

    /// Makes a host of the initial network namespace, in which the tests run. Dropping the host
    /// deletes its device.
    #[track_caller]
    pub fn initial(lock: &'t KernelLock) -> Self {
        Self::with(lock, Netns::current(), true)
    }

    /// Makes a host in `net`, a namespace that ends with the test.
    #[track_caller]
    pub fn with_netns(lock: &'t KernelLock, net: Netns) -> Self {
        Self::with(lock, net, false)
    }

    #[track_caller]
    fn with(_lock: &'t KernelLock, net: Netns, lasts: bool) -> Self {
        let sockets = net.run(|| {
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
            Arc::new(RawSockets::new())
        });

        Self {
            net,
            sockets,
            lasts,
            _lock: PhantomData,
        }
    }

    /// Returns the host's network namespace.
    pub fn net(&self) -> &Netns {
        &self.net
    }

    /// Does `work` in the host's network namespace.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.net.run(work)
    }

    /// Sends a packet that begins with an IP header. Panics if the kernel refuses it.
    #[track_caller]
    pub fn send(&self, packet: &[u8]) {
        self.try_send(packet)
            .unwrap_or_else(|error| panic!("sending {packet:02x?}: {error}"));
    }

    /// Sends a packet that begins with an IP header. Fails with [`Errno::EPERM`] if a firewall
    /// drops it.
    pub fn try_send(&self, packet: &[u8]) -> Result<(), Errno> {
        self.sockets.send(packet)
    }

    /// Sends a packet as [`Self::try_send`] does, with `mark` as its firewall mark.
    pub fn try_send_marked(&self, packet: &[u8], mark: u32) -> Result<(), Errno> {
        self.sockets.mark(mark)?;
        self.sockets.send(packet)
    }

    /// Sends `packets` TCP packets, over IPv4 and IPv6 in turn.
    #[track_caller]
    pub fn send_tcp(&self, packets: u64) {
        let both = [packet::tcp4(), packet::tcp6()];

        for packet in both.iter().cycle().take(packets as usize) {
            self.send(packet);
        }
    }

    /// Sends `packets` TCP packets by sendmmsg(2), the first half over IPv4 and the rest over IPv6.
    #[track_caller]
    pub fn send_tcp_at_once(&self, packets: u64) {
        self.sockets
            .send_many(packets)
            .unwrap_or_else(|error| panic!("sending {packets} packets: {error}"));
    }

    /// Sends TCP packets from every CPU without a pause, until the [`Traffic`] is stopped.
    pub fn traffic(&self) -> Traffic {
        Traffic::new(self.sockets.clone(), u64::MAX, Duration::ZERO)
    }

    /// Sends TCP packets from every CPU in bursts of 8, which leave the CPUs time for other work.
    pub fn bursts(&self) -> Traffic {
        Traffic::new(self.sockets.clone(), 8, Duration::from_millis(5))
    }

    /// Sends a TCP packet from every CPU every 20 ms, for tests that are slow by themselves.
    pub fn trickle(&self) -> Traffic {
        Traffic::new(self.sockets.clone(), 1, Duration::from_millis(20))
    }

    /// Reads `nout` in the host's namespace.
    #[track_caller]
    pub fn nout(&self) -> u64 {
        self.run(|| file::number(file::NOUT))
    }

    /// Reads N in the host's namespace.
    #[track_caller]
    pub fn counter(&self) -> u64 {
        self.run(|| file::number(file::COUNTER))
    }

    /// Sets N in the host's namespace.
    #[track_caller]
    pub fn set_counter(&self, n: u64) {
        self.run(|| file::set(file::COUNTER, &format!("{n}\n")));
    }

    /// Opens a file of kstat in the host's namespace.
    #[track_caller]
    pub fn open(&self, path: &str, options: &OpenOptions) -> File {
        self.run(|| file::open(path, options))
    }

    /// Has nftables count the host's TCP packets at `point` from now on.
    #[track_caller]
    pub fn nft(&self, point: nft::HookPoint) -> nft::TcpCounter<'_> {
        nft::TcpCounter::new(&self.net, point)
    }

    /// Returns kstat's hooks in the host's namespace, as nftables lists them.
    #[track_caller]
    pub fn hooks(&self) -> Vec<nft::RegisteredHook> {
        nft::kstat_hooks(&self.net)
    }
}

impl Drop for Host<'_> {
    fn drop(&mut self) {
        if self.lasts {
            let deleted = self
                .net
                .run(|| tool::attempt("ip", &["link", "del", DEVICE], ""));

            unless_panicking(|| drop(deleted.expect_success()));
        }
    }
}

/// Raw sockets, which send packets that include their IP header. They stay in the namespace in
/// which they were made.
pub(crate) struct RawSockets {
    ipv4: OwnedFd,
    ipv6: OwnedFd,
}

impl RawSockets {
    /// Makes the sockets in the namespace of the calling thread.
    #[track_caller]
    fn new() -> Self {
        // IPPROTO_RAW: the sender supplies the IP header.
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

    /// Sends `packets` TCP packets, the first half over IPv4 and the rest over IPv6.
    fn send_many(&self, packets: u64) -> Result<(), Errno> {
        let v4 = SockaddrIn::from(SocketAddrV4::new(packet::NOBODY_IPV4, 0));
        let v6 = SockaddrIn6::from(SocketAddrV6::new(packet::NOBODY_IPV6, 0, 0, 0));
        let half = packets / 2;

        send_repeatedly(&self.ipv4, &packet::tcp4(), &v4, half)?;
        send_repeatedly(&self.ipv6, &packet::tcp6(), &v6, packets - half)
    }

    /// Sets the firewall mark of the packets that are sent from now on.
    fn mark(&self, mark: u32) -> Result<(), Errno> {
        setsockopt(&self.ipv4, sockopt::Mark, &mark)?;
        setsockopt(&self.ipv6, sockopt::Mark, &mark)
    }

    /// Sends a packet to the destination in its IP header.
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

        assert_eq!(sent, packet.len(), "only a part of a packet was sent");
        Ok(())
    }
}

/// Sends `packet` `packets` times, several times by each sendmmsg(2).
fn send_repeatedly<A: SockaddrLike + Copy>(
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
