// SPDX-License-Identifier: GPL-2.0

//! Everything that can fail does: first one by one until all succeeds, then by chance.
//!
//! That is every allocation and registration on the way, the kernel's own included. Whoever asked
//! gets an error, or what was asked for; nothing is half done; the next try works. This takes a kernel
//! that can make things fail (scripts/vm -k kasan).

use kstat_tests::{
    guest::{
        exclusive::KernelLock,
        file::{self, COUNTER, NOUT, START},
        host::Host,
        module::{self, Kstat},
        netns::{self, Netns},
        setting,
    },
    scale::{did, times},
    stress::fault::{Faults, Nth},
};
use nix::{
    errno::Errno,
    sched::{unshare, CloneFlags},
    sys::uio::pwrite,
};
use std::{
    fmt::Debug,
    fs::{self, File, OpenOptions},
    thread,
};

/// Tries something with its first failure, its second, and so on, until it was done without any:
/// allocations, and then calls that kstat makes of each of these functions. `check` is told how each
/// attempt ended.
#[track_caller]
fn fail_one_by_one<T: Debug>(
    what: &str,
    faults: &Faults,
    functions: &[&str],
    attempt: impl Fn() -> Result<T, Errno>,
    mut check: impl FnMut(Result<T, Errno>),
) {
    let nth = Nth::of_this_thread();
    let mut all = |name: &str, try_nth: &dyn Fn(u32) -> (bool, Result<T, Errno>)| {
        // More than there are anywhere: what still fails then never succeeds.
        const MOST: u32 = 100_000;
        let mut failed = 0;

        for n in 1..MOST {
            let (injected, result) = try_nth(n);

            if !injected {
                let error = result.as_ref().err();
                assert!(error.is_none(), "{what}, with nothing failing: {error:?}");
                check(result);
                println!("{what}: {} of {name}; {failed} made it fail", n - 1);
                assert!(failed > 0, "{what}: no failure of {name} made it fail");
                return u64::from(n) - 1;
            }
            failed += u32::from(result.is_err());
            check(result);
        }
        panic!("{what}: there is no end of {name}")
    };

    let allocations = all("allocations", &|n| nth.fail(n, &attempt));
    let calls: u64 = functions
        .iter()
        .map(|name| all(name, &|n| faults.fail_call(name, n, &attempt)))
        .sum();
    did(
        allocations + calls,
        &format!("failures, one by one, while {what}"),
    );
}

/// Asserts that these hosts are counted, or are not.
#[track_caller]
fn assert_counted(hosts: &[Host<'_>], counted: bool) {
    for host in hosts {
        let before = host.nout();

        host.send_tcp(2);
        assert_eq!(host.nout() - before, if counted { 2 } else { 0 });
    }
}

#[test]
fn loading() {
    let lock = KernelLock::take();
    let _quick = setting::expedite_grace_periods();
    let faults = Faults::allow();
    let hosts = [Host::new(&lock), Host::new(&lock)];
    let traffic = Host::new(&lock).trickle();
    let object = file::reader(&module::object());

    // What can fail without start=1 is what can fail first with it.
    fail_one_by_one(
        "loading with start=1",
        &faults,
        &[
            "nf_register_net_hooks",
            "pcpu_alloc_noprof",
            "proc_create_data",
            "proc_mkdir",
            "register_pernet_subsys",
            "rust_helper_krealloc_node_align",
            "vfs_kern_mount",
        ],
        || module::load_from(&lock, &object, "start=1 counter=1"),
        |result| match result {
            Ok(()) => {
                assert_counted(&hosts, true);
                module::unload(&lock).expect("unloading");
            }
            Err(_) => assert!(
                !module::is_loaded(),
                "it failed, but there is something left"
            ),
        },
    );
    traffic.stop();
}

#[test]
fn starting() {
    let lock = KernelLock::take();
    let _quick = setting::expedite_grace_periods();
    let faults = Faults::allow();
    let hosts = [Host::new(&lock), Host::new(&lock), Host::new(&lock)];
    let traffic = Host::new(&lock).trickle();
    let kstat = Kstat::load(&lock, "counter=1");
    let start = |what, functions: &[&str]| {
        fail_one_by_one(
            what,
            &faults,
            functions,
            || file::put(START, "1"),
            |result| {
                assert_eq!(kstat.is_started(), result.is_ok(), "start says");
                assert_counted(&hosts, result.is_ok());
                kstat.stop();
                assert_counted(&hosts, false);
            },
        );
    };

    start(
        "starting",
        &[
            "nf_register_net_hooks",
            "register_pernet_subsys",
            "rust_helper_krealloc_node_align",
        ],
    );
    // Among all the kernel's, one of these could be passed by.
    faults.only_in_kstat();
    start("starting (those of kstat's)", &[]);
    traffic.stop();
}

#[test]
fn making_a_namespace() {
    let lock = KernelLock::take();
    let _quick = setting::expedite_grace_periods();
    let before = netns::settled_count();
    let faults = Faults::allow();
    let _kstat = Kstat::started(&lock, "counter=1");
    let traffic = Host::new(&lock).trickle();
    let host = Host::new(&lock);
    // All that the kernel's own parts of a namespace take is a thousand allocations.
    faults.only_in_kstat();

    // In a thread that may leave its namespace for good.
    thread::scope(|scope| {
        let made = scope.spawn(|| {
            fail_one_by_one(
                "making a namespace (those of kstat's)",
                &faults,
                &[
                    "nf_register_net_hooks",
                    "pcpu_alloc_noprof",
                    "rust_helper_krealloc_node_align",
                ],
                || unshare(CloneFlags::CLONE_NEWNET),
                |result| match result {
                    Ok(()) => assert_counted(&[Host::with_netns(&lock, Netns::current())], true),
                    Err(error) => {
                        assert_eq!(error, Errno::ENOMEM);
                        assert_counted(std::slice::from_ref(&host), true);
                    }
                },
            )
        });
        made.join().expect("the thread failed");
    });
    traffic.stop();
    drop(host);
    drop(faults);
    netns::await_count(before);
}

#[test]
fn opening_reading_and_writing() {
    let lock = KernelLock::take();
    let before = netns::settled_count();
    let faults = Faults::allow();
    let _kstat = Kstat::started(&lock, "counter=1");
    let traffic = Host::new(&lock).trickle();

    // In a thread that may leave its namespace for good.
    thread::scope(|scope| {
        let opened = scope.spawn(|| {
            let files = [(NOUT, false), (COUNTER, false), (COUNTER, true)];
            for (path, write, whose) in files
                .map(|(path, write)| (path, write, ""))
                .into_iter()
                .chain([(NOUT, false, " (those of kstat's)")])
            {
                // Among all the kernel's, one of these could be passed by.
                if !whose.is_empty() {
                    faults.only_in_kstat();
                }
                let mut options = OpenOptions::new();
                options.read(true).write(write);
                // Of which nothing is left in the end unless a descriptor keeps it.
                unshare(CloneFlags::CLONE_NEWNET).expect("making a namespace");
                fail_one_by_one(
                    &format!(
                        "opening {path}, {}{whose}",
                        if write { "to write" } else { "to read" }
                    ),
                    &faults,
                    &["single_open"],
                    || -> Result<(File, String), Errno> {
                        let descriptor = options.open(path).map_err(file::errno)?;
                        let text = file::try_reread(&descriptor)?;
                        if write {
                            pwrite(&descriptor, b"7", 0)?;
                        }
                        Ok((descriptor, text))
                    },
                    |result| {
                        let n = if write && result.is_ok() { 7 } else { 1 };

                        assert_eq!(file::number(COUNTER), n, "N");
                        if let Ok((descriptor, text)) = result {
                            assert_eq!(file::parse(path, &text), if path == NOUT { 0 } else { 1 });
                            file::parse(path, &file::try_reread(&descriptor).expect("reading"));
                            file::set(COUNTER, "1");
                        }
                    },
                );
            }
        });
        opened.join().expect("the thread failed");
    });
    traffic.stop();
    drop(faults);
    netns::await_count(before);
}

#[test]
fn by_chance() {
    // Loading takes some hundred allocations.
    const ONE_IN: u32 = 500;
    // A few rounds may have no failure, or nothing but failures; not so many.
    const ENOUGH: u64 = 100;

    let lock = KernelLock::take();
    let _quick = setting::expedite_grace_periods();
    let before = netns::settled_count();
    let rounds = times(750);
    let (mut round, mut loads, mut failed) = (0, 0, 0);

    {
        let faults = Faults::allow();
        let hosts = [Host::new(&lock), Host::new(&lock)];
        let traffic = Host::new(&lock).trickle();
        let object = file::reader(&module::object());

        while round < rounds || (round < ENOUGH && (failed == 0 || loads == 0)) {
            round += 1;
            thread::scope(|scope| {
                scope
                    .spawn(|| {
                        let mut count = |result: Result<(), Errno>| {
                            failed += u64::from(result.is_err());
                            result
                        };
                        let result = faults
                            .at_random(ONE_IN, || module::load_from(&lock, &object, "counter=1"));
                        if count(result).is_err() {
                            assert!(
                                !module::is_loaded(),
                                "it failed, but there is something left"
                            );
                            return;
                        }
                        loads += 1;

                        // Each may fail; what has not is so, and what has is not.
                        let started = faults.at_random(ONE_IN, || file::put(START, "1"));
                        let started = count(started).is_ok();
                        assert_counted(&hosts, started);
                        let left = faults.at_random(ONE_IN, || unshare(CloneFlags::CLONE_NEWNET));
                        if count(left).is_ok() {
                            let host = Host::with_netns(&lock, Netns::current());
                            assert_counted(&[host], started);
                        }
                        let set = faults.at_random(ONE_IN, || file::put(COUNTER, "7"));
                        let n = if count(set).is_ok() { 7 } else { 1 };
                        assert_eq!(file::number(COUNTER), n, "N");
                        let read = faults.at_random(ONE_IN, || fs::read_to_string(NOUT));
                        if let Ok(text) = &read {
                            file::parse(NOUT, text);
                        }
                        let _ = count(read.map(drop).map_err(file::errno));
                        let stopped = faults.at_random(ONE_IN, || file::put(START, "0"));
                        if count(stopped).is_ok() {
                            assert_counted(&hosts, false);
                        }
                        faults
                            .at_random(ONE_IN, || module::unload(&lock))
                            .unwrap_or_else(|error| panic!("unloading in round {round}: {error}"));
                    })
                    .join()
                    .expect("the thread failed");
            });
        }
        traffic.stop();
        drop(faults);

        let _kstat = Kstat::started(&lock, "counter=1");
        assert_counted(&hosts, true);
    }
    netns::await_count(before);
    assert!(failed > 0 && loads > 0, "{failed} failed, {loads} loads");
    did(round, "rounds of failures by chance");
    did(failed, "operations that failed in them");
    did(loads, "loads and unloads");
}
