// SPDX-License-Identifier: GPL-2.0

//! The BPF programs of `count_tcp.bpf.c`.

use kstat_tests::guest::file;
use libbpf_rs::{
    Link, MapCore, MapFlags, NetfilterOpts, Object, ObjectBuilder, PrintLevel, ProgramMut,
};
use std::{env, os::fd::AsRawFd, sync::Mutex};

/// `NF_INET_LOCAL_OUT`.
const LOCAL_OUT: i32 = 3;
/// `NFPROTO_IPV4`.
const IPV4: i32 = 2;
/// `NFPROTO_IPV6`.
const IPV6: i32 = 10;

/// The BPF programs by their type. Programs that could not be loaded have the cause instead.
pub struct Programs {
    netfilter: Result<Object, String>,
    cgroup: Result<Object, String>,
}

impl Programs {
    /// Loads all programs.
    pub fn load() -> Self {
        Self {
            netfilter: load("netfilter_"),
            cgroup: load("cgroup_"),
        }
    }

    /// Attaches the netfilter programs to LOCAL_OUT in the network namespace of the calling thread,
    /// until the links are dropped.
    pub fn attach_to_netfilter(&self) -> Result<Vec<Link>, String> {
        [("netfilter_ipv4", IPV4), ("netfilter_ipv6", IPV6)]
            .into_iter()
            .map(|(name, family)| {
                attach(&self.netfilter, name, |program| {
                    program.attach_netfilter_with_opts(NetfilterOpts {
                        protocol_family: family,
                        hooknum: LOCAL_OUT,
                        ..NetfilterOpts::default()
                    })
                })
            })
            .collect()
    }

    /// Attaches the cgroup program to the egress of the root cgroup, until the link is dropped.
    pub fn attach_to_root_cgroup(&self) -> Result<Link, String> {
        let cgroup = file::reader("/sys/fs/cgroup");

        attach(&self.cgroup, "cgroup_egress", |program| {
            program.attach_cgroup(cgroup.as_raw_fd())
        })
    }

    /// Returns how many packets the netfilter programs have counted, if they are loaded.
    pub fn netfilter_packets(&self) -> Option<u64> {
        self.netfilter.as_ref().ok().map(packets)
    }

    /// Returns how many packets the cgroup program has counted, if it is loaded.
    pub fn cgroup_packets(&self) -> Option<u64> {
        self.cgroup.as_ref().ok().map(packets)
    }
}

/// Loads the programs whose names start with `prefix`.
///
/// The error is the first line of the verifier's log, if there is one.
fn load(prefix: &str) -> Result<Object, String> {
    let path = env::var("KSTAT_BENCH_BPF").unwrap_or_else(|_| {
        panic!("KSTAT_BENCH_BPF does not name the BPF programs: see `make bench`")
    });
    let mut object = ObjectBuilder::default()
        .open_file(&path)
        .unwrap_or_else(|error| panic!("opening {path}: {error:#}"));

    for mut program in object.progs_mut() {
        let wanted = program.name().to_string_lossy().starts_with(prefix);
        program.set_autoload(wanted);
    }
    // libbpf prints the verifier's log as a warning.
    static WARNINGS: Mutex<String> = Mutex::new(String::new());
    let warnings = || WARNINGS.lock().expect("the mutex is not poisoned");
    let append = |_, text: String| {
        WARNINGS
            .lock()
            .expect("the mutex is not poisoned")
            .push_str(&text)
    };
    warnings().clear();
    let print_before = libbpf_rs::set_print(Some((PrintLevel::Warn, append)));
    let loaded = object.load();
    libbpf_rs::set_print(print_before);
    loaded.map_err(|error| {
        let warnings = warnings();
        let mut verifier_log = warnings
            .lines()
            .skip_while(|line| !line.contains("BEGIN PROG LOAD LOG"));
        format!(
            "it could not be loaded: {}",
            verifier_log.nth(1).map_or(error.to_string(), str::to_owned)
        )
    })
}

/// Attaches the program `name` of `object` by `attach`.
fn attach(
    object: &Result<Object, String>,
    name: &str,
    attach: impl Fn(&ProgramMut<'_>) -> libbpf_rs::Result<Link>,
) -> Result<Link, String> {
    let object = object.as_ref().map_err(Clone::clone)?;
    let program = object
        .progs_mut()
        .find(|program| program.name() == name)
        .unwrap_or_else(|| panic!("count_tcp.bpf.c has no {name}"));

    attach(&program).map_err(|error| format!("it could not be attached: {error:#}"))
}

/// Returns how many packets the programs of `object` have counted on all CPUs.
fn packets(object: &Object) -> u64 {
    let map = object
        .maps()
        .find(|map| map.name() == "packets")
        .expect("count_tcp.bpf.c has a map of this name");

    map.lookup_percpu(&0u32.to_ne_bytes(), MapFlags::ANY)
        .expect("the map can be read")
        .expect("an array has all its elements")
        .iter()
        .map(|bytes| u64::from_ne_bytes(bytes[..8].try_into().expect("8 bytes")))
        .sum()
}
