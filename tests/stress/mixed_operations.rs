// SPDX-License-Identifier: GPL-2.0

//! Everything that can be done to kstat, at once.

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
    },
    scale::{did, times},
    stress::neighbours::Neighbours,
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

/// How often something was done that a module which comes and goes may refuse.
#[derive(Default)]
struct Tries {
    done: AtomicU64,
    /// How often by each errno.
    refused: Mutex<BTreeMap<i32, u64>>,
}

impl Tries {
    /// Counts one, which must have ended well, or with one of these.
    #[track_caller]
    fn count<T>(&self, what: &str, result: Result<T, Errno>, refusals: &[Errno]) -> Option<T> {
        match result {
            Ok(value) => {
                self.done.fetch_add(1, Ordering::Relaxed);
                Some(value)
            }
            Err(errno) if refusals.contains(&errno) => {
                let mut refused = self.refused.lock().expect("nobody failed with it");
                *refused.entry(errno as i32).or_default() += 1;
                None
            }
            Err(errno) => panic!("{what}: {errno}"),
        }
    }

    /// Returns when so many more were done.
    #[track_caller]
    fn wait_for(&self, more: u64) {
        let done = || self.done.load(Ordering::Relaxed);
        let goal = done() + more;

        wait::until("more was done meanwhile", || done() >= goal);
    }

    /// Tells of it; returns by which words it was refused, and how often by each.
    fn tell(self, what: &str) -> BTreeMap<i32, u64> {
        let done = self.done.into_inner();
        let refused = self.refused.into_inner().expect("nobody failed with it");

        assert!(done > 0, "no {what}; refused: {refused:?}");
        did(done, what);
        for (&errno, &times) in &refused {
            let errno = Errno::from_raw(errno);
            did(times, &format!("{what} that were refused: {errno}"));
        }
        refused
    }
}

/// `start` is not there (yet, any more), or kstat is going, or being loaded.
const NOT_NOW: [Errno; 3] = [Errno::ENOENT, Errno::ENODEV, Errno::EBUSY];

#[test]
fn everything_at_once() {
    // Not there (yet, any more), or going.
    const GONE: [Errno; 3] = [Errno::ENOENT, Errno::EIO, Errno::ENODEV];

    let lock = KernelLock::take();
    let _quick = setting::expedite_grace_periods();
    let before = netns::settled_count();
    let rounds = times(30).max(2);
    let cpus = cpu::count();
    let [switches, settings, readings, namespaces]: [Tries; 4] = Default::default();

    {
        let host = Host::new(&lock);
        let neighbours = Neighbours::new(&lock, 4);
        let traffic = host.bursts();

        let switch = || {
            for text in ["1", "0"] {
                switches.count("writing start", file::put(START, text), &NOT_NOW);
            }
        };
        let set = || {
            host.run(|| {
                for n in ["1", "7", "18446744073709551615"] {
                    settings.count("writing counter", file::put(COUNTER, n), &GONE);
                }
            });
        };
        let read = || {
            host.run(|| {
                for path in [NOUT, COUNTER] {
                    let text = fs::read_to_string(path).map_err(file::errno);
                    if let Some(text) = readings.count("reading", text, &GONE) {
                        file::parse(path, &text);
                    }
                }
            });
        };
        let make_namespace = || {
            Netns::new().run(|| {
                let nout = fs::read_to_string(NOUT).map_err(file::errno);
                if let Some(nout) = namespaces.count("reading", nout, &GONE) {
                    assert_eq!(nout, "0\n", "nout of a new namespace");
                }
            });
        };
        let knock = || neighbours.knock();

        while_repeating(&[&switch, &set, &read, &make_namespace, &knock], || {
            for round in 0..rounds {
                let kstat = Kstat::started(&lock, "");
                // Every other time a CPU goes meanwhile, and comes back.
                let away = (round % 2 == 1).then(|| Offline::new(cpus - 1));
                for tries in [&switches, &settings, &readings, &namespaces] {
                    tries.wait_for(1 + round % 3);
                }
                drop(away);
                kstat.unload();
            }
        });
        traffic.stop();

        // And it is as good as new.
        let _kstat = Kstat::started(&lock, "counter=1");
        host.send_tcp(3);
        assert_eq!(host.nout(), 3);
    }
    netns::await_count(before);
    did(rounds, "loads and unloads");
    switches.tell("writes to start");
    settings.tell("settings of N");
    readings.tell("readings of counter and nout");
    namespaces.tell("namespaces made and destroyed");
}

#[test]
fn start_while_it_is_loaded_and_unloaded() {
    let lock = KernelLock::take();
    let _quick = setting::expedite_grace_periods();
    let host = Host::new(&lock);
    let traffic = host.bursts();
    let rounds = times(100).max(4);
    let switches = Tries::default();
    let switch = |text| {
        switches.count("writing start", file::put(START, text), &NOT_NOW);
    };
    // Held by nobody but sysfs, this outlives the module.
    let hold_and_start = || {
        let Ok(start) = fs::OpenOptions::new().write(true).open(START) else {
            return;
        };
        while switches
            .count(
                "writing start",
                file::write(&start, b"1"),
                &[Errno::ENODEV, Errno::EBUSY],
            )
            .is_some()
        {}
    };

    while_repeating(&[&|| switch("1"), &|| switch("0"), &hold_and_start], || {
        for _ in 0..rounds {
            let kstat = Kstat::load(&lock, "");
            traffic.wait_for(5);
            switches.wait_for(1);
            kstat.unload();
            assert!(!module::is_loaded(), "there is something left of kstat");
        }
    });
    traffic.stop();
    assert_eq!(host.hooks(), [], "hooks of a module that is gone");
    did(rounds, "loads and unloads");

    let refused = switches.tell("writes to start");
    for errno in [Errno::EBUSY, Errno::ENODEV] {
        // Who comes while it loads or goes has to hit a moment.
        assert!(
            rounds < 100 || refused.contains_key(&(errno as i32)),
            "none was refused with {errno}"
        );
    }
}
