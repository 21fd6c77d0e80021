// SPDX-License-Identifier: GPL-2.0

//! The programs of count_tcp.bpf.c.

use kstat_tests::guest::file;
use libbpf_rs::{
    Link, MapCore, MapFlags, NetfilterOpts, Object, ObjectBuilder, PrintLevel, ProgramMut,
};
use std::{env, os::fd::AsRawFd, sync::Mutex};

const LOCAL_OUT: i32 = 3;
const IPV4: i32 = 2;
const IPV6: i32 = 10;

/// The programs; each kind is loaded, or there is a reason why not.
pub struct Programs {
    netfilter: Result<Object, String>,
    cgroup: Result<Object, String>,
}

impl Programs {
    /// Loads them.
    pub fn load() -> Self {
        Self {
            netfilter: load("netfilter_"),
            cgroup: load("cgroup_"),
        }
    }

    /// Attaches those for netfilter at LOCAL_OUT of the thread's namespace, until what is returned is
    /// dropped.
    pub fn hook(&self) -> Result<Vec<Link>, String> {
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

    /// Attaches that for the egress of cgroups to the root of all, until what is returned is dropped.
    pub fn join_root_cgroup(&self) -> Result<Link, String> {
        let cgroup = file::reader("/sys/fs/cgroup");

        attach(&self.cgroup, "cgroup_egress", |program| {
            program.attach_cgroup(cgroup.as_raw_fd())
        })
    }

    /// What those for netfilter have counted, if they are loaded.
    pub fn netfilter_packets(&self) -> Option<u64> {
        self.netfilter.as_ref().ok().map(packets)
    }

    /// What that for cgroups has counted, if it is loaded.
    pub fn cgroup_packets(&self) -> Option<u64> {
        self.cgroup.as_ref().ok().map(packets)
    }
}

/// Loads those whose names begin so.
fn load(names: &str) -> Result<Object, String> {
    let path = env::var("KSTAT_BENCH_BPF").unwrap_or_else(|_| {
        panic!("KSTAT_BENCH_BPF does not name the BPF programs: see scripts/bench")
    });
    let mut object = ObjectBuilder::default()
        .open_file(&path)
        .unwrap_or_else(|error| panic!("opening {path}: {error:#}"));

    for mut program in object.progs_mut() {
        let wanted = program.name().to_string_lossy().starts_with(names);
        program.set_autoload(wanted);
    }
    // The verifier says why, and libbpf prints it.
    static SAID: Mutex<String> = Mutex::new(String::new());
    let listen = |_, text: String| SAID.lock().expect("nobody failed with it").push_str(&text);
    SAID.lock().expect("nobody failed with it").clear();
    let before = libbpf_rs::set_print(Some((PrintLevel::Warn, listen)));
    let loaded = object.load();
    libbpf_rs::set_print(before);
    loaded.map_err(|error| {
        let said = SAID.lock().expect("nobody failed with it");
        let mut because = said
            .lines()
            .skip_while(|line| !line.contains("BEGIN PROG LOAD LOG"));
        format!(
            "it could not be loaded: {}",
            because.nth(1).map_or(error.to_string(), str::to_owned)
        )
    })
}

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

/// What the programs of an object have counted.
fn packets(object: &Object) -> u64 {
    let map = object
        .maps()
        .find(|map| map.name() == "packets")
        .expect("there is such a map");

    map.lookup_percpu(&0u32.to_ne_bytes(), MapFlags::ANY)
        .expect("the map can be read")
        .expect("an array has all its elements")
        .iter()
        .map(|bytes| u64::from_ne_bytes(bytes[..8].try_into().expect("8 bytes")))
        .sum()
}
