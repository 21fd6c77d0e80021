// SPDX-License-Identifier: GPL-2.0

//! Real traffic between two hosts and through a router.
//!
//! kstat and nftables count the same on each of the three. Some tests also compare nout with
//! another count: of iptables, of tcpdump, or of `/proc/net/snmp`.

use kstat_tests::{
    assert_agrees,
    guest::{
        daemon::{Daemon, Folder},
        exclusive::KernelLock,
        file::{self, NOUT},
        host::Host,
        iptables::TcpRules,
        module::Kstat,
        netns::Netns,
        network::Network,
        nft::{HookPoint, TcpCounter},
        nginx::Nginx,
        proc_net_snmp, tcp,
    },
    seed, tool, wait,
};
use std::{
    fs,
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::{FromRawFd, OwnedFd},
    thread,
};

/// The packets that were counted on each host.
struct Counted {
    near: u64,
    router: u64,
    far: u64,
}

/// Runs `traffic` on a network where kstat counts at `hook`, and asserts that kstat and nftables
/// have counted the same on every host.
#[track_caller]
fn assert_hosts_agree_at(hook: &str, traffic: impl FnOnce(&Network<'_>)) -> Counted {
    let lock = KernelLock::take();
    let _kstat = Kstat::started(&lock, &format!("counter=1 hook={hook}"));
    let network = Network::new(&lock);
    let point = match hook {
        "local_out" => HookPoint::Output,
        _ => HookPoint::Postrouting,
    };
    let hosts = [&network.near, &network.router, &network.far];
    let counters = hosts.map(|host| TcpCounter::new(host, point));

    traffic(&network);

    for host in hosts {
        tcp::settle(host);
    }
    let [near, router, far] = counters.map(|counter| counter.assert_agrees_when_quiet());
    Counted { near, router, far }
}

/// Runs `traffic` on a network where kstat counts at local_out. Asserts that kstat and nftables
/// have counted the same on every host: packets of `near` and `far`, and none of the router.
#[track_caller]
fn assert_hosts_agree(traffic: impl FnOnce(&Network<'_>)) {
    let counted = assert_hosts_agree_at("local_out", traffic);

    assert_eq!(counted.router, 0, "packets of the router");
    assert!(
        counted.near > 0 && counted.far > 0,
        "{} and {} packets were sent",
        counted.near,
        counted.far
    );
}

#[test]
fn kstat_agrees_with_iptables_and_tcpdump_on_short_http_connections() {
    const CONNECTIONS: u64 = 60;

    assert_hosts_agree(|network| {
        let folder = Folder::new();
        let nginx = Nginx::new(&network.far, 3000);
        let capture = folder.path("capture");
        let tcpdump = Daemon::run(
            &network.near,
            "tcpdump",
            &[
                "-q", "-i", "eth0", "-Q", "out", "-s", "100", "-B", "16384", "-w", &capture, "-U",
                "tcp",
            ],
        );
        // tcpdump has opened its socket when it begins to write the file.
        wait::until("tcpdump was ready", || {
            fs::metadata(&capture).is_ok_and(|file| file.len() > 0)
        });
        let rules = TcpRules::new(&network.near);
        network.near.run(|| {
            for address in Network::FAR {
                let request = format!(
                    "url = http://{}/file\noutput = /dev/null\n",
                    SocketAddr::new(address, 80)
                );
                tool::run_with(
                    "curl",
                    &[
                        "-sSfZ",
                        "-m",
                        "60",
                        "--parallel-max",
                        "4",
                        "-H",
                        "Connection: close",
                        "-K",
                        "-",
                    ],
                    &request.repeat(CONNECTIONS as usize),
                );
            }
        });
        drop(nginx);
        tcp::settle(&network.near);
        tcp::settle(&network.far);
        let nout = network.near.run(|| file::number(NOUT));
        assert_agrees(
            nout,
            rules.packets(),
            "iptables' and ip6tables' -A OUTPUT -p tcp",
        );
        // A file that is being written may end in the middle of a packet, which tcpdump reports as
        // an error.
        let captured = || {
            let output = tool::attempt("tcpdump", &["-nn", "-q", "-r", &capture], "");
            String::from_utf8_lossy(&output.stdout).lines().count() as u64
        };
        wait::until("tcpdump had written all packets", || captured() >= nout);
        drop(tcpdump);
        assert_agrees(nout, captured(), "tcpdump -Q out tcp");
        // Each connection takes SYN, ACK, request, FIN, and the ACK of the server's FIN, in at
        // least four packets.
        assert!(
            nout >= 2 * CONNECTIONS * 4,
            "{} connections are {nout} packets",
            2 * CONNECTIONS
        );
    });
}

#[test]
fn kstat_agrees_with_nftables_on_an_interactive_ssh_session() {
    assert_hosts_agree(|network| {
        let folder = Folder::new();
        let (host_key, key) = (folder.path("host_key"), folder.path("key"));
        for key in [&host_key, &key] {
            tool::run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", key]);
        }
        fs::create_dir_all("/run/sshd").expect("making /run/sshd");
        let configuration = folder.write(
            "sshd_config",
            format!(
                "Port 2222\nHostKey {host_key}\nAuthorizedKeysFile {key}.pub\nStrictModes no\n\
                 UsePAM no\nPidFile none\nPermitRootLogin yes\nUseDNS no\n"
            ),
        );
        let _sshd = Daemon::run(
            &network.far,
            "/usr/sbin/sshd",
            &["-D", "-q", "-f", &configuration],
        );
        tcp::await_listener(&network.far, 2222);

        for address in Network::FAR {
            let output = network.near.run(|| {
                tool::run_with(
                    "ssh",
                    &[
                        "-tt",
                        "-q",
                        "-F",
                        "none",
                        "-i",
                        &key,
                        "-p",
                        "2222",
                        "-o",
                        "StrictHostKeyChecking=no",
                        "-o",
                        "UserKnownHostsFile=/dev/null",
                        &format!("root@{address}"),
                    ],
                    "PS1=; echo hel''lo\nexit\n",
                )
            });
            assert!(
                output.contains("hello"),
                "output of the session: {output:?}"
            );
        }
    });
}

#[test]
fn kstat_agrees_with_nftables_on_refused_and_reset_connections() {
    assert_hosts_agree(|network| {
        for address in Network::FAR {
            let refused = network
                .near
                .run(|| TcpStream::connect_timeout(&SocketAddr::new(address, 9), wait::PATIENCE));
            assert_eq!(
                refused.map_err(|error| error.kind()).err(),
                Some(io::ErrorKind::ConnectionRefused)
            );

            // A socket that is closed with unread data resets the connection.
            let (mut client, mut server) = tcp::connect(&network.near, &network.far, address);
            client.write_all(b"unread").expect("sending");
            wait::until("the data had arrived", || {
                server.peek(&mut [0; 8]).is_ok_and(|length| length == 6)
            });
            server.write_all(b"hello").expect("sending");
            drop(server);
            let error = client
                .read_to_end(&mut Vec::new())
                .map_err(|error| error.kind());
            assert_eq!(error.err(), Some(io::ErrorKind::ConnectionReset));
        }
        let resets = proc_net_snmp::number(&network.far, "snmp", "Tcp", "OutRsts");
        assert!(resets >= 4, "OutRsts of /proc/net/snmp is {resets}");
    });
}

/// Runs iperf3 with `args` on `client`, against an iperf3 server at `address` of `server`.
fn iperf3(server: &Netns, client: &Netns, address: IpAddr, args: &[&str]) {
    const PORT: &str = "5201";

    let _server = Daemon::run(server, "iperf3", &["-s", "-p", PORT]);
    tcp::await_listener(server, 5201);
    let address = address.to_string();
    client.run(|| {
        tool::run(
            "iperf3",
            &[&["-c", &address, "-p", PORT][..], args].concat(),
        )
    });
    tcp::settle(client);
}

#[test]
fn kstat_agrees_with_nftables_on_iperf3_with_gso_super_packets() {
    assert_hosts_agree(|network| {
        for address in Network::FAR {
            iperf3(&network.far, &network.near, address, &["-n", "3M"]);
            iperf3(&network.far, &network.near, address, &["-n", "3M", "-R"]);
        }
        let packets = TcpCounter::packets_of(&network.near, HookPoint::Output).total();
        let segments = proc_net_snmp::tcp_segments(&network.near);
        println!("near sent {packets} packets, and {segments} segments by /proc/net/snmp");
        assert!(packets < segments, "no packet was a super-packet");
    });
}

/// Turns segmentation offload off, for a host's only device and for TCP. TCP would otherwise still
/// make super-packets, which the kernel would segment after the hooks.
fn disable_gso(host: &Netns) {
    host.run(|| {
        tool::run("ethtool", &["-K", "eth0", "tso", "off", "gso", "off"]);
        tool::run("ip", &["link", "set", "eth0", "gso_max_segs", "1"]);
    });
}

/// Asserts that nout of a host equals the number of segments that its TCP has sent. Reads both
/// again if nout has changed in between.
#[track_caller]
fn assert_nout_equals_segments(host: &Netns) {
    let nout = || host.run(|| file::number(NOUT));

    loop {
        let (before, segments) = (nout(), proc_net_snmp::tcp_segments(host));
        if nout() == before {
            assert_agrees(before, segments, "/proc/net/snmp (OutSegs and RetransSegs)");
            return;
        }
    }
}

#[test]
fn iperf3_packets_without_gso_equal_the_segments_of_proc_net_snmp() {
    assert_hosts_agree(|network| {
        for host in [&network.near, &network.far] {
            disable_gso(host);
        }
        for address in Network::FAR {
            iperf3(&network.far, &network.near, address, &["-n", "2M"]);
            iperf3(&network.far, &network.near, address, &["-n", "2M", "-R"]);
        }
        assert_nout_equals_segments(&network.near);
    });
}

#[test]
fn each_retransmission_of_a_lost_segment_is_counted() {
    assert_hosts_agree(|network| {
        for host in [&network.near, &network.far] {
            disable_gso(host);
            let seed = seed::seed().to_string();
            host.run(|| {
                tool::run(
                    "tc",
                    &[
                        "qdisc", "add", "dev", "eth0", "root", "netem", "loss", "5%", "delay",
                        "2ms", "seed", &seed,
                    ],
                )
            });
        }
        // netem drops segments at random, and may drop none of the first ones.
        wait::until("a segment was retransmitted", || {
            for address in Network::FAR {
                tcp::exchange(&network.near, &network.far, address, 200_000);
            }
            proc_net_snmp::number(&network.near, "snmp", "Tcp", "RetransSegs") > 0
        });
        assert_nout_equals_segments(&network.near);
    });
}

#[test]
fn kstat_agrees_with_nftables_on_parallel_connections_over_loopback() {
    let lock = KernelLock::take();
    let _kstat = Kstat::started(&lock, "counter=1");
    let host = Host::new(&lock);
    let nft = host.nft(HookPoint::Output);

    for address in [IpAddr::V4(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        iperf3(
            host.net(),
            host.net(),
            address,
            &["-P", "4", "-n", "4M", "--bidir", "-l", "1400", "-N"],
        );
    }
    assert!(nft.assert_agrees_when_quiet() > 1000, "packets");
}

#[test]
fn kstat_agrees_with_nftables_on_mptcp_connections() {
    /// Makes an MPTCP socket, which the standard library can use as a TCP socket.
    fn socket(family: i32) -> OwnedFd {
        // SAFETY: socket(2) takes no pointers, and its result is a new descriptor that nothing else
        // owns.
        unsafe {
            let socket = libc::socket(
                family,
                libc::SOCK_STREAM | libc::SOCK_CLOEXEC,
                libc::IPPROTO_MPTCP,
            );
            assert!(socket >= 0, "a socket: {}", io::Error::last_os_error());
            OwnedFd::from_raw_fd(socket)
        }
    }

    assert_hosts_agree(|network| {
        use nix::sys::socket::{bind, connect, listen, Backlog, SockaddrStorage};
        use std::os::fd::AsRawFd;

        for address in Network::FAR {
            let family = if address.is_ipv4() {
                libc::AF_INET
            } else {
                libc::AF_INET6
            };
            let to = SockaddrStorage::from(SocketAddr::new(address, 8080));
            let listener = network.far.run(|| {
                let listener = socket(family);
                bind(listener.as_raw_fd(), &to).expect("binding");
                listen(&listener, Backlog::new(1).expect("a backlog")).expect("listening");
                TcpListener::from(listener)
            });
            let mut client = network.near.run(|| {
                let client = socket(family);
                connect(client.as_raw_fd(), &to).expect("connecting");
                TcpStream::from(client)
            });
            let (mut server, _) = listener.accept().expect("accepting");

            thread::scope(|scope| {
                scope.spawn(|| {
                    client.write_all(&[0x6b; 50_000]).expect("sending");
                    client.shutdown(Shutdown::Write).expect("closing");
                });
                let mut received = Vec::new();
                server.read_to_end(&mut received).expect("receiving");
                assert_eq!(received.len(), 50_000);
            });
            drop(server);
            client.read_to_end(&mut Vec::new()).expect("the end");
        }
        let connections =
            proc_net_snmp::number(&network.near, "netstat", "MPTcpExt", "MPCapableSYNTX");
        assert_eq!(connections, 2, "MPCapableSYNTX of /proc/net/netstat");
    });
}

#[test]
fn packet_is_counted_in_the_namespace_of_its_socket_not_of_the_process() {
    assert_hosts_agree(|network| {
        let other = Netns::new();
        let nout = || file::number(NOUT);

        for address in Network::FAR {
            let (mut client, mut server) = tcp::connect(&network.near, &network.far, address);

            let before = network.near.run(nout);
            other.run(|| {
                client.write_all(b"hello").expect("sending");
                client.shutdown(Shutdown::Write).expect("closing");
            });
            let mut received = Vec::new();
            server.read_to_end(&mut received).expect("receiving");
            drop(server);
            client.read_to_end(&mut Vec::new()).expect("the end");
            assert_eq!(received, b"hello");
            assert!(network.near.run(nout) > before, "near sent no packet");
        }
        assert_eq!(other.run(nout), 0, "nout of the process's namespace");
    });
}

#[test]
fn tcp_through_a_tunnel_is_counted_at_its_ends_and_not_on_the_router() {
    // The name of the kind, and the arguments of `ip link add`. An ipip tunnel carries no IPv6.
    const TUNNELS: [(&str, &str); 4] = [
        ("gre", "type gre local LOCAL4 remote REMOTE4"),
        ("ipip", "type ipip local LOCAL4 remote REMOTE4"),
        (
            "vxlan",
            "type vxlan id 7 dstport 4789 local LOCAL4 remote REMOTE4 dev eth0",
        ),
        ("ip6gre", "type ip6gre local LOCAL6 remote REMOTE6"),
    ];
    const NEAR: [&str; 2] = ["198.51.100.2", "2001:db8:1::2"];
    const FAR: [&str; 2] = ["203.0.113.2", "2001:db8:2::2"];

    for hook in ["local_out", "post_routing"] {
        let counted = assert_hosts_agree_at(hook, |network| {
            for (i, (name, kind)) in TUNNELS.iter().enumerate() {
                for (host, local, remote, number) in
                    [(&network.near, NEAR, FAR, 1), (&network.far, FAR, NEAR, 2)]
                {
                    let kind = kind
                        .replace("LOCAL4", local[0])
                        .replace("REMOTE4", remote[0])
                        .replace("LOCAL6", local[1])
                        .replace("REMOTE6", remote[1]);
                    let v6 = if *name == "ipip" {
                        String::new()
                    } else {
                        format!("addr add fd00:{i}::{number}/64 dev t{i} nodad\n")
                    };

                    host.run(|| {
                        tool::run_with(
                            "ip",
                            &["-batch", "-"],
                            &format!(
                                "link add t{i} {kind}\n\
                                 link set t{i} up\n\
                                 addr add 10.0.{i}.{number}/24 dev t{i}\n\
                                 {v6}"
                            ),
                        )
                    });
                }

                let far = Ipv4Addr::new(10, 0, i as u8, 2);
                tcp::exchange(&network.near, &network.far, far.into(), 50_000);
                if *name != "ipip" {
                    let far = Ipv6Addr::new(0xfd00, i as u16, 0, 0, 0, 0, 0, 2);
                    tcp::exchange(&network.near, &network.far, far.into(), 50_000);
                }
            }
        });

        assert!(counted.near > 0 && counted.far > 0, "packets at {hook}");
        // The router forwards the outer packets: GRE, IPIP and UDP.
        assert_eq!(counted.router, 0, "TCP packets of the router at {hook}");
    }
}
