// SPDX-License-Identifier: GPL-2.0

//! The kernel's own statistics of a network namespace: `/proc/net/snmp` and `/proc/net/netstat`.

use crate::guest::{file, netns::Netns};

/// A number: `number(net, "snmp", "Tcp", "OutSegs")`, say.
#[track_caller]
pub fn number(net: &Netns, table: &str, group: &str, name: &str) -> u64 {
    let path = format!("/proc/thread-self/net/{table}");
    let text = net.run(|| file::read(&path));
    let prefix = format!("{group}: ");
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(&prefix));

    // A line of names, then a line of numbers.
    lines
        .next()
        .zip(lines.next())
        .and_then(|(names, numbers)| {
            names
                .split(' ')
                .zip(numbers.split(' '))
                .find(|(candidate, _)| *candidate == name)?
                .1
                .parse()
                .ok()
        })
        .unwrap_or_else(|| panic!("{path} does not say {group} {name}: {text}"))
}

/// The TCP segments that were sent, super-packets taken apart, and those sent again. A SYN-ACK that is
/// sent again counts as both: so this is exact for who connects, and not for who listens.
#[track_caller]
pub fn tcp_segments(net: &Netns) -> u64 {
    number(net, "snmp", "Tcp", "OutSegs") + number(net, "snmp", "Tcp", "RetransSegs")
}
