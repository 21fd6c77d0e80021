// SPDX-License-Identifier: GPL-2.0

//! Frames that reach a device, counted by an nftables chain at its ingress hook: what came over the
//! wire, whatever the sender's stack says.

use crate::guest::{netns::Netns, nft};

/// A count of the frames of one protocol that reach a device.
pub struct Frames<'a> {
    net: &'a Netns,
    table: String,
}

impl<'a> Frames<'a> {
    /// Counts TCP packets, over IPv4 and IPv6, that reach `device` of `net` from now on.
    #[track_caller]
    pub fn of_tcp(net: &'a Netns, device: &str) -> Self {
        Self::of(net, device, "tcp")
    }

    /// Counts packets of `protocol`, which nftables knows by this name: `esp` or `comp`, for example.
    #[track_caller]
    pub fn of(net: &'a Netns, device: &str, protocol: &str) -> Self {
        let table = format!("frames_{device}_{protocol}");

        nft::load(
            net,
            &format!(
                "table netdev {table} {{
                     counter frames {{ }}
                     chain ingress {{
                         type filter hook ingress device {device} priority -1;
                         meta protocol {{ ip, ip6 }} meta l4proto {protocol} counter name frames
                     }}
                 }}"
            ),
        );
        Self { net, table }
    }

    /// The frames so far.
    #[track_caller]
    pub fn count(&self) -> u64 {
        nft::counter_of(self.net, "netdev", &self.table, "frames")
    }
}
