// SPDX-License-Identifier: GPL-2.0

//! Loading the module: its parameters, and loads that fail.
//!
//! A full namespace has no room for another hook at a hook point, where netfilter allows 1,024 for
//! each family.

use kstat_tests::{
    guest::{
        daemon::Folder,
        exclusive::KernelLock,
        file,
        host::Host,
        identity,
        log::Log,
        module::{self, Kstat},
        nft::{self, HookPoint},
        unprivileged::UserNetns,
    },
    tool,
};
use nix::errno::Errno;
use std::fs;

/// Asserts that loading kstat with `parameters` fails with `error` and leaves nothing behind.
/// Returns the lines that this added to the kernel log.
#[track_caller]
pub(crate) fn assert_load_fails(lock: &KernelLock, parameters: &str, error: Errno) -> Vec<String> {
    let mut log = Log::from_now();

    assert_eq!(
        module::load(lock, parameters),
        Err(error),
        "loading kstat {parameters:?}"
    );
    assert!(
        !module::is_loaded(),
        "loading kstat {parameters:?} failed, but it is loaded"
    );
    log.lines()
}

/// Asserts that a line of the kernel log contains `text`.
#[track_caller]
fn assert_logged(log: &[String], text: &str) {
    assert!(
        log.iter().any(|line| line.contains(text)),
        "{text:?} is not in the log: {log:?}"
    );
}

#[test]
fn start_and_counter_are_accepted_as_parameters() {
    let lock = KernelLock::take();
    let kstat = Kstat::insmod(&lock, &["start=1", "counter=100"]);
    let host = Host::new(&lock);

    assert!(kstat.is_started());
    assert_eq!(host.hooks(), nft::one_per_family(HookPoint::Output));
    assert_eq!(host.counter(), 100);
    host.send_tcp(99);
    assert_eq!(host.nout(), 0);
    host.send_tcp(1);
    assert_eq!(host.nout(), 100);
}

#[test]
fn start_without_a_value_starts_counting() {
    let lock = KernelLock::take();
    let kstat = Kstat::insmod(&lock, &["start"]);
    let host = Host::new(&lock);

    assert!(kstat.is_started());
    host.send_tcp(10);
    assert_eq!(host.nout(), 10);
}

#[test]
fn start_0_does_not_start_counting() {
    let lock = KernelLock::take();
    let kstat = Kstat::insmod(&lock, &["start=0"]);
    let host = Host::new(&lock);

    assert!(!kstat.is_started());
    host.send_tcp(10);
    assert_eq!(host.nout(), 0);
}

#[test]
fn last_value_of_a_repeated_parameter_applies() {
    let lock = KernelLock::take();
    let kstat = Kstat::load(&lock, "start=1 counter=7 start=0 counter=20");

    assert!(!kstat.is_started());
    assert_eq!(file::number(file::COUNTER), 20);
}

#[test]
fn counter_accepts_any_number_from_1_to_u64_max() {
    let lock = KernelLock::take();
    for n in [1, 10, u64::MAX] {
        let _kstat = Kstat::load(&lock, &format!("counter={n}"));

        assert_eq!(file::number(file::COUNTER), n);
    }
}

#[test]
fn counter_parameter_is_read_only_after_loading() {
    let lock = KernelLock::take();
    let _kstat = Kstat::load(&lock, "counter=7");
    let path = "/sys/module/kstat/parameters/counter";

    assert_eq!(file::put(path, "20\n"), Err(Errno::EACCES));
    assert_eq!(file::read(path), "7\n");
    assert_eq!(file::number(file::COUNTER), 7);
}

#[test]
fn loading_fails_with_einval_if_counter_is_not_a_positive_number() {
    let lock = KernelLock::take();

    for counter in [
        "counter=0",
        "counter=-1",
        "counter=",
        "counter=ten",
        "counter=10x",
        "counter=0x10",
        "counter",
    ] {
        let log = assert_load_fails(&lock, counter, Errno::EINVAL);
        assert_logged(
            &log,
            "counter= takes a whole number from 1 to 18446744073709551615",
        );
    }
}

#[test]
fn loading_fails_with_erange_if_counter_is_above_u64_max() {
    let lock = KernelLock::take();

    for counter in [
        "counter=18446744073709551616",
        "counter=99999999999999999999",
    ] {
        let log = assert_load_fails(&lock, counter, Errno::ERANGE);
        assert_logged(
            &log,
            "counter= takes a whole number from 1 to 18446744073709551615",
        );
    }
}

#[test]
fn loading_fails_with_einval_if_start_is_not_a_bool() {
    let lock = KernelLock::take();

    for start in ["start=", "start=2", "start=x", "start=o"] {
        let log = assert_load_fails(&lock, start, Errno::EINVAL);
        assert_logged(&log, "invalid for parameter `start'");
    }
}

#[test]
fn insmod_prints_why_loading_failed() {
    let _lock = KernelLock::take();

    for (parameter, message) in [
        ("hook=foo", "Invalid parameters"),
        ("counter=0", "Invalid parameters"),
        (
            "counter=18446744073709551616",
            "Numerical result out of range",
        ),
        ("start=x", "Invalid parameters"),
    ] {
        let output = tool::attempt("insmod", &[&module::object(), parameter], "");
        let stderr = String::from_utf8_lossy(&output.stderr);

        assert_eq!(
            output.status.code(),
            Some(1),
            "insmod {parameter}: {stderr}"
        );
        assert!(stderr.contains(message), "insmod {parameter}: {stderr}");
        assert!(!module::is_loaded(), "insmod {parameter} loaded it");
    }
}

#[test]
fn second_load_fails_with_eexist_and_changes_nothing() {
    let lock = KernelLock::take();
    let _kstat = Kstat::load(&lock, "counter=7");

    assert_eq!(module::load(&lock, "counter=8"), Err(Errno::EEXIST));
    assert_eq!(file::number(file::COUNTER), 7);
}

#[test]
fn unprivileged_user_can_neither_load_nor_unload() {
    let lock = KernelLock::take();
    for parameters in ["", "hook=foo", "counter=0", "start=x"] {
        assert_eq!(
            identity::as_nobody(|| module::load(&lock, parameters)),
            Err(Errno::EPERM),
            "loading kstat {parameters:?}"
        );
        assert!(!module::is_loaded(), "the user nobody loaded kstat");
    }

    let _kstat = Kstat::load(&lock, "");
    assert_eq!(
        identity::as_nobody(|| module::unload(&lock)),
        Err(Errno::EPERM)
    );
    assert!(module::is_loaded(), "the user nobody unloaded kstat");
}

#[test]
fn start_1_fails_with_e2big_if_a_namespace_of_root_is_full() {
    let lock = KernelLock::take();
    let hosts = [Host::new(&lock), Host::new(&lock), Host::new(&lock)];
    let full = nft::FullHookPoint::new(hosts[1].net(), HookPoint::Output);

    let log = assert_load_fails(&lock, "start=1", Errno::E2BIG);
    assert_logged(&log, "start=1: hooks could not be registered");
    for host in &hosts {
        assert_eq!(host.hooks(), []);
    }

    drop(full);
    let _kstat = Kstat::started(&lock, "counter=1");
    for host in &hosts {
        host.send_tcp(5);
        assert_eq!(host.nout(), 5);
    }
}

#[test]
fn start_1_leaves_out_a_full_namespace_of_an_unprivileged_user() {
    let lock = KernelLock::take();
    for (hook, point) in [
        ("local_out", HookPoint::Output),
        ("post_routing", HookPoint::Postrouting),
    ] {
        let _user = UserNetns::new(&nft::fill_script(point));
        let host = Host::new(&lock);
        let mut log = Log::from_now();

        let kstat = Kstat::started(&lock, &format!("counter=1 hook={hook}"));

        assert!(kstat.is_started());
        host.send_tcp(5);
        assert_eq!(host.nout(), 5, "hook={hook}");
        assert_logged(&log.lines(), "not counting in 1 network namespace(s)");
    }
}

/// Returns a copy of kstat.ko in which the module's name is `kstau`, both in `.modinfo` and in
/// `struct module`.
fn object_named_kstau() -> Vec<u8> {
    let path = module::object();
    let mut object = fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let name_in_struct = [&b"kstat"[..], &[0; 40]].concat();

    for name in [&b"name=kstat\0"[..], &name_in_struct] {
        let places: Vec<_> = (0..object.len())
            .filter(|&at| object[at..].starts_with(name))
            .collect();
        assert_eq!(places.len(), 1, "{name:?} in {path}");
        let last = places[0] + name.iter().position(|&byte| byte == 0).expect("a NUL") - 1;
        object[last] = b'u';
    }
    object
}

/// kstat looks for the name before it makes `/proc/kstat`, so that `proc_register()` does not warn
/// of it.
#[test]
fn loading_fails_with_ebusy_and_a_message_if_proc_kstat_exists() {
    let lock = KernelLock::take();
    let folder = Folder::new();
    let other = folder.write("kstau.ko", object_named_kstau());
    tool::run("insmod", &[&other]);
    assert!(
        file::exists("/proc/kstat"),
        "the other module made no /proc/kstat"
    );
    let mut log = Log::from_now();

    // The module's `init` fails with EEXIST. The loader turns this into EBUSY, as its own EEXIST
    // means that a module of the same name is loaded (`do_init_module()` in kernel/module/main.c).
    assert_eq!(module::load(&lock, ""), Err(Errno::EBUSY));

    assert_logged(&log.lines(), "/proc/kstat already exists");
    assert_eq!(log.unexpected(), Vec::<String>::new(), "the kernel log");
    assert_eq!(file::number(file::COUNTER), 10, "the other module's file");
    assert!(!file::exists("/sys/module/kstat"), "kstat is loaded");
    tool::run("rmmod", &["kstau"]);
    let _kstat = Kstat::load(&lock, "counter=7");
    assert_eq!(file::number(file::COUNTER), 7);
}
