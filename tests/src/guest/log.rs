// SPDX-License-Identifier: GPL-2.0

//! The kernel's log.

use crate::guest::file;
use std::{
    fs::{File, OpenOptions},
    io::{Read, Seek, SeekFrom},
    os::unix::fs::OpenOptionsExt,
};

/// What the kernel has to say from the moment that this was made.
pub struct Log(File);

impl Log {
    /// From now on.
    #[track_caller]
    pub fn from_now() -> Self {
        let mut kmsg = file::open(
            "/dev/kmsg",
            OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK),
        );

        kmsg.seek(SeekFrom::End(0))
            .unwrap_or_else(|error| panic!("seeking to the end of /dev/kmsg: {error}"));
        Self(kmsg)
    }

    /// The lines that came since this was asked last.
    #[track_caller]
    pub fn lines(&mut self) -> Vec<String> {
        // The longest record there is (`PRINTKRB_RECORD_MAX` and what stands before it).
        let mut record = [0; 4096];
        let mut lines = Vec::new();

        loop {
            match self.0.read(&mut record) {
                Ok(length) => {
                    // "level,number,time,flags;text\n KEY=value\n"
                    let record = String::from_utf8_lossy(&record[..length]);
                    let (_, text) = record
                        .split_once(';')
                        .unwrap_or_else(|| panic!("not a record of /dev/kmsg: {record:?}"));
                    lines.extend(text.lines().next().map(str::to_owned));
                }
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => return lines,
                Err(error) => panic!("reading /dev/kmsg: {error}"),
            }
        }
    }

    /// The lines that nobody asked for: neither kstat's own, nor the loader's about it (which start
    /// like kstat's), nor those that say no more than that the machine is slow.
    #[track_caller]
    pub fn unexpected(&mut self) -> Vec<String> {
        self.lines()
            .into_iter()
            .filter(|line| !line.starts_with("kstat: ") && !of_a_slow_machine(line))
            .collect()
    }
}

/// Whether this is what a kernel says on an emulated CPU, with or without kstat.
fn of_a_slow_machine(line: &str) -> bool {
    [
        "clocksource: ",
        "hrtimer: interrupt took ",
        "perf: interrupt took too long ",
        "sched: DL replenish lagged too much",
    ]
    .iter()
    .any(|start| line.starts_with(start))
}
