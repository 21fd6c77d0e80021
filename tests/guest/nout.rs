// SPDX-License-Identifier: GPL-2.0

//! Reading the count: /proc/kstat/nout.

use kstat_tests::{
    assert_agrees,
    guest::{
        background::while_repeating,
        exclusive::KernelLock,
        file::{self, NOUT},
        host::Host,
        identity,
        module::Kstat,
    },
};
use nix::errno::Errno;
use std::{
    fs::{File, OpenOptions},
    io::{Read, Seek},
    os::unix::fs::FileExt,
    sync::atomic::{AtomicU64, Ordering},
};

#[test]
fn file_has_mode_0444_and_belongs_to_root() {
    let lock = KernelLock::take();
    let _kstat = Kstat::load(&lock, "");

    file::assert_root_owned(NOUT, 0o444);
}

#[test]
fn unprivileged_user_can_read_the_count() {
    let lock = KernelLock::take();
    let _kstat = Kstat::started(&lock, "");
    let host = Host::new(&lock);
    host.send_tcp(10);

    assert_eq!(
        host.run(|| identity::as_nobody(|| file::number(NOUT))),
        10,
        "nout as the user nobody reads it"
    );
}

#[test]
fn write_by_an_unprivileged_user_is_refused_with_eacces() {
    let lock = KernelLock::take();
    let _kstat = Kstat::started(&lock, "");
    let host = Host::new(&lock);
    host.send_tcp(25);

    for text in ["1\n", "0\n", "", "ten"] {
        assert_eq!(
            host.run(|| identity::as_nobody(|| file::put(NOUT, text))),
            Err(Errno::EACCES),
            "{text:?} of the user nobody"
        );
        assert_eq!((host.nout(), host.counter()), (20, 10), "after {text:?}");
    }
}

#[test]
fn write_by_root_is_refused_with_eio_and_changes_nothing() {
    let lock = KernelLock::take();
    let _kstat = Kstat::started(&lock, "");
    let host = Host::new(&lock);
    host.send_tcp(25);

    for text in ["1\n", "0\n", "", "ten", "99999999999999999999"] {
        assert_eq!(
            host.run(|| file::put(NOUT, text)),
            Err(Errno::EIO),
            "{text:?} of root"
        );
        assert_eq!((host.nout(), host.counter()), (20, 10), "after {text:?}");
    }
}

#[test]
fn read_at_offset_0_shows_the_current_count() {
    let lock = KernelLock::take();
    let _kstat = Kstat::started(&lock, "counter=1");
    let host = Host::new(&lock);
    let file = host.open(NOUT, OpenOptions::new().read(true));

    for sent in 0..20 {
        assert_eq!(file::reread(NOUT, &file), sent, "by lseek and read");
        let mut text = [0; 8];
        let length = file.read_at(&mut text, 0).expect("pread of nout");
        assert_eq!(
            text[..length],
            *format!("{sent}\n").as_bytes(),
            "by pread at 0"
        );
        host.send_tcp(1);
    }
}

#[test]
fn bytes_read_one_by_one_are_one_snapshot_until_a_read_at_offset_0() {
    let lock = KernelLock::take();
    let _kstat = Kstat::started(&lock, "counter=1");
    let host = Host::new(&lock);
    let mut file = host.open(NOUT, OpenOptions::new().read(true));

    // The next packet changes all digits and the length of the text.
    for shown in [9, 99, 999] {
        let text = format!("{shown}\n");
        let mut bytes = Vec::new();
        let mut byte = [0];

        host.send_tcp(shown - host.nout());
        file.rewind().expect("rewinding nout");
        while file.read(&mut byte).expect("reading a byte of nout") == 1 {
            bytes.push(byte[0]);
            host.send_tcp(1);
        }
        assert_eq!(String::from_utf8_lossy(&bytes), text, "byte by byte");
        assert_eq!(
            file::reread(NOUT, &file),
            shown + text.len() as u64,
            "at offset 0 again"
        );
    }
}

/// A reader of nout that compares each value with the largest one that any reader has read.
struct Reader<'a> {
    largest: &'a AtomicU64,
    nout: File,
    /// How many values this reader was the first to read.
    new_values: AtomicU64,
}

impl<'a> Reader<'a> {
    fn new(host: &Host<'_>, largest: &'a AtomicU64) -> Self {
        Self {
            largest,
            nout: host.open(NOUT, OpenOptions::new().read(true)),
            new_values: AtomicU64::new(0),
        }
    }

    fn read(&self) {
        let before = self.largest.load(Ordering::SeqCst);
        let now = file::reread(NOUT, &self.nout);

        assert!(now >= before, "nout is {now} after {before}");
        if self.largest.fetch_max(now, Ordering::SeqCst) < now {
            self.new_values.fetch_add(1, Ordering::SeqCst);
        }
    }
}

#[test]
fn no_reader_on_any_cpu_sees_the_count_decrease() {
    const ROUNDS: usize = 20;

    let lock = KernelLock::take();
    let _kstat = Kstat::started(&lock, "counter=1");
    let host = Host::new(&lock);
    let largest = AtomicU64::new(0);
    let readers = [Reader::new(&host, &largest), Reader::new(&host, &largest)];

    let traffic = host.traffic();
    while_repeating(&[&|| readers[0].read(), &|| readers[1].read()], || {
        // Setting N must not make nout decrease either.
        for n in [1, 7, 2, 1000, 3].into_iter().cycle().take(ROUNDS) {
            traffic.wait_for(100);
            host.set_counter(n);
        }
    });
    let sent = traffic.stop();

    for reader in readers {
        let new_values = reader.new_values.into_inner();
        println!("a reader was the first to see {new_values} values");
        assert!(new_values > 5, "a reader saw only {new_values} new values");
    }
    host.set_counter(1);
    assert_agrees(host.nout(), sent, "the count of the senders");
}
