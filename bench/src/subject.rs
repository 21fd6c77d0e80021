// SPDX-License-Identifier: GPL-2.0

//! Who is compared: each counts TCP packets at LOCAL_OUT, or does as much as has to be done for that.

use crate::{
    bpf,
    device::{Device, Hook},
};
use kstat_tests::{
    guest::{file, iptables::TcpRules, module::Kstat, netns::Netns, nft},
    tool,
};
use serde_json::Value;

/// Who counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    None,
    Empty,
    Kstat,
    GlobalAtomic,
    Nft,
    NftNamed,
    Iptables,
    BpfNetfilter,
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

    /// As results have it.
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

/// The place where they count: a network namespace, with kstat loaded.
pub struct Stage<'a> {
    pub net: &'a Netns,
    pub kstat: &'a Kstat<'a>,
    pub bpf: &'a bpf::Programs,
    /// To hook what is in C.
    pub device: &'a Device,
}

/// A rule for each family.
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

/// One rule, and a counter that has a name.
const NFT_NAMED: &str = "
table inet counted {
    counter tcp_packets { }
    chain output {
        type filter hook output priority 0;
        meta l4proto tcp counter name tcp_packets;
    }
}
";

/// Somebody who counts until this is dropped.
pub struct Counting<'a> {
    stage: &'a Stage<'a>,
    subject: Subject,
    rules: Option<TcpRules<'a>>,
    /// What is to be dropped to have it count no more.
    _links: Vec<libbpf_rs::Link>,
}

impl<'a> Counting<'a> {
    /// Has them begin.
    #[track_caller]
    pub fn new(stage: &'a Stage<'a>, subject: Subject) -> Result<Self, String> {
        let (mut links, mut rules) = (vec![], None);

        match subject {
            Subject::None => {}
            Subject::Empty => stage.device.hook(Hook::Empty),
            Subject::Kstat => stage.kstat.start(),
            Subject::GlobalAtomic => stage.device.hook(Hook::Global),
            Subject::Nft => nft::load(stage.net, NFT),
            Subject::NftNamed => nft::load(stage.net, NFT_NAMED),
            Subject::Iptables => rules = Some(TcpRules::new(stage.net)),
            Subject::BpfNetfilter => links = stage.bpf.hook()?,
            Subject::BpfCgroup => links = vec![stage.bpf.join_root_cgroup()?],
        }
        Ok(Self {
            stage,
            subject,
            rules,
            _links: links,
        })
    }

    /// What has been counted so far, by those who can tell.
    #[track_caller]
    pub fn packets(&self) -> Option<u64> {
        let stage = self.stage;

        match self.subject {
            Subject::None | Subject::Empty | Subject::GlobalAtomic => None,
            Subject::Kstat => Some(stage.net.run(|| file::number(file::NOUT))),
            Subject::Nft => Some(stage.net.run(rules_packets)),
            Subject::NftNamed => Some(nft::counter(stage.net, "counted", "tcp_packets")),
            Subject::Iptables => self.rules.as_ref().map(TcpRules::packets),
            Subject::BpfNetfilter => stage.bpf.netfilter_packets(),
            Subject::BpfCgroup => stage.bpf.cgroup_packets(),
        }
    }
}

/// What the rules of nftables have counted that have no named counter.
#[track_caller]
fn rules_packets() -> u64 {
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

impl Drop for Counting<'_> {
    fn drop(&mut self) {
        let net = self.stage.net;

        match self.subject {
            Subject::None | Subject::BpfNetfilter | Subject::BpfCgroup => {}
            Subject::Empty | Subject::GlobalAtomic => self.stage.device.hook(Hook::Nothing),
            Subject::Kstat => self.stage.kstat.stop(),
            Subject::Nft | Subject::NftNamed | Subject::Iptables => nft::load(net, "flush ruleset"),
        }
    }
}
