// SPDX-License-Identifier: GPL-2.0

//! What is on the wire, and whose: /proc/net/kstat.
//!
//! OutPackets and OutOctets are compared with nftables in all tests of traffic. These tests compare
//! OutSegs with the frames behind a device that does no segmentation.

use kstat_tests::{
    guest::{
        cpu,
        exclusive::KernelLock,
        file::{self, START},
        frames::Frames,
        host::Host,
        identity, link,
        module::Kstat,
        netns::Netns,
        network::Network,
        nft::HookPoint,
        nft::TcpCounter,
        packet, proc_net_snmp,
        setting::Setting,
        tcp,
        unprivileged::UserNetns,
        virtio_net::{self, Header, PacketSocket, Sender, Tun},
        wire::{Counts, OWN},
    },
    seed, tool, wait,
};
use nix::errno::Errno;
use std::net::{IpAddr, Ipv4Addr, TcpStream};

#[test]
fn file_has_mode_0444_and_takes_no_write() {
    let lock = KernelLock::take();
    let _kstat = Kstat::load(&lock, "");

    file::assert_root_owned(OWN, 0o444);
    assert_eq!(Counts::parse(&file::read(OWN)), Counts::default());
    // Root may open it for writing.
    assert_eq!(file::put(OWN, "1\n"), Err(Errno::EACCES));
}

#[test]
fn counts_go_on_after_stop_and_start() {
    let lock = KernelLock::take();
    let _kstat = Kstat::started(&lock, "counter=1000");
    let host = Host::new(&lock);
    let counts = |packets| Counts {
        packets,
        segments: packets,
        octets: 40 * packets / 2 + 60 * packets / 2,
    };

    host.send_tcp(10);
    assert_eq!(Counts::of(host.net()), counts(10));
    file::set(START, "0");
    host.send_tcp(10);
    assert_eq!(Counts::of(host.net()), counts(10));
    file::set(START, "1");
    host.send_tcp(10);
    assert_eq!(Counts::of(host.net()), counts(20));
    assert_eq!(host.nout(), 0, "nout with N = 1000");
}

#[test]
fn nobody_reads_a_containers_counts_through_proc_pid() {
    let lock = KernelLock::take();
    let _kstat = Kstat::started(&lock, "");
    let container = UserNetns::new("ip link set lo up");
    let path = format!("/proc/{}/net/kstat", container.pid());

    refuse(container.net(), 3);
    let seen = identity::as_nobody(|| Counts::parse(&file::read(&path)));
    // A SYN, and a RST in answer to it.
    assert_eq!(seen.packets, 6);
    assert_eq!(seen, Counts::of(container.net()));
}

#[test]
fn thread_in_another_namespace_than_its_process_reads_that_of_thread_self() {
    let lock = KernelLock::take();
    let _kstat = Kstat::started(&lock, "");
    let net = Netns::new();

    net.run(|| link::set_up("lo"));
    refuse(&net, 2);
    let (own, by_id) = net.run(|| {
        let id = nix::unistd::gettid();
        (
            file::read(OWN),
            file::read(&format!("/proc/self/task/{id}/net/kstat")),
        )
    });
    assert_eq!(own, by_id);
    assert_eq!(Counts::parse(&own).packets, 4);
    // The main thread is in the initial namespace.
    assert_ne!(file::read("/proc/self/net/kstat"), own);
}

#[test]
fn each_of_200_namespaces_shows_its_own_counts() {
    let lock = KernelLock::take();
    let _kstat = Kstat::started(&lock, "");
    let nets: Vec<_> = (0..200).map(|_| Netns::new()).collect();

    for (i, net) in nets.iter().enumerate() {
        net.run(|| link::set_up("lo"));
        refuse(net, i % 5);
    }
    for (i, net) in nets.iter().enumerate() {
        assert_eq!(Counts::of(net).packets, 2 * (i as u64 % 5), "namespace {i}");
    }
}

/// Connects `times` times to a port of `net` at which nothing listens. That takes two packets.
#[track_caller]
fn refuse(net: &Netns, times: usize) {
    net.run(|| {
        for _ in 0..times {
            let connected = TcpStream::connect((Ipv4Addr::LOCALHOST, 9));
            assert!(connected.is_err(), "something listens on port 9");
        }
    });
}

/// Makes a network in which near's kernel splits super-packets, and not its device, so that each
/// segment is a frame of its own for the router. Routes of `far` limit the segments of near's TCP
/// to `mss` bytes.
fn network_with_mss(lock: &KernelLock, mss: u16) -> Network<'_> {
    let network = Network::new(lock);
    let batch = "link set DEVICE mtu 9200\n";

    for net in [&network.near, &network.far] {
        net.run(|| {
            tool::run_with("ip", &["-batch", "-"], &batch.replace("DEVICE", "eth0"));
            tool::run("ethtool", &["-K", "eth0", "tso", "off"]);
        });
    }
    network.router.run(|| {
        for device in ["near", "far"] {
            tool::run_with("ip", &["-batch", "-"], &batch.replace("DEVICE", device));
            tool::run("ethtool", &["-K", device, "gro", "off"]);
        }
    });
    network.far.run(|| {
        tool::run_with(
            "ip",
            &["-batch", "-"],
            &format!(
                "route change default via 203.0.113.1 advmss {mss}\n\
                 route change default via 2001:db8:2::1 advmss {mss}\n"
            ),
        )
    });
    network
}

/// Sends `bytes` bytes from near to far over IPv4 and over IPv6. Asserts that OutSegs of near is the
/// number of frames that the router got from it, and of segments that near's TCP has sent. Returns
/// what near counted.
#[track_caller]
fn assert_segments_are_frames(network: &Network<'_>, bytes: usize) -> Counts {
    let frames = Frames::of_tcp(&network.router, "near");
    let nft = TcpCounter::new(&network.near, HookPoint::Output);

    for address in Network::FAR {
        tcp::exchange(&network.near, &network.far, address, bytes);
    }
    nft.assert_agrees_when_quiet();
    let counts = Counts::of(&network.near);
    assert_eq!(counts.segments, frames.count(), "OutSegs, and frames");
    assert_eq!(
        counts.segments,
        proc_net_snmp::tcp_segments(&network.near),
        "OutSegs, and OutSegs and RetransSegs of /proc/net/snmp"
    );
    counts
}

#[test]
fn segments_of_super_packets_are_the_frames_on_the_wire() {
    let lock = KernelLock::take();
    let _kstat = Kstat::started(&lock, "counter=1");

    for mss in [500, 1448, 8900] {
        let network = network_with_mss(&lock, mss);
        let bytes = 1_000_000;
        let counts = assert_segments_are_frames(&network, bytes);

        println!("MSS {mss}: {counts:?}");
        assert!(
            counts.packets < counts.segments,
            "no packet was a super-packet: {counts:?}"
        );
        let least = 2 * (bytes as u64).div_ceil(mss.into());
        assert!(counts.segments >= least, "{counts:?} for MSS {mss}");
    }
}

#[test]
fn segments_of_packets_over_64_kib_are_the_frames_on_the_wire() {
    let lock = KernelLock::take();
    let _kstat = Kstat::started(&lock, "counter=1");
    let network = network_with_mss(&lock, 1448);

    network.near.run(|| {
        tool::run(
            "ip",
            &[
                "link",
                "set",
                "eth0",
                "gso_max_size",
                "200000",
                "gso_ipv4_max_size",
                "200000",
            ],
        );
        file::set("/proc/sys/net/ipv4/tcp_wmem", "4096 4000000 8000000");
        tool::run_with(
            "nft",
            &["-f", "-"],
            "table inet large {
                 counter large { }
                 chain output {
                     type filter hook output priority 0;
                     meta length > 65575 counter name large
                 }
             }",
        );
    });
    network.far.run(|| {
        file::set("/proc/sys/net/ipv4/tcp_rmem", "4096 4000000 8000000");
    });
    let counts = assert_segments_are_frames(&network, 8_000_000);
    let large = kstat_tests::guest::nft::counter(&network.near, "large", "large");

    println!("{counts:?}, {large} packets over 64 KiB");
    assert!(large > 0, "no packet was over 64 KiB");
}

#[test]
fn segments_that_are_retransmitted_are_counted_again() {
    let lock = KernelLock::take();
    let _kstat = Kstat::started(&lock, "counter=1");
    let network = network_with_mss(&lock, 1448);

    // Frames are lost behind the router's counter.
    network.router.run(|| {
        let seed = seed::seed().to_string();
        tool::run(
            "tc",
            &[
                "qdisc", "add", "dev", "far", "root", "netem", "loss", "3%", "seed", &seed,
            ],
        );
    });
    let retransmitted = || proc_net_snmp::number(&network.near, "snmp", "Tcp", "RetransSegs") > 0;
    let frames = Frames::of_tcp(&network.router, "near");
    wait::until("a segment was retransmitted", || {
        for address in Network::FAR {
            tcp::exchange(&network.near, &network.far, address, 400_000);
        }
        retransmitted()
    });
    let counts = Counts::of(&network.near);
    assert_eq!(counts.segments, frames.count(), "OutSegs, and frames");
    assert_eq!(
        counts.segments,
        proc_net_snmp::tcp_segments(&network.near),
        "OutSegs, and OutSegs and RetransSegs of /proc/net/snmp"
    );
}

/// Returns a UDP packet to the address of `far`, at a port to which no socket is bound.
fn udp_packet(to: Ipv4Addr) -> Vec<u8> {
    addressed(packet::ipv4(packet::UDP, &packet::datagram(9)), to)
}

/// Sets the destination, the length and the checksum of an IPv4 header.
fn addressed(mut bytes: Vec<u8>, to: Ipv4Addr) -> Vec<u8> {
    let len = bytes.len() as u16;

    bytes[2..4].copy_from_slice(&len.to_be_bytes());
    bytes[16..20].copy_from_slice(&to.octets());
    let checksum = packet::checksum(&bytes[..20]);
    bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

/// Returns a TCP packet with `len` bytes of data, to the address of `far`, and where its TCP header
/// is. `options` are the extension headers of an IPv6 packet.
fn tcp_packet(to: IpAddr, len: usize, options: &[(u8, &[u8])]) -> (Vec<u8>, usize) {
    let mut segment = packet::segment(9);
    // ACK.
    segment[13] = 0x10;
    // The sequence number. The queue of a device, which takes what follows the IPv6 header for TCP,
    // reads its first byte as the length of the TCP header if there is an extension header, and
    // drops the packet if that is too small (`qdisc_pkt_len_segs_init()` in `net/core/dev.c`).
    segment[4] = 0x50;
    segment.extend(vec![0x6b; len]);
    match to {
        IpAddr::V4(to) => (addressed(packet::ipv4(packet::TCP, &segment), to), 20),
        IpAddr::V6(to) => {
            let mut bytes = packet::ipv6(options, packet::TCP, &segment);
            bytes[24..40].copy_from_slice(&to.octets());
            let transport = bytes.len() - segment.len();
            (bytes, transport)
        }
    }
}

/// Sends packets with virtio-net headers, whose GSO type, segment size or length of headers may be
/// wrong, to `device` of the router, which forwards them to far. Asserts that the segments that the
/// router counts are those that its kernel sends.
#[track_caller]
fn assert_segments_are_sent(network: &Network<'_>, device: &str, sender: &dyn Sender) {
    network.router.run(|| {
        tool::run("ethtool", &["-K", "far", "tso", "off"]);
        // The packets come from an address to which no route leads.
        for device in ["all", device] {
            file::set(&format!("/proc/sys/net/ipv4/conf/{device}/rp_filter"), "0");
        }
    });
    // All segments of a packet wait in one queue of a CPU until far receives them. The packet behind
    // them tells when that has happened.
    let _backlog = Setting::new("/proc/sys/net/core/netdev_max_backlog", "100000");
    let send = |header, packet: &[u8]| cpu::on(0, || sender.send(header, packet));
    let number = |group, name| proc_net_snmp::number(&network.far, "snmp", group, name);
    let counts = || {
        let before = number("Udp", "NoPorts");
        send(Header::udp(), &udp_packet(Network::FAR_IPV4)).expect("sending a UDP packet");
        wait::until("far received the packet", || {
            number("Udp", "NoPorts") > before
        });
        (Counts::of(&network.router), number("Tcp", "InSegs"))
    };
    // Sends a packet. Returns whether the kernel took it, what was counted, and the segments that far received.
    let attempt = |header, packet: &[u8]| {
        let (before, received_before) = counts();
        let taken = send(header, packet);
        let (now, received) = counts();
        (taken, now.since(before), received - received_before)
    };
    let options = [(packet::DESTINATION, packet::PADDING)];
    let [ipv4, ipv6] = Network::FAR;
    let mut split = 0;

    for (to, options) in [(ipv4, &[][..]), (ipv6, &[][..]), (ipv6, &options[..])] {
        let (own_type, other_type) = if to.is_ipv4() {
            (virtio_net::GSO_TCPV4, virtio_net::GSO_TCPV6)
        } else {
            (virtio_net::GSO_TCPV6, virtio_net::GSO_TCPV4)
        };
        for (len, gso_size) in [
            (5000, 1000),
            (5001, 1000),
            (1, 1000),
            (1000, 1000),
            (1001, 1000),
            (60_000, 1400),
            (8000, 7),
            (3000, 1),
            (3000, 65_535),
            (3000, 0),
            (0, 100),
        ] {
            for gso_type in [
                own_type,
                other_type,
                virtio_net::GSO_UDP,
                virtio_net::GSO_UDP_L4,
            ] {
                for headers in [54, 200] {
                    let (packet, transport) = tcp_packet(to, len, options);
                    let header = Header {
                        gso_type,
                        headers,
                        gso_size,
                        transport: transport as u16,
                        checksum: 16,
                    };
                    let (taken, counted, sent) = attempt(header, &packet);
                    let case = format!(
                        "{to} {len} bytes, {header:?}, {taken:?}: {counted:?}, {sent} segments"
                    );

                    assert!(counted.packets <= 1, "{case}");
                    assert!(counted.segments <= 65_535, "{case}");
                    // A packet that passed the hook may be dropped when it is to be split.
                    if sent > 0 {
                        assert_eq!(counted.segments, sent, "{case}");
                    } else if counted.packets == 1 && gso_type != own_type {
                        assert_eq!(counted.segments, 1, "{case}");
                    }
                    split += u64::from(sent > 1);
                }
            }
        }
    }
    // Six sizes, two lengths of headers, three kinds of packets.
    assert_eq!(split, 36, "packets that were split");

    // The kernel drops a packet that is to be split if the length of its TCP header is too small. If near
    // sends it from a packet socket, near drops it, and the router does not see it.
    for (to, gso_type) in [(ipv4, virtio_net::GSO_TCPV4), (ipv6, virtio_net::GSO_TCPV6)] {
        let (mut packet, transport) = tcp_packet(to, 3000, &[]);
        packet[transport + 12] = 0x40;
        let header = Header {
            gso_type,
            headers: 54,
            gso_size: 1000,
            transport: transport as u16,
            checksum: 16,
        };
        let (taken, counted, sent) = attempt(header, &packet);
        let case = format!("{to}, {taken:?}: {counted:?}, {sent} segments");
        assert_eq!(
            (counted.segments, sent),
            (counted.packets, 0),
            "short TCP header: {case}"
        );
    }
}

#[test]
fn segments_of_untrusted_super_packets_are_those_that_the_kernel_sends() {
    let lock = KernelLock::take();
    let _kstat = Kstat::started(&lock, "counter=1 hook=post_routing");
    let network = network_with_mss(&lock, 1448);

    assert_segments_are_sent(&network, "tun0", &Tun::new(&network.router, "tun0"));
}

#[test]
fn segments_of_a_packet_sockets_super_packets_are_those_that_the_kernel_sends() {
    let lock = KernelLock::take();
    let _kstat = Kstat::started(&lock, "counter=1 hook=post_routing");
    let network = network_with_mss(&lock, 1448);
    let socket = PacketSocket::new(&network.near, "eth0", &network.router, "near");

    // near's device leaves super-packets whole.
    network
        .near
        .run(|| tool::run("ethtool", &["-K", "eth0", "tso", "on"]));
    assert_segments_are_sent(&network, "near", &socket);
}
