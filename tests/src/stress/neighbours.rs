// SPDX-License-Identifier: GPL-2.0

//! Hosts that answer at once, whoever knocks, until the moment they are gone.
//!
//! Each is a network namespace on a link of its own, in which no process is: its kernel refuses every
//! connection, by a TCP packet that it sends in a softirq. So packets are on their way through its
//! hooks while it is torn down, which no host can have that ends with its last socket.

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

/// Several of them, and who knocks.
pub struct Neighbours<'t> {
    here: Netns,
    there: Mutex<Vec<Netns>>,
    doors: Vec<SockaddrIn6>,
    knocks: AtomicU64,
    left: AtomicBool,
    _lock: PhantomData<&'t KernelLock>,
}

impl<'t> Neighbours<'t> {
    /// Makes so many, up to 255.
    #[track_caller]
    pub fn new(_lock: &'t KernelLock, count: usize) -> Self {
        let namespace = || {
            let net = Netns::new();
            // An address is good at once, and nobody is asked whether it is another's.
            net.run(|| file::set("/proc/sys/net/ipv6/conf/default/accept_dad", "0"));
            net
        };
        let here = namespace();
        let there: Vec<_> = (0..count).map(|_| namespace()).collect();

        let mut batch = String::new();
        for (i, net) in there.iter().enumerate() {
            writeln!(
                batch,
                "link add n{i} up type veth peer name eth0 address 02:00:00:00:00:{i:02x} netns {}",
                net.path()
            )
            .expect("a string takes it");
        }
        // The address that a device of that MAC address gives itself (RFC 4291, appendix A).
        let address = |i| Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0xff, 0xfe00, i);
        here.run(|| tool::run_with("ip", &["-batch", "-"], &batch));
        for net in &there {
            net.run(|| link::set_up("eth0"));
        }
        let doors = here.run(|| {
            (0..count as u16)
                .map(|i| {
                    let link = if_nametoindex(format!("n{i}").as_str())
                        .unwrap_or_else(|error| panic!("the index of n{i}: {error}"));
                    SocketAddrV6::new(address(i), 9, 0, link).into()
                })
                .collect()
        });

        Self {
            here,
            there: Mutex::new(there),
            doors,
            knocks: AtomicU64::new(0),
            left: AtomicBool::new(false),
            _lock: PhantomData,
        }
    }

    /// Knocks once at every door, and takes a breath.
    #[track_caller]
    pub fn knock(&self) {
        if self.left.load(Ordering::SeqCst) {
            // Who knocks on makes the kernel wait for its links, a second for each.
            thread::yield_now();
            return;
        }
        self.here.run(|| {
            for door in &self.doors {
                let socket = socket(
                    AddressFamily::Inet6,
                    SockType::Stream,
                    SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
                    SockProtocol::Tcp,
                )
                .unwrap_or_else(|error| panic!("a socket: {error}"));

                match connect(socket.as_raw_fd(), door) {
                    Err(
                        Errno::EINPROGRESS
                        | Errno::ECONNREFUSED
                        | Errno::EHOSTUNREACH
                        | Errno::ENETUNREACH
                        | Errno::ENODEV
                        | Errno::EINVAL
                        | Errno::EADDRNOTAVAIL,
                    ) => {}
                    other => panic!("knocking at {door}: {other:?}"),
                }
            }
            self.knocks.fetch_add(1, Ordering::SeqCst);
            thread::sleep(Duration::from_millis(5));
        });
    }

    /// Does `work` at every neighbour.
    #[track_caller]
    pub fn visit(&self, work: impl Fn() + Sync) {
        for net in &*self.there.lock().expect("nobody failed with it") {
            net.run(&work);
        }
    }

    /// Lets all of them go while somebody knocks, and returns when their links are gone.
    #[track_caller]
    pub fn leave(&self) {
        let knocks = || self.knocks.load(Ordering::SeqCst);
        let enough = knocks() + 6;

        self.there.lock().expect("nobody failed with it").clear();
        wait::until("somebody had knocked", || knocks() >= enough);
        self.left.store(true, Ordering::SeqCst);
        self.here.run(|| {
            wait::until("the links were gone", || {
                (0..self.doors.len()).all(|i| if_nametoindex(format!("n{i}").as_str()).is_err())
            });
        });
    }
}
