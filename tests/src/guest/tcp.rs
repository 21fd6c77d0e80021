// SPDX-License-Identifier: GPL-2.0

//! TCP connections between network namespaces, made by the kernel's own sockets.

use crate::{
    guest::{file, netns::Netns},
    wait,
};
use nix::{
    errno::Errno,
    sys::socket::{
        connect as connect_socket, setsockopt, socket, sockopt::BindToDevice, AddressFamily,
        SockFlag, SockProtocol, SockType, SockaddrStorage,
    },
};
use std::{
    io::{Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd,
    thread,
};

// States in /proc/net/tcp of sockets that send a packet only in answer to one.
const LISTEN: &str = "0A";
const TIME_WAIT: &str = "06";

/// Connects from `client` to `address` of `server`, sends `bytes` bytes, and closes the connection.
/// Returns when neither side has a packet left to send, with the client's address as the server
/// sees it.
#[track_caller]
pub fn exchange(client: &Netns, server: &Netns, address: IpAddr, bytes: usize) -> IpAddr {
    exchange_at(client, server, address, address, bytes)
}

/// As [`exchange`], but `client` connects to `known_as`, which address translation turns into
/// `address`.
#[track_caller]
pub fn exchange_at(
    client: &Netns,
    server: &Netns,
    address: IpAddr,
    known_as: IpAddr,
    bytes: usize,
) -> IpAddr {
    transfer(
        client,
        server,
        connect_as(client, server, address, known_as),
        bytes,
    )
}

/// As [`exchange`], by a socket of `client` that is bound to `device` (SO_BINDTODEVICE).
#[track_caller]
pub fn exchange_bound(
    client: &Netns,
    device: &str,
    server: &Netns,
    address: IpAddr,
    bytes: usize,
) -> IpAddr {
    let listener = listen(server, address);
    let to = listener
        .local_addr()
        .unwrap_or_else(|error| panic!("the address of a listener: {error}"));
    let near = client.run(|| {
        let family = if address.is_ipv4() {
            AddressFamily::Inet
        } else {
            AddressFamily::Inet6
        };
        let bound = || {
            let socket = socket(
                family,
                SockType::Stream,
                SockFlag::SOCK_CLOEXEC,
                SockProtocol::Tcp,
            )?;
            setsockopt(&socket, BindToDevice, &device.into())?;
            connect_socket(socket.as_raw_fd(), &SockaddrStorage::from(to))?;
            Ok(TcpStream::from(socket))
        };
        bound().unwrap_or_else(|error: Errno| panic!("connecting to {to} over {device}: {error}"))
    });
    let (far, _) = listener
        .accept()
        .unwrap_or_else(|error| panic!("accepting at {address}: {error}"));

    transfer(client, server, (near, far), bytes)
}

/// Sends `bytes` bytes from `sender` in `client` to `receiver` in `server`, and closes the
/// connection. Returns when neither side has a packet left to send, with the client's address as
/// the server sees it.
#[track_caller]
fn transfer(
    client: &Netns,
    server: &Netns,
    (mut sender, mut receiver): (TcpStream, TcpStream),
    bytes: usize,
) -> IpAddr {
    let peer = receiver
        .peer_addr()
        .unwrap_or_else(|error| panic!("the address of the client: {error}"));
    for end in [&sender, &receiver] {
        end.set_read_timeout(Some(wait::PATIENCE))
            .and_then(|()| end.set_write_timeout(Some(wait::PATIENCE)))
            .unwrap_or_else(|error| panic!("setting timeouts: {error}"));
    }

    thread::scope(|scope| {
        scope.spawn(move || {
            let mut received = Vec::new();

            receiver
                .read_to_end(&mut received)
                .unwrap_or_else(|error| panic!("receiving from {peer}: {error}"));
            assert_eq!(received.len(), bytes, "bytes received from {peer}");
        });
        sender
            .write_all(&vec![0x6b; bytes])
            .and_then(|()| sender.shutdown(Shutdown::Write))
            .and_then(|()| sender.read_to_end(&mut Vec::new()))
            .unwrap_or_else(|error| panic!("sending from {peer}: {error}"));
    });
    drop(sender);

    settle(client);
    settle(server);
    peer.ip()
}

/// Connects from `client` to `address` of `server`, and returns the client's and the server's end.
#[track_caller]
pub fn connect(client: &Netns, server: &Netns, address: IpAddr) -> (TcpStream, TcpStream) {
    connect_as(client, server, address, address)
}

/// As [`connect`], but `client` connects to `known_as`.
#[track_caller]
fn connect_as(
    client: &Netns,
    server: &Netns,
    address: IpAddr,
    known_as: IpAddr,
) -> (TcpStream, TcpStream) {
    let listener = listen(server, address);
    let port = listener
        .local_addr()
        .unwrap_or_else(|error| panic!("the address of a listener: {error}"))
        .port();

    // The kernel completes the handshake before accept(2) is called.
    let near = client.run(|| {
        TcpStream::connect_timeout(&SocketAddr::new(known_as, port), wait::PATIENCE)
            .unwrap_or_else(|error| panic!("connecting to {known_as}: {error}"))
    });
    let (far, _) = listener
        .accept()
        .unwrap_or_else(|error| panic!("accepting at {address}: {error}"));
    (near, far)
}

/// Listens at `address` of `server`, on a port that the kernel chooses.
#[track_caller]
fn listen(server: &Netns, address: IpAddr) -> TcpListener {
    server.run(|| {
        TcpListener::bind((address, 0))
            .unwrap_or_else(|error| panic!("listening at {address}: {error}"))
    })
}

/// Returns when no TCP socket of the namespace has a packet left to send.
#[track_caller]
pub fn settle(net: &Netns) {
    wait::until("all connections were closed", || {
        net.run(|| {
            sockets()
                .iter()
                .all(|(_, state)| [LISTEN, TIME_WAIT].contains(&state.as_str()))
        })
    });
}

/// Returns when a socket listens on `port` in the namespace.
#[track_caller]
pub fn await_listener(net: &Netns, port: u16) {
    let suffix = format!(":{port:04X}");

    wait::until("a socket listened", || {
        net.run(|| {
            sockets()
                .iter()
                .any(|(local, state)| local.ends_with(&suffix) && state == LISTEN)
        })
    });
}

/// Returns the local address and the state of each TCP socket in the namespace of the calling
/// thread.
fn sockets() -> Vec<(String, String)> {
    ["tcp", "tcp6"]
        .iter()
        .flat_map(|table| {
            file::read(&format!("/proc/thread-self/net/{table}"))
                .lines()
                .skip(1)
                .map(
                    |line| match *line.split_whitespace().take(4).collect::<Vec<_>>() {
                        [_, local, _, state] => (local.to_owned(), state.to_owned()),
                        _ => panic!("/proc/net/{table}: {line:?}"),
                    },
                )
                .collect::<Vec<_>>()
        })
        .collect()
}
