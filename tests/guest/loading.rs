// SPDX-License-Identifier: GPL-2.0

//! What the module is told when it is loaded.

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

/// Asserts that loading fails so, and leaves nothing; returns what the kernel's log said.
#[track_caller]
pub(crate) fn assert_refused(lock: &KernelLock, parameters: &str, error: Errno) -> Vec<String> {
    let mut log = Log::from_now();

    assert_eq!(
        module::load(lock, parameters),
        Err(error),
        "loading kstat {parameters:?}"
    );
    assert!(
        !module::is_loaded(),
        "kstat {parameters:?} was refused, but there is something of it"
    );
    log.lines()
}

/// Asserts that a line of the kernel's log has these words in it.
#[track_caller]
fn assert_says(log: &[String], words: &str) {
    assert!(
        log.iter().any(|line| line.contains(words)),
        "{words:?} is not in the log: {log:?}"
    );
}

#[test]
fn start_and_counter_can_be_said_when_loading() {
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
fn start_alone_starts() {
    let lock = KernelLock::take();
    let kstat = Kstat::insmod(&lock, &["start"]);
    let host = Host::new(&lock);

    assert!(kstat.is_started());
    host.send_tcp(10);
    assert_eq!(host.nout(), 10);
}

#[test]
fn start_0_does_not_start() {
    let lock = KernelLock::take();
    let kstat = Kstat::insmod(&lock, &["start=0"]);
    let host = Host::new(&lock);

    assert!(!kstat.is_started());
    host.send_tcp(10);
    assert_eq!(host.nout(), 0);
}

#[test]
fn the_last_of_several_values_counts() {
    let lock = KernelLock::take();
    let kstat = Kstat::load(&lock, "start=1 counter=7 start=0 counter=20");

    assert!(!kstat.is_started());
    assert_eq!(file::number(file::COUNTER), 20);
}

#[test]
fn counter_takes_any_number_from_1_to_u64_max() {
    let lock = KernelLock::take();
    for n in [1, 10, u64::MAX] {
        let _kstat = Kstat::load(&lock, &format!("counter={n}"));

        assert_eq!(file::number(file::COUNTER), n);
    }
}

#[test]
fn the_parameter_counter_cannot_be_changed_later() {
    let lock = KernelLock::take();
    let _kstat = Kstat::load(&lock, "counter=7");
    let path = "/sys/module/kstat/parameters/counter";

    assert_eq!(file::put(path, "20\n"), Err(Errno::EACCES));
    assert_eq!(file::read(path), "7\n");
    assert_eq!(file::number(file::COUNTER), 7);
}

#[test]
fn a_counter_that_is_no_number_from_1_refuses_to_load_with_einval() {
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
        let log = assert_refused(&lock, counter, Errno::EINVAL);
        assert_says(
            &log,
            "counter= takes a whole number from 1 to 18446744073709551615",
        );
    }
}

#[test]
fn a_counter_that_is_too_large_refuses_to_load_with_erange() {
    let lock = KernelLock::take();

    for counter in [
        "counter=18446744073709551616",
        "counter=99999999999999999999",
    ] {
        let log = assert_refused(&lock, counter, Errno::ERANGE);
        assert_says(
            &log,
            "counter= takes a whole number from 1 to 18446744073709551615",
        );
    }
}

#[test]
fn a_start_that_is_no_bool_refuses_to_load_with_einval() {
    let lock = KernelLock::take();

    for start in ["start=", "start=2", "start=x", "start=o"] {
        let log = assert_refused(&lock, start, Errno::EINVAL);
        assert_says(&log, "invalid for parameter `start'");
    }
}

#[test]
fn start_1_that_cannot_start_refuses_to_load_and_leaves_nothing() {
    let lock = KernelLock::take();
    let hosts = [Host::new(&lock), Host::new(&lock), Host::new(&lock)];
    let full = nft::Full::new(hosts[1].net(), HookPoint::Output);

    let log = assert_refused(&lock, "start=1", Errno::E2BIG);
    assert_says(&log, "start=1: hooks could not be registered");
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
        let _user = UserNetns::new(&nft::fill(point));
        let host = Host::new(&lock);
        let mut log = Log::from_now();

        let kstat = Kstat::started(&lock, &format!("counter=1 hook={hook}"));

        assert!(kstat.is_started());
        host.send_tcp(5);
        assert_eq!(host.nout(), 5, "hook={hook}");
        assert_says(&log.lines(), "not counting in 1 network namespace(s)");
    }
}

/// Returns the bytes of kstat.ko under the name `kstau`: that of `.modinfo`, and that of its `struct module`.
fn under_another_name() -> Vec<u8> {
    let path = module::object();
    let mut object = fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let in_struct = [&b"kstat"[..], &[0; 40]].concat();

    for name in [&b"name=kstat\0"[..], &in_struct] {
        let places: Vec<_> = (0..object.len())
            .filter(|&at| object[at..].starts_with(name))
            .collect();
        assert_eq!(places.len(), 1, "{name:?} in {path}");
        let last = places[0] + name.iter().position(|&byte| byte == 0).expect("a NUL") - 1;
        object[last] = b'u';
    }
    object
}

#[test]
fn proc_kstat_of_another_module_refuses_loading_with_a_sentence_and_no_warning() {
    let lock = KernelLock::take();
    let folder = Folder::new();
    let other = folder.write("kstau.ko", under_another_name());
    tool::run("insmod", &[&other]);
    assert!(file::exists("/proc/kstat"), "the other module is loaded");
    let mut log = Log::from_now();

    // The loader keeps EEXIST for a module of the same name, and returns EBUSY when `init` fails with it
    // (do_init_module() in kernel/module/main.c).
    assert_eq!(module::load(&lock, ""), Err(Errno::EBUSY));

    assert_says(&log.lines(), "/proc/kstat already exists");
    assert_eq!(log.unexpected(), Vec::<String>::new(), "the kernel's log");
    assert_eq!(file::number(file::COUNTER), 10, "the other module's file");
    assert!(!file::exists("/sys/module/kstat"), "kstat is loaded");
    tool::run("rmmod", &["kstau"]);
    let _kstat = Kstat::load(&lock, "counter=7");
    assert_eq!(file::number(file::COUNTER), 7);
}

#[test]
fn insmod_says_what_was_wrong() {
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
        let said = String::from_utf8_lossy(&output.stderr);

        assert_eq!(output.status.code(), Some(1), "insmod {parameter}: {said}");
        assert!(said.contains(message), "insmod {parameter}: {said}");
        assert!(!module::is_loaded(), "insmod {parameter} loaded it");
    }
}

#[test]
fn who_is_not_root_can_neither_load_nor_unload() {
    let lock = KernelLock::take();
    for parameters in ["", "hook=foo", "counter=0", "start=x"] {
        assert_eq!(
            identity::as_nobody(|| module::load(&lock, parameters)),
            Err(Errno::EPERM),
            "loading kstat {parameters:?}"
        );
        assert!(!module::is_loaded(), "nobody loaded it");
    }

    let _kstat = Kstat::load(&lock, "");
    assert_eq!(
        identity::as_nobody(|| module::unload(&lock)),
        Err(Errno::EPERM)
    );
    assert!(module::is_loaded(), "nobody unloaded it");
}

#[test]
fn it_is_loaded_once() {
    let lock = KernelLock::take();
    let _kstat = Kstat::load(&lock, "counter=7");

    assert_eq!(module::load(&lock, "counter=8"), Err(Errno::EEXIST));
    assert_eq!(file::number(file::COUNTER), 7);
}
