// SPDX-License-Identifier: GPL-2.0

//! Fault injection: every failure, one by one and at random.
//!
//! Each step of an operation that can fail is made to fail: each allocation and each registration,
//! by kstat or by the kernel on its behalf. The operation must then either succeed, or return an
//! error and change nothing. The next attempt must work. This needs a kernel with fault injection
//! (`scripts/vm -k kasan`).

use kstat_tests::{
    guest::{
        exclusive::KernelLock,
        file::{self, COUNTER, NOUT, START},
        host::Host,
        module::{self, Kstat},
        netns::{self, Netns},
        setting,
        wire::{self, Counts, OWN},
    },
    scale::{did, times},
    stress::fault::{FailNth, FaultInjection},
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

/// Makes an operation fail at its first possible failure, then at its second, and so on, until
/// there is no further one.
///
/// First these are the allocations, then the calls that kstat makes of each of `functions`. `check`
/// gets the result of each attempt.
#[track_caller]
fn fail_one_by_one<T: Debug>(
    operation: &str,
    faults: &FaultInjection,
    functions: &[&str],
    attempt: impl Fn() -> Result<T, Errno>,
    mut check: impl FnMut(Result<T, Errno>),
) {
    let fail_nth = FailNth::of_this_thread();
    let mut fail_each = |kind: &str, try_nth: &dyn Fn(u32) -> (bool, Result<T, Errno>)| {
        // More than any operation has. At this number the operation would never succeed.
        const LIMIT: u32 = 100_000;
        let mut failed = 0;

        for n in 1..LIMIT {
            let (injected, result) = try_nth(n);

            if !injected {
                let error = result.as_ref().err();
                assert!(error.is_none(), "{operation}, without a failure: {error:?}");
                check(result);
                println!("{operation}: {} of {kind}; {failed} made it fail", n - 1);
                assert!(failed > 0, "{operation}: no failure of {kind} made it fail");
                return u64::from(n) - 1;
            }
            failed += u32::from(result.is_err());
            check(result);
        }
        panic!("{operation}: more than {LIMIT} of {kind}")
    };

    let allocations = fail_each("allocations", &|n| fail_nth.fail(n, &attempt));
    let calls: u64 = functions
        .iter()
        .map(|name| fail_each(name, &|n| faults.fail_nth_call(name, n, &attempt)))
        .sum();
    did(
        allocations + calls,
        &format!("failures, one by one, while {operation}"),
    );
}

/// Asserts that the packets of `hosts` are counted, or that they are not.
#[track_caller]
fn assert_counted(hosts: &[Host<'_>], counted: bool) {
    for host in hosts {
        let before = host.nout();

        host.send_tcp(2);
        assert_eq!(host.nout() - before, if counted { 2 } else { 0 });
    }
}

/// Runs `work` in a new thread, which may leave its network namespace and never return to it.
#[track_caller]
fn in_thread(work: impl FnOnce() + Send) {
    thread::scope(|scope| scope.spawn(work).join().expect("the thread failed"));
}

#[test]
fn failed_load_leaves_nothing_behind() {
    let lock = KernelLock::take();
    let _expedited = setting::expedite_grace_periods();
    let faults = FaultInjection::enable();
    let hosts = [Host::new(&lock), Host::new(&lock)];
    let traffic = Host::new(&lock).trickle();
    let object = file::reader(&module::object());

    // With start=1, loading does all that it does without, and more.
    fail_one_by_one(
        "loading with start=1",
        &faults,
        &[
            "nf_register_net_hooks",
            "pcpu_alloc_noprof",
            "proc_create_data",
            "proc_create_net_single",
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
                "a part of kstat is there after a failed load"
            ),
        },
    );
    traffic.stop();
}

#[test]
fn failed_start_counts_in_no_namespace() {
    let lock = KernelLock::take();
    let _expedited = setting::expedite_grace_periods();
    let faults = FaultInjection::enable();
    let hosts = [Host::new(&lock), Host::new(&lock), Host::new(&lock)];
    let traffic = Host::new(&lock).trickle();
    let kstat = Kstat::load(&lock, "counter=1");
    let start = |operation, functions: &[&str]| {
        fail_one_by_one(
            operation,
            &faults,
            functions,
            || file::put(START, "1"),
            |result| {
                assert_eq!(kstat.is_started(), result.is_ok(), "start");
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
    // The number of the kernel's allocations differs from one attempt to the next, so an allocation
    // of kstat may have been skipped.
    faults.restrict_to_kstat();
    start("starting (allocations of kstat)", &[]);
    traffic.stop();
}

#[test]
fn new_namespace_is_counted_or_making_it_fails_with_enomem() {
    let lock = KernelLock::take();
    let _expedited = setting::expedite_grace_periods();
    let before = netns::settled_count();
    let faults = FaultInjection::enable();
    let _kstat = Kstat::started(&lock, "counter=1");
    let traffic = Host::new(&lock).trickle();
    let host = Host::new(&lock);
    // The kernel's own part of a new network namespace makes about a thousand allocations.
    faults.restrict_to_kstat();

    in_thread(|| {
        fail_one_by_one(
            "making a namespace (allocations of kstat)",
            &faults,
            &[
                "nf_register_net_hooks",
                "pcpu_alloc_noprof",
                "proc_create_net_single",
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
    traffic.stop();
    drop(host);
    drop(faults);
    netns::await_count(before);
}

#[test]
fn failed_open_read_or_write_changes_and_leaks_nothing() {
    let lock = KernelLock::take();
    let before = netns::settled_count();
    let faults = FaultInjection::enable();
    let _kstat = Kstat::started(&lock, "counter=1");
    let traffic = Host::new(&lock).trickle();
    let files = [
        (NOUT, false),
        (COUNTER, false),
        (COUNTER, true),
        (OWN, false),
    ]
    .map(|(path, write)| (path, write, false))
    .into_iter()
    .chain([(NOUT, false, true)]);

    in_thread(|| {
        for (path, write, only_kstat) in files {
            // The number of the kernel's allocations differs from one attempt to the next, so an
            // allocation of kstat may have been skipped.
            if only_kstat {
                faults.restrict_to_kstat();
            }
            let mut options = OpenOptions::new();
            options.read(true).write(write);
            // A leaked reference keeps this namespace alive, which shows in the count at the end.
            unshare(CloneFlags::CLONE_NEWNET).expect("making a namespace");
            fail_one_by_one(
                &format!(
                    "opening {path}, to {}{}",
                    if write { "write" } else { "read" },
                    if only_kstat {
                        " (allocations of kstat)"
                    } else {
                        ""
                    }
                ),
                &faults,
                // procfs itself opens a file in /proc/net.
                if path == OWN { &[] } else { &["single_open"] },
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
                        match path {
                            OWN => assert_eq!(Counts::parse(&text), Counts::default()),
                            NOUT => assert_eq!(file::parse(path, &text), 0),
                            _ => assert_eq!(file::parse(path, &text), 1),
                        }
                        let again = file::try_reread(&descriptor).expect("reading");
                        wire::assert_valid(path, &again);
                        file::set(COUNTER, "1");
                    }
                },
            );
        }
    });
    traffic.stop();
    drop(faults);
    netns::await_count(before);
}

#[test]
fn each_operation_is_done_or_undone_when_allocations_fail_at_random() {
    // A load makes a few hundred allocations.
    const ONE_IN: u32 = 500;
    // In a few rounds, all loads may succeed, or all may fail. In this many, both happen.
    const ENOUGH_ROUNDS: u64 = 100;

    let lock = KernelLock::take();
    let _expedited = setting::expedite_grace_periods();
    let before = netns::settled_count();
    let rounds = times(750);
    let (mut round, mut loads, mut failed) = (0, 0, 0);

    {
        let faults = FaultInjection::enable();
        let hosts = [Host::new(&lock), Host::new(&lock)];
        let traffic = Host::new(&lock).trickle();
        let object = file::reader(&module::object());

        while round < rounds || (round < ENOUGH_ROUNDS && (failed == 0 || loads == 0)) {
            round += 1;
            in_thread(|| {
                let mut count = |result: Result<(), Errno>| {
                    failed += u64::from(result.is_err());
                    result
                };
                let result = faults
                    .fail_at_random(ONE_IN, || module::load_from(&lock, &object, "counter=1"));
                if count(result).is_err() {
                    assert!(
                        !module::is_loaded(),
                        "a part of kstat is there after a failed load"
                    );
                    return;
                }
                loads += 1;

                // Each operation may fail. It has an effect exactly if it succeeds.
                let started = faults.fail_at_random(ONE_IN, || file::put(START, "1"));
                let started = count(started).is_ok();
                assert_counted(&hosts, started);
                let made = faults.fail_at_random(ONE_IN, || unshare(CloneFlags::CLONE_NEWNET));
                if count(made).is_ok() {
                    let host = Host::with_netns(&lock, Netns::current());
                    assert_counted(&[host], started);
                }
                let set = faults.fail_at_random(ONE_IN, || file::put(COUNTER, "7"));
                let n = if count(set).is_ok() { 7 } else { 1 };
                assert_eq!(file::number(COUNTER), n, "N");
                for path in [NOUT, OWN] {
                    let read = faults.fail_at_random(ONE_IN, || fs::read_to_string(path));
                    if let Ok(text) = &read {
                        wire::assert_valid(path, text);
                    }
                    let _ = count(read.map(drop).map_err(file::errno));
                }
                let stopped = faults.fail_at_random(ONE_IN, || file::put(START, "0"));
                if count(stopped).is_ok() {
                    assert_counted(&hosts, false);
                }
                faults
                    .fail_at_random(ONE_IN, || module::unload(&lock))
                    .unwrap_or_else(|error| panic!("unloading in round {round}: {error}"));
            });
        }
        traffic.stop();
        drop(faults);

        let _kstat = Kstat::started(&lock, "counter=1");
        assert_counted(&hosts, true);
    }
    netns::await_count(before);
    assert!(failed > 0 && loads > 0, "{failed} failed, {loads} loads");
    did(round, "rounds of random failures");
    did(failed, "operations that failed in these");
    did(loads, "loads and unloads");
}
