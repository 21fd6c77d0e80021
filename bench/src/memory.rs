// SPDX-License-Identifier: GPL-2.0

//! How much memory something takes for each network namespace, to the byte: the kernel's tracepoints tell
//! what is allocated, and where (`Documentation/trace/events.rst`).

use kstat_tests::guest::{file, netns::Netns};
use nix::unistd::gettid;
use std::{collections::BTreeMap, fs::File};

const TRACING: &str = "/sys/kernel/tracing";

const EVENTS: [&str; 3] = [
    "kmem/kmalloc",
    "kmem/kmem_cache_alloc",
    // This one tells the bytes of all possible CPUs.
    "percpu/percpu_alloc_percpu",
];

/// What a place in the kernel has allocated.
#[derive(Clone, Copy, Debug, Default)]
struct Allocated {
    times: u64,
    bytes: u64,
}

/// How many bytes more `work` allocates for each namespace more. What it returns is dropped.
#[track_caller]
pub fn of_a_namespace<T>(work: impl Fn() -> T) -> u64 {
    // More than there are allocations that have nothing to do with namespaces and happen to be
    // more the second time.
    const MORE: u64 = 100;

    // What is allocated once, for whoever is the first to do this, is no matter of ours.
    drop(work());
    let few = allocated(&work);
    let _namespaces: Vec<_> = (0..MORE).map(|_| Netns::new()).collect();
    let many = allocated(&work);

    many.iter()
        .filter_map(|(place, many)| {
            let few = few.get(place).copied().unwrap_or_default();

            (many.times >= few.times + MORE).then(|| {
                let more = many.bytes - few.bytes;
                assert_eq!(more % MORE, 0, "{place} allocates for some namespaces only");
                more / MORE
            })
        })
        .sum()
}

/// What this thread allocates in `work`, by the place.
#[track_caller]
fn allocated<T>(work: impl Fn() -> T) -> BTreeMap<String, Allocated> {
    let set = |name: &str, value: &str| file::set(&format!("{TRACING}/{name}"), value);
    let switch = |on| {
        for event in EVENTS {
            set(&format!("events/{event}/enable"), on);
        }
    };

    set("set_event_pid", &gettid().to_string());
    set("buffer_size_kb", "8192");
    // That empties it.
    File::create(format!("{TRACING}/trace")).expect("emptying the trace");
    switch("1");
    let result = work();
    switch("0");
    drop(result);

    let mut allocated = BTreeMap::<_, Allocated>::new();
    for line in file::read(&format!("{TRACING}/trace")).lines() {
        assert!(!line.contains("LOST"), "the buffer was too small: {line}");
        if line.starts_with('#') {
            continue;
        }
        let bytes: u64 = word(line, "bytes_alloc")
            .parse()
            .unwrap_or_else(|error| panic!("bytes_alloc in {line:?}: {error}"));
        let at = allocated
            .entry(word(line, "call_site").to_owned())
            .or_default();

        at.times += 1;
        at.bytes += bytes;
    }
    allocated
}

/// What comes after `name=`.
#[track_caller]
fn word<'l>(line: &'l str, name: &str) -> &'l str {
    let mut words = line.split([' ', ',']);

    words
        .find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
        .unwrap_or_else(|| panic!("no {name} in {line:?}"))
}
