// SPDX-License-Identifier: GPL-2.0

//! Reads `/proc/net/kstat`: packets, their segments on the wire, and their bytes.

use crate::guest::{
    file::{self, COUNTER, NOUT},
    netns::Netns,
};

/// The file of the calling thread's namespace. `/proc/net` is that of the main thread.
pub const OWN: &str = "/proc/thread-self/net/kstat";

/// All files of kstat that show numbers.
pub const FILES: [&str; 3] = [NOUT, COUNTER, OWN];

/// Panics if `text` is not one that the file `path` of kstat can show.
#[track_caller]
pub fn assert_valid(path: &str, text: &str) {
    if path == OWN {
        Counts::parse(text);
    } else {
        file::parse(path, text);
    }
}

/// What the file shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub packets: u64,
    pub segments: u64,
    pub octets: u64,
}

impl Counts {
    /// Reads the file of `net`.
    #[track_caller]
    pub fn of(net: &Netns) -> Self {
        net.run(|| Self::parse(&file::read(OWN)))
    }

    /// Returns what was counted since `before`. Panics if a number has decreased.
    #[track_caller]
    pub fn since(self, before: Self) -> Self {
        let grown = |now: u64, then: u64| {
            now.checked_sub(then)
                .unwrap_or_else(|| panic!("{before:?}, and later {self:?}"))
        };
        Self {
            packets: grown(self.packets, before.packets),
            segments: grown(self.segments, before.segments),
            octets: grown(self.octets, before.octets),
        }
    }

    /// Parses the text of the file: a line of names and a line of numbers, and nothing else.
    #[track_caller]
    pub fn parse(text: &str) -> Self {
        let numbers = text
            .strip_prefix("Kstat: OutPackets OutSegs OutOctets\nKstat: ")
            .and_then(|rest| rest.strip_suffix('\n'))
            .map(|line| line.split(' ').map(str::parse).collect::<Vec<_>>());

        match numbers.as_deref() {
            Some([Ok(packets), Ok(segments), Ok(octets)]) => Self {
                packets: *packets,
                segments: *segments,
                octets: *octets,
            },
            _ => panic!("/proc/net/kstat is {text:?}"),
        }
    }
}
