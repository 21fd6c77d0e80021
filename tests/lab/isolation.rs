// SPDX-License-Identifier: GPL-2.0

//! The lab: what a command in it can reach of the machine. Runs in the lab.

use kstat_tests::{
    lab::{project, unshare_mounts},
    tool::{shell, Outcome},
};
use std::{env, fs, path::Path, process::Command};

/// Runs `script` in a shell. Returns also if it fails.
fn attempt(script: &str) -> Outcome {
    Outcome::of(Command::new("sh").args(["-c", script]))
}

/// Asserts that `script` fails with an error message that contains `reason`.
#[track_caller]
fn assert_fails(script: &str, reason: &str) {
    let outcome = attempt(script);

    assert!(!outcome.status.success(), "{outcome:?}");
    let errors = outcome.stderr_text();
    assert!(errors.contains(reason), "{outcome:?}");
}

/// Returns the folder of kstat's caches.
fn cache() -> String {
    env::var("XDG_CACHE_HOME").expect("scripts/lab sets XDG_CACHE_HOME")
}

#[test]
fn dev_has_no_block_device_and_only_the_listed_nodes() {
    let nodes = shell("find /dev -mindepth 1 ! -path '/dev/pts/*' -printf '%f\n' | sort");
    let allowed = "fd full kvm null ptmx pts random shm stderr stdin stdout tty urandom zero";

    for node in nodes.lines() {
        assert!(
            allowed.split(' ').any(|name| name == node),
            "/dev/{node} is in the lab"
        );
    }
    assert_eq!(shell("find /dev -type b"), "");
}

#[test]
fn block_device_cannot_be_made_or_mounted() {
    // Major number 254 is virtblk's on most machines, 8 is that of SCSI disks, 7 that of loop devices.
    for major in [7, 8, 254, 259] {
        assert_fails(
            &format!("mknod /tmp/disk b {major} 0"),
            "Operation not permitted",
        );
    }
    assert_fails("mount -t ext4 /dev/vda /mnt", "");
}

#[test]
fn module_cannot_be_loaded_into_the_machines_kernel() {
    let module = shell("find /lib/modules -name 'dummy.ko*' | head -n 1");

    assert_fails(
        &format!("insmod {}", module.trim()),
        "could not insert module",
    );
}

#[test]
fn kernel_settings_and_machine_cannot_be_changed() {
    assert_fails("echo 1 >/proc/sys/vm/drop_caches", "Read-only file system");
    assert_fails("reboot -f", "");
    assert_fails("hostname kstat-test-of-the-lab", "");
    assert_fails("chroot /proc/1/root test ! -e /etc/kstat-lab", "");
}

#[test]
fn only_build_and_the_two_caches_can_be_written_to() {
    let project = project();
    let project = project.display();
    let cache = cache();

    for folder in [
        format!("{project}/build"),
        format!("{cache}/kstat"),
        format!("{cache}/rust-tree"),
        "/tmp".to_owned(),
    ] {
        shell(&format!(
            "touch {folder}/kstat-test && rm {folder}/kstat-test"
        ));
    }
    for folder in [
        format!("{project}"),
        format!("{project}/tests"),
        cache.clone(),
        "/".to_owned(),
        "/usr".to_owned(),
        "/home".to_owned(),
    ] {
        assert_fails(
            &format!("touch {folder}/kstat-test"),
            "Read-only file system",
        );
    }
}

#[test]
fn no_other_folder_of_the_machine_is_visible() {
    // All that is mounted in the lab.
    let mounts = shell("findmnt -rn -o TARGET");
    let project = project();
    let cache = cache();
    let known = |target: &str| {
        target == "/"
            || ["/proc", "/dev", "/run", "/tmp", "/var/tmp"]
                .iter()
                .any(|folder| Path::new(target).starts_with(folder))
            || Path::new(target).starts_with(&project)
            || Path::new(target).starts_with(format!("{cache}/kstat"))
            || Path::new(target).starts_with(format!("{cache}/rust-tree"))
    };

    for target in mounts.lines() {
        assert!(known(target), "{target} is mounted in the lab:\n{mounts}");
    }
    assert!(
        Path::new("/proc/1/root/etc/kstat-lab").exists(),
        "process 1 is not in the lab"
    );
}

#[test]
fn processes_of_the_machine_are_not_visible() {
    let namespace =
        |process: &str| fs::read_link(format!("/proc/{process}/ns/pid")).expect("reading a link");

    assert_eq!(namespace("1"), namespace("self"));
}

#[test]
fn lab_has_no_network_and_cargo_does_not_ask_for_one() {
    let links = shell("ip -o link | cut -d : -f 2");

    assert_eq!(links.trim(), "lo");
    assert_eq!(env::var("CARGO_NET_OFFLINE").as_deref(), Ok("true"));
}

#[test]
fn mounts_of_the_tests_do_not_reach_their_parent() {
    // A systemd host has its mounts shared: what is mounted below one of them appears in all their copies.
    let script = r#"
        mount -t tmpfs tmpfs /mnt
        mount --make-rshared /mnt
        mkdir /mnt/below
        cp /proc/self/mountinfo /tmp/before
        "$@" sh -c 'mount -t tmpfs tmpfs /mnt/below && touch /mnt/below/file'
        test ! -e /mnt/below/file
        diff /tmp/before /proc/self/mountinfo
    "#;
    let tests = unshare_mounts();
    let mut outer = unshare_mounts();
    outer.args(["sh", "-exc", script, "sh"]);
    outer.arg(tests.get_program()).args(tests.get_args());

    Outcome::of(&mut outer).expect_success();
}

#[test]
fn command_can_be_ended_by_a_signal() {
    // No signal but SIGKILL ends the first process of a PID namespace, unless it has a handler. It is the shell
    // of scripts/lab, and its process group, which a terminal and timeout(1) send signals to, is the command's.
    assert_eq!(shell("cat /proc/1/comm"), "bash\n");
    let group = |pid| shell(&format!("ps -o pgid= -p {pid}"));
    assert_eq!(group("1"), group("$(ps -o ppid= -p $PPID)"));
}
