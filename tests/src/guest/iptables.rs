// SPDX-License-Identifier: GPL-2.0

//! Packet counts by iptables and ip6tables, with which kstat's count is compared.

use crate::{guest::netns::Netns, tool};

/// The rule `-A OUTPUT -p tcp`, for IPv4 and for IPv6.
pub struct TcpRules<'a>(&'a Netns);

impl<'a> TcpRules<'a> {
    const PROGRAMS: [&'static str; 2] = ["iptables", "ip6tables"];

    /// Adds the rules to the network namespace `net`. They stay as long as the namespace.
    #[track_caller]
    pub fn new(net: &'a Netns) -> Self {
        net.run(|| {
            for program in Self::PROGRAMS {
                tool::run(program, &["-w", "-A", "OUTPUT", "-p", "tcp"]);
            }
        });
        Self(net)
    }

    /// Returns the number of packets that both rules have counted so far.
    #[track_caller]
    pub fn packets(&self) -> u64 {
        self.0.run(|| {
            Self::PROGRAMS
                .map(|program| {
                    let list = tool::run(program, &["-w", "-vxnL", "OUTPUT"]);

                    // Two lines of headings, then a line for the rule: "packets bytes ...".
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
