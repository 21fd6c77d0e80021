// SPDX-License-Identifier: GPL-2.0

//! Loading and unloading, whatever goes on meanwhile.

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
fn unloading_leaves_no_file_and_no_hook() {
    let lock = KernelLock::take();
    let kstat = Kstat::started(&lock, "");
    let host = Host::new(&lock);
    assert_ne!(host.hooks(), []);

    kstat.unload();

    assert!(!file::exists("/proc/kstat"), "/proc/kstat is there");
    assert!(
        !file::exists("/sys/module/kstat"),
        "/sys/module/kstat is there"
    );
    assert_eq!(host.hooks(), []);
}

#[test]
fn unloading_succeeds_with_open_descriptors_which_then_say_eio() {
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
fn descriptors_of_a_module_that_is_gone_say_eio_also_when_it_is_loaded_again() {
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
fn a_descriptor_of_start_does_not_start_a_module_that_is_gone() {
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
fn unloading_waits_for_who_is_in_a_write_and_refuses_to_start_meanwhile() {
    let lock = KernelLock::take();
    let kstat = Kstat::started(&lock, "");
    let host = Host::new(&lock);
    let start = file::writer(START);
    let write = BlockedWrite::new(host.open(COUNTER, OpenOptions::new().write(true)), 3);
    kstat.forget();

    thread::scope(|scope| {
        let unloading = scope.spawn(|| module::unload(&lock));
        // It starts again and again, until it is going.
        wait::until("start was refused", || {
            file::write(&start, b"1\n") == Err(Errno::ENODEV)
        });

        // That was kstat's word: sysfs has the file still.
        assert_eq!(file::read(START), "0\n");
        assert_eq!(file::put(START, "1\n"), Err(Errno::ENODEV));
        assert_eq!(file::put(START, "0\n"), Err(Errno::ENODEV));
        assert_eq!(host.hooks(), []);
        assert!(!unloading.is_finished(), "unloading did not wait");

        assert_eq!(
            write.finish(b"20\n"),
            Ok(3),
            "the write that was waited for"
        );
        assert_eq!(unloading.join().expect("unloading"), Ok(()));
    });
    assert!(!module::is_loaded(), "there is something left of kstat");
}

#[test]
fn a_write_to_start_while_it_is_loaded_is_refused_with_ebusy_and_not_remembered() {
    const NAMESPACES: usize = 64;

    let lock = KernelLock::take();
    // Each of them makes loading longer.
    let namespaces: Vec<_> = (0..NAMESPACES).map(|_| Netns::new()).collect();
    let refused = AtomicU64::new(0);
    let try_to_start = || match file::put(START, "1\n") {
        Err(Errno::EBUSY) => {
            refused.fetch_add(1, Ordering::SeqCst);
        }
        Ok(()) | Err(Errno::ENOENT | Errno::ENODEV) => {}
        other => panic!("starting a module that comes and goes: {other:?}"),
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
fn unloading_succeeds_while_it_counts_and_packets_flow_on_all_cpus() {
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
fn unloading_succeeds_while_readers_and_writers_are_at_work() {
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
                    other => panic!("setting N of a module that comes and goes: {other:?}"),
                },
            ],
            || {
                for _ in 0..10 {
                    module::load(&lock, "start=1 counter=1").expect("loading kstat");
                    let before = reads.load(Ordering::SeqCst);
                    wait::until("somebody read nout", || {
                        reads.load(Ordering::SeqCst) > before
                    });
                    module::unload(&lock).expect("unloading kstat");
                }
            },
        );
    });
    traffic.stop();
    assert_eq!(log.unexpected(), Vec::<String>::new(), "the kernel's log");
}

#[test]
fn writes_to_start_that_race_with_loading_and_unloading_succeed_or_say_why_not() {
    let lock = KernelLock::take();
    let host = Host::new(&lock);
    let mut log = Log::from_now();
    let outcomes = Mutex::new(BTreeMap::<String, u64>::new());
    let switch = |text: &str| {
        let result = file::put(START, text);

        // Not there (yet, any more), going, or loading.
        assert!(
            matches!(
                result,
                Ok(()) | Err(Errno::ENOENT | Errno::ENODEV | Errno::EBUSY)
            ),
            "writing {text:?} to start: {result:?}"
        );
        let mut outcomes = outcomes.lock().expect("no writer failed");
        *outcomes.entry(format!("{result:?}")).or_default() += 1;
    };

    while_repeating(&[&|| switch("1\n"), &|| switch("0\n")], || {
        for round in 0..30 {
            module::load(&lock, "")
                .unwrap_or_else(|error| panic!("loading in round {round}: {error}"));
            host.send_tcp(5);
            module::unload(&lock)
                .unwrap_or_else(|error| panic!("unloading in round {round}: {error}"));
            assert!(!module::is_loaded(), "there is something left of kstat");
        }
    });

    let outcomes = outcomes.into_inner().expect("no writer failed");
    println!("{outcomes:?}");
    assert!(
        outcomes.contains_key("Ok(())") && outcomes.len() > 1,
        "the writers met no race: {outcomes:?}"
    );
    assert_eq!(host.hooks(), []);
    assert_eq!(log.unexpected(), Vec::<String>::new(), "the kernel's log");
}

#[test]
fn a_switch_that_races_with_others_leaves_one_state_for_all_namespaces() {
    let lock = KernelLock::take();
    let kstat = Kstat::load(&lock, "counter=1");
    let hosts = [Host::new(&lock), Host::new(&lock)];

    let switch = |text| assert_eq!(file::put(START, text), Ok(()), "{text:?}");
    while_repeating(&[&|| switch("1"), &|| switch("0")], || {
        for _ in 0..10 {
            // Made, counted or not, and gone while others switch.
            Host::new(&lock).send_tcp(5);
        }
    });

    let counts = kstat.is_started();
    for host in &hosts {
        let before = host.nout();
        host.send_tcp(5);
        assert_eq!(host.nout() - before, if counts { 5 } else { 0 });
        assert_eq!(host.hooks().len(), if counts { 2 } else { 0 }, "hooks");
    }
}

#[test]
fn two_hundred_rounds_leave_the_kernels_log_and_memory_as_they_were() {
    const ROUNDS: u64 = 200;
    const WARM_UP: u64 = 20;
    // Every namespace makes a leak of what each of them has larger: eight bytes of a CPU's memory
    // would not be seen, but those of 32 of them in 200 rounds are twelve pages.
    const NAMESPACES: usize = 32;
    // The kernel's other work takes and gives back some of all this meanwhile: this is more than
    // that, and less than any leak.
    const OBJECTS: u64 = ROUNDS / 2;
    const KILOBYTES_OF_A_CPU: u64 = 5 * 4;

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
                    assert_eq!(file::number(NOUT), 10, "packets of a round");
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
    assert!(reads.into_inner() > ROUNDS, "nout was hardly read");
    assert_eq!(log.unexpected(), Vec::<String>::new(), "the kernel's log");

    // What is freed after an RCU grace period takes its time.
    let percpu = KILOBYTES_OF_A_CPU * cpu::count() as u64;
    wait::until("there was no more memory in use than before", || {
        let now = Usage::now();
        let growth = now.growth_since(&before, OBJECTS, percpu);
        println!(
            "too much more than before: {growth:?} of {:?}",
            now.growth_since(&before, 0, 0)
        );
        growth.is_empty()
    });
    drop(namespaces);
}

/// Reads nout, unless the module is gone.
fn read_once() -> Option<u64> {
    match fs::read_to_string(NOUT).map_err(file::errno) {
        Ok(text) => Some(file::parse(NOUT, &text)),
        Err(Errno::ENOENT | Errno::EIO) => None,
        Err(error) => panic!("reading nout of a module that comes and goes: {error}"),
    }
}
