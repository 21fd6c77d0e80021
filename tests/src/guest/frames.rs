// SPDX-License-Identifier: GPL-2.0

//! Counts the frames that reach a device, by an nftables chain at its ingress hook.
//!
//! This count is independent of the sender's network stack: it includes exactly the packets that
//! came over the link.

use crate::guest::{netns::Netns, nft};

/// The count of the frames of one protocol that reach a device.
pub struct Frames<'a> {
    net: &'a Netns,
    table: String,
}

impl<'a> Frames<'a> {
    /// Starts to count TCP packets, over IPv4 and IPv6, that reach `device` of `net`.
    #[track_caller]
    pub fn of_tcp(net: &'a Netns, device: &str) -> Self {
        Self::of(net, device, "tcp")
    }

    /// Starts to count packets of `protocol` that reach `device` of `net`. `protocol` is nftables'
    /// name of it, for example `esp` or `comp`.
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

    /// Returns the number of frames counted so far.
    #[track_caller]
    pub fn count(&self) -> u64 {
        nft::counter_of(self.net, "netdev", &self.table, "frames")
    }
}
