// SPDX-License-Identifier: GPL-2.0

//! The package, in Debian systems made for the purpose: installed, upgraded around, and purged, and what happens if
//! something is missing. `make test-install` runs this, in the lab.

use kstat_tests::{
    lab::chroot::{project, Root},
    tool::run,
};
use std::{collections::BTreeSet, fs, process::Output};

/// What happens in a guest: nothing is loaded unasked; then kstat counts what nftables counts.
const COUNT: &str = r#"
    if grep ^kstat /proc/modules; then exit 1; fi
    nft 'table inet seen { chain output { type filter hook output priority 0; meta l4proto tcp counter; }; }'
    modprobe kstat start=1 counter=1
    ncat -l 127.0.0.1 8000 >/dev/null &
    until echo hello | ncat 127.0.0.1 8000; do sleep 0.1; done
    wait $!
    echo "nout $(cat /proc/kstat/nout), nft $(nft list table inet seen | sed -n 's/.*packets \([0-9]*\).*/\1/p')"
"#;

/// As the README says.
const INSTALL: &str = "cd /root; apt-get -qy install ./build/deb/kstat-dkms*.deb";
const UPGRADE: &str =
    "apt-get -qy install -t trixie-backports linux-image-amd64 linux-headers-amd64";

#[test]
fn the_readme_says_what_is_tested() {
    let readme = fs::read_to_string(project().join("README.md")).expect("reading README.md");
    let (_, section) = readme
        .split_once("\n## Install it\n")
        .expect("a section on installing");
    let (_, block) = section.split_once("\n```\n").expect("its commands");
    let (block, _) = block
        .split_once("\n```\n")
        .expect("the end of its commands");
    let typed = |command: &str| command.replace("cd /root; ", "").replace(" -qy", "");

    assert_eq!(
        block.lines().collect::<Vec<_>>(),
        [
            &typed(UPGRADE),
            "reboot",
            "make deb",
            &typed(INSTALL),
            "modprobe kstat start=1"
        ]
    );
}

/// Boots a kernel of a system that has kstat installed, and sees it count.
#[track_caller]
fn assert_counts(root: &Root, release: &str) {
    let said = root.boot(release, COUNT);
    let counts: Vec<u64> = said
        .split(|character: char| !character.is_ascii_digit())
        .filter_map(|word| word.parse().ok())
        .collect();

    println!("{said}");
    assert_eq!(counts.len(), 2, "{said}");
    assert!(counts[0] > 5, "{said}");
    assert_eq!(counts[0], counts[1], "{said}");
}

/// Puts the package where a person would have it, and all that it depends on into the system.
fn prepare(root: &Root) {
    let deb = fs::read_dir(project().join("build/deb"))
        .expect("listing build/deb, which 'make deb' makes")
        .map(|entry| entry.expect("listing build/deb").path())
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .expect("a package in build/deb");

    let there = root.path().join("root/build/deb");
    fs::create_dir_all(&there).expect("making a folder");
    run("cp", &[&deb.to_string_lossy(), &there.to_string_lossy()]);
    root.run("apt-get -qy satisfy \"$(dpkg-deb -f /root/build/deb/kstat-dkms*.deb Depends)\"");
}

/// Asserts that DKMS has built and installed kstat for just these kernels.
#[track_caller]
fn assert_installed(root: &Root, releases: &[&str]) {
    let status = root.run("dkms status kstat");
    let mut installed: Vec<_> = status
        .lines()
        .filter(|line| line.contains(": installed"))
        .filter_map(|line| line.split(", ").nth(1))
        .collect();

    installed.sort_unstable();
    assert_eq!(installed, releases, "{status}");
}

/// Purges the package, and asserts that all that came since `before` was listed is gone.
#[track_caller]
fn assert_purges(root: &Root, before: &BTreeSet<String>) {
    root.run("apt-get -qy purge kstat-dkms");
    let after = root.unowned();
    let left: Vec<_> = after
        .difference(before)
        // What depmod makes and linux-base copies for each kernel, and the key that DKMS makes for this machine.
        .filter(|path| {
            !["/boot/", "/var/lib/dkms/mok."]
                .iter()
                .any(|others| path.starts_with(others))
        })
        .filter(|path| !(path.starts_with("/usr/lib/modules/") && path.contains("/modules.")))
        .collect();

    assert!(left.is_empty(), "purging left {left:#?}");
    assert_eq!(root.run("find / -xdev '(' -name kstat -o -name 'kstat[-.]*' -o -name '*rust-tree*' ')' ! -path '/root/*'"), "");
}

#[test]
fn trixie_counts_with_one_kernel_and_the_next_and_purges() {
    let series = fs::read_to_string("/etc/kstat-lab").expect("reading the lab's kernels");
    let series = series.lines().next().expect("an older kernel in backports");
    let root = Root::new("trixie", &["trixie-backports"], "");
    root.run(&format!(
        "release=$(apt-cache pkgnames linux-image-{series}. | sed -n 's/^linux-image-\\([0-9.]*+deb13-amd64\\)$/\\1/p' | sort -V | tail -n 1)
        apt-get -qy install -t trixie-backports linux-image-$release linux-headers-$release"
    ));
    prepare(&root);
    let before = root.unowned();
    let older = root.kernels().remove(0);

    let said = root.run(INSTALL);
    println!("{said}");
    assert_installed(&root, &[&older]);
    assert_counts(&root, &older);

    // A new kernel, while its source cannot be had: it waits for that.
    root.run(&format!("{UPGRADE} --download-only"));
    let output = root.attempt_offline(UPGRADE);
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    assert_eq!(output.status.code(), Some(100), "{said}");
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
        "by hand"
    );

    // The boot configuration, through systemd's own modules-load. It calls itself that in the journal, which may not
    // know the unit of what has ended so soon.
    root.run(
        "sed -n 's/^#\\(options kstat start=1 counter=100\\)$/\\1/p' /etc/modprobe.d/kstat.conf >/etc/modprobe.d/here.conf
        echo kstat >/etc/modules-load.d/kstat.conf",
    );
    let said = root.boot(
        &newer,
        "systemctl is-active systemd-modules-load
        cat /sys/module/kstat/parameters/start /proc/kstat/counter
        journalctl --sync
        journalctl -b -t systemd-modules-load -o cat | grep kstat",
    );
    println!("{said}");
    assert!(
        said.starts_with("active\n1\n100\nInserted module 'kstat'\n"),
        "{said}"
    );
    root.run("rm /etc/modprobe.d/here.conf /etc/modules-load.d/kstat.conf");

    // A kernel's metadata goes with the kernel.
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
    let root = Root::new("forky", &[], "linux-image-amd64,linux-headers-amd64");
    prepare(&root);
    let before = root.unowned();
    let release = root.kernels().remove(0);

    println!("{}", root.run(INSTALL));
    assert_installed(&root, &[&release]);
    assert_counts(&root, &release);
    assert_purges(&root, &before);
}

#[test]
fn on_a_kernel_without_rust_it_installs_builds_nothing_and_says_why() {
    let root = Root::new("trixie", &[], "linux-image-amd64,linux-headers-amd64");
    prepare(&root);
    let before = root.unowned();
    let release = root.kernels().remove(0);

    let said = root.run(INSTALL);
    println!("{said}");
    let sentences: Vec<_> = said
        .lines()
        .filter(|line| line.starts_with("kstat: "))
        .collect();
    assert_eq!(sentences.len(), 1, "{said}");
    assert!(
        sentences[0].contains(&format!(
            "not built for the kernel {release}, which is built without CONFIG_RUST"
        )),
        "{said}"
    );
    assert_installed(&root, &[]);
    assert_eq!(root.run("rust-tree --list"), "");
    assert_purges(&root, &before);
}

#[test]
fn whatever_is_missing_rust_tree_says_so_and_leaves_nothing_half_made() {
    let root = Root::new("trixie", &["trixie-backports"], "");
    root.run(UPGRADE);
    prepare(&root);
    let release = root.kernels().remove(0);
    let make = format!("rust-tree {release}");
    let refused = |output: Output, words: &[&str]| {
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        println!("{said}");
        assert_eq!(output.status.code(), Some(1), "{said}");
        let sentence = said.lines().last().unwrap_or("");
        for word in words {
            assert!(sentence.contains(word), "{word:?} is not in: {sentence}");
        }
        assert_eq!(
            root.run("ls -A -I .lock /var/cache/rust-tree"),
            "",
            "after: {said}"
        );
    };

    println!("# without network, as a package");
    let sentence = format!("the source of {release} is needed, but apt cannot download it (");
    let output = root.attempt_offline(INSTALL);
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    assert_eq!(output.status.code(), Some(100), "{said}");
    assert!(
        said.contains(&format!("\nkstat: not built: {sentence}")),
        "{said}"
    );
    assert_installed(&root, &[]);

    println!("# without network");
    refused(
        root.attempt_offline(&make),
        &[&sentence, "run it again with a network"],
    );

    println!("# without the matching linux-source");
    refused(
        root.attempt(&format!(
            "cp -a /var/lib/apt/lists /run/lists; rm /run/lists/*backports*
            mount --bind /run/lists /var/lib/apt/lists; {make}"
        )),
        &[
            &sentence,
            "Unable to locate package linux-source-",
            "or install linux-source-",
        ],
    );

    println!("# with the wrong rustc");
    refused(
        root.attempt(&format!(
            "printf '#!/bin/sh\\necho rustc 1.2.3\\n' >/run/rustc; chmod +x /run/rustc
            mount --bind /run/rustc /usr/bin/rustc; {make}"
        )),
        &["rustc here is 'rustc 1.2.3'", "install the rustc"],
    );

    println!("# with a small disk");
    refused(
        root.attempt(&format!(
            "mount -t tmpfs -o size=1G tmpfs /var/cache/rust-tree; {make}"
        )),
        &[
            "/var/cache/rust-tree has 1024 MB free",
            "free some space, and run it again",
        ],
    );

    println!("# with a disk that somebody else fills meanwhile");
    refused(
        root.attempt(&format!(
            "mount -t tmpfs -o size=3G tmpfs /var/cache/rust-tree
            {{ status=0; {make} 2>&1 || status=$?; echo $status >/run/status; }} | tee /run/said &
            until grep -q unpacking /run/said; do kill -0 $!; sleep 0.1; done
            fallocate -l 2G /var/cache/rust-tree/other
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
    refused(
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
    let half_way = format!(
        "env --default-signal=INT {make} >/run/said 2>&1 &
        until grep -q '  [A-Z]* .*rust' /run/said; do kill -0 $!; sleep 0.1; done"
    );
    refused(
        root.attempt(&format!(
            "{half_way}
            kill -INT $!
            status=0; wait $! || status=$?
            if pgrep -x make; then exit 1; fi
            cat /run/said
            exit $status"
        )),
        &["interrupted: no files are left"],
    );

    println!("# killed");
    root.run(&format!("{half_way}; kill -KILL $!"));
    assert_eq!(root.run("rust-tree --list"), "");
    let checked = root.attempt(&format!("rust-tree --check {release}"));
    let said = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert_eq!(checked.status.code(), Some(1), "{said}");
    assert!(said.contains("'rust-tree"), "{said}");

    // After all that, a proper run has what it began with, but for what was killed, and works.
    println!("{}", root.run("dpkg --configure -a"));
    assert_installed(&root, &[&release]);
    assert_eq!(
        root.run("ls -A -I .lock /var/cache/rust-tree"),
        format!("{release}\n")
    );
    root.run(&format!("rust-tree --check {release}"));
}
