// SPDX-License-Identifier: GPL-2.0

//! The kernel's memory usage, precise enough to notice one lost object per repetition of an
//! operation.

use crate::guest::file;
use std::{collections::BTreeMap, fs};

/// The largest page size in Debian's kernels, 16 KiB, which is a multiple of the others.
pub const PAGE: usize = 16384;

/// The memory in use at one moment.
#[derive(Debug)]
pub struct Usage {
    /// The number of objects in each slab cache. The `kmalloc-rnd-*` caches of a size, between
    /// which the kernel chooses at random, are added up.
    objects: BTreeMap<String, u64>,
    /// The kilobytes that the per-CPU allocator uses, on all CPUs together.
    percpu: u64,
}

impl Usage {
    /// Makes the kernel free its caches, and returns the memory that is still in use.
    #[track_caller]
    pub fn now() -> Self {
        // The kernel keeps dentries and inodes of /proc for a while after the files are gone; 2
        // frees them. The kernel logs that drop_caches was written.
        file::set("/proc/sys/vm/drop_caches", "2");
        shrink_slabs();

        Self {
            objects: objects(),
            percpu: percpu(),
        }
    }

    /// Lists the growth since `before`: slab caches with more than `objects` further objects, and
    /// per-CPU memory if it grew by more than `percpu` kilobytes.
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

/// Makes the slab caches count only the objects in use, without the free objects that CPUs hold in
/// reserve.
fn shrink_slabs() {
    const CACHES: &str = "/sys/kernel/slab";

    for cache in fs::read_dir(CACHES).unwrap_or_else(|error| panic!("listing {CACHES}: {error}")) {
        let cache = cache.unwrap_or_else(|error| panic!("listing {CACHES}: {error}"));
        let shrink = cache.path().join("shrink");

        file::set(&shrink.to_string_lossy(), "1");
    }
}

/// Returns the number of objects in use of a slab cache.
#[track_caller]
pub fn objects_of(cache: &str) -> u64 {
    shrink_slabs();
    objects()
        .get(cache)
        .copied()
        .unwrap_or_else(|| panic!("/proc/slabinfo has no {cache}"))
}

/// Returns the number of active objects of every slab cache.
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

/// Returns `kmalloc-64` for `kmalloc-rnd-07-64`, and the name of any other cache unchanged.
fn size_class(cache: &str) -> String {
    match cache
        .strip_prefix("kmalloc-rnd-")
        .and_then(|rest| rest.split_once('-'))
    {
        Some((_, size)) => format!("kmalloc-{size}"),
        None => cache.to_owned(),
    }
}

/// Returns the kilobytes that the per-CPU allocator uses.
#[track_caller]
fn percpu() -> u64 {
    let meminfo = file::read("/proc/meminfo");

    meminfo
        .lines()
        .find_map(|line| line.strip_prefix("Percpu:")?.strip_suffix("kB"))
        .and_then(|size| size.trim().parse().ok())
        .unwrap_or_else(|| panic!("/proc/meminfo has no line Percpu: {meminfo}"))
}
