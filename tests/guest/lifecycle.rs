// SPDX-License-Identifier: GPL-2.0

//! Loading and unloading while files and packets are in use.

use kstat_tests::{
    guest::{
        background::while_repeating,
        blocked_write::BlockedWrite,
        cpu,
        exclusive::KernelLock,
        file::{self, COUNTER, NOUT, START},
        host::Host,
        log::Log,
        memory::Usage,
        module::{self, Kstat},
        netns::Netns,
    },
    wait,
};
use nix::errno::Errno;
use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    os::unix::fs::FileExt,
    sync::{
        atomic::{AtomicU64, Ordering},
        Mutex,
    },
    thread,
};

#[test]
fn unloading_removes_all_files_and_hooks() {
    let lock = KernelLock::take();
    let kstat = Kstat::started(&lock, "");
    let host = Host::new(&lock);
    assert_ne!(host.hooks(), []);

    kstat.unload();

    assert!(!file::exists("/proc/kstat"), "/proc/kstat exists");
    assert!(
        !file::exists("/sys/module/kstat"),
        "/sys/module/kstat exists"
    );
    assert_eq!(host.hooks(), []);
}

#[test]
fn unloading_succeeds_while_packets_are_sent_on_all_cpus() {
    let lock = KernelLock::take();
    let host = Host::new(&lock);
    let traffic = host.traffic();

    for _ in 0..5 {
        let kstat = Kstat::started(&lock, "counter=1");
        wait::until("packets were counted", || host.nout() > 20);
        kstat.unload();
        traffic.wait_for(20);
    }
    traffic.stop();
}

#[test]
fn unloading_succeeds_with_open_descriptors_which_then_fail_with_eio() {
    let lock = KernelLock::take();
    let kstat = Kstat::started(&lock, "");
    let host = Host::new(&lock);
    let nout = host.open(NOUT, OpenOptions::new().read(true));
    let counter = host.open(COUNTER, OpenOptions::new().read(true).write(true));
    let half_read = host.open(NOUT, OpenOptions::new().read(true));
    let mut byte = [0];
    assert_eq!(half_read.read_at(&mut byte, 0).expect("a byte of nout"), 1);
    assert_eq!(file::reread(NOUT, &nout), 0);

    kstat.unload();

    for (name, file) in [
        ("nout", &nout),
        ("counter", &counter),
        ("half-read nout", &half_read),
    ] {
        assert_eq!(
            file.read_at(&mut byte, 0).map_err(file::errno),
            Err(Errno::EIO),
            "reading {name}"
        );
    }
    assert_eq!(
        file::write(&counter, b"20\n"),
        Err(Errno::EIO),
        "writing counter"
    );
}

#[test]
fn old_descriptors_fail_with_eio_after_the_module_is_loaded_again() {
    let lock = KernelLock::take();
    let kstat = Kstat::load(&lock, "");
    let nout = file::reader(NOUT);
    kstat.unload();

    let _kstat = Kstat::load(&lock, "");

    assert_eq!(
        nout.read_at(&mut [0], 0).map_err(file::errno),
        Err(Errno::EIO)
    );
    assert_eq!(file::number(NOUT), 0);
}

#[test]
fn old_descriptor_of_start_fails_with_enodev_after_unloading() {
    let lock = KernelLock::take();
    let kstat = Kstat::load(&lock, "");
    let host = Host::new(&lock);
    let start = file::writer(START);

    kstat.unload();
    assert_eq!(file::write(&start, b"1\n"), Err(Errno::ENODEV));
    assert_eq!(host.hooks(), []);

    let _kstat = Kstat::load(&lock, "");
    assert_eq!(file::write(&start, b"1\n"), Err(Errno::ENODEV));
    assert_eq!(file::read(START), "0\n");
    assert_eq!(host.hooks(), []);
}

#[test]
fn unloading_waits_for_a_running_write_and_start_is_refused() {
    let lock = KernelLock::take();
    let kstat = Kstat::started(&lock, "");
    let host = Host::new(&lock);
    let start = file::writer(START);
    let write = BlockedWrite::new(host.open(COUNTER, OpenOptions::new().write(true)), 3);
    kstat.forget();

    thread::scope(|scope| {
        let unloading = scope.spawn(|| module::unload(&lock));
        // Writes of 1 succeed until unloading has begun.
        wait::until("start was refused", || {
            file::write(&start, b"1\n") == Err(Errno::ENODEV)
        });

        // The errno came from kstat: the file still exists.
        assert_eq!(file::read(START), "0\n");
        assert_eq!(file::put(START, "1\n"), Err(Errno::ENODEV));
        assert_eq!(file::put(START, "0\n"), Err(Errno::ENODEV));
        assert_eq!(host.hooks(), []);
        assert!(!unloading.is_finished(), "unloading did not wait");

        assert_eq!(write.finish(b"20\n"), Ok(3), "the blocked write");
        assert_eq!(unloading.join().expect("unloading"), Ok(()));
    });
    assert!(!module::is_loaded(), "kstat is still loaded");
}

#[test]
fn unloading_succeeds_while_files_are_read_and_written() {
    let lock = KernelLock::take();
    let host = Host::new(&lock);
    let mut log = Log::from_now();
    let traffic = host.traffic();
    let reads = AtomicU64::new(0);

    host.run(|| {
        while_repeating(
            &[
                &|| {
                    if read_once().is_some() {
                        reads.fetch_add(1, Ordering::SeqCst);
                    }
                },
                &|| match file::put(COUNTER, "7\n") {
                    Ok(()) | Err(Errno::ENOENT | Errno::EIO) => {}
                    other => panic!("setting N while kstat is loaded and unloaded: {other:?}"),
                },
            ],
            || {
                for _ in 0..10 {
                    module::load(&lock, "start=1 counter=1").expect("loading kstat");
                    let before = reads.load(Ordering::SeqCst);
                    wait::until("nout was read", || reads.load(Ordering::SeqCst) > before);
                    module::unload(&lock).expect("unloading kstat");
                }
            },
        );
    });
    traffic.stop();
    assert_eq!(log.unexpected(), Vec::<String>::new(), "the kernel log");
}

#[test]
fn write_to_start_during_loading_fails_with_ebusy_and_is_not_remembered() {
    const NAMESPACES: usize = 64;

    let lock = KernelLock::take();
    // Loading takes longer with more namespaces, so a write can come before it ends.
    let namespaces: Vec<_> = (0..NAMESPACES).map(|_| Netns::new()).collect();
    let refused = AtomicU64::new(0);
    let try_to_start = || match file::put(START, "1\n") {
        Err(Errno::EBUSY) => {
            refused.fetch_add(1, Ordering::SeqCst);
        }
        Ok(()) | Err(Errno::ENOENT | Errno::ENODEV) => {}
        other => panic!("starting while kstat is loaded and unloaded: {other:?}"),
    };

    while_repeating(&[&try_to_start], || {
        wait::until("a write came while kstat was being loaded", || {
            module::load(&lock, "").expect("loading kstat");
            module::unload(&lock).expect("unloading kstat");
            refused.load(Ordering::SeqCst) > 0
        });
    });
    drop(namespaces);

    let _kstat = Kstat::load(&lock, "");
    assert_eq!(file::read(START), "0\n");
}

#[test]
fn write_to_start_that_races_with_loading_succeeds_or_fails_cleanly() {
    let lock = KernelLock::take();
    let host = Host::new(&lock);
    let mut log = Log::from_now();
    let outcomes = Mutex::new(BTreeMap::<String, u64>::new());
    let switch = |text: &str| {
        let result = file::put(START, text);

        // ENOENT: kstat is not loaded. ENODEV: it is being unloaded. EBUSY: it is being loaded.
        assert!(
            matches!(
                result,
                Ok(()) | Err(Errno::ENOENT | Errno::ENODEV | Errno::EBUSY)
            ),
            "writing {text:?} to start: {result:?}"
        );
        let mut outcomes = outcomes.lock().expect("no writer panicked");
        *outcomes.entry(format!("{result:?}")).or_default() += 1;
    };

    while_repeating(&[&|| switch("1\n"), &|| switch("0\n")], || {
        for round in 0..30 {
            module::load(&lock, "")
                .unwrap_or_else(|error| panic!("loading in round {round}: {error}"));
            host.send_tcp(5);
            module::unload(&lock)
                .unwrap_or_else(|error| panic!("unloading in round {round}: {error}"));
            assert!(!module::is_loaded(), "kstat is still loaded");
        }
    });

    let outcomes = outcomes.into_inner().expect("no writer panicked");
    println!("{outcomes:?}");
    assert!(
        outcomes.contains_key("Ok(())") && outcomes.len() > 1,
        "no write raced with loading or unloading: {outcomes:?}"
    );
    assert_eq!(host.hooks(), []);
    assert_eq!(log.unexpected(), Vec::<String>::new(), "the kernel log");
}

#[test]
fn racing_writes_to_start_leave_all_namespaces_in_one_state() {
    let lock = KernelLock::take();
    let kstat = Kstat::load(&lock, "counter=1");
    let hosts = [Host::new(&lock), Host::new(&lock)];

    let switch = |text| assert_eq!(file::put(START, text), Ok(()), "{text:?}");
    while_repeating(&[&|| switch("1"), &|| switch("0")], || {
        for _ in 0..10 {
            // A namespace that is made and deleted while other threads write to start.
            Host::new(&lock).send_tcp(5);
        }
    });

    let started = kstat.is_started();
    for host in &hosts {
        let before = host.nout();
        host.send_tcp(5);
        assert_eq!(host.nout() - before, if started { 5 } else { 0 });
        assert_eq!(host.hooks().len(), if started { 2 } else { 0 }, "hooks");
    }
}

#[test]
fn loading_and_unloading_200_times_leaks_no_memory() {
    const ROUNDS: u64 = 200;
    const WARM_UP: u64 = 20;
    // A leak of 8 bytes of per-CPU memory in each round would not be noticed. If each of 32
    // namespaces leaks them, 200 rounds leak twelve pages per CPU.
    const NAMESPACES: usize = 32;
    // The kernel allocates and frees memory for other work too. These limits are above the changes
    // that this causes, and below the growth that a leak in each round would cause.
    const MAX_GROWTH_OBJECTS: u64 = ROUNDS / 2;
    const MAX_GROWTH_KILOBYTES_PER_CPU: u64 = 5 * 4;

    let lock = KernelLock::take();
    let host = Host::new(&lock);
    let namespaces: Vec<_> = (0..NAMESPACES).map(|_| Netns::new()).collect();
    let reads = AtomicU64::new(0);
    let read = || {
        if read_once().is_some() {
            reads.fetch_add(1, Ordering::SeqCst);
        }
    };
    let readers: Vec<&(dyn Fn() + Sync)> = (0..cpu::count()).map(|_| &read as _).collect();
    let rounds = |count| {
        host.run(|| {
            while_repeating(&readers, || {
                for _ in 0..count {
                    module::load(&lock, "counter=1").expect("loading kstat");
                    file::set(START, "1\n");
                    host.send_tcp(10);
                    assert_eq!(file::number(NOUT), 10, "packets in a round");
                    drop(Netns::new());
                    file::put(START, "0\n").expect("stopping");
                    module::unload(&lock).expect("unloading kstat");
                }
            })
        })
    };

    rounds(WARM_UP);
    let before = Usage::now();
    let mut log = Log::from_now();
    rounds(ROUNDS);

    println!("nout was read {reads:?} times");
    assert!(reads.into_inner() > ROUNDS, "nout was read too rarely");
    assert_eq!(log.unexpected(), Vec::<String>::new(), "the kernel log");

    // Some memory is freed only after an RCU grace period.
    let percpu = MAX_GROWTH_KILOBYTES_PER_CPU * cpu::count() as u64;
    wait::until("memory use was within the limits again", || {
        let now = Usage::now();
        let growth = now.growth_since(&before, MAX_GROWTH_OBJECTS, percpu);
        println!(
            "growth above the limits: {growth:?}; all growth: {:?}",
            now.growth_since(&before, 0, 0)
        );
        growth.is_empty()
    });
    drop(namespaces);
}

/// Reads nout. Returns [`None`] if kstat is not loaded.
fn read_once() -> Option<u64> {
    match fs::read_to_string(NOUT).map_err(file::errno) {
        Ok(text) => Some(file::parse(NOUT, &text)),
        Err(Errno::ENOENT | Errno::EIO) => None,
        Err(error) => panic!("reading nout while kstat is loaded and unloaded: {error}"),
    }
}
