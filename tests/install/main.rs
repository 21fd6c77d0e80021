// SPDX-License-Identifier: GPL-2.0

//! The Debian package. Its installation, kernel upgrades while it is installed, its removal, and its
//! errors if something that it needs is missing. Each test makes a Debian system.
//! `make test-install` runs these tests in the lab.

use kstat_tests::{
    lab::{architecture, chroot::Chroot, project},
    tool::{run, Outcome},
};
use std::{collections::BTreeSet, fs};

/// A script for a guest: kstat is not loaded at boot; after that, kstat counts as many packets as
/// nftables.
const COUNT: &str = r#"
    if grep ^kstat /proc/modules; then exit 1; fi
    nft 'table inet seen { chain output { type filter hook output priority 0; meta l4proto tcp counter; }; }'
    modprobe kstat start=1 counter=1
    ncat -l 127.0.0.1 8000 >/dev/null &
    until echo hello | ncat 127.0.0.1 8000; do sleep 0.1; done
    wait $!
    echo "nout $(cat /proc/kstat/nout), nft $(nft list table inet seen | sed -n 's/.*packets \([0-9]*\).*/\1/p')"
"#;

/// The documented commands to install the package, and to install a kernel with Rust, for amd64.
/// lab/src/lint.rs compares them with the documentation.
const INSTALL: &str = "cd /root; apt-get -qy install ./build/deb/kstat-dkms*.deb";
const UPGRADE: &str =
    "apt-get -qy install -t trixie-backports linux-image-amd64 linux-headers-amd64";

/// Returns commands or names of packages for amd64 as they are for this architecture.
fn here(text: &str) -> String {
    text.replace("amd64", &architecture())
}

/// The exit status of apt-get if it fails.
const APT_FAILED: i32 = 100;

/// Boots the kernel `release` of a system that has kstat installed, and asserts that kstat counts
/// there.
#[track_caller]
fn assert_counts(root: &Chroot, release: &str) {
    let output = root.boot(release, COUNT);
    let counts: Vec<u64> = output
        .split(|character: char| !character.is_ascii_digit())
        .filter_map(|word| word.parse().ok())
        .collect();

    println!("{output}");
    assert_eq!(counts.len(), 2, "{output}");
    assert!(counts[0] > 5, "{output}");
    assert_eq!(counts[0], counts[1], "{output}");
}

/// Copies the package to the folder that [`INSTALL`] names, and installs the packages that it
/// depends on.
#[track_caller]
fn prepare(root: &Chroot) {
    let deb = fs::read_dir(project().join("build/deb"))
        .expect("listing build/deb, which make deb makes")
        .map(|entry| entry.expect("listing build/deb").path())
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .expect("a package in build/deb");

    let folder = root.path().join("root/build/deb");
    fs::create_dir_all(&folder).expect("making a folder");
    run("cp", &[&deb.to_string_lossy(), &folder.to_string_lossy()]);
    root.run("apt-get -qy satisfy \"$(dpkg-deb -f /root/build/deb/kstat-dkms*.deb Depends)\"");
}

/// Asserts that DKMS has built and installed kstat for the kernels `releases` and for no other.
#[track_caller]
fn assert_installed(root: &Chroot, releases: &[&str]) {
    let status = root.run("dkms status kstat");
    let mut installed: Vec<_> = status
        .lines()
        .filter(|line| line.contains(": installed"))
        .filter_map(|line| line.split(", ").nth(1))
        .collect();

    installed.sort_unstable();
    assert_eq!(installed, releases, "{status}");
}

/// Purges the package, and asserts that no file is left that is not in the list `before`.
#[track_caller]
fn assert_purges(root: &Chroot, before: &BTreeSet<String>) {
    root.run("apt-get -qy purge kstat-dkms");
    let after = root.unowned();
    let left: Vec<_> = after
        .difference(before)
        // These may stay: files that linux-base copies to /boot for each kernel, the signing key
        // that DKMS makes for the machine, and depmod's files.
        .filter(|path| {
            !["/boot/", "/var/lib/dkms/mok."]
                .iter()
                .any(|prefix| path.starts_with(prefix))
        })
        .filter(|path| !(path.starts_with("/usr/lib/modules/") && path.contains("/modules.")))
        .collect();

    assert!(left.is_empty(), "purging left {left:#?}");
    assert_eq!(root.run("find / -xdev '(' -name kstat -o -name 'kstat[-.]*' -o -name '*rust-tree*' ')' ! -path '/root/*'"), "");
}

#[test]
fn trixie_counts_after_installation_and_kernel_upgrade_and_purges() {
    let root = Chroot::new("trixie", &["trixie-backports"], "");
    // The newest release of the series before the newest one.
    root.run(&here(
        r"releases=$(apt-cache pkgnames linux-image- | sed -n 's/^linux-image-\([0-9.]*+deb13-amd64\)$/\1/p' | sort -V)
        newest=$(tail -n 1 <<<$releases)
        release=$(grep -v ^${newest%.*+*}. <<<$releases | tail -n 1)
        apt-get -qy install -t trixie-backports linux-image-$release linux-headers-$release",
    ));
    prepare(&root);
    let before = root.unowned();
    let older = root.kernels().remove(0);

    println!("{}", root.run(INSTALL));
    assert_installed(&root, &[&older]);
    assert_counts(&root, &older);

    // Without a network, the source of the new kernel cannot be downloaded, and apt leaves packages
    // unconfigured. When dpkg configures them with a network, DKMS builds kstat for the new kernel.
    root.run(&here(&format!("{UPGRADE} --download-only")));
    let outcome = root.attempt_offline(&here(UPGRADE));
    println!("{outcome:?}");
    outcome.assert_exit_code(APT_FAILED);
    assert_installed(&root, &[&older]);
    println!("{}", root.run("dpkg --configure -a"));
    let newer = root.kernels().remove(1);
    assert_installed(&root, &[&older, &newer]);
    assert_counts(&root, &newer);
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
    assert_installed(&root, &[&newer]);

    assert_purges(&root, &before);
}

#[test]
fn forky_counts_and_purges() {
    let root = Chroot::new("forky", &[], &here("linux-image-amd64,linux-headers-amd64"));
    prepare(&root);
    let before = root.unowned();
    let release = root.kernels().remove(0);

    println!("{}", root.run(INSTALL));
    assert_installed(&root, &[&release]);
    assert_counts(&root, &release);
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
    assert_installed(&root, &[]);
    assert_eq!(root.run("rust-tree --list"), "");
    assert_purges(&root, &before);
}

#[test]
fn failed_rust_tree_names_the_cause_and_leaves_no_partial_tree() {
    let root = Chroot::new("trixie", &["trixie-backports"], "");
    root.run(&here(UPGRADE));
    prepare(&root);
    let release = root.kernels().remove(0);
    let make = format!("rust-tree {release}");
    let assert_refused = |outcome: Outcome, words: &[&str]| {
        println!("{outcome:?}");
        outcome.assert_exit_code(1);
        outcome.assert_refused("rust-tree", words);
        assert_eq!(
            root.run("ls -A -I .lock /var/cache/rust-tree"),
            "",
            "after: {outcome:?}"
        );
    };

    println!("# installation of the package without network");
    let message = format!("the source of {release} is needed, but apt cannot download it (");
    let outcome = root.attempt_offline(INSTALL);
    println!("{outcome:?}");
    outcome.assert_exit_code(APT_FAILED);
    assert!(
        outcome
            .stdout_text()
            .contains(&format!("\nkstat: not built: {message}")),
        "{outcome:?}"
    );
    assert_installed(&root, &[]);

    println!("# without network");
    assert_refused(
        root.attempt_offline(&make),
        &[&message, "run it again with a network"],
    );

    println!("# without the matching linux-source");
    assert_refused(
        root.attempt(&format!(
            "cp -a /var/lib/apt/lists /run/lists; rm /run/lists/*backports*
            mount --bind /run/lists /var/lib/apt/lists; {make}"
        )),
        &[
            &message,
            "Unable to locate package linux-source-",
            "or install linux-source-",
        ],
    );

    println!("# with the wrong rustc");
    assert_refused(
        root.attempt(&format!(
            "printf '#!/bin/sh\\necho rustc 1.2.3\\n' >/run/rustc; chmod +x /run/rustc
            mount --bind /run/rustc /usr/bin/rustc; {make}"
        )),
        &["rustc here is 'rustc 1.2.3'", "install the rustc"],
    );

    println!("# with a small disk");
    assert_refused(
        root.attempt(&format!(
            "mount -t tmpfs -o size=500M tmpfs /var/cache/rust-tree; {make}"
        )),
        &[
            "/var/cache/rust-tree has 500 MB free",
            "free some space, and run it again",
        ],
    );

    println!("# with a disk that another program fills meanwhile");
    assert_refused(
        root.attempt(&format!(
            "mount -t tmpfs -o size=1G tmpfs /var/cache/rust-tree
            {{ status=0; {make} 2>&1 || status=$?; echo $status >/run/status; }} | tee /run/said &
            until grep -q unpacking /run/said; do kill -0 $!; sleep 0.1; done
            fallocate -l 700M /var/cache/rust-tree/other
            wait
            [ \"$(ls -A -I .lock /var/cache/rust-tree)\" = other ]
            tail -n 1 /run/said
            exit $(cat /run/status)"
        )),
        &[
            "the file system of /var/cache/rust-tree is full",
            "run it again",
        ],
    );

    println!("# with another kernel's symbols");
    assert_refused(
        root.attempt(&format!(
            "symvers=$(readlink -f /lib/modules/{release}/build/Module.symvers)
            sed '0,/\\t_R/s//\\t_Q/' $symvers >/run/symvers
            mount --bind /run/symvers $symvers; {make}"
        )),
        &[
            "the metadata does not match",
            "the first symbols that the kernel lacks: _R",
        ],
    );

    println!("# interrupted");
    let start_making = format!(
        "env --default-signal=INT {make} >/run/said 2>&1 &
        until grep -q '  [A-Z]* .*rust' /run/said; do kill -0 $!; sleep 0.1; done"
    );
    assert_refused(
        root.attempt(&format!(
            "{start_making}
            kill -INT $!
            status=0; wait $! || status=$?
            if pgrep -x make; then exit 1; fi
            cat /run/said
            exit $status"
        )),
        &["interrupted: no files are left"],
    );

    println!("# killed");
    root.run(&format!("{start_making}; kill -KILL $!"));
    assert_eq!(root.run("rust-tree --list"), "");
    let check = root.attempt(&format!("rust-tree --check {release}"));
    check.assert_exit_code(1);
    check.assert_refused("rust-tree", &["'rust-tree"]);

    // A proper run after these failures succeeds, and removes the files that the killed run left.
    println!("{}", root.run("dpkg --configure -a"));
    assert_installed(&root, &[&release]);
    assert_eq!(
        root.run("ls -A -I .lock /var/cache/rust-tree"),
        format!("{release}\n")
    );
    root.run(&format!("rust-tree --check {release}"));
}
