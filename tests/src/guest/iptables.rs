// SPDX-License-Identifier: GPL-2.0

//! iptables and ip6tables, which count packets too.

use crate::{guest::netns::Netns, tool};

/// `-A OUTPUT -p tcp`, for IPv4 and for IPv6.
pub struct TcpRules<'a>(&'a Netns);

impl<'a> TcpRules<'a> {
    const PROGRAMS: [&'static str; 2] = ["iptables", "ip6tables"];

    /// Counts from now on, until the namespace is gone.
    #[track_caller]
    pub fn new(net: &'a Netns) -> Self {
        net.run(|| {
            for program in Self::PROGRAMS {
                tool::run(program, &["-w", "-A", "OUTPUT", "-p", "tcp"]);
            }
        });
        Self(net)
    }

    /// What both have counted so far.
    #[track_caller]
    pub fn packets(&self) -> u64 {
        self.0.run(|| {
            Self::PROGRAMS
                .map(|program| {
                    let list = tool::run(program, &["-w", "-vxnL", "OUTPUT"]);

                    // Two lines of headings, then "packets bytes ...".
                    list.lines()
                        .nth(2)
                        .and_then(|rule| rule.split_whitespace().next()?.parse::<u64>().ok())
                        .unwrap_or_else(|| panic!("{program} -vxnL OUTPUT says {list}"))
                })
                .iter()
                .sum()
        })
    }
}
