// SPDX-License-Identifier: GPL-2.0

//! nftables, whose word is what kstat's is compared with: its own count of TCP packets, and its list
//! of who is hooked where.

use crate::{
    guest::{file, netns::Netns},
    tool, wait,
};
use serde_json::Value;
use std::{collections::BTreeSet, mem};

/// Where a hook stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookPoint {
    /// LOCAL_OUT.
    Output,
    /// POST_ROUTING.
    Postrouting,
}

impl HookPoint {
    fn name(self) -> &'static str {
        match self {
            Self::Output => "output",
            Self::Postrouting => "postrouting",
        }
    }
}

/// `meta l4proto tcp counter` for IPv4 and for IPv6.
///
/// It stands right before the last priority, where kstat's hook is: no firewall stands between them.
pub struct TcpCounter<'a> {
    net: &'a Netns,
    point: HookPoint,
}

/// What nftables has counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packets {
    /// TCP over IPv4.
    pub ipv4: u64,
    /// TCP over IPv6.
    pub ipv6: u64,
}

impl Packets {
    /// TCP over either.
    pub fn total(self) -> u64 {
        self.ipv4 + self.ipv6
    }
}

impl<'a> TcpCounter<'a> {
    pub(crate) const SOURCE: &'static str = "nftables' `meta l4proto tcp counter`";

    /// Counts from now on, until the namespace is gone.
    #[track_caller]
    pub fn new(net: &'a Netns, point: HookPoint) -> Self {
        let point_name = point.name();

        load(
            net,
            &format!(
                "table inet counted_{point_name} {{
                     counter ipv4 {{ }}
                     counter ipv6 {{ }}
                     chain counted {{
                         type filter hook {point_name} priority 2147483646;
                         meta nfproto ipv4 meta l4proto tcp counter name ipv4
                         meta nfproto ipv6 meta l4proto tcp counter name ipv6
                     }}
                 }}"
            ),
        );
        Self { net, point }
    }

    /// What was counted so far.
    #[track_caller]
    pub fn packets(&self) -> Packets {
        Self::packets_of(self.net, self.point)
    }

    /// The same, by somebody who has not got it.
    #[track_caller]
    pub fn packets_of(net: &Netns, point: HookPoint) -> Packets {
        let table = format!("counted_{}", point.name());

        Packets {
            ipv4: counter(net, &table, "ipv4"),
            ipv6: counter(net, &table, "ipv6"),
        }
    }

    /// Asserts that nout is what nftables has counted, once neither moves any more: connections
    /// that are over may still have something to say.
    #[track_caller]
    pub fn assert_agrees_when_quiet(&self) -> u64 {
        let both = || {
            let nout = self.net.run(|| file::number(file::NOUT));
            (nout, self.packets())
        };
        let mut last = both();

        wait::until("no more packets were counted", || {
            let now = both();
            mem::replace(&mut last, now) == now
        });
        let (nout, packets) = last;
        self.compare(nout, packets)
    }

    /// Asserts that nout is what nftables has counted, for both families together, and returns it.
    #[track_caller]
    pub fn assert_agrees(&self, nout: u64) -> u64 {
        self.compare(nout, self.packets())
    }

    #[track_caller]
    fn compare(&self, nout: u64, packets: Packets) -> u64 {
        let source = format!("{} at {}", Self::SOURCE, self.point.name());

        crate::assert_agrees(nout, packets.total(), &source);
        nout
    }
}

/// Which packets nftables sees, and which of them match `meta l4proto tcp`, each by a number that it
/// carries.
pub struct Seen<'a> {
    net: &'a Netns,
    keys: usize,
}

impl<'a> Seen<'a> {
    /// From now on; `keys` are what to know packets by, and which packets have that, as nftables has
    /// both: `("meta mark", "")`, say.
    #[track_caller]
    pub fn new(net: &'a Netns, point: HookPoint, keys: &[(&str, &str)]) -> Self {
        let point = point.name();
        let (mut sets, mut rules) = (String::new(), String::new());

        for (i, (key, condition)) in keys.iter().enumerate() {
            sets += &format!(
                "set any{i} {{ typeof {key}; size 65536; flags dynamic; }}
                 set tcp{i} {{ typeof {key}; size 65536; flags dynamic; }}
                 "
            );
            rules += &format!(
                "{condition} add @any{i} {{ {key} }}
                 {condition} meta l4proto tcp add @tcp{i} {{ {key} }}
                 "
            );
        }
        load(
            net,
            &format!(
                "table inet watched {{
                     {sets}
                     chain watch {{
                         type filter hook {point} priority 2147483646;
                         {rules}
                     }}
                 }}"
            ),
        );
        Self {
            net,
            keys: keys.len(),
        }
    }

    /// All packets that were seen since [`Self::forget`].
    #[track_caller]
    pub fn any(&self) -> BTreeSet<u64> {
        self.all("any")
    }

    /// Those of TCP.
    #[track_caller]
    pub fn tcp(&self) -> BTreeSet<u64> {
        self.all("tcp")
    }

    /// Makes room for more.
    #[track_caller]
    pub fn forget(&self) {
        for i in 0..self.keys {
            load(
                self.net,
                &format!("flush set inet watched any{i}\nflush set inet watched tcp{i}\n"),
            );
        }
    }

    #[track_caller]
    fn all(&self, sets: &str) -> BTreeSet<u64> {
        (0..self.keys)
            .flat_map(|i| self.elements(&format!("{sets}{i}")))
            .collect()
    }

    #[track_caller]
    fn elements(&self, set: &str) -> BTreeSet<u64> {
        let answer = self
            .net
            .run(|| tool::run("nft", &["-j", "list", "set", "inet", "watched", set]));
        let answer: Value = serde_json::from_str(&answer)
            .unwrap_or_else(|error| panic!("nft -j list set: {error}: {answer}"));
        let Some(set) = answer["nftables"]
            .as_array()
            .into_iter()
            .flatten()
            .find_map(|object| object.get("set"))
        else {
            panic!("nft -j list set: {answer}");
        };

        // An empty set has no "elem".
        set["elem"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|element| {
                element
                    .as_u64()
                    .unwrap_or_else(|| panic!("nft -j list set: {element} is no number"))
            })
            .collect()
    }
}

/// The packets of a named counter of an `inet` table.
#[track_caller]
pub fn counter(net: &Netns, table: &str, name: &str) -> u64 {
    counter_of(net, "inet", table, name)
}

/// The packets of a named counter of a table of `family`.
#[track_caller]
pub fn counter_of(net: &Netns, family: &str, table: &str, name: &str) -> u64 {
    let answer = net.run(|| tool::run("nft", &["-j", "list", "counter", family, table, name]));
    let value: Value = serde_json::from_str(&answer)
        .unwrap_or_else(|error| panic!("nft -j list counter: {error}: {answer}"));

    value["nftables"]
        .as_array()
        .into_iter()
        .flatten()
        .find_map(|object| object["counter"]["packets"].as_u64())
        .unwrap_or_else(|| panic!("nft -j list counter: no {name} in {answer}"))
}

/// Loads a ruleset into a namespace.
#[track_caller]
pub fn load(net: &Netns, ruleset: &str) {
    net.run(|| tool::run_with("nft", &["-f", "-"], ruleset));
}

/// A shell script that takes all places for an IPv6 hook at `point`, of which there are 1,024
/// (`MAX_HOOK_COUNT` in `net/netfilter/core.c`).
///
/// The kernel's own security modules may have some of them.
pub fn fill(point: HookPoint) -> String {
    let chain = format!("{{ type filter hook {} priority 0; }}", point.name());
    let chains: Vec<_> = (0..1020).map(|i| format!("chain c{i} {chain}")).collect();

    format!(
        "nft -f - <<'END'
table ip6 full {{
{}
}}
END
i=0; while nft \"add chain ip6 full d$i {chain}\" 2>/dev/null; do i=$((i + 1)); done",
        chains.join("\n")
    )
}

/// A namespace where no IPv6 hook can be added at one point, until this is dropped.
pub struct Full<'a>(&'a Netns);

impl<'a> Full<'a> {
    /// Takes all places at `point`.
    #[track_caller]
    pub fn new(net: &'a Netns, point: HookPoint) -> Self {
        net.run(|| tool::shell(&fill(point)));
        Self(net)
    }
}

impl Drop for Full<'_> {
    fn drop(&mut self) {
        load(self.0, "delete table ip6 full");
    }
}

/// A hook of kstat's.
#[derive(Debug, PartialEq, Eq)]
pub struct RegisteredHook {
    /// `ip` or `ip6`.
    pub family: String,
    /// `output`, `postrouting` and the like.
    pub point: String,
    /// What is lower comes first.
    pub priority: i32,
}

/// Hooks at the last priority of `point`, one for each family: those of a kstat that counts.
pub fn one_per_family(point: HookPoint) -> Vec<RegisteredHook> {
    ["ip", "ip6"]
        .map(|family| RegisteredHook {
            family: family.to_owned(),
            point: point.name().to_owned(),
            priority: i32::MAX,
        })
        .into()
}

/// What `nft list hooks` shows of kstat in a namespace.
#[track_caller]
pub fn kstat_hooks(net: &Netns) -> Vec<RegisteredHook> {
    listed_hooks(net)
        .into_iter()
        .filter(|(_, function)| function.ends_with("[kstat]"))
        .map(|(hook, _)| hook)
        .collect()
}

/// The hooks of a namespace that call `function`, as `nft list hooks` names it with its module:
/// `nf_confirm [nf_conntrack]`, for example.
#[track_caller]
pub fn hooks_of(net: &Netns, function: &str) -> Vec<RegisteredHook> {
    listed_hooks(net)
        .into_iter()
        .filter(|(_, name)| name == function)
        .map(|(hook, _)| hook)
        .collect()
}

/// The modules that have a hook at the last priority of `point` for `family` (`ip` or `ip6`), in the
/// order in which the kernel runs the hooks.
#[track_caller]
pub fn last_modules(net: &Netns, family: &str, point: HookPoint) -> Vec<String> {
    listed_hooks(net)
        .into_iter()
        .filter(|(hook, _)| {
            hook.family == family && hook.point == point.name() && hook.priority == i32::MAX
        })
        .map(|(_, function)| match function.rsplit_once(" [") {
            Some((_, module)) => module.trim_end_matches(']').to_owned(),
            None => function,
        })
        .collect()
}

/// Every hook of a namespace as `nft list hooks` shows it, with what it shows behind the priority.
#[track_caller]
fn listed_hooks(net: &Netns) -> Vec<(RegisteredHook, String)> {
    let list = net.run(|| tool::run("nft", &["list", "hooks"]));
    let (mut family, mut point) = (String::new(), String::new());
    let mut hooks = Vec::new();

    // family ip {
    //         hook output {
    //                 +2147483647 a_function [kstat]
    for line in list.lines() {
        match *line.split_whitespace().collect::<Vec<_>>() {
            ["family", name, ..] => family = name.to_owned(),
            ["hook", name, ..] => point = name.to_owned(),
            [priority, ref function @ ..] if !function.is_empty() => hooks.push((
                RegisteredHook {
                    family: family.clone(),
                    point: point.clone(),
                    priority: priority
                        .parse()
                        .unwrap_or_else(|error| panic!("nft list hooks: {line:?}: {error}")),
                },
                function.join(" "),
            )),
            _ => assert!(
                !line.contains("kstat]"),
                "nft list hooks: {line:?} is not understood"
            ),
        }
    }
    hooks
}
