// SPDX-License-Identifier: GPL-2.0

//! Open descriptors of kstat's files during and after unload.

use kstat_tests::{
    guest::{
        background::while_repeating,
        blocked_write::BlockedWrite,
        exclusive::KernelLock,
        file::{self, COUNTER, NOUT},
        host::Host,
        module::{self, Kstat},
        netns::{self, Netns},
        setting,
        wire::{self, OWN},
    },
    scale::{did, times},
    wait,
};
use nix::errno::Errno;
use std::{
    fs::{File, OpenOptions},
    os::unix::fs::FileExt,
    thread,
    time::Duration,
};

/// Reads a descriptor again and again until reading fails with EIO, as it does after unload.
/// Asserts that the next read fails, too. Returns how many reads succeeded.
fn read_until_unloaded(path: &str, descriptor: &File) -> u64 {
    // By pread(2), because after unload lseek(2) fails with EINVAL.
    let read = || {
        let mut text = [0; 256];
        let length = descriptor.read_at(&mut text, 0).map_err(file::errno)?;
        Ok(String::from_utf8_lossy(&text[..length]).into_owned())
    };
    let mut readings = 0;

    loop {
        match read() {
            Ok(text) => {
                wire::assert_valid(path, &text);
                readings += 1;
                // There are more readers than CPUs. This leaves some time for the unload.
                thread::sleep(Duration::from_millis(1));
            }
            Err(Errno::EIO) => break,
            Err(error) => panic!("reading {path}: {error}"),
        }
    }
    assert_eq!(read(), Err(Errno::EIO), "reading {path} again");
    readings
}

#[test]
fn descriptors_in_every_state_fail_with_eio_after_unload() {
    let lock = KernelLock::take();
    let _expedited = setting::expedite_grace_periods();
    let before = netns::settled_count();
    // In each round, descriptors alone keep four namespaces alive.
    let rounds = times(25).max(netns::MIN_FOR_LEAK_CHECK.div_ceil(4));
    let mut readings = 0;

    {
        let busy = Host::new(&lock);
        let traffic = busy.bursts();

        for _ in 0..rounds {
            let kstat = Kstat::started(&lock, "counter=1");
            let other = Netns::new();
            let read_write = {
                let mut options = OpenOptions::new();
                options.read(true).write(true);
                options
            };
            let mut nout = vec![];
            let mut counter = vec![];
            let mut own = vec![];
            // Descriptors alone keep the second of these namespaces alive.
            for net in [busy.net(), &Netns::new()] {
                for _ in 0..2 {
                    nout.push(net.run(|| file::reader(NOUT)));
                    counter.push(net.run(|| file::open(COUNTER, &read_write)));
                    own.push(net.run(|| file::reader(OWN)));
                }
            }
            // The rest of the text is read after unload.
            let half_read = wire::FILES.map(|path| Netns::new().run(|| file::reader(path)));
            for descriptor in &half_read {
                assert_eq!(descriptor.read_at(&mut [0], 0).expect("a byte"), 1);
            }
            let blocked_write = BlockedWrite::new(busy.open(COUNTER, &read_write), 2);
            kstat.forget();

            thread::scope(|scope| {
                let readers: Vec<_> = [(NOUT, &nout), (COUNTER, &counter), (OWN, &own)]
                    .into_iter()
                    .flat_map(|(path, files)| files.iter().map(move |file| (path, file)))
                    .map(|(path, descriptor)| {
                        let other = &other;
                        scope.spawn(move || other.run(|| read_until_unloaded(path, descriptor)))
                    })
                    .collect();
                let unload = scope.spawn(|| module::unload(&lock));

                // The unload now waits for the blocked write.
                wait::until("the files were gone", || {
                    !file::exists(NOUT) && !file::exists(OWN)
                });
                assert_eq!(blocked_write.finish(b"7\n"), Ok(2), "the blocked write");
                assert_eq!(unload.join().expect("the unload panicked"), Ok(()));
                for reader in readers {
                    readings += reader.join().expect("a reader failed");
                }
            });
            for descriptor in &half_read {
                let rest = descriptor.read_at(&mut [0; 256], 1).map_err(file::errno);
                assert_eq!(rest, Err(Errno::EIO), "reading the rest of the text");
            }
            for counter in &counter {
                assert_eq!(file::write(counter, b"7\n"), Err(Errno::EIO));
            }
        }
        traffic.stop();
    }
    netns::await_count(before);
    did(rounds, "loads and unloads");
    did(rounds * 15, "descriptors that outlived the module");
    did(readings, "readings of all files");
}

#[test]
fn unload_releases_namespaces_that_open_descriptors_hold() {
    let lock = KernelLock::take();
    let _expedited = setting::expedite_grace_periods();
    let kstat = Kstat::started(&lock, "counter=1");
    let before = netns::settled_count();
    let descriptors: Vec<_> = (0..2 * netns::MIN_FOR_LEAK_CHECK)
        .zip([NOUT, OWN].into_iter().cycle())
        .map(|(_, path)| Netns::new().run(|| file::reader(path)))
        .collect();

    assert!(
        netns::count() >= before + 2 * netns::MIN_FOR_LEAK_CHECK,
        "descriptors do not hold their namespaces"
    );
    kstat.unload();
    netns::await_count(before);
    drop(descriptors);
}

#[test]
fn descriptor_holds_its_namespace_until_it_is_closed() {
    let lock = KernelLock::take();
    let busy = Host::new(&lock);
    let traffic = busy.bursts();
    let _expedited = setting::expedite_grace_periods();
    let kstat = Kstat::started(&lock, "counter=1");
    let before = netns::settled_count();
    // Each round makes a namespace for each file.
    let rounds = times(60).max(netns::MIN_FOR_LEAK_CHECK.div_ceil(3));
    let read_after_leaving = || {
        for path in wire::FILES {
            let descriptor = Netns::new().run(|| file::reader(path));
            let text = file::try_reread(&descriptor);
            wire::assert_valid(path, &text.expect("reading a file of kstat"));
        }
    };

    while_repeating(&[&read_after_leaving], || {
        (0..rounds).for_each(|_| read_after_leaving());
    });
    traffic.stop();
    netns::await_count(before);
    kstat.unload();
    did(rounds * 3, "namespaces that only a descriptor held");
}
