// SPDX-License-Identifier: GPL-2.0

//! Starting and stopping: /sys/module/kstat/parameters/start.
//!
//! A full namespace has no room for another hook at a hook point, where netfilter allows 1,024 for
//! each family.

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
fn file_has_mode_0644_and_belongs_to_root() {
    let lock = KernelLock::take();
    let _kstat = Kstat::load(&lock, "");

    file::assert_root_owned(START, 0o644);
}

#[test]
fn before_start_no_namespace_has_a_hook_and_nothing_is_counted() {
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
fn start_registers_one_hook_per_family_in_each_namespace_at_last_priority() {
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
fn stop_removes_the_hooks_of_all_namespaces_and_nout_keeps_its_value() {
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
fn each_packet_after_a_write_of_1_is_counted_and_none_after_a_write_of_0() {
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
fn no_cpu_counts_after_the_write_of_0_has_returned() {
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
fn starting_or_stopping_again_changes_nothing() {
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
fn kernel_bool_values_are_accepted_and_read_back_as_1_or_0() {
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
fn text_that_is_not_a_bool_is_refused_with_einval() {
    let lock = KernelLock::take();
    let kstat = Kstat::load(&lock, "");
    let host = Host::new(&lock);

    for started in [false, true] {
        for text in ["\n", " ", "2", "x", "o", "-1", " 1", "\n1"] {
            assert_eq!(file::put(START, text), Err(Errno::EINVAL), "{text:?}");
            assert_eq!(kstat.is_started(), started, "after {text:?}");
        }
        // sysfs does not pass an empty write on to the module.
        assert_eq!(file::put(START, ""), Ok(()), "empty write");
        assert_eq!(kstat.is_started(), started, "after an empty write");

        let before = host.nout();
        host.send_tcp(10);
        assert_eq!(host.nout() > before, started, "nout has changed");
        kstat.start();
    }
}

#[test]
fn write_by_an_unprivileged_user_is_refused_with_eacces() {
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
fn failed_start_returns_its_errno_and_leaves_all_namespaces_stopped() {
    let lock = KernelLock::take();
    let kstat = Kstat::load(&lock, "counter=1");
    let before = Host::new(&lock);
    let full = Host::new(&lock);
    let after = Host::new(&lock);
    let hosts = [&before, &full, &after];
    let mut log = Log::from_now();
    let full_hook = nft::FullHookPoint::new(full.net(), HookPoint::Output);

    assert_eq!(file::put(START, "1\n"), Err(Errno::E2BIG));

    assert!(!kstat.is_started(), "start reads 1 after it failed");
    for host in hosts {
        assert_eq!(host.hooks(), [], "hooks after a failed start");
        host.send_tcp(5);
        assert_eq!(host.nout(), 0, "nout after a failed start");
    }
    assert_eq!(log.unexpected(), Vec::<String>::new(), "the kernel log");

    // With room for a hook again, start succeeds.
    drop(full_hook);
    kstat.start();
    for host in hosts {
        host.send_tcp(5);
        assert_eq!(host.nout(), 5, "nout after a successful start");
    }
}

#[test]
fn start_fails_with_e2big_if_the_initial_namespace_is_full() {
    let lock = KernelLock::take();
    let kstat = Kstat::load(&lock, "counter=1");
    let initial = Host::initial(&lock);
    let other = Host::new(&lock);
    let full_hook = nft::FullHookPoint::new(initial.net(), HookPoint::Output);

    assert_eq!(file::put(START, "1\n"), Err(Errno::E2BIG));

    assert!(!kstat.is_started());
    for host in [&initial, &other] {
        assert_eq!(host.hooks(), []);
        host.send_tcp(5);
        assert_eq!(host.nout(), 0);
    }
    drop(full_hook);
    kstat.start();
    initial.send_tcp(5);
    assert_eq!(initial.nout(), 5);
}

/// Sends TCP packets in a namespace, by connections to a closed port over the loopback device: such
/// a namespace has no other device. Returns the number of segments that TCP has sent there so far.
fn connect_to_closed_port(net: &Netns) -> u64 {
    net.run(|| {
        tool::run("ip", &["link", "set", "lo", "up"]);
        for _ in 0..5 {
            std::net::TcpStream::connect("127.0.0.1:9").expect_err("the port is closed");
        }
    });
    proc_net_snmp::tcp_segments(net)
}

#[test]
fn full_namespace_of_an_unprivileged_user_is_left_out_and_logged() {
    for (hook, point) in [
        ("local_out", HookPoint::Output),
        ("post_routing", HookPoint::Postrouting),
    ] {
        let lock = KernelLock::take();
        let kstat = Kstat::load(&lock, &format!("counter=1 hook={hook}"));
        let user = UserNetns::new(&nft::fill_script(point));
        let hosts = [Host::initial(&lock), Host::new(&lock)];
        let nout = || user.net().run(|| file::number(file::NOUT));
        let mut log = Log::from_now();

        kstat.start();

        assert!(kstat.is_started());
        for host in &hosts {
            host.send_tcp(5);
            assert_eq!(host.nout(), 5, "hook={hook}");
        }
        let sent = connect_to_closed_port(user.net());
        println!(
            "{hook}: the user's namespace sent {sent} segments, nout says {}",
            nout()
        );
        assert!(sent >= 5, "{sent} segments were sent");
        assert_eq!(nout(), 0, "the namespace that was left out");
        assert_eq!(nft::kstat_hooks(user.net()), []);
        let lines = log.lines();
        let kstat_lines: Vec<_> = lines
            .iter()
            .filter(|line| line.starts_with("kstat: "))
            .collect();
        assert_eq!(kstat_lines.len(), 1, "{lines:?}");
        assert!(
            kstat_lines[0].contains("not counting in 1 network namespace(s)"),
            "{lines:?}"
        );

        // When the namespace has room again, the next start counts there. When it is deleted, the
        // next start logs nothing.
        nft::load(user.net(), "delete table ip6 full");
        kstat.stop();
        kstat.start();
        let sent = connect_to_closed_port(user.net()) - sent;
        assert_eq!(nout(), sent, "hook={hook}");
        drop(user);
        kstat.stop();
        kstat.start();
        hosts[1].send_tcp(5);
        assert_eq!(hosts[1].nout(), 10, "hook={hook}");
        assert_eq!(log.lines(), Vec::<String>::new());
    }
}
