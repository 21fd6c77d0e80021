// SPDX-License-Identifier: GPL-2.0

//! Unloading while descriptors of kstat's files are open: half read, being read, stuck in a write,
//! in another namespace's hands; and all of them afterwards.

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

/// Reads a descriptor until the module is gone; asserts that it then stays so.
fn read_to_the_end(path: &str, descriptor: &File) -> u64 {
    // Not by a seek and a read: seeking says EINVAL then.
    let read = || {
        let mut text = [0; 32];
        let length = descriptor.read_at(&mut text, 0).map_err(file::errno)?;
        Ok(String::from_utf8_lossy(&text[..length]).into_owned())
    };
    let mut readings = 0;

    loop {
        match read() {
            Ok(text) => {
                file::parse(path, &text);
                readings += 1;
                // There are more readers than CPUs, and others to do what is waited for.
                thread::sleep(Duration::from_millis(1));
            }
            Err(Errno::EIO) => break,
            Err(error) => panic!("reading {path}: {error}"),
        }
    }
    assert_eq!(read(), Err(Errno::EIO), "{path}, again");
    readings
}

#[test]
fn unloading_with_descriptors_in_every_state() {
    let lock = KernelLock::take();
    let _quick = setting::expedite_grace_periods();
    let before = netns::settled_count();
    // Each has three namespaces.
    let rounds = times(25).max(netns::ENOUGH.div_ceil(3));
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
            // Some are of a namespace that nothing but a descriptor keeps.
            for net in [busy.net(), &Netns::new()] {
                for _ in 0..2 {
                    nout.push(net.run(|| file::reader(NOUT)));
                    counter.push(net.run(|| file::open(COUNTER, &read_write)));
                }
            }
            // Nobody reads on in these before kstat is gone.
            let half_read = [NOUT, COUNTER].map(|path| Netns::new().run(|| file::reader(path)));
            for descriptor in &half_read {
                assert_eq!(descriptor.read_at(&mut [0], 0).expect("a byte"), 1);
            }
            let stuck = BlockedWrite::new(busy.open(COUNTER, &read_write), 2);
            kstat.forget();

            thread::scope(|scope| {
                let readers: Vec<_> = [(NOUT, &nout), (COUNTER, &counter)]
                    .into_iter()
                    .flat_map(|(path, files)| files.iter().map(move |file| (path, file)))
                    .map(|(path, descriptor)| {
                        let other = &other;
                        scope.spawn(move || other.run(|| read_to_the_end(path, descriptor)))
                    })
                    .collect();
                let unloading = scope.spawn(|| module::unload(&lock));

                // Which waits for who is in a write.
                wait::until("the files were gone", || !file::exists(NOUT));
                assert_eq!(stuck.finish(b"7\n"), Ok(2), "the write that was waited for");
                assert_eq!(unloading.join().expect("unloading"), Ok(()));
                for reader in readers {
                    readings += reader.join().expect("a reader failed");
                }
            });
            for descriptor in &half_read {
                let rest = descriptor.read_at(&mut [0; 32], 1).map_err(file::errno);
                assert_eq!(rest, Err(Errno::EIO), "the rest of the text");
            }
            for counter in &counter {
                assert_eq!(file::write(counter, b"7\n"), Err(Errno::EIO));
            }
        }
        traffic.stop();
    }
    netns::await_count(before);
    did(rounds, "loads and unloads");
    did(rounds * 10, "descriptors that outlived the module");
    did(readings, "readings of counter and nout");
}

#[test]
fn unloading_lets_go_of_namespaces_that_descriptors_have_kept() {
    let lock = KernelLock::take();
    let _quick = setting::expedite_grace_periods();
    let kstat = Kstat::started(&lock, "counter=1");
    let before = netns::settled_count();
    let kept: Vec<_> = (0..2 * netns::ENOUGH)
        .map(|_| Netns::new().run(|| file::reader(NOUT)))
        .collect();

    assert!(netns::count() >= before + 2 * netns::ENOUGH, "none is kept");
    kstat.unload();
    netns::await_count(before);
    drop(kept);
}

#[test]
fn descriptors_that_keep_their_namespace_and_let_it_go() {
    let lock = KernelLock::take();
    let busy = Host::new(&lock);
    let traffic = busy.bursts();
    let _quick = setting::expedite_grace_periods();
    let kstat = Kstat::started(&lock, "counter=1");
    let before = netns::settled_count();
    // Each has two namespaces.
    let rounds = times(60).max(netns::ENOUGH.div_ceil(2));
    let open_and_close = || {
        for path in [NOUT, COUNTER] {
            let descriptor = Netns::new().run(|| file::reader(path));
            file::reread(path, &descriptor);
        }
    };

    while_repeating(&[&open_and_close], || {
        (0..rounds).for_each(|_| open_and_close());
    });
    traffic.stop();
    netns::await_count(before);
    kstat.unload();
    did(rounds * 2, "namespaces that a descriptor outlived");
}
