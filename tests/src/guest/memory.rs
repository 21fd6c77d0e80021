// SPDX-License-Identifier: GPL-2.0

//! The kernel's memory, counted so finely that one lost object a round is seen.

use crate::guest::file;
use std::{collections::BTreeMap, fs};

/// What is in use.
#[derive(Debug)]
pub struct Usage {
    /// Objects, by slab cache; the kmalloc caches that the kernel chooses from at random are one.
    objects: BTreeMap<String, u64>,
    /// Kilobytes of the per-CPU allocator, of all CPUs.
    percpu: u64,
}

impl Usage {
    /// What is in use now, when what could be freed has been.
    #[track_caller]
    pub fn now() -> Self {
        // Names in /proc and their inodes are kept for a while after the files are gone.
        // The kernel's log tells that somebody did this.
        file::set("/proc/sys/vm/drop_caches", "2");
        shrink_slabs();

        Self {
            objects: objects(),
            percpu: percpu(),
        }
    }

    /// What there is more of than `before`: more than so many objects of a kind, or more than so many
    /// kilobytes of per-CPU memory.
    pub fn growth_since(&self, before: &Self, objects: u64, percpu: u64) -> Vec<String> {
        let objects = self.objects.iter().filter_map(|(cache, &now)| {
            let before = before.objects.get(cache).copied().unwrap_or(0);
            (now > before + objects).then(|| format!("{cache}: {before} to {now} objects"))
        });
        let percpu = (self.percpu > before.percpu + percpu)
            .then(|| format!("per-CPU memory: {} to {} kB", before.percpu, self.percpu));

        objects.chain(percpu).collect()
    }
}

/// Makes the slab caches count what is in use, and not what a CPU has at hand.
fn shrink_slabs() {
    const CACHES: &str = "/sys/kernel/slab";

    for cache in fs::read_dir(CACHES).unwrap_or_else(|error| panic!("listing {CACHES}: {error}")) {
        let cache = cache.unwrap_or_else(|error| panic!("listing {CACHES}: {error}"));
        let shrink = cache.path().join("shrink");

        file::set(&shrink.to_string_lossy(), "1");
    }
}

/// How many objects of a slab cache are in use.
#[track_caller]
pub fn objects_of(cache: &str) -> u64 {
    shrink_slabs();
    objects()
        .get(cache)
        .copied()
        .unwrap_or_else(|| panic!("/proc/slabinfo has no {cache}"))
}

fn objects() -> BTreeMap<String, u64> {
    let mut objects = BTreeMap::new();

    // "name <active_objs> <num_objs> ...", after two lines of headings.
    for line in file::read("/proc/slabinfo").lines().skip(2) {
        let mut words = line.split_whitespace();
        let (Some(name), Some(active)) = (words.next(), words.next()) else {
            panic!("not a line of /proc/slabinfo: {line:?}");
        };
        let active: u64 = active
            .parse()
            .unwrap_or_else(|error| panic!("/proc/slabinfo: {line:?}: {error}"));

        *objects.entry(size_class(name)).or_default() += active;
    }
    objects
}

/// `kmalloc-64` for `kmalloc-rnd-07-64`, and the name for others.
fn size_class(cache: &str) -> String {
    match cache
        .strip_prefix("kmalloc-rnd-")
        .and_then(|rest| rest.split_once('-'))
    {
        Some((_, size)) => format!("kmalloc-{size}"),
        None => cache.to_owned(),
    }
}

/// Kilobytes of the per-CPU allocator.
#[track_caller]
fn percpu() -> u64 {
    let meminfo = file::read("/proc/meminfo");

    meminfo
        .lines()
        .find_map(|line| line.strip_prefix("Percpu:")?.strip_suffix("kB"))
        .and_then(|size| size.trim().parse().ok())
        .unwrap_or_else(|| panic!("/proc/meminfo does not say Percpu: {meminfo}"))
}
