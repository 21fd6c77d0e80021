// SPDX-License-Identifier: GPL-2.0

//! All operations of kstat at the same time.

use kstat_tests::{
    guest::{
        background::while_repeating,
        cpu::{self, Offline},
        exclusive::KernelLock,
        file::{self, COUNTER, NOUT, START},
        host::Host,
        module::{self, Kstat},
        netns::{self, Netns},
        setting,
        wire::{self, Counts, OWN},
    },
    scale::{did, times},
    stress::responders::Responders,
    wait,
};
use nix::errno::Errno;
use std::{
    collections::BTreeMap,
    fs,
    sync::{
        atomic::{AtomicU64, Ordering},
        Mutex,
    },
};

/// Counts attempts at an operation that fails at times, because the module is loaded and unloaded
/// meanwhile.
#[derive(Default)]
struct Attempts {
    succeeded: AtomicU64,
    /// How many attempts have failed, by errno.
    refused: Mutex<BTreeMap<i32, u64>>,
}

impl Attempts {
    /// Counts an attempt that ended with `result`. An error must be one of `allowed`.
    #[track_caller]
    fn count<T>(&self, operation: &str, result: Result<T, Errno>, allowed: &[Errno]) -> Option<T> {
        match result {
            Ok(value) => {
                self.succeeded.fetch_add(1, Ordering::Relaxed);
                Some(value)
            }
            Err(errno) if allowed.contains(&errno) => {
                let mut refused = self.refused.lock().expect("the mutex is not poisoned");
                *refused.entry(errno as i32).or_default() += 1;
                None
            }
            Err(errno) => panic!("{operation}: {errno}"),
        }
    }

    /// Returns when `more` further attempts have succeeded.
    #[track_caller]
    fn wait_for(&self, more: u64) {
        let succeeded = || self.succeeded.load(Ordering::Relaxed);
        let goal = succeeded() + more;

        wait::until("more operations succeeded", || succeeded() >= goal);
    }

    /// Reports all attempts by [`did`]. Returns how many have failed, by errno.
    fn report(self, operations: &str) -> BTreeMap<i32, u64> {
        let succeeded = self.succeeded.into_inner();
        let refused = self
            .refused
            .into_inner()
            .expect("the mutex is not poisoned");

        assert!(
            succeeded > 0,
            "no {operations} succeeded; refused: {refused:?}"
        );
        did(succeeded, operations);
        for (&errno, &times) in &refused {
            let errno = Errno::from_raw(errno);
            did(times, &format!("{operations} that were refused: {errno}"));
        }
        refused
    }
}

/// Errors of opening and writing `start`: the file does not exist yet or any more, kstat is being
/// unloaded, or it is being loaded.
const START_ERRORS: [Errno; 3] = [Errno::ENOENT, Errno::ENODEV, Errno::EBUSY];

/// Errors of opening, reading and writing the files in `/proc`: the file does not exist yet or any
/// more, or kstat is being unloaded.
const PROC_ERRORS: [Errno; 3] = [Errno::ENOENT, Errno::EIO, Errno::ENODEV];

#[test]
fn kstat_works_after_all_operations_at_once() {
    let lock = KernelLock::take();
    let _expedited = setting::expedite_grace_periods();
    let before = netns::settled_count();
    let rounds = times(30).max(2);
    let cpus = cpu::count();
    let [starts, settings, readings, namespaces]: [Attempts; 4] = Default::default();

    {
        let host = Host::new(&lock);
        let responders = Responders::new(&lock, 4);
        let traffic = host.bursts();

        let start_and_stop = || {
            for text in ["1", "0"] {
                starts.count("writing start", file::put(START, text), &START_ERRORS);
            }
        };
        let set_n = || {
            host.run(|| {
                for n in ["1", "7", "18446744073709551615"] {
                    settings.count("writing counter", file::put(COUNTER, n), &PROC_ERRORS);
                }
            });
        };
        let read_files = || {
            host.run(|| {
                for path in wire::FILES {
                    let text = fs::read_to_string(path).map_err(file::errno);
                    if let Some(text) = readings.count("reading", text, &PROC_ERRORS) {
                        wire::assert_valid(path, &text);
                    }
                }
            });
        };
        let make_namespace = || {
            Netns::new().run(|| {
                let nout = fs::read_to_string(NOUT).map_err(file::errno);
                if let Some(nout) = namespaces.count("reading", nout, &PROC_ERRORS) {
                    assert_eq!(nout, "0\n", "nout of a new namespace");
                }
                let counts = fs::read_to_string(OWN).map_err(file::errno);
                if let Some(counts) = namespaces.count("reading", counts, &PROC_ERRORS) {
                    assert_eq!(Counts::parse(&counts), Counts::default());
                }
            });
        };
        let connect = || responders.connect_all();

        while_repeating(
            &[
                &start_and_stop,
                &set_n,
                &read_files,
                &make_namespace,
                &connect,
            ],
            || {
                for round in 0..rounds {
                    let kstat = Kstat::started(&lock, "");
                    // In every other round a CPU goes offline, and online again before the unload.
                    let offline = (round % 2 == 1).then(|| Offline::new(cpus - 1));
                    for attempts in [&starts, &settings, &readings, &namespaces] {
                        attempts.wait_for(1 + round % 3);
                    }
                    drop(offline);
                    kstat.unload();
                }
            },
        );
        traffic.stop();

        let _kstat = Kstat::started(&lock, "counter=1");
        host.send_tcp(3);
        assert_eq!(host.nout(), 3, "nout after all operations");
    }
    netns::await_count(before);
    did(rounds, "loads and unloads");
    starts.report("writes to start");
    settings.report("settings of N");
    readings.report("readings of all files");
    namespaces.report("readings in new namespaces");
}

#[test]
fn writes_to_start_during_load_and_unload_leave_no_hook() {
    let lock = KernelLock::take();
    let _expedited = setting::expedite_grace_periods();
    let host = Host::new(&lock);
    let traffic = host.bursts();
    let rounds = times(100).max(4);
    let starts = Attempts::default();
    let write = |text| {
        starts.count("writing start", file::put(START, text), &START_ERRORS);
    };
    // An open parameter file does not keep the module loaded. The descriptor outlives the module.
    let write_to_one_descriptor = || {
        let Ok(start) = fs::OpenOptions::new().write(true).open(START) else {
            return;
        };
        while starts
            .count(
                "writing start",
                file::write(&start, b"1"),
                &[Errno::ENODEV, Errno::EBUSY],
            )
            .is_some()
        {}
    };

    while_repeating(
        &[&|| write("1"), &|| write("0"), &write_to_one_descriptor],
        || {
            for _ in 0..rounds {
                let kstat = Kstat::load(&lock, "");
                traffic.wait_for(5);
                starts.wait_for(1);
                kstat.unload();
                assert!(!module::is_loaded(), "kstat is still there after unload");
            }
        },
    );
    traffic.stop();
    assert_eq!(host.hooks(), [], "hooks after unload");
    did(rounds, "loads and unloads");

    let refused = starts.report("writes to start");
    for errno in [Errno::EBUSY, Errno::ENODEV] {
        // A write gets these errors only during a short part of a load or an unload, which few
        // rounds may miss.
        assert!(
            rounds < 100 || refused.contains_key(&(errno as i32)),
            "no write was refused with {errno}"
        );
    }
}
