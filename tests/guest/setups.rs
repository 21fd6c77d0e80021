// SPDX-License-Identifier: GPL-2.0

//! Set-ups in which a packet does not pass each hook once.
//!
//! A packet is counted each time that it passes the hook. Every test asserts that kstat and
//! nftables count the same at the hook, and compares this count with a number of another source:
//! the segments of `/proc/net/snmp`, the frames that reach the next device, or the packets that the
//! test sent. TCP makes no GSO super-packets here, so a segment is a packet.

use kstat_tests::{
    assert_agrees,
    guest::{
        cgroup::EgressDenied,
        exclusive::KernelLock,
        file,
        frames::Frames,
        host::Host,
        link::Link,
        module::Kstat,
        netns::Netns,
        network::Network,
        nft::{self, HookPoint, TcpCounter},
        packet, proc_net_snmp, tcp,
    },
    tool, unless_panicking, wait,
};
use nix::{
    errno::Errno,
    sys::socket::{
        connect, socket, AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage,
    },
};
use std::{
    io::{Read, Write},
    mem,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr},
    os::fd::AsRawFd,
};

/// The bytes that a connection carries, in about 15 packets of the client.
const BYTES: usize = 15_000;

/// The addresses of `near`.
const NEAR: [IpAddr; 2] = [
    IpAddr::V4(Network::NEAR_IPV4),
    IpAddr::V6(Network::NEAR_IPV6),
];

/// Calls `test` once for each value of the parameter `hook`, with a network of its own.
fn with_kstat_at_each_hook(test: impl Fn(HookPoint, &Network<'_>)) {
    with_kstat_at(HookPoint::Output, &test);
    with_kstat_at(HookPoint::Postrouting, &test);
}

/// Calls `test` once, with a network of its own where hosts make no super-packets, while kstat
/// counts at `point`.
fn with_kstat_at(point: HookPoint, test: impl Fn(HookPoint, &Network<'_>)) {
    let lock = KernelLock::take();
    let hook = match point {
        HookPoint::Output => "local_out",
        HookPoint::Postrouting => "post_routing",
    };
    let _kstat = Kstat::started(&lock, &format!("counter=1 hook={hook}"));
    let network = Network::new(&lock);

    println!("hook={hook}:");
    for host in [&network.near, &network.far] {
        configure(host, "link set eth0 gso_max_segs 1\n");
    }
    test(point, &network);
}

/// Runs `ip -batch` in a namespace.
#[track_caller]
fn configure(net: &Netns, batch: &str) {
    net.run(|| tool::run_with("ip", &["-batch", "-"], batch));
}

/// Waits until a device of a namespace carries packets.
#[track_caller]
fn await_link(net: &Netns, device: &str) {
    wait::until("the link was up", || {
        let link = net.run(|| tool::run("ip", &["-br", "link", "show", "dev", device]));
        link.split_whitespace().nth(1) == Some("UP")
    });
}

/// Sends [`BYTES`] bytes from `near` to each address of `far`, over a connection each.
#[track_caller]
fn exchange(network: &Network<'_>) {
    for address in Network::FAR {
        tcp::exchange(&network.near, &network.far, address, BYTES);
    }
}

/// Asserts that `frames` counts exactly `expected` frames, once the last of them has arrived.
#[track_caller]
fn assert_frames(frames: &Frames<'_>, expected: u64, description: &str) {
    let mut last = frames.count();

    wait::until(
        &format!("there were {expected} frames ({description}; at first {last})"),
        || {
            let now = frames.count();
            mem::replace(&mut last, now) == now && now >= expected
        },
    );
    println!("{description}: {last} frames, expected {expected}");
    assert_eq!(last, expected, "{description}");
}

/// Returns the number of segments that `near` has sent, which must be more than a few.
#[track_caller]
fn near_segments(network: &Network<'_>) -> u64 {
    let segments = proc_net_snmp::tcp_segments(&network.near);

    assert!(segments > 20, "near sent {segments} segments");
    segments
}

// Set-ups in which a packet is counted twice.

/// Puts `eth0` of `near` into a VRF, `vrf0`, with its addresses and a default route.
#[track_caller]
fn set_up_vrf(near: &Netns) {
    configure(
        near,
        "link add vrf0 type vrf table 10\n\
         link set vrf0 up gso_max_segs 1\n\
         link set eth0 master vrf0\n\
         addr replace 198.51.100.2/24 dev eth0\n\
         addr replace 2001:db8:1::2/64 dev eth0 nodad\n\
         route replace default via 198.51.100.1 table 10\n\
         route replace default via 2001:db8:1::1 table 10\n",
    );
    await_link(near, "eth0");
}

#[test]
fn packet_of_a_socket_bound_to_a_vrf_passes_each_hook_twice() {
    with_kstat_at_each_hook(|point, network| {
        let near = &network.near;
        set_up_vrf(near);
        let counter = TcpCounter::new(near, point);
        let wire = Frames::of_tcp(&network.router, "near");

        for address in Network::FAR {
            tcp::exchange_bound(near, "vrf0", &network.far, address, BYTES);
        }

        let segments = near_segments(network);
        assert_frames(&wire, segments, "TCP from near on the wire");
        let nout = counter.assert_agrees_when_quiet();
        assert_agrees(nout, 2 * segments, "twice OutSegs");
    });
}

#[test]
fn packet_of_an_unbound_socket_routed_into_a_vrf_passes_each_hook_twice() {
    with_kstat_at_each_hook(|point, network| {
        let near = &network.near;
        set_up_vrf(near);
        configure(
            near,
            "route replace 0.0.0.0/0 dev vrf0\n\
             route replace ::/0 dev vrf0\n",
        );
        // The answers arrive in the VRF, where an unbound socket receives nothing by default.
        near.run(|| file::set("/proc/sys/net/ipv4/tcp_l3mdev_accept", "1"));
        let counter = TcpCounter::new(near, point);
        let wire = Frames::of_tcp(&network.router, "near");

        exchange(network);

        let segments = near_segments(network);
        assert_frames(&wire, segments, "TCP from near on the wire");
        let nout = counter.assert_agrees_when_quiet();
        assert_agrees(nout, 2 * segments, "twice OutSegs");
    });
}

/// A way to apply IPsec or IPComp to the packets of a host.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Transform {
    /// ESP in transport mode, by policies for the addresses of the two hosts.
    Policy,
    /// ESP in tunnel mode, through an xfrm interface.
    Interface,
    /// ESP in tunnel mode, through one VTI for IPv4 and one for IPv6.
    Vti,
    /// IPComp in transport mode, by policies.
    Compression,
}

impl Transform {
    /// Sets up both ends, and returns the addresses at which `near` reaches `far`.
    #[track_caller]
    fn set_up(self, network: &Network<'_>) -> [IpAddr; 2] {
        self.set_up_end(&network.near, NEAR, Network::FAR, 1);
        self.set_up_end(&network.far, Network::FAR, NEAR, 2);
        match self {
            Self::Policy | Self::Compression => Network::FAR,
            Self::Interface | Self::Vti => [
                Ipv4Addr::new(10, 8, 0, 2).into(),
                Ipv6Addr::new(0xfd00, 8, 0, 0, 0, 0, 0, 2).into(),
            ],
        }
    }

    /// Sets up the end `net`, which has the addresses `own`, and whose tunnel addresses end in
    /// `number`.
    #[track_caller]
    fn set_up_end(self, net: &Netns, own: [IpAddr; 2], peer: [IpAddr; 2], number: u8) {
        let devices = match self {
            Self::Policy | Self::Compression => None,
            Self::Interface => Some(["ipsec0", "ipsec0"]),
            Self::Vti => Some(["vti4", "vti6"]),
        };
        let (state, policy, input) = match self {
            Self::Policy => ("", "", ""),
            Self::Interface => ("if_id 7", "if_id 7", ""),
            Self::Vti => ("", "mark 7 mask 0xffffffff", ""),
            // A short packet is not compressed, and must be let in too.
            Self::Compression => ("", "", "level use"),
        };
        let (protocol, algorithm) = match self {
            Self::Compression => ("comp", "comp deflate".to_owned()),
            _ => (
                "esp",
                format!("aead rfc4106(gcm(aes)) 0x{} 128", "5a".repeat(20)),
            ),
        };
        let mode = if devices.is_some() {
            "tunnel"
        } else {
            "transport"
        };
        let mut batch = String::new();

        match self {
            Self::Interface => batch += "link add ipsec0 type xfrm dev eth0 if_id 7\n",
            Self::Vti => {
                for (kind, device, i) in [("vti", "vti4", 0), ("vti6", "vti6", 1)] {
                    batch += &format!(
                        "link add {device} type {kind} local {} remote {} key 7\n",
                        own[i], peer[i]
                    );
                }
            }
            _ => {}
        }
        for (own, peer) in own.iter().zip(&peer) {
            let (all, bits) = if own.is_ipv4() {
                ("0.0.0.0/0", 32)
            } else {
                ("::/0", 128)
            };
            for (from, to, spi) in [(own, peer, number), (peer, own, 3 - number)] {
                batch += &format!(
                    "xfrm state add src {from} dst {to} proto {protocol} spi 0x100{spi} mode {mode} {state} {algorithm}\n"
                );
            }
            for (direction, from, to, level) in [("out", own, peer, ""), ("in", peer, own, input)] {
                let selector = if devices.is_some() {
                    format!("src {all} dst {all}")
                } else {
                    format!("src {from}/{bits} dst {to}/{bits}")
                };
                batch += &format!(
                    "xfrm policy add dir {direction} {selector} {policy} tmpl src {from} dst {to} proto {protocol} mode {mode} {level}\n"
                );
            }
        }
        if let Some([ipv4, ipv6]) = devices {
            // The MTU leaves room for ESP. A packet that is too large would be dropped and sent
            // again.
            batch += &format!(
                "link set {ipv4} up mtu 1300 gso_max_segs 1\n\
                 link set {ipv6} up mtu 1300 gso_max_segs 1\n\
                 addr add 10.8.0.{number}/24 dev {ipv4}\n\
                 addr add fd00:8::{number}/64 dev {ipv6} nodad\n"
            );
        }
        configure(net, &batch);
    }
}

/// Asserts that packets of `near` pass LOCAL_OUT once and POST_ROUTING `post_routing_passes` times,
/// and that each of them is ESP on the wire.
#[track_caller]
fn assert_encrypted_is_counted(transform: Transform, post_routing_passes: u64) {
    with_kstat_at_each_hook(|point, network| {
        let addresses = transform.set_up(network);
        let counter = TcpCounter::new(&network.near, point);
        let encrypted = Frames::of(&network.router, "near", "esp");
        let plain = Frames::of_tcp(&network.router, "near");

        for address in addresses {
            tcp::exchange(&network.near, &network.far, address, BYTES);
        }

        let segments = near_segments(network);
        assert_frames(&encrypted, segments, "ESP from near on the wire");
        assert_frames(&plain, 0, "TCP from near on the wire");
        let nout = counter.assert_agrees_when_quiet();
        match point {
            HookPoint::Output => assert_agrees(nout, segments, "OutSegs"),
            HookPoint::Postrouting => assert_agrees(
                nout,
                post_routing_passes * segments,
                &format!("{post_routing_passes} times OutSegs"),
            ),
        }
    });
}

#[test]
fn packet_that_an_ipsec_policy_encrypts_passes_each_hook_once() {
    assert_encrypted_is_counted(Transform::Policy, 1);
}

#[test]
fn packet_of_an_xfrm_interface_passes_post_routing_twice() {
    assert_encrypted_is_counted(Transform::Interface, 2);
}

#[test]
fn packet_of_a_vti_passes_post_routing_twice() {
    assert_encrypted_is_counted(Transform::Vti, 2);
}

#[test]
fn packet_that_ipcomp_does_not_compress_passes_each_hook_twice() {
    with_kstat_at_each_hook(|point, network| {
        Transform::Compression.set_up(network);
        let counter = TcpCounter::new(&network.near, point);
        let compressed = Frames::of(&network.router, "near", "comp");
        let plain = Frames::of_tcp(&network.router, "near");

        exchange(network);

        let segments = near_segments(network);
        let nout = counter.assert_agrees_when_quiet();
        let short = plain.count();
        assert!(short > 0, "all packets were compressed");
        assert!(short < segments, "no packet was compressed");
        assert_frames(&compressed, segments - short, "IPComp from near");
        assert_frames(&plain, short, "TCP from near");
        assert_agrees(
            nout,
            segments + short,
            "OutSegs and the TCP frames on the wire",
        );
    });
}

// Set-ups in which a packet is never counted.

#[test]
fn packet_of_an_offloaded_flow_does_not_pass_post_routing() {
    with_kstat_at(HookPoint::Postrouting, |point, network| {
        const ROUNDS: u64 = 10;

        let router = &network.router;
        nft::load(
            router,
            "table inet fast {
                 flowtable flows {
                     hook ingress priority 0; devices = { near, far };
                 }
                 chain forward {
                     type filter hook forward priority 0;
                     meta l4proto tcp flow add @flows
                 }
             }",
        );
        let counter = TcpCounter::new(router, point);
        let to_near = Frames::of_tcp(&network.near, "eth0");
        let to_far = Frames::of_tcp(&network.far, "eth0");
        // Returns the frames that were forwarded and the segments that were sent, once neither
        // number changes any more.
        let totals = || {
            let mut last = (0, 0);
            wait::until("no more frames arrived", || {
                let now = (
                    to_near.count() + to_far.count(),
                    proc_net_snmp::tcp_segments(&network.near)
                        + proc_net_snmp::tcp_segments(&network.far),
                );
                mem::replace(&mut last, now) == now
            });
            last
        };
        let offloaded = || {
            let flows = router.run(|| file::read("/proc/thread-self/net/nf_conntrack"));
            flows
                .lines()
                .filter(|line| line.contains("[OFFLOAD]"))
                .count()
        };

        for (i, address) in Network::FAR.into_iter().enumerate() {
            let (mut near, mut far) = tcp::connect(&network.near, &network.far, address);
            let mut round = || {
                let mut message = [0x6b; 100];
                near.write_all(&message).expect("sending");
                far.read_exact(&mut message).expect("receiving");
                far.write_all(&message).expect("sending");
                near.read_exact(&mut message).expect("receiving");
            };
            wait::until("the flow was offloaded", || {
                round();
                offloaded() > i
            });
            let (frames, segments) = totals();
            let counted = router.run(|| file::number(file::NOUT));
            for _ in 0..ROUNDS {
                round();
            }
            let (frames_after, segments_after) = totals();
            let frames = frames_after - frames;
            println!("the router forwarded {frames} frames of an offloaded flow");
            assert!(frames >= 2 * ROUNDS, "{frames} frames were forwarded");
            assert_eq!(frames, segments_after - segments, "forwarded frames");
            let nout = counter.assert_agrees(router.run(|| file::number(file::NOUT)));
            assert_eq!(
                nout, counted,
                "nout of an offloaded flow (left: afterwards)"
            );

            for end in [&near, &far] {
                end.shutdown(Shutdown::Write).expect("closing");
            }
            drop((near, far));
            tcp::settle(&network.near);
            tcp::settle(&network.far);
        }
        let nout = counter.assert_agrees_when_quiet();
        let (frames, _) = totals();
        println!("post_routing: nout {nout}, frames forwarded {frames}");
        assert!(nout > 0 && nout < frames, "nout is {nout} of {frames}");
    });
}

#[test]
fn packet_of_a_packet_socket_passes_no_hook() {
    with_kstat_at_each_hook(|point, network| {
        const PACKETS: u64 = 20;

        let counter = TcpCounter::new(&network.near, point);
        let wire = Frames::of_tcp(&network.router, "near");
        let link = Link::new(&network.near, "eth0", &network.router, "near");

        // An IP socket fills in the total length; a packet socket does not.
        let mut tcp4 = packet::tcp4();
        let length = tcp4.len() as u16;
        tcp4[2..4].copy_from_slice(&length.to_be_bytes());
        for packet in [tcp4, packet::tcp6()] {
            for _ in 0..PACKETS {
                link.send(&packet);
            }
        }

        assert_frames(&wire, 2 * PACKETS, "TCP from near on the wire");
        assert_eq!(counter.assert_agrees_when_quiet(), 0, "nout");
    });
}

/// The addresses of `far` on the subnet that [`put_on_one_subnet`] makes.
const SUBNET_FAR: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 3, 0, 0, 0, 0, 2)),
];

/// Gives `near` and `far` addresses of one subnet, for tests in which the router forwards frames
/// and does not route packets.
#[track_caller]
fn put_on_one_subnet(network: &Network<'_>) {
    for (host, number) in [(&network.near, 1), (&network.far, 2)] {
        configure(
            host,
            &format!(
                "addr add 192.0.2.{number}/24 dev eth0\n\
                 addr add 2001:db8:3::{number}/64 dev eth0 nodad\n"
            ),
        );
    }
}

/// Asserts that `router` forwards the frames between `near` and `far`, and that kstat and nftables
/// count `passes` passes for each.
#[track_caller]
fn assert_forwarded_frames_are_counted(network: &Network<'_>, point: HookPoint, passes: u64) {
    let counter = TcpCounter::new(&network.router, point);
    let to_near = Frames::of_tcp(&network.near, "eth0");
    let to_far = Frames::of_tcp(&network.far, "eth0");

    for address in SUBNET_FAR {
        tcp::exchange(&network.near, &network.far, address, BYTES);
    }

    assert_frames(&to_far, near_segments(network), "TCP from near to far");
    assert_frames(
        &to_near,
        proc_net_snmp::tcp_segments(&network.far),
        "TCP from far to near",
    );
    let nout = counter.assert_agrees_when_quiet();
    assert_agrees(
        nout,
        passes * (to_near.count() + to_far.count()),
        &format!("{passes} times the forwarded frames"),
    );
}

#[test]
fn frame_that_tc_redirects_passes_no_hook() {
    with_kstat_at_each_hook(|point, network| {
        put_on_one_subnet(network);
        network.router.run(|| {
            for (from, to) in [("near", "far"), ("far", "near")] {
                tool::shell(&format!(
                    "tc qdisc add dev {from} clsact
                     tc filter add dev {from} ingress matchall action mirred egress redirect dev {to}"
                ));
            }
        });

        assert_forwarded_frames_are_counted(network, point, 0);
    });
}

/// Makes `router` a bridge between `near` and `far`.
#[track_caller]
fn set_up_bridge(network: &Network<'_>) {
    put_on_one_subnet(network);
    configure(
        &network.router,
        "link add br0 type bridge mcast_snooping 0\n\
         link set near master br0\n\
         link set far master br0\n\
         link set br0 up\n",
    );
    await_link(&network.router, "br0");
}

#[test]
fn frame_that_a_bridge_forwards_passes_no_hook() {
    with_kstat_at_each_hook(|point, network| {
        assert!(
            !file::exists("/proc/sys/net/bridge"),
            "br_netfilter is loaded"
        );
        set_up_bridge(network);

        assert_forwarded_frames_are_counted(network, point, 0);
    });
}

/// The loaded module br_netfilter, which is unloaded when this is dropped.
struct BridgeNetfilter;

impl BridgeNetfilter {
    #[track_caller]
    fn load() -> Self {
        tool::run("modprobe", &["br_netfilter"]);
        Self
    }
}

impl Drop for BridgeNetfilter {
    fn drop(&mut self) {
        let output = tool::attempt("modprobe", &["-r", "br_netfilter"], "");

        unless_panicking(|| {
            assert!(
                output.status.success(),
                "modprobe -r br_netfilter: {output:?}"
            );
        });
    }
}

#[test]
fn frame_that_a_bridge_with_br_netfilter_forwards_passes_post_routing_once() {
    with_kstat_at_each_hook(|point, network| {
        let _module = BridgeNetfilter::load();
        set_up_bridge(network);
        network.router.run(|| {
            for family in ["iptables", "ip6tables"] {
                file::set(
                    &format!("/proc/sys/net/bridge/bridge-nf-call-{family}"),
                    "1",
                );
            }
        });

        let passes = match point {
            HookPoint::Output => 0,
            HookPoint::Postrouting => 1,
        };
        assert_forwarded_frames_are_counted(network, point, passes);
    });
}

// Set-ups in which a packet is counted by another host or namespace.

/// Asserts that `router` has counted `expected` packets, a number from `source`, and that its own
/// TCP has sent none.
#[track_caller]
fn assert_router_counts(
    network: &Network<'_>,
    counter: &TcpCounter<'_>,
    expected: u64,
    source: &str,
) {
    let nout = counter.assert_agrees_when_quiet();

    assert_eq!(
        proc_net_snmp::tcp_segments(&network.router),
        0,
        "the router's OutSegs"
    );
    assert_agrees(nout, expected, source);
}

#[test]
fn packet_that_an_ipvs_director_forwards_to_a_server_passes_its_local_out() {
    with_kstat_at_each_hook(|point, network| {
        let router = &network.router;
        // Port 0 of a persistent service stands for every port.
        router.run(|| {
            tool::run_with(
                "ipvsadm",
                &["-R"],
                "-A -t 198.51.100.1:0 -s rr -p 60\n\
                 -a -t 198.51.100.1:0 -r 203.0.113.2:0 -m\n\
                 -A -t [2001:db8:1::1]:0 -s rr -p 60\n\
                 -a -t [2001:db8:1::1]:0 -r [2001:db8:2::2]:0 -m\n",
            )
        });
        let virtual_addresses: [IpAddr; 2] = [
            Ipv4Addr::new(198, 51, 100, 1).into(),
            Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1).into(),
        ];
        let counter = TcpCounter::new(router, point);
        let to_near = Frames::of_tcp(&network.near, "eth0");
        let to_far = Frames::of_tcp(&network.far, "eth0");

        for (address, known_as) in Network::FAR.into_iter().zip(virtual_addresses) {
            tcp::exchange_at(&network.near, &network.far, address, known_as, BYTES);
        }

        assert_frames(&to_far, near_segments(network), "TCP to the real server");
        match point {
            HookPoint::Output => {
                assert_router_counts(network, &counter, to_far.count(), "frames to the server")
            }
            HookPoint::Postrouting => assert_router_counts(
                network,
                &counter,
                to_far.count() + to_near.count(),
                "frames to the server and to the client",
            ),
        }
    });
}

#[test]
fn copy_that_nft_dup_makes_on_a_router_passes_both_hooks() {
    with_kstat_at_each_hook(|point, network| {
        let router = &network.router;
        configure(
            router,
            "neigh add 203.0.113.3 lladdr 02:00:00:00:00:99 dev far nud permanent\n\
             neigh add 2001:db8:2::3 lladdr 02:00:00:00:00:99 dev far nud permanent\n",
        );
        for (family, gateway) in [("ip", "203.0.113.3"), ("ip6", "2001:db8:2::3")] {
            nft::load(
                router,
                &format!(
                    "table {family} copies {{
                         chain prerouting {{
                             type filter hook prerouting priority 0;
                             iifname near meta l4proto tcp dup to {gateway} device far
                         }}
                     }}"
                ),
            );
        }
        let counter = TcpCounter::new(router, point);
        let to_near = Frames::of_tcp(&network.near, "eth0");
        let to_far = Frames::of_tcp(&network.far, "eth0");

        exchange(network);

        let segments = near_segments(network);
        assert_frames(&to_far, 2 * segments, "TCP to far, with copies");
        match point {
            HookPoint::Output => {
                assert_router_counts(network, &counter, segments, "near's OutSegs")
            }
            HookPoint::Postrouting => assert_router_counts(
                network,
                &counter,
                2 * segments + to_near.count(),
                "twice near's OutSegs, and the frames to near",
            ),
        }
    });
}

#[test]
fn packet_forwarded_into_a_vrf_passes_local_out_once_post_routing_twice() {
    with_kstat_at_each_hook(|point, network| {
        let router = &network.router;
        configure(
            router,
            "link add vrf0 type vrf table 10\n\
             link set vrf0 up\n\
             link set far master vrf0\n\
             addr replace 203.0.113.1/24 dev far\n\
             addr replace 2001:db8:2::1/64 dev far nodad\n\
             route add 203.0.113.0/24 dev vrf0\n\
             route add 2001:db8:2::/64 dev vrf0\n\
             route add 198.51.100.0/24 dev near table 10\n\
             route add 2001:db8:1::/64 dev near table 10\n",
        );
        await_link(router, "far");
        let counter = TcpCounter::new(router, point);
        let to_near = Frames::of_tcp(&network.near, "eth0");
        let to_far = Frames::of_tcp(&network.far, "eth0");

        exchange(network);

        let segments = near_segments(network);
        assert_frames(&to_far, segments, "TCP from near to far");
        match point {
            HookPoint::Output => assert_router_counts(
                network,
                &counter,
                to_far.count(),
                "frames that go into the VRF",
            ),
            HookPoint::Postrouting => assert_router_counts(
                network,
                &counter,
                2 * to_far.count() + to_near.count(),
                "twice the frames that go into the VRF, and those that come out of it",
            ),
        }
    });
}

/// Asserts that packets of an ipvlan device in `mode` pass the hook of their own namespace once,
/// and the hook of the parent device's namespace `passes` times.
#[track_caller]
fn assert_ipvlan_is_counted(mode: &str, passes: u64) {
    with_kstat_at_each_hook(|point, network| {
        let (parent, inner) = (&network.near, Netns::new());
        configure(
            parent,
            &format!(
                "link add inner0 link eth0 netns {} type ipvlan mode {mode}\n",
                inner.path()
            ),
        );
        // In mode l2, the device answers neighbour discovery. In the other modes it does not, so
        // the router needs routes to its addresses through the parent.
        let (gateway4, gateway6) = match mode {
            "l2" => ("via 198.51.100.1", "via 2001:db8:1::1"),
            _ => {
                configure(
                    &network.router,
                    "route add 198.51.100.3/32 via 198.51.100.2\n\
                     route add 2001:db8:1::3/128 via 2001:db8:1::2\n",
                );
                ("", "")
            }
        };
        configure(
            &inner,
            &format!(
                "link set lo up\n\
                 addr add 198.51.100.3/24 dev inner0\n\
                 addr add 2001:db8:1::3/64 dev inner0 nodad\n\
                 link set inner0 up gso_max_segs 1\n\
                 route add 0.0.0.0/0 {gateway4} dev inner0\n\
                 route add ::/0 {gateway6} dev inner0\n"
            ),
        );
        let inner_counter = TcpCounter::new(&inner, point);
        let parent_counter = TcpCounter::new(parent, point);
        let wire = Frames::of_tcp(&network.router, "near");

        for address in Network::FAR {
            tcp::exchange(&inner, &network.far, address, BYTES);
        }

        let segments = proc_net_snmp::tcp_segments(&inner);
        assert!(segments > 20, "{segments} segments were sent");
        assert_frames(&wire, segments, "TCP from near on the wire");
        assert_agrees(
            inner_counter.assert_agrees_when_quiet(),
            segments,
            "OutSegs",
        );
        assert_eq!(
            proc_net_snmp::tcp_segments(parent),
            0,
            "OutSegs of the parent"
        );
        assert_agrees(
            parent_counter.assert_agrees_when_quiet(),
            passes * segments,
            &format!("{passes} times OutSegs of the device's namespace"),
        );
    });
}

#[test]
fn packet_of_an_ipvlan_l2_device_passes_only_hooks_of_its_namespace() {
    assert_ipvlan_is_counted("l2", 0);
}

#[test]
fn packet_of_an_ipvlan_l3_device_passes_hooks_of_both_namespaces() {
    assert_ipvlan_is_counted("l3", 1);
}

#[test]
fn packet_of_an_ipvlan_l3s_device_passes_hooks_of_both_namespaces() {
    assert_ipvlan_is_counted("l3s", 1);
}

// Set-ups in which a packet is counted and does not leave.

/// How many SYNs [`send_syns`] sends to each address.
const SYNS: u64 = 5;

/// Sends [`SYNS`] SYNs from `near` to each address. Each socket is closed before it would send its
/// SYN again.
#[track_caller]
fn send_syns(network: &Network<'_>, addresses: [IpAddr; 2]) {
    network.near.run(|| {
        for address in addresses {
            let family = if address.is_ipv4() {
                AddressFamily::Inet
            } else {
                AddressFamily::Inet6
            };
            for _ in 0..SYNS {
                let socket = socket(
                    family,
                    SockType::Stream,
                    SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
                    SockProtocol::Tcp,
                )
                .unwrap_or_else(|error| panic!("a socket: {error}"));
                let to = SockaddrStorage::from(SocketAddr::new(address, 9));
                assert_eq!(
                    connect(socket.as_raw_fd(), &to),
                    Err(Errno::EINPROGRESS),
                    "connecting to {address}"
                );
            }
        }
    });
}

/// Asserts that kstat, nftables and TCP have counted each SYN of [`send_syns`], and that none of
/// them is on the wire.
#[track_caller]
fn assert_counted_and_not_sent(network: &Network<'_>, counter: &TcpCounter<'_>, wire: &Frames<'_>) {
    let nout = counter.assert_agrees_when_quiet();

    assert_agrees(nout, proc_net_snmp::tcp_segments(&network.near), "OutSegs");
    assert_eq!(nout, 2 * SYNS, "nout");
    assert_frames(wire, 0, "TCP from near on the wire");
}

#[test]
fn packet_that_a_cgroup_bpf_program_denies_is_counted() {
    with_kstat_at_each_hook(|point, network| {
        let counter = TcpCounter::new(&network.near, point);
        let wire = Frames::of_tcp(&network.router, "near");

        {
            let _denied = EgressDenied::enter();
            send_syns(network, Network::FAR);
        }
        assert_counted_and_not_sent(network, &counter, &wire);

        // Outside of the control group, packets leave.
        exchange(network);
        assert_frames(
            &wire,
            proc_net_snmp::tcp_segments(&network.near) - 2 * SYNS,
            "TCP from near on the wire afterwards",
        );
    });
}

#[test]
fn packet_that_an_egress_chain_drops_is_counted() {
    with_kstat_at_each_hook(|point, network| {
        nft::load(
            &network.near,
            "table netdev out {
                 counter dropped { }
                 chain egress {
                     type filter hook egress device eth0 priority 0;
                     meta l4proto tcp counter name dropped drop
                 }
             }",
        );
        let counter = TcpCounter::new(&network.near, point);
        let wire = Frames::of_tcp(&network.router, "near");

        // The chain lets neighbour discovery pass. Each SYN waits for it before it reaches the
        // chain.
        send_syns(network, Network::FAR);
        wait::until("the chain had dropped each packet", || {
            nft::counter_of(&network.near, "netdev", "out", "dropped") == 2 * SYNS
        });
        assert_counted_and_not_sent(network, &counter, &wire);
    });
}

#[test]
fn packet_to_a_neighbour_that_does_not_answer_is_counted() {
    with_kstat_at_each_hook(|point, network| {
        let counter = TcpCounter::new(&network.near, point);
        let wire = Frames::of_tcp(&network.router, "near");
        let absent: [IpAddr; 2] = [
            Ipv4Addr::new(198, 51, 100, 77).into(),
            Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x77).into(),
        ];

        send_syns(network, absent);
        wait::until("neighbour discovery had failed", || {
            let neighbours = network.near.run(|| tool::run("ip", &["neigh", "show"]));
            absent.iter().all(|address| {
                neighbours
                    .lines()
                    .any(|line| line.starts_with(&format!("{address} ")) && line.contains("FAILED"))
            })
        });
        assert_counted_and_not_sent(network, &counter, &wire);
    });
}

// Set-ups in which packets are merged.

#[test]
fn packets_that_gro_merges_on_a_router_are_counted_as_one() {
    with_kstat_at(HookPoint::Postrouting, |point, network| {
        let (near, router) = (&network.near, &network.router);
        near.run(|| tool::run("ethtool", &["-K", "eth0", "tso", "off", "gso", "off"]));
        // `gro on` gives the veth device a NAPI instance. With this timeout, it holds frames for a
        // millisecond.
        router.run(|| {
            tool::run("ethtool", &["-K", "near", "gro", "on"]);
            tool::run("ethtool", &["-K", "far", "tso", "off"]);
            tool::run(
                "unshare",
                &[
                    "--mount",
                    "bash",
                    "-ec",
                    "mount -t sysfs sysfs /sys
                     echo 1000000 >/sys/class/net/near/gro_flush_timeout",
                ],
            )
        });
        let counter = TcpCounter::new(router, point);
        let to_near = Frames::of_tcp(&network.near, "eth0");
        let to_far = Frames::of_tcp(&network.far, "eth0");

        // Frames are merged only if they arrive close together.
        let mut connections = 0;
        wait::until("the router had merged packets", || {
            for address in Network::FAR {
                tcp::exchange(near, &network.far, address, 100_000);
            }
            connections += 1;
            counter.packets().total() < to_near.count() + to_far.count()
        });

        let segments = near_segments(network);
        assert_frames(&to_far, segments, "TCP from near to far");
        let nout = counter.assert_agrees_when_quiet();
        println!(
            "nout {nout}, frames forwarded {} + {}, {connections} rounds",
            to_far.count(),
            to_near.count()
        );
        assert!(
            nout > to_near.count(),
            "nout is {nout}, without packets of near"
        );
        assert!(
            nout < to_near.count() + segments,
            "nout is {nout}: no packets were merged"
        );
    });
}

// Hooks of connection tracking at the last priority, where kstat's hook is too.

/// Makes conntrack register its hooks in a namespace.
#[track_caller]
fn use_conntrack(host: &Host<'_>) {
    nft::load(
        host.net(),
        "table inet tracked {
             chain output {
                 type filter hook output priority 0;
                 ct state new accept
             }
         }",
    );
}

/// Asserts that the hooks at the last priority of POST_ROUTING belong to these modules, in this
/// order.
#[track_caller]
fn assert_last_hooks(host: &Host<'_>, order: [&str; 2]) {
    for family in ["ip", "ip6"] {
        let modules = nft::last_modules(host.net(), family, HookPoint::Postrouting);

        println!("{family} postrouting 2147483647: {modules:?}");
        assert_eq!(modules, order, "{family}");
    }
}

#[test]
fn kstat_started_after_conntrack_runs_before_its_confirmation() {
    let lock = KernelLock::take();
    let kstat = Kstat::load(&lock, "hook=post_routing");
    let host = Host::new(&lock);

    use_conntrack(&host);
    kstat.start();
    assert_last_hooks(&host, ["kstat", "nf_conntrack"]);
}

#[test]
fn kstat_started_before_conntrack_runs_after_its_confirmation() {
    let lock = KernelLock::take();
    let _kstat = Kstat::started(&lock, "hook=post_routing");
    let host = Host::new(&lock);

    use_conntrack(&host);
    assert_last_hooks(&host, ["nf_conntrack", "kstat"]);
}

#[test]
fn conntrack_has_no_hook_at_the_last_priority_of_local_out() {
    let lock = KernelLock::take();
    let _kstat = Kstat::started(&lock, "hook=local_out");
    let host = Host::new(&lock);

    use_conntrack(&host);
    for family in ["ip", "ip6"] {
        assert_eq!(
            nft::last_modules(host.net(), family, HookPoint::Output),
            ["kstat"],
            "{family}"
        );
    }
}

#[test]
fn conntrack_confirms_at_the_last_priority_except_at_local_in_of_ipv6() {
    let lock = KernelLock::take();
    let _kstat = Kstat::started(&lock, "hook=post_routing");
    let host = Host::new(&lock);
    assert_eq!(nft::hooks_of(host.net(), "nf_confirm [nf_conntrack]"), []);

    use_conntrack(&host);

    let mut hooks: Vec<_> = nft::hooks_of(host.net(), "nf_confirm [nf_conntrack]")
        .into_iter()
        .map(|hook| (hook.family, hook.point, hook.priority))
        .collect();
    hooks.sort();
    println!("nf_confirm: {hooks:?}");
    assert_eq!(
        hooks,
        [
            ("ip", "input", i32::MAX),
            ("ip", "postrouting", i32::MAX),
            ("ip6", "input", i32::MAX - 1),
            ("ip6", "postrouting", i32::MAX),
        ]
        .map(|(family, point, priority)| (family.to_owned(), point.to_owned(), priority))
    );
    // kstat has its hooks at the same priority.
    assert_eq!(host.hooks(), nft::one_per_family(HookPoint::Postrouting));
}
