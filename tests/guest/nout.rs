// SPDX-License-Identifier: GPL-2.0

//! The count: the file `nout`.

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
fn it_is_0444_and_roots() {
    let lock = KernelLock::take();
    let _kstat = Kstat::load(&lock, "");

    file::assert_roots(NOUT, 0o444);
}

#[test]
fn everybody_can_read_it() {
    let lock = KernelLock::take();
    let _kstat = Kstat::started(&lock, "");
    let host = Host::new(&lock);
    host.send_tcp(10);

    assert_eq!(
        host.run(|| identity::as_nobody(|| file::number(NOUT))),
        10,
        "what nobody reads"
    );
}

#[test]
fn nobody_is_refused_a_write_with_eacces_by_its_mode() {
    let lock = KernelLock::take();
    let _kstat = Kstat::started(&lock, "");
    let host = Host::new(&lock);
    host.send_tcp(25);

    for text in ["1\n", "0\n", "", "ten"] {
        assert_eq!(
            host.run(|| identity::as_nobody(|| file::put(NOUT, text))),
            Err(Errno::EACCES),
            "nobody's {text:?}"
        );
        assert_eq!((host.nout(), host.counter()), (20, 10), "after {text:?}");
    }
}

#[test]
fn root_is_refused_a_write_with_no_effect() {
    let lock = KernelLock::take();
    let _kstat = Kstat::started(&lock, "");
    let host = Host::new(&lock);
    host.send_tcp(25);

    for text in ["1\n", "0\n", "", "ten", "99999999999999999999"] {
        assert_eq!(
            host.run(|| file::put(NOUT, text)),
            Err(Errno::EIO),
            "root's {text:?}"
        );
        assert_eq!((host.nout(), host.counter()), (20, 10), "after {text:?}");
    }
}

#[test]
fn taken_byte_by_byte_while_packets_flow_it_is_one_text_and_the_new_one_from_the_start_again() {
    let lock = KernelLock::take();
    let _kstat = Kstat::started(&lock, "counter=1");
    let host = Host::new(&lock);
    let mut file = host.open(NOUT, OpenOptions::new().read(true));

    // The next packet changes all digits, and the length of the text.
    for shown in [9, 99, 999] {
        let text = format!("{shown}\n");
        let mut taken = Vec::new();
        let mut byte = [0];

        host.send_tcp(shown - host.nout());
        file.rewind().expect("rewinding nout");
        while file.read(&mut byte).expect("reading a byte of nout") == 1 {
            taken.push(byte[0]);
            host.send_tcp(1);
        }
        assert_eq!(String::from_utf8_lossy(&taken), text, "byte by byte");
        assert_eq!(
            file::reread(NOUT, &file),
            shown + text.len() as u64,
            "from the start again"
        );
    }
}

#[test]
fn a_descriptor_shows_the_new_value_whenever_it_is_read_from_the_start() {
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

/// One who reads nout again and again, and compares it with what anybody has read before.
struct Reader<'a> {
    newest: &'a AtomicU64,
    nout: File,
    moves: AtomicU64,
}

impl<'a> Reader<'a> {
    fn new(host: &Host<'_>, newest: &'a AtomicU64) -> Self {
        Self {
            newest,
            nout: host.open(NOUT, OpenOptions::new().read(true)),
            moves: AtomicU64::new(0),
        }
    }

    fn read(&self) {
        let before = self.newest.load(Ordering::SeqCst);
        let now = file::reread(NOUT, &self.nout);

        assert!(now >= before, "nout is {now} after {before}");
        if self.newest.fetch_max(now, Ordering::SeqCst) < now {
            self.moves.fetch_add(1, Ordering::SeqCst);
        }
    }
}

#[test]
fn no_reader_on_any_cpu_sees_a_smaller_value_than_one_read_before() {
    const ROUNDS: usize = 20;

    let lock = KernelLock::take();
    let _kstat = Kstat::started(&lock, "counter=1");
    let host = Host::new(&lock);
    let newest = AtomicU64::new(0);
    let readers = [Reader::new(&host, &newest), Reader::new(&host, &newest)];

    let traffic = host.traffic();
    while_repeating(&[&|| readers[0].read(), &|| readers[1].read()], || {
        // Whatever happens to N meanwhile.
        for n in [1, 7, 2, 1000, 3].into_iter().cycle().take(ROUNDS) {
            traffic.wait_for(100);
            host.set_counter(n);
        }
    });
    let sent = traffic.stop();

    for reader in readers {
        let moves = reader.moves.into_inner();
        println!("a reader was the first to see {moves} values");
        assert!(moves > 5, "a reader saw only {moves} new values");
    }
    host.set_counter(1);
    assert_agrees(host.nout(), sent, "the senders' own count");
}
