// SPDX-License-Identifier: GPL-2.0

//! The kernel's log.

use crate::guest::file;
use std::{
    fs::{File, OpenOptions},
    io::{Read, Seek, SeekFrom},
    os::unix::fs::OpenOptionsExt,
};

/// The messages that the kernel logs after this was opened.
pub struct Log(File);

impl Log {
    /// Opens the log at its end.
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

    /// Returns the lines that were logged since the last call.
    #[track_caller]
    pub fn lines(&mut self) -> Vec<String> {
        // /dev/kmsg returns one record by each read, of at most PRINTK_MESSAGE_MAX bytes.
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

    /// Returns the unexpected lines among [`Self::lines`].
    ///
    /// Expected are kstat's own lines, the module loader's lines about kstat, which begin in the
    /// same way, and lines that only report that the machine is slow.
    #[track_caller]
    pub fn unexpected(&mut self) -> Vec<String> {
        self.lines()
            .into_iter()
            .filter(|line| !line.starts_with("kstat: ") && !reports_a_slow_machine(line))
            .collect()
    }
}

/// Tells whether kernels log such a line on emulated CPUs also without kstat.
fn reports_a_slow_machine(line: &str) -> bool {
    [
        "clocksource: ",
        "hrtimer: interrupt took ",
        "perf: interrupt took too long ",
        "sched: DL replenish lagged too much",
    ]
    .iter()
    .any(|start| line.starts_with(start))
}
