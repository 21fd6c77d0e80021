// SPDX-License-Identifier: GPL-2.0

//! Two hosts, and a router between them. Each box is a network namespace, and each link a pair of
//! veth devices:
//!
//! ```text
//! +------------------+     +-----------------------------------------+     +------------------+
//! | near             |     | router                                  |     | far              |
//! |             eth0 +-----+ near                                far +-----+ eth0             |
//! | 198.51.100.2/24  |     | 198.51.100.1/24          203.0.113.1/24 |     |   203.0.113.2/24 |
//! | 2001:db8:1::2/64 |     | 2001:db8:1::1/64       2001:db8:2::1/64 |     | 2001:db8:2::2/64 |
//! +------------------+     +-----------------------------------------+     +------------------+
//! ```
//!
//! The default routes of both hosts lead to the router, which forwards IPv4 and IPv6.

use crate::{
    guest::{exclusive::KernelLock, file, netns::Netns},
    tool, wait,
};
use std::{
    marker::PhantomData,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// `near` and `far` reach each other through `router`, over IPv4 and over IPv6.
pub struct Network<'t> {
    pub near: Netns,
    pub router: Netns,
    pub far: Netns,
    _lock: PhantomData<&'t KernelLock>,
}

impl<'t> Network<'t> {
    /// The IPv4 address of `near`.
    pub const NEAR_IPV4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
    /// The IPv6 address of `near`.
    pub const NEAR_IPV6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 2);
    /// The IPv4 address of `far`.
    pub const FAR_IPV4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
    /// The IPv6 address of `far`.
    pub const FAR_IPV6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 2);
    /// The addresses of `far`.
    pub const FAR: [IpAddr; 2] = [IpAddr::V4(Self::FAR_IPV4), IpAddr::V6(Self::FAR_IPV6)];

    /// The router's addresses on the link to `far`.
    pub const ROUTER: [IpAddr; 2] = [
        IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)),
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 1)),
    ];

    /// Makes the three namespaces and their links, and returns when the links are up.
    #[track_caller]
    pub fn new(_lock: &'t KernelLock) -> Self {
        let (near, router, far) = (Netns::new(), Netns::new(), Netns::new());

        router.run(|| {
            ip(&format!(
                "link set lo up\n\
                 link add near type veth peer name eth0 netns {}\n\
                 link add far type veth peer name eth0 netns {}\n\
                 addr add 198.51.100.1/24 dev near\n\
                 addr add 2001:db8:1::1/64 dev near nodad\n\
                 addr add 203.0.113.1/24 dev far\n\
                 addr add 2001:db8:2::1/64 dev far nodad\n\
                 link set near up\n\
                 link set far up\n",
                near.path(),
                far.path()
            ));
            for forwarding in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
                file::set(&format!("/proc/sys/net/{forwarding}"), "1");
            }
        });
        for (host, ipv4, ipv6) in [
            (&near, "198.51.100", "2001:db8:1:"),
            (&far, "203.0.113", "2001:db8:2:"),
        ] {
            host.run(|| {
                ip(&format!(
                    "link set lo up\n\
                     addr add {ipv4}.2/24 dev eth0\n\
                     addr add {ipv6}:2/64 dev eth0 nodad\n\
                     link set eth0 up\n\
                     route add default via {ipv4}.1\n\
                     route add default via {ipv6}:1\n"
                ))
            });
        }
        for net in [&near, &router, &far] {
            wait::until("the links were up", || net.run(links_are_up));
        }
        Self {
            near,
            router,
            far,
            _lock: PhantomData,
        }
    }
}

/// Tells whether all links of the thread's namespace have a carrier. Without it, a link drops
/// packets.
fn links_are_up() -> bool {
    tool::run("ip", &["-br", "link", "show", "type", "veth"])
        .lines()
        .all(|link| link.split_whitespace().nth(1) == Some("UP"))
}

#[track_caller]
fn ip(batch: &str) {
    tool::run_with("ip", &["-batch", "-"], batch);
}
