// SPDX-License-Identifier: GPL-2.0

//! The counters that the benchmark compares: kstat, others, and two baselines.
//!
//! Each of them counts TCP packets at LOCAL_OUT, except for the baselines, which do not count.

use crate::{
    bpf,
    device::{CHook, Device},
};
use kstat_tests::{
    guest::{file, iptables::TcpRules, module::Kstat, netns::Netns, nft},
    tool,
};
use serde_json::Value;

/// A counter or a baseline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Baseline: no hook.
    None,
    /// Baseline: a hook in C that does nothing.
    Empty,
    Kstat,
    /// A hook in C that counts in one atomic variable for all CPUs.
    GlobalAtomic,
    /// nftables, with a rule for each address family.
    Nft,
    /// nftables, with one rule for both, and a named counter.
    NftNamed,
    Iptables,
    /// A BPF program as a netfilter hook.
    BpfNetfilter,
    /// A BPF program at the egress of the root cgroup.
    BpfCgroup,
}

impl Subject {
    pub const ALL: [Self; 9] = [
        Self::None,
        Self::Empty,
        Self::Kstat,
        Self::GlobalAtomic,
        Self::Nft,
        Self::NftNamed,
        Self::Iptables,
        Self::BpfNetfilter,
        Self::BpfCgroup,
    ];

    /// Returns the name that results and tables have.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Empty => "empty",
            Self::Kstat => "kstat",
            Self::GlobalAtomic => "global-atomic",
            Self::Nft => "nft",
            Self::NftNamed => "nft-named",
            Self::Iptables => "iptables",
            Self::BpfNetfilter => "bpf-netfilter",
            Self::BpfCgroup => "bpf-cgroup",
        }
    }
}

/// What subjects need: a network namespace to count in, and their kernel parts, loaded but
/// inactive.
pub struct Testbed<'a> {
    pub net: &'a Netns,
    pub kstat: &'a Kstat<'a>,
    pub bpf: &'a bpf::Programs,
    /// Registers the hooks in C.
    pub device: &'a Device,
}

/// The ruleset of [`Subject::Nft`].
const NFT: &str = "
table ip counted {
    chain output {
        type filter hook output priority 0;
        meta l4proto tcp counter;
    }
}
table ip6 counted {
    chain output {
        type filter hook output priority 0;
        meta l4proto tcp counter;
    }
}
";

/// The ruleset of [`Subject::NftNamed`].
const NFT_NAMED: &str = "
table inet counted {
    counter tcp_packets { }
    chain output {
        type filter hook output priority 0;
        meta l4proto tcp counter name tcp_packets;
    }
}
";

/// A subject that is active until this is dropped.
pub struct ActiveSubject<'a> {
    testbed: &'a Testbed<'a>,
    subject: Subject,
    rules: Option<TcpRules<'a>>,
    /// Attachments of BPF programs, which end when these are dropped.
    _links: Vec<libbpf_rs::Link>,
}

impl<'a> ActiveSubject<'a> {
    /// Activates `subject`. Fails with the cause if the kernel cannot run it.
    #[track_caller]
    pub fn new(testbed: &'a Testbed<'a>, subject: Subject) -> Result<Self, String> {
        let (mut links, mut rules) = (vec![], None);

        match subject {
            Subject::None => {}
            Subject::Empty => testbed.device.set_hook(CHook::Empty),
            Subject::Kstat => testbed.kstat.start(),
            Subject::GlobalAtomic => testbed.device.set_hook(CHook::GlobalAtomic),
            Subject::Nft => nft::load(testbed.net, NFT),
            Subject::NftNamed => nft::load(testbed.net, NFT_NAMED),
            Subject::Iptables => rules = Some(TcpRules::new(testbed.net)),
            Subject::BpfNetfilter => links = testbed.bpf.attach_to_netfilter()?,
            Subject::BpfCgroup => links = vec![testbed.bpf.attach_to_root_cgroup()?],
        }
        Ok(Self {
            testbed,
            subject,
            rules,
            _links: links,
        })
    }

    /// Returns how many packets the subject has counted, if it can tell.
    #[track_caller]
    pub fn packets(&self) -> Option<u64> {
        let testbed = self.testbed;

        match self.subject {
            Subject::None | Subject::Empty | Subject::GlobalAtomic => None,
            Subject::Kstat => Some(testbed.net.run(|| file::number(file::NOUT))),
            Subject::Nft => Some(testbed.net.run(packets_of_anonymous_counters)),
            Subject::NftNamed => Some(nft::counter(testbed.net, "counted", "tcp_packets")),
            Subject::Iptables => self.rules.as_ref().map(TcpRules::packets),
            Subject::BpfNetfilter => testbed.bpf.netfilter_packets(),
            Subject::BpfCgroup => testbed.bpf.cgroup_packets(),
        }
    }
}

/// Returns how many packets the anonymous counters of all nftables rules have counted.
#[track_caller]
fn packets_of_anonymous_counters() -> u64 {
    let list = tool::run("nft", &["-j", "list", "ruleset"]);
    let list: Value =
        serde_json::from_str(&list).unwrap_or_else(|error| panic!("nft -j list: {error}: {list}"));
    let expressions = list["nftables"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|object| object["rule"]["expr"].as_array())
        .flatten();

    expressions
        .filter_map(|expression| expression["counter"]["packets"].as_u64())
        .sum()
}

impl Drop for ActiveSubject<'_> {
    fn drop(&mut self) {
        let testbed = self.testbed;

        match self.subject {
            Subject::None | Subject::BpfNetfilter | Subject::BpfCgroup => {}
            Subject::Empty | Subject::GlobalAtomic => testbed.device.set_hook(CHook::None),
            Subject::Kstat => testbed.kstat.stop(),
            Subject::Nft | Subject::NftNamed | Subject::Iptables => {
                nft::load(testbed.net, "flush ruleset")
            }
        }
    }
}
