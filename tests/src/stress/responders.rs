// SPDX-License-Identifier: GPL-2.0

//! Network namespaces that answer connection attempts until they are destroyed.
//!
//! Each namespace has a veth link of its own to a client namespace, and no process is in it. Its
//! kernel answers each SYN with a RST, which it sends in a softirq. Packets therefore pass the
//! hooks of the namespace while it is torn down. A namespace that sends packets by sockets cannot
//! show this: its teardown begins after its last socket is closed.

use crate::{
    guest::{exclusive::KernelLock, file, link, netns::Netns},
    tool, wait,
};
use nix::{
    errno::Errno,
    net::if_::if_nametoindex,
    sys::socket::{connect, socket, AddressFamily, SockFlag, SockProtocol, SockType, SockaddrIn6},
};
use std::{
    fmt::Write,
    marker::PhantomData,
    net::{Ipv6Addr, SocketAddrV6},
    os::fd::AsRawFd,
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering},
        Mutex,
    },
    thread,
    time::Duration,
};

/// Namespaces that answer, and the client namespace that connects to them.
pub struct Responders<'t> {
    client: Netns,
    namespaces: Mutex<Vec<Netns>>,
    addresses: Vec<SockaddrIn6>,
    /// How many times [`Self::connect_all`] has tried all addresses.
    rounds: AtomicU64,
    destroyed: AtomicBool,
    _lock: PhantomData<&'t KernelLock>,
}

impl<'t> Responders<'t> {
    /// Makes `count` namespaces that answer; at most 255.
    #[track_caller]
    pub fn new(_lock: &'t KernelLock, count: usize) -> Self {
        let namespace = || {
            let net = Netns::new();
            // Without duplicate address detection, addresses are usable at once.
            net.run(|| file::set("/proc/sys/net/ipv6/conf/default/accept_dad", "0"));
            net
        };
        let client = namespace();
        let namespaces: Vec<_> = (0..count).map(|_| namespace()).collect();

        let mut batch = String::new();
        for (i, net) in namespaces.iter().enumerate() {
            writeln!(
                batch,
                "link add n{i} up type veth peer name eth0 address 02:00:00:00:00:{i:02x} netns {}",
                net.path()
            )
            .expect("writing to a String cannot fail");
        }
        // The link-local address that the kernel makes of that MAC address (RFC 4291, appendix A).
        let address = |i| Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0xff, 0xfe00, i);
        client.run(|| tool::run_with("ip", &["-batch", "-"], &batch));
        for net in &namespaces {
            net.run(|| link::set_up("eth0"));
        }
        let addresses = client.run(|| {
            (0..count as u16)
                .map(|i| {
                    let link = if_nametoindex(format!("n{i}").as_str())
                        .unwrap_or_else(|error| panic!("the index of n{i}: {error}"));
                    SocketAddrV6::new(address(i), 9, 0, link).into()
                })
                .collect()
        });

        Self {
            client,
            namespaces: Mutex::new(namespaces),
            addresses,
            rounds: AtomicU64::new(0),
            destroyed: AtomicBool::new(false),
            _lock: PhantomData,
        }
    }

    /// Tries to connect to each namespace once, then sleeps for 5 ms.
    ///
    /// Does nothing once [`Self::destroy_all`] has seen enough attempts.
    #[track_caller]
    pub fn connect_all(&self) {
        if self.destroyed.load(Ordering::SeqCst) {
            // Further attempts would make the kernel wait a second for each link.
            thread::yield_now();
            return;
        }
        self.client.run(|| {
            for address in &self.addresses {
                let socket = socket(
                    AddressFamily::Inet6,
                    SockType::Stream,
                    SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
                    SockProtocol::Tcp,
                )
                .unwrap_or_else(|error| panic!("making a socket: {error}"));

                match connect(socket.as_raw_fd(), address) {
                    Err(
                        Errno::EINPROGRESS
                        | Errno::ECONNREFUSED
                        | Errno::EHOSTUNREACH
                        | Errno::ENETUNREACH
                        | Errno::ENODEV
                        | Errno::EINVAL
                        | Errno::EADDRNOTAVAIL,
                    ) => {}
                    other => panic!("connecting to {address}: {other:?}"),
                }
            }
            self.rounds.fetch_add(1, Ordering::SeqCst);
            thread::sleep(Duration::from_millis(5));
        });
    }

    /// Does `work` in each of the namespaces.
    #[track_caller]
    pub fn run_in_each(&self, work: impl Fn() + Sync) {
        for net in &*self.namespaces.lock().expect("the mutex is not poisoned") {
            net.run(&work);
        }
    }

    /// Destroys all namespaces, and returns when their links are gone.
    ///
    /// Other threads must keep calling [`Self::connect_all`]: this waits for six more rounds.
    #[track_caller]
    pub fn destroy_all(&self) {
        let rounds = || self.rounds.load(Ordering::SeqCst);
        let goal = rounds() + 6;

        self.namespaces
            .lock()
            .expect("the mutex is not poisoned")
            .clear();
        wait::until("more connections were attempted", || rounds() >= goal);
        self.destroyed.store(true, Ordering::SeqCst);
        self.client.run(|| {
            wait::until("the links were gone", || {
                (0..self.addresses.len()).all(|i| if_nametoindex(format!("n{i}").as_str()).is_err())
            });
        });
    }
}
