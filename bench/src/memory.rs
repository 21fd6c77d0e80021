// SPDX-License-Identifier: GPL-2.0

//! How much memory an operation allocates for each network namespace, to the byte.
//!
//! The kernel's tracepoints show each allocation: its size and its call site
//! (`Documentation/trace/events.rst`).

use kstat_tests::guest::{file, netns::Netns};
use nix::unistd::gettid;
use std::{collections::BTreeMap, fs::File};

const TRACING: &str = "/sys/kernel/tracing";

const EVENTS: [&str; 3] = [
    "kmem/kmalloc",
    "kmem/kmem_cache_alloc",
    // Shows the bytes for all possible CPUs together.
    "percpu/percpu_alloc_percpu",
];

/// The allocations of one call site.
#[derive(Clone, Copy, Debug, Default)]
struct Allocations {
    count: u64,
    bytes: u64,
}

/// Returns how many bytes `work` allocates for each network namespace that exists. Drops the
/// results of `work`.
#[track_caller]
pub fn bytes_per_namespace<T>(work: impl Fn() -> T) -> u64 {
    // The number of other allocations of a call site differs from one call of `work` to the next,
    // but by less than this.
    const NAMESPACES: u64 = 100;

    // The first call makes allocations that no later call makes.
    drop(work());
    let before = allocations(&work);
    let _namespaces: Vec<_> = (0..NAMESPACES).map(|_| Netns::new()).collect();
    let after = allocations(&work);

    after
        .iter()
        .filter_map(|(call_site, after)| {
            let before = before.get(call_site).copied().unwrap_or_default();

            (after.count >= before.count + NAMESPACES).then(|| {
                let bytes = after.bytes - before.bytes;
                assert_eq!(
                    bytes % NAMESPACES,
                    0,
                    "{call_site} allocates for some namespaces only"
                );
                bytes / NAMESPACES
            })
        })
        .sum()
}

/// Returns what the calling thread allocates in `work`, by call site.
#[track_caller]
fn allocations<T>(work: impl Fn() -> T) -> BTreeMap<String, Allocations> {
    let set = |name: &str, value: &str| file::set(&format!("{TRACING}/{name}"), value);
    let enable_events = |value| {
        for event in EVENTS {
            set(&format!("events/{event}/enable"), value);
        }
    };

    set("set_event_pid", &gettid().to_string());
    set("buffer_size_kb", "8192");
    // Opening the file with O_TRUNC clears the trace.
    File::create(format!("{TRACING}/trace")).expect("clearing the trace");
    enable_events("1");
    let result = work();
    enable_events("0");
    drop(result);

    let mut allocations = BTreeMap::<_, Allocations>::new();
    for line in file::read(&format!("{TRACING}/trace")).lines() {
        assert!(
            !line.contains("LOST"),
            "the trace buffer was too small: {line}"
        );
        if line.starts_with('#') {
            continue;
        }
        let bytes: u64 = field(line, "bytes_alloc")
            .parse()
            .unwrap_or_else(|error| panic!("bytes_alloc in {line:?}: {error}"));
        let call_site = allocations
            .entry(field(line, "call_site").to_owned())
            .or_default();

        call_site.count += 1;
        call_site.bytes += bytes;
    }
    allocations
}

/// Returns the value of the field `name` in a line of the trace, which has it as `name=value`.
#[track_caller]
fn field<'l>(line: &'l str, name: &str) -> &'l str {
    let mut words = line.split([' ', ',']);

    words
        .find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
        .unwrap_or_else(|| panic!("no {name} in {line:?}"))
}
