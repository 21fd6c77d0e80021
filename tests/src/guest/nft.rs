// SPDX-License-Identifier: GPL-2.0

//! nftables, with which kstat is compared: its count of TCP packets, and its list of registered
//! hooks.

use crate::{
    guest::{
        file,
        netns::Netns,
        wire::{self, Counts},
    },
    tool, wait,
};
use serde_json::Value;
use std::{collections::BTreeSet, mem};

/// A netfilter hook point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookPoint {
    /// `NF_INET_LOCAL_OUT`.
    Output,
    /// `NF_INET_POST_ROUTING`.
    Postrouting,
}

impl HookPoint {
    /// Returns nftables' name of the hook point.
    fn name(self) -> &'static str {
        match self {
            Self::Output => "output",
            Self::Postrouting => "postrouting",
        }
    }
}

/// The rule `meta l4proto tcp counter`, for IPv4 and for IPv6.
///
/// Its chain has the priority right before the last one, which is the priority of kstat's hook. So
/// no firewall runs between the two.
pub struct TcpCounter<'a> {
    net: &'a Netns,
    point: HookPoint,
    /// What kstat had counted before, if it was loaded.
    before: Counts,
}

/// The packets that nftables has counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packets {
    /// TCP over IPv4.
    pub ipv4: u64,
    /// TCP over IPv6.
    pub ipv6: u64,
}

impl Packets {
    /// Returns the number of TCP packets over IPv4 and IPv6 together.
    pub fn total(self) -> u64 {
        self.ipv4 + self.ipv6
    }
}

impl<'a> TcpCounter<'a> {
    /// The name of this count in messages.
    pub(crate) const SOURCE: &'static str = "nftables' `meta l4proto tcp counter`";

    /// Adds the rules to the network namespace `net`. They stay as long as the namespace.
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
        Self {
            net,
            point,
            before: counts(net).unwrap_or_default(),
        }
    }

    /// Returns the packets counted so far.
    #[track_caller]
    pub fn packets(&self) -> Packets {
        Self::packets_of(self.net, self.point)
    }

    /// Returns the packets counted so far by the rules that [`Self::new`] added to `net` at
    /// `point`.
    #[track_caller]
    pub fn packets_of(net: &Netns, point: HookPoint) -> Packets {
        let table = format!("counted_{}", point.name());

        Packets {
            ipv4: counter(net, &table, "ipv4"),
            ipv6: counter(net, &table, "ipv6"),
        }
    }

    /// Waits until neither `nout` nor nftables' count moves any more, asserts that they agree, and
    /// returns `nout`. Connections may still send packets after the test has closed them.
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

    /// Asserts that `nout` is the number of packets that nftables has counted over IPv4 and IPv6
    /// together. Returns `nout`.
    #[track_caller]
    pub fn assert_agrees(&self, nout: u64) -> u64 {
        self.compare(nout, self.packets())
    }

    /// Asserts that nftables agrees with `nout`, and with `/proc/net/kstat` on what it has counted
    /// since this was made.
    #[track_caller]
    fn compare(&self, nout: u64, packets: Packets) -> u64 {
        let source = format!("{} at {}", Self::SOURCE, self.point.name());

        crate::assert_agrees(nout, packets.total(), &source);
        let counted = Counts::of(self.net).since(self.before);
        let table = format!("counted_{}", self.point.name());
        let octets = ["ipv4", "ipv6"].map(|name| value_of(self.net, "inet", &table, name, "bytes"));

        println!("/proc/net/kstat says {counted:?}, {source} says {octets:?} bytes");
        assert_eq!(counted.packets, packets.total(), "OutPackets, and {source}");
        assert_eq!(
            counted.octets,
            octets.iter().sum::<u64>(),
            "OutOctets, and bytes of {source}"
        );
        assert!(counted.segments >= counted.packets, "{counted:?}");
        nout
    }
}

/// Returns what `/proc/net/kstat` shows in `net`, or `None` if kstat is not loaded.
fn counts(net: &Netns) -> Option<Counts> {
    net.run(|| file::exists(wire::OWN)).then(|| Counts::of(net))
}

/// A record of the packets that nftables sees, and of those that match `meta l4proto tcp`. A number
/// that each packet carries identifies it.
pub struct SeenPackets<'a> {
    net: &'a Netns,
    keys: usize,
}

impl<'a> SeenPackets<'a> {
    /// Starts to record. Each of `keys` is an nftables expression for the number that identifies a
    /// packet, and an nftables match for the packets that have this number, for example
    /// `("meta mark", "")`.
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

    /// Returns the numbers of all packets seen since the last [`Self::forget`].
    #[track_caller]
    pub fn any(&self) -> BTreeSet<u64> {
        self.all("any")
    }

    /// Returns the numbers of the packets that matched `meta l4proto tcp` since the last
    /// [`Self::forget`].
    #[track_caller]
    pub fn tcp(&self) -> BTreeSet<u64> {
        self.all("tcp")
    }

    /// Empties the record.
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
                    .unwrap_or_else(|| panic!("nft -j list set: {element} is not a number"))
            })
            .collect()
    }
}

/// Returns the packets of a named counter in a table of family `inet`.
#[track_caller]
pub fn counter(net: &Netns, table: &str, name: &str) -> u64 {
    counter_of(net, "inet", table, name)
}

/// Returns the packets of a named counter in a table of `family`.
#[track_caller]
pub fn counter_of(net: &Netns, family: &str, table: &str, name: &str) -> u64 {
    value_of(net, family, table, name, "packets")
}

/// Returns `packets` or `bytes` of a named counter.
#[track_caller]
fn value_of(net: &Netns, family: &str, table: &str, name: &str, value: &str) -> u64 {
    let answer = net.run(|| tool::run("nft", &["-j", "list", "counter", family, table, name]));
    let list: Value = serde_json::from_str(&answer)
        .unwrap_or_else(|error| panic!("nft -j list counter: {error}: {answer}"));

    list["nftables"]
        .as_array()
        .into_iter()
        .flatten()
        .find_map(|object| object["counter"][value].as_u64())
        .unwrap_or_else(|| panic!("nft -j list counter: no {name} in {answer}"))
}

/// Loads a ruleset into a network namespace.
#[track_caller]
pub fn load(net: &Netns, ruleset: &str) {
    net.run(|| tool::run_with("nft", &["-f", "-"], ruleset));
}

/// Returns a shell script that registers IPv6 hooks at `point` until no more can be registered.
///
/// The limit is 1,024 hooks (`MAX_HOOK_COUNT` in net/netfilter/core.c). Security modules of the
/// kernel may have registered some of them, so the script adds the last ones one by one until that
/// fails.
pub fn fill_script(point: HookPoint) -> String {
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

/// A hook point of a network namespace at which no further IPv6 hook can be registered. Dropping
/// this removes the hooks that fill it.
pub struct FullHookPoint<'a>(&'a Netns);

impl<'a> FullHookPoint<'a> {
    /// Fills `point` in the network namespace `net`.
    #[track_caller]
    pub fn new(net: &'a Netns, point: HookPoint) -> Self {
        net.run(|| tool::shell(&fill_script(point)));
        Self(net)
    }
}

impl Drop for FullHookPoint<'_> {
    fn drop(&mut self) {
        load(self.0, "delete table ip6 full");
    }
}

/// A registered hook, as `nft list hooks` shows it.
#[derive(Debug, PartialEq, Eq)]
pub struct RegisteredHook {
    /// The protocol family, for example `ip` or `ip6`.
    pub family: String,
    /// The hook point, for example `output` or `postrouting`.
    pub point: String,
    /// The priority. The kernel runs hooks with a lower number first.
    pub priority: i32,
}

/// Returns the hooks that kstat has in a network namespace while it counts at `point`: one for each
/// family, at the last priority.
pub fn one_per_family(point: HookPoint) -> Vec<RegisteredHook> {
    ["ip", "ip6"]
        .map(|family| RegisteredHook {
            family: family.to_owned(),
            point: point.name().to_owned(),
            priority: i32::MAX,
        })
        .into()
}

/// Returns the hooks of kstat in a network namespace, from `nft list hooks`.
#[track_caller]
pub fn kstat_hooks(net: &Netns) -> Vec<RegisteredHook> {
    listed_hooks(net)
        .into_iter()
        .filter(|(_, function)| function.ends_with("[kstat]"))
        .map(|(hook, _)| hook)
        .collect()
}

/// Returns the hooks in a network namespace that call `function`. Its name is as `nft list hooks`
/// shows it with its module, for example `nf_confirm [nf_conntrack]`.
#[track_caller]
pub fn hooks_of(net: &Netns, function: &str) -> Vec<RegisteredHook> {
    listed_hooks(net)
        .into_iter()
        .filter(|(_, name)| name == function)
        .map(|(hook, _)| hook)
        .collect()
}

/// Returns the modules that have a hook at the last priority of `point` for `family` (`ip` or
/// `ip6`), in the order in which the kernel runs the hooks.
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

/// Returns every hook in a network namespace with its function, which `nft list hooks` shows behind
/// the priority.
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
                "nft list hooks: cannot parse {line:?}"
            ),
        }
    }
    hooks
}
