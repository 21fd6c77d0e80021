// SPDX-License-Identifier: GPL-2.0

//! Reads the kernel's statistics of a network namespace from /proc/net/snmp and /proc/net/netstat.

use crate::guest::{file, netns::Netns};

/// Returns one statistic, for example `number(net, "snmp", "Tcp", "OutSegs")`.
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
        .unwrap_or_else(|| panic!("{path} has no {group} {name}: {text}"))
}

/// Returns the number of TCP segments sent, including retransmissions. Each segment of a GSO packet
/// counts.
///
/// The kernel counts a retransmitted SYN-ACK both as sent and as retransmitted. So the number is
/// exact for a host that only opens connections, and may be too high for one that accepts them.
#[track_caller]
pub fn tcp_segments(net: &Netns) -> u64 {
    number(net, "snmp", "Tcp", "OutSegs") + number(net, "snmp", "Tcp", "RetransSegs")
}
