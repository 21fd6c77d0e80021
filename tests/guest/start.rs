// SPDX-License-Identifier: GPL-2.0

//! Start and stop: the parameter `start`.

use kstat_tests::{
    guest::{
        exclusive::KernelLock,
        file::{self, START},
        host::Host,
        identity,
        log::Log,
        module::Kstat,
        netns::Netns,
        nft::{self, HookPoint},
        proc_net_snmp,
        unprivileged::UserNetns,
    },
    tool,
};
use nix::errno::Errno;

#[test]
fn it_is_0644_and_roots() {
    let lock = KernelLock::take();
    let _kstat = Kstat::load(&lock, "");

    file::assert_roots(START, 0o644);
}

#[test]
fn it_takes_what_the_kernels_own_bool_parameters_take_and_reads_back_1_or_0() {
    const YES: [&str; 8] = ["1", "y", "Y", "t", "T", "on", "On", "ON"];
    const NO: [&str; 8] = ["0", "n", "N", "f", "F", "off", "Off", "OFF"];

    let lock = KernelLock::take();
    let kstat = Kstat::load(&lock, "");
    let host = Host::new(&lock);

    for (yes, no) in YES.into_iter().zip(NO) {
        for end in ["", "\n"] {
            assert_eq!(file::put(START, format!("{yes}{end}")), Ok(()), "{yes:?}");
            assert!(kstat.is_started(), "after {yes:?}");
            assert_eq!(file::put(START, format!("{no}{end}")), Ok(()), "{no:?}");
            assert!(!kstat.is_started(), "after {no:?}");
        }
    }
    assert_eq!(host.hooks(), []);
}

#[test]
fn what_is_no_bool_is_refused_with_einval_and_changes_nothing() {
    let lock = KernelLock::take();
    let kstat = Kstat::load(&lock, "");
    let host = Host::new(&lock);

    for started in [false, true] {
        for text in ["\n", " ", "2", "x", "o", "-1", " 1", "\n1"] {
            assert_eq!(file::put(START, text), Err(Errno::EINVAL), "{text:?}");
            assert_eq!(kstat.is_started(), started, "after {text:?}");
        }
        // sysfs keeps a write of nothing to itself.
        assert_eq!(file::put(START, ""), Ok(()), "nothing");
        assert_eq!(kstat.is_started(), started, "after nothing");

        let before = host.nout();
        host.send_tcp(10);
        assert_eq!(host.nout() > before, started, "whether it counts");
        kstat.start();
    }
}

#[test]
fn nobody_is_refused_a_write_with_eacces_by_its_mode() {
    let lock = KernelLock::take();
    let kstat = Kstat::load(&lock, "");

    for started in [false, true] {
        for text in ["1", "0", "x", ""] {
            assert_eq!(
                identity::as_nobody(|| file::put(START, text)),
                Err(Errno::EACCES),
                "{text:?}"
            );
            assert_eq!(kstat.is_started(), started, "after {text:?}");
        }
        kstat.start();
    }
}

#[test]
fn to_start_what_is_started_and_to_stop_what_is_stopped_changes_nothing() {
    let lock = KernelLock::take();
    let kstat = Kstat::load(&lock, "counter=1");
    let host = Host::new(&lock);

    kstat.stop();
    assert_eq!(host.hooks(), [], "stopped twice");
    for _ in 0..3 {
        kstat.start();
    }
    assert_eq!(
        host.hooks(),
        nft::one_per_family(HookPoint::Output),
        "started three times"
    );
    host.send_tcp(5);
    assert_eq!(host.nout(), 5, "5 packets, started three times");
    for _ in 0..3 {
        kstat.stop();
    }
    assert_eq!(host.hooks(), [], "stopped three times");
    assert_eq!(host.nout(), 5, "stopped three times");
}

#[test]
fn not_started_there_is_no_hook_in_any_namespace_and_nout_stands_still() {
    let lock = KernelLock::take();
    let _kstat = Kstat::load(&lock, "counter=1");
    let hosts = [Host::initial(&lock), Host::new(&lock), Host::new(&lock)];

    for host in &hosts {
        assert_eq!(host.hooks(), []);
        host.send_tcp(25);
        assert_eq!(host.nout(), 0);
    }
}

#[test]
fn started_there_is_one_hook_for_each_family_in_each_namespace_at_the_last_priority() {
    let lock = KernelLock::take();
    let kstat = Kstat::load(&lock, "counter=1");
    let hosts = [Host::initial(&lock), Host::new(&lock), Host::new(&lock)];

    kstat.start();

    let new = Host::new(&lock);
    for host in hosts.iter().chain([&new]) {
        let hooks = host.hooks();
        assert_eq!(hooks, nft::one_per_family(HookPoint::Output));
        assert!(
            hooks.iter().all(|hook| hook.priority == 2_147_483_647),
            "{hooks:?}"
        );
    }
}

#[test]
fn stopped_there_is_no_hook_in_any_namespace_and_nout_stands_still() {
    let lock = KernelLock::take();
    let kstat = Kstat::started(&lock, "counter=1");
    let hosts = [Host::initial(&lock), Host::new(&lock), Host::new(&lock)];
    for host in &hosts {
        host.send_tcp(25);
    }

    kstat.stop();

    let new = Host::new(&lock);
    for (host, nout) in hosts.iter().map(|host| (host, 25)).chain([(&new, 0)]) {
        assert_eq!(host.hooks(), []);
        host.send_tcp(25);
        assert_eq!(host.nout(), nout);
    }
}

#[test]
fn every_packet_after_the_write_of_1_is_counted_and_none_after_the_write_of_0() {
    let lock = KernelLock::take();
    let kstat = Kstat::load(&lock, "counter=1");
    let hosts = [Host::initial(&lock), Host::new(&lock), Host::new(&lock)];

    for round in 1..=20 {
        kstat.start();
        for host in &hosts {
            host.send_tcp(2);
        }
        kstat.stop();
        for host in &hosts {
            host.send_tcp(2);
            assert_eq!(host.nout(), 2 * round, "after {round} rounds");
        }
    }
}

#[test]
fn when_the_write_of_0_returns_no_cpu_counts_any_more() {
    let lock = KernelLock::take();
    let kstat = Kstat::load(&lock, "counter=1");
    let host = Host::new(&lock);
    let traffic = host.traffic();

    for _ in 0..10 {
        let before = host.nout();
        kstat.start();
        traffic.wait_for(20);
        kstat.stop();
        let stopped = host.nout();

        assert!(stopped > before, "nothing was counted while started");
        traffic.wait_for(20);
        assert_eq!(host.nout(), stopped, "counted after stop");
    }
    traffic.stop();
}

#[test]
fn a_failure_to_start_leaves_it_stopped_everywhere_and_gives_the_errno() {
    let lock = KernelLock::take();
    let kstat = Kstat::load(&lock, "counter=1");
    let before = Host::new(&lock);
    let full = Host::new(&lock);
    let after = Host::new(&lock);
    let hosts = [&before, &full, &after];
    let mut log = Log::from_now();
    let places = nft::Full::new(full.net(), HookPoint::Output);

    assert_eq!(file::put(START, "1\n"), Err(Errno::E2BIG));

    assert!(!kstat.is_started(), "the start that failed reads back as 1");
    for host in hosts {
        assert_eq!(host.hooks(), [], "hooks after a start that failed");
        host.send_tcp(5);
        assert_eq!(host.nout(), 0, "nout after a start that failed");
    }
    assert_eq!(log.unexpected(), Vec::<String>::new(), "the kernel's log");

    // It was that, and nothing was broken by it.
    drop(places);
    kstat.start();
    for host in hosts {
        host.send_tcp(5);
        assert_eq!(host.nout(), 5, "nout after a start that did not fail");
    }
}

/// Sends a few TCP packets over the loopback device of a namespace, which has no other: connections to a
/// port where nobody listens. Returns how many segments TCP says it has sent there.
fn refused_connections(net: &Netns) -> u64 {
    net.run(|| {
        tool::run("ip", &["link", "set", "lo", "up"]);
        for _ in 0..5 {
            std::net::TcpStream::connect("127.0.0.1:9").expect_err("nobody listens");
        }
    });
    proc_net_snmp::tcp_segments(net)
}

#[test]
fn start_leaves_out_a_full_namespace_of_an_unprivileged_user_and_says_so() {
    for (hook, point) in [
        ("local_out", HookPoint::Output),
        ("post_routing", HookPoint::Postrouting),
    ] {
        let lock = KernelLock::take();
        let kstat = Kstat::load(&lock, &format!("counter=1 hook={hook}"));
        let user = UserNetns::new(&nft::fill(point));
        let hosts = [Host::initial(&lock), Host::new(&lock)];
        let nout = || user.net().run(|| file::number(file::NOUT));
        let mut log = Log::from_now();

        kstat.start();

        assert!(kstat.is_started());
        for host in &hosts {
            host.send_tcp(5);
            assert_eq!(host.nout(), 5, "hook={hook}");
        }
        let sent = refused_connections(user.net());
        println!(
            "{hook}: the user's namespace sent {sent} segments, nout says {}",
            nout()
        );
        assert!(sent >= 5, "{sent} segments were sent");
        assert_eq!(nout(), 0, "the namespace that was left out");
        assert_eq!(nft::kstat_hooks(user.net()), []);
        let lines = log.lines();
        let said: Vec<_> = lines
            .iter()
            .filter(|line| line.starts_with("kstat: "))
            .collect();
        assert_eq!(said.len(), 1, "{lines:?}");
        assert!(
            said[0].contains("not counting in 1 network namespace(s)"),
            "{lines:?}"
        );

        // With places again, the next start counts there; without the user, nothing is left to say.
        nft::load(user.net(), "delete table ip6 full");
        kstat.stop();
        kstat.start();
        let sent = refused_connections(user.net()) - sent;
        assert_eq!(nout(), sent, "hook={hook}");
        drop(user);
        kstat.stop();
        kstat.start();
        hosts[1].send_tcp(5);
        assert_eq!(hosts[1].nout(), 10, "hook={hook}");
        assert_eq!(log.lines(), Vec::<String>::new());
    }
}

#[test]
fn start_fails_with_e2big_if_the_initial_namespace_is_full() {
    let lock = KernelLock::take();
    let kstat = Kstat::load(&lock, "counter=1");
    let initial = Host::initial(&lock);
    let other = Host::new(&lock);
    let places = nft::Full::new(initial.net(), HookPoint::Output);

    assert_eq!(file::put(START, "1\n"), Err(Errno::E2BIG));

    assert!(!kstat.is_started());
    for host in [&initial, &other] {
        assert_eq!(host.hooks(), []);
        host.send_tcp(5);
        assert_eq!(host.nout(), 0);
    }
    drop(places);
    kstat.start();
    initial.send_tcp(5);
    assert_eq!(initial.nout(), 5);
}
