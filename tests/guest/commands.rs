// SPDX-License-Identifier: GPL-2.0

//! Commands that a user types, and their effects.
//!
//! The commands run in the initial network namespace.

use kstat_tests::{
    guest::{
        exclusive::KernelLock,
        host::Host,
        module::{self, Kstat},
        nft::{self, HookPoint},
    },
    tool::{run, shell},
};

/// For each pair, sends that number of packets, and asserts that `cat` then prints that text.
#[track_caller]
fn assert_nout_after(host: &Host<'_>, steps: &[(u64, &str)]) {
    for (packets, nout) in steps {
        host.send_tcp(*packets);
        assert_eq!(
            shell("cat /proc/kstat/nout"),
            *nout,
            "after {packets} more packets"
        );
    }
}

#[test]
fn insmod_loads_the_module_and_registers_no_hook() {
    let lock = KernelLock::take();
    let _kstat = Kstat::insmod(&lock, &[]);
    let host = Host::initial(&lock);

    assert!(
        run("lsmod", &[]).contains("\nkstat "),
        "lsmod does not show kstat"
    );
    host.send_tcp(30);
    assert_eq!(host.hooks(), [], "hooks");
    assert_eq!(shell("cat /proc/kstat/nout"), "0\n");
    assert_eq!(shell("cat /sys/module/kstat/parameters/start"), "0\n");
}

#[test]
fn echo_1_into_start_starts_counting() {
    let lock = KernelLock::take();
    let _kstat = Kstat::insmod(&lock, &[]);
    let host = Host::initial(&lock);

    shell("echo 1 > /sys/module/kstat/parameters/start");

    assert_eq!(shell("cat /sys/module/kstat/parameters/start"), "1\n");
    assert_eq!(
        host.hooks(),
        nft::one_per_family(HookPoint::Output),
        "hooks"
    );
    host.send_tcp(30);
    assert_eq!(shell("cat /proc/kstat/nout"), "30\n");
}

#[test]
fn cat_nout_shows_the_number_of_tcp_packets_sent_in_steps_of_n() {
    let lock = KernelLock::take();
    let _kstat = Kstat::insmod(&lock, &["start=1"]);
    let host = Host::initial(&lock);

    assert_nout_after(&host, &[(9, "0\n"), (1, "10\n"), (9, "10\n"), (1, "20\n")]);
}

#[test]
fn cat_counter_shows_n_which_is_10_by_default() {
    let lock = KernelLock::take();
    let kstat = Kstat::insmod(&lock, &[]);
    assert_eq!(shell("cat /proc/kstat/counter"), "10\n");
    kstat.unload();

    let _kstat = Kstat::insmod(&lock, &["counter=1000"]);
    assert_eq!(shell("cat /proc/kstat/counter"), "1000\n");
}

#[test]
fn echo_20_into_counter_sets_n_at_once_without_stopping() {
    let lock = KernelLock::take();
    let _kstat = Kstat::insmod(&lock, &["start=1"]);
    let host = Host::initial(&lock);
    host.send_tcp(15);

    shell("echo 20 > /proc/kstat/counter");

    assert_eq!(shell("cat /proc/kstat/counter"), "20\n");
    assert_eq!(shell("cat /sys/module/kstat/parameters/start"), "1\n");
    assert_nout_after(
        &host,
        &[(14, "10\n"), (1, "30\n"), (19, "30\n"), (1, "50\n")],
    );
}

#[test]
fn echo_0_into_start_stops_counting_removes_hooks_and_keeps_nout() {
    let lock = KernelLock::take();
    let _kstat = Kstat::insmod(&lock, &["start=1"]);
    let host = Host::initial(&lock);
    host.send_tcp(30);

    shell("echo 0 > /sys/module/kstat/parameters/start");

    assert_eq!(shell("cat /sys/module/kstat/parameters/start"), "0\n");
    assert_eq!(host.hooks(), [], "hooks");
    host.send_tcp(30);
    assert_eq!(shell("cat /proc/kstat/nout"), "30\n");
}

#[test]
fn rmmod_removes_everything_while_packets_are_in_flight() {
    let lock = KernelLock::take();
    Kstat::insmod(&lock, &["start=1"]).forget();
    let host = Host::initial(&lock);
    let traffic = host.traffic();
    traffic.wait_for(100);

    shell("rmmod kstat");

    assert!(!module::is_loaded(), "kstat is still loaded");
    assert_eq!(host.hooks(), [], "hooks");
    traffic.wait_for(100);
    traffic.stop();
}

#[test]
fn modprobe_loads_the_module_with_the_options_of_modprobe_d() {
    let _lock = KernelLock::take();
    let root = std::env::temp_dir().join(format!("kstat-modprobe-{}", std::process::id()));
    let root = root.to_string_lossy();

    // A module tree that holds only kstat, so that the guest's own tree is not changed.
    shell(&format!(
        "set -e
         folder={root}/lib/modules/$(uname -r)/updates
         mkdir -p $folder {root}/modprobe.d
         cp '{}' $folder/kstat.ko
         depmod -b {root}
         echo 'options kstat start=1 counter=100' > {root}/modprobe.d/kstat.conf
         modprobe -d {root} -C {root}/modprobe.d kstat
         rm -r {root}",
        module::object()
    ));

    assert_eq!(shell("cat /sys/module/kstat/parameters/start"), "1\n");
    assert_eq!(shell("cat /proc/kstat/counter"), "100\n");
}
