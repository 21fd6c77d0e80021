// SPDX-License-Identifier: GPL-2.0

//! The package kstat-dkms, together with rust-tree and modules that know nothing of it.

use crate::{
    add_modules, assert_counts, assert_installed, assert_purges, here, prepare, APT_FAILED,
    INSTALL, INSTALL_OLDER, LOAD, LOADED, UPGRADE,
};
use kstat_tests::lab::chroot::Chroot;

/// Removes the modules of [`add_modules`].
const REMOVE_MODULES: &str =
    "for name in hello mixed; do dkms remove $name/1.0 --all; rm -r /usr/src/$name-1.0; done";

/// Installs the packages in a system with one kernel, `release`, and builds the modules of [`add_modules`] there. Asserts
/// that kstat counts and that the modules load.
#[track_caller]
fn assert_installation_works(root: &Chroot, release: &str) {
    println!("{}", root.run(INSTALL));
    assert_installed(root, "kstat", &[release]);
    assert_counts(root, release);
    add_modules(root);
    root.run(&format!(
        "dkms install hello/1.0 -k {release}; dkms install mixed/1.0 -k {release}"
    ));
    assert_eq!(root.boot(release, LOAD), LOADED);
}

#[test]
fn trixie_counts_after_installation_and_kernel_upgrade_and_purges() {
    let root = Chroot::new("trixie", &["trixie-backports"], "");
    root.run(&here(INSTALL_OLDER));
    prepare(&root);
    let before = root.unowned();
    let older = root.kernels().remove(0);

    assert_installation_works(&root, &older);

    // Without a network, the source of the new kernel cannot be downloaded, and apt leaves packages
    // unconfigured. When dpkg configures them with a network, DKMS builds all modules for the new kernel.
    root.run(&here(&format!("{UPGRADE} --download-only")));
    let outcome = root.attempt_offline(&here(UPGRADE));
    println!("{outcome:?}");
    outcome.assert_exit_code(APT_FAILED);
    assert_installed(&root, "kstat", &[&older]);
    println!("{}", root.run("dpkg --configure -a"));
    let newer = root.kernels().remove(1);
    assert_installed(&root, "kstat", &[&older, &newer]);
    assert_counts(&root, &newer);
    assert_eq!(root.boot(&newer, LOAD), LOADED);
    assert_eq!(
        root.run(&format!("modinfo -k {newer} -F signer kstat")),
        "DKMS module signing key\n"
    );
    assert_eq!(
        root.run(&format!(
            "cp -r /usr/src/kstat-* /tmp/kstat
            make -s -C /tmp/kstat install KDIR=$(rust-tree {newer}) INSTALL_MOD_PATH=/tmp/installed >/dev/null 2>&1
            modinfo -F signer /tmp/installed/lib/modules/{newer}/updates/kstat.ko.xz"
        )),
        "DKMS module signing key\n",
        "the signer after make install"
    );

    // systemd-modules-load loads kstat at boot. The journal is searched by the identifier and not
    // by the unit: the process may end before journald has found out its unit.
    root.run(
        "sed -n 's/^#\\(options kstat start=1 counter=100\\)$/\\1/p' /etc/modprobe.d/kstat.conf >/etc/modprobe.d/here.conf
        echo kstat >/etc/modules-load.d/kstat.conf",
    );
    let output = root.boot(
        &newer,
        "systemctl is-active systemd-modules-load
        cat /sys/module/kstat/parameters/start /proc/kstat/counter
        journalctl --sync
        journalctl -b -t systemd-modules-load -o cat | grep kstat",
    );
    println!("{output}");
    assert!(
        output.starts_with("active\n1\n100\nInserted module 'kstat'\n"),
        "{output}"
    );
    root.run("rm /etc/modprobe.d/here.conf /etc/modules-load.d/kstat.conf");

    // Removing a kernel also removes its Rust metadata.
    assert_eq!(
        root.run("rust-tree --list | cut -f 1"),
        format!("{older}\n{newer}\n")
    );
    root.run(&format!(
        "apt-get -qy purge linux-image-{older} linux-headers-{older}"
    ));
    assert_eq!(
        root.run("rust-tree --list | cut -f 1"),
        format!("{newer}\n")
    );
    assert_installed(&root, "kstat", &[&newer]);
    assert_eq!(
        root.run(&format!(
            "find /usr/src /usr/lib -maxdepth 1 -name 'linux-*{older}*'"
        )),
        ""
    );

    root.run(REMOVE_MODULES);
    assert_purges(&root, &before);
}

#[test]
fn forky_counts_and_purges() {
    let root = Chroot::new("forky", &[], &here("linux-image-amd64,linux-headers-amd64"));
    prepare(&root);
    let before = root.unowned();
    let release = root.kernels().remove(0);

    assert_installation_works(&root, &release);
    root.run(REMOVE_MODULES);
    assert_purges(&root, &before);
}

#[test]
fn package_on_a_kernel_without_rust_builds_nothing_and_says_why() {
    let root = Chroot::new(
        "trixie",
        &[],
        &here("linux-image-amd64,linux-headers-amd64"),
    );
    prepare(&root);
    let before = root.unowned();
    let release = root.kernels().remove(0);

    let outcome = root.attempt(INSTALL);
    println!("{}", outcome.expect_success());
    let lines = outcome.lines_by("kstat");
    assert_eq!(lines.len(), 1, "{outcome:?}");
    assert!(
        lines[0].contains(&format!(
            "not built for the kernel {release}, which is built without CONFIG_RUST"
        )),
        "{outcome:?}"
    );
    assert_installed(&root, "kstat", &[]);
    assert_eq!(root.run("rust-tree --list"), "");
    assert_purges(&root, &before);
}
