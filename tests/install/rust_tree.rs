// SPDX-License-Identifier: GPL-2.0

//! The package rust-tree: the order in which packages are installed, headers that change, and errors.

use crate::{
    add_modules, assert_installed, assert_verified, here, prepare, APT_FAILED, INSTALL, UPGRADE,
};
use kstat_tests::{lab::chroot::Chroot, tool::Outcome};

/// Makes packages of the modules of [`add_modules`] in /root, as their maintainers would who do not know rust-tree:
/// DKMS builds them when they are installed.
const PACKAGE_MODULES: &str = r#"
    for name in hello mixed; do
        mkdir -p /root/$name/DEBIAN /root/$name/usr/src
        mv /usr/src/$name-1.0 /root/$name/usr/src/
        printf 'Package: %s-dkms\nVersion: 1.0\nArchitecture: all\nMaintainer: nobody <nobody@kstat.example>\nDepends: dkms\nDescription: a module\n' $name >/root/$name/DEBIAN/control
        printf '#!/bin/sh\nset -e\n/usr/lib/dkms/common.postinst %s 1.0\n' $name >/root/$name/DEBIAN/postinst
        printf '#!/bin/sh\nset -e\ndkms remove %s/1.0 --all\n' $name >/root/$name/DEBIAN/prerm
        chmod +x /root/$name/DEBIAN/p*
        dpkg-deb --build /root/$name /root/$name-dkms.deb
    done
"#;

/// Prints the language of the part of `mixed` that may be in Rust, for each kernel.
const LANGUAGE: &str = "for module in /lib/modules/*/updates/dkms/mixed.ko.xz; do xz -dc $module | grep -aoE 'added in (Rust|C)'; done";

#[test]
fn modules_have_their_rust_parts_whatever_the_order_of_installation() {
    let root = Chroot::new("trixie", &["trixie-backports"], "dkms");
    add_modules(&root);
    root.run(PACKAGE_MODULES);
    prepare(&root);
    root.run("apt-get -qy install dkms");
    let kernel = here("linux-image-amd64/trixie-backports linux-headers-amd64/trixie-backports");

    println!("# all in one run");
    println!(
        "{}",
        root.run(&format!(
            "cd /root; apt-get -qy install {kernel} ./*-dkms.deb ./build/deb/*.deb"
        ))
    );
    let release = root.kernels().remove(0);
    for module in ["hello", "mixed", "kstat"] {
        assert_installed(&root, module, &[&release]);
    }
    assert_eq!(root.run(LANGUAGE), "added in Rust\n");
    assert_verified(&root);

    println!("# headers after rust-tree and modules");
    let headers = "$(dpkg-query -f '${Package} ' -W 'linux-headers-*' 'linux-kbuild-*' | tr ' ' '\\n' | grep '[0-9]' | tr '\\n' ' ')";
    root.run(&format!("headers={headers}; dkms unbuild mixed/1.0 --all; apt-get -qy purge $headers; ls /usr/src /var/lib/rust-tree; [ ! -e /usr/src/linux-headers-{release} ]; ! ls -d /usr/lib/linux-kbuild-*"));
    assert_eq!(root.run("rust-tree --list"), "");
    println!("{}", root.run(&here(UPGRADE)));
    assert_eq!(root.run(LANGUAGE), "added in Rust\n");
    assert_installed(&root, "hello", &[&release]);

    println!("# rust-tree after headers and modules");
    root.run("apt-get -qy purge rust-tree; dkms unbuild mixed/1.0 --all; dkms autoinstall || true");
    assert_verified(&root);
    root.run(&format!("dkms install --force mixed/1.0 -k {release}"));
    assert_eq!(root.run(LANGUAGE), "added in C\n");
    println!(
        "{}",
        root.run("cd /root; apt-get -qy install ./build/deb/rust-tree*.deb")
    );
    assert_eq!(root.run(LANGUAGE), "added in Rust\n");
    assert_installed(&root, "hello", &[&release]);
}

#[test]
fn metadata_follows_the_headers() {
    let root = Chroot::new("trixie", &["trixie-backports"], "");
    root.run(&here(UPGRADE));
    prepare(&root);
    let release = root.kernels().remove(0);
    let series = release.split('.').take(2).collect::<Vec<_>>().join(".");

    // With the source installed, no network is needed.
    root.run(&format!(
        "apt-get -qy install linux-source-{series}/trixie-backports"
    ));
    let install = "cd /root; apt-get -qy install ./build/deb/rust-tree*.deb";
    println!("{}", root.attempt_offline(install).expect_success());
    println!("{}", root.run(&format!("rust-tree --doctor {release}")));

    println!("# two flavours of a version, of which one is removed");
    let other = here("linux-headers-rt-amd64/trixie-backports");
    println!(
        "{}",
        root.run(&format!(
            "apt-get -qy install --no-install-recommends {other}"
        ))
    );
    let trees = root.run("rust-tree --list | cut -f 1");
    let other = trees
        .lines()
        .find(|line| *line != release)
        .expect("another kernel");
    root.run(&format!("apt-get -qy purge linux-headers-{release}"));
    assert_eq!(
        root.run("rust-tree --list | cut -f 1"),
        format!("{other}\n")
    );
    println!("{}", root.run(&format!("rust-tree --doctor {other}")));
    assert_verified(&root);

    println!("# another build of the same version, without its source and with it");
    let inode = format!("stat -c %i /var/lib/rust-tree/{other}/.key");
    let first = root.run(&inode);
    root.run(&format!(
        "cd /root
        apt-get -q download linux-headers-{other}
        dpkg-deb -R linux-headers-{other}_*.deb headers
        sed -i '/^Source:/d; s/^Version: .*/&.1/' headers/DEBIAN/control
        dpkg-deb --build headers headers.deb"
    ));
    let outcome = root.attempt_offline("dpkg -i --force-depends /root/headers.deb");
    println!("{}", outcome.expect_success());
    assert!(
        outcome
            .lines_by("rust-tree")
            .iter()
            .any(|line| line.contains("the source of")),
        "{outcome:?}"
    );
    root.run(&format!("[ ! -e /lib/modules/{other}/build/rust ]"));
    root.run(&format!(
        "sed -i '/^Package: linux-source-{series}$/,/^$/s/^Version: .*/&.1/' /var/lib/dpkg/status"
    ));
    println!(
        "{}",
        root.attempt_offline("rust-tree --install").expect_success()
    );
    println!("{}", root.run(&format!("rust-tree --doctor {other}")));
    assert_ne!(root.run(&inode), first);
}

#[test]
fn failure_names_the_cause_and_leaves_no_partial_tree() {
    let root = Chroot::new("trixie", &["trixie-backports"], "");
    root.run(&here(UPGRADE));
    prepare(&root);
    root.run("apt-get -qy install dkms");
    let release = root.kernels().remove(0);
    let make = format!("rust-tree {release}");
    let assert_refused = |outcome: Outcome, words: &[&str]| {
        println!("{outcome:?}");
        outcome.assert_exit_code(1);
        outcome.assert_refused("rust-tree", words);
        assert_eq!(
            root.run("ls -A -I .*.lock /var/lib/rust-tree"),
            "",
            "after: {outcome:?}"
        );
    };

    println!("# installation of the package without network");
    let message = format!("the source of {release} is needed, but apt cannot download it (");
    let outcome = root.attempt_offline("cd /root; apt-get -qy install ./build/deb/rust-tree*.deb");
    println!("{}", outcome.expect_success());
    let lines = outcome.lines_by("rust-tree");
    assert!(
        lines.iter().any(|line| line.contains(&message)),
        "{outcome:?}"
    );
    assert!(
        lines
            .iter()
            .any(|line| line.contains("run 'rust-tree --install'")),
        "{outcome:?}"
    );
    let outcome = root.attempt_offline(INSTALL);
    println!("{outcome:?}");
    outcome.assert_exit_code(APT_FAILED);
    assert!(
        outcome
            .stdout_text()
            .contains("\nkstat: not built: the kernel of /lib/modules/"),
        "{outcome:?}"
    );
    assert_installed(&root, "kstat", &[]);

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
            "mount -t tmpfs -o size=300M tmpfs /var/lib/rust-tree; {make}"
        )),
        &[
            "/var/lib/rust-tree has 300 MB free",
            "free some space, and run it again",
        ],
    );

    println!("# with a disk that another program fills meanwhile");
    assert_refused(
        root.attempt(&format!(
            "mount -t tmpfs -o size=500M tmpfs /var/lib/rust-tree
            {{ status=0; {make} 2>&1 || status=$?; echo $status >/run/status; }} | tee /run/said &
            until grep -q building /run/said; do kill -0 $!; sleep 0.1; done
            fallocate -l 350M /var/lib/rust-tree/other
            wait
            [ \"$(ls -A -I .*.lock /var/lib/rust-tree)\" = other ]
            tail -n 1 /run/said
            exit $(cat /run/status)"
        )),
        &[
            "the file system of /var/lib/rust-tree is full",
            "run it again",
        ],
    );

    println!("# with little memory");
    assert_refused(
        root.attempt(&format!(
            "printf 'MemAvailable: 600000 kB\\nSwapFree: 300000 kB\\n' >/run/meminfo
            mount --bind /run/meminfo /proc/meminfo; {make}"
        )),
        &["878 MB of memory and swap are free", "add swap"],
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
            [ $status = 130 ]
            exit 1"
        )),
        &["interrupted: no files are left"],
    );

    println!("# killed");
    root.run(&format!("{start_making}; kill -KILL $!"));
    assert_eq!(root.run("rust-tree --list"), "");
    let check = root.attempt(&format!("rust-tree --check {release}"));
    check.assert_exit_code(1);
    check.assert_refused("rust-tree", &["'rust-tree"]);

    // A proper run after these failures removes the files that the killed run left.
    println!("# with a read-only /usr");
    let outcome = root.attempt(
        "mount --bind /usr /usr
        mount -o remount,bind,ro /usr
        rust-tree --install",
    );
    println!("{outcome:?}");
    outcome.assert_refused(
        "rust-tree",
        &["when that is mended, run 'rust-tree --install'"],
    );
    assert!(
        outcome.stdout_text().contains("cannot be made"),
        "{outcome:?}"
    );
    assert_verified(&root);

    println!("{}", root.run("rust-tree --install && dpkg --configure -a"));
    assert_installed(&root, "kstat", &[&release]);
    assert_eq!(
        root.run("ls -A -I .*.lock /var/lib/rust-tree"),
        format!("{release}\n")
    );
    root.run(&format!("rust-tree --check {release}"));
}
