// SPDX-License-Identifier: GPL-2.0

//! The Debian packages: their installation, kernel upgrades while they are installed, their removal, and their errors if
//! something that they need is missing. Each test makes a Debian system. `make test-install` runs these tests in the lab.

mod kstat;
mod rust_tree;

use kstat_tests::{
    lab::{architecture, chroot::Chroot, project},
    tool::run,
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

/// A script for a guest: loads the modules of [`add_modules`] and shows what they print.
const LOAD: &str = "
    modprobe hello
    modprobe mixed
    dmesg | grep -oE '(hello|mixed): .*' | grep -v taint
";

/// What [`LOAD`] prints if `mixed` was built with its part in Rust.
const LOADED: &str =
    "hello: from outside of the tree\nmixed: adding 1 and 2\nmixed: 1 + 2 = 3, added in Rust\n";

/// The documented commands to install the packages, and to install a kernel with Rust, for amd64.
/// lab/src/lint.rs compares them with the documentation.
const INSTALL: &str = "cd /root; apt-get -qy install ./build/deb/*.deb";
const UPGRADE: &str =
    "apt-get -qy install -t trixie-backports linux-image-amd64 linux-headers-amd64";

/// Installs the newest kernel of the series before trixie-backports' newest one.
const INSTALL_OLDER: &str = r"
    releases=$(apt-cache pkgnames linux-image- | sed -n 's/^linux-image-\([0-9.]*+deb13-amd64\)$/\1/p' | sort -V)
    newest=$(tail -n 1 <<<$releases)
    release=$(grep -v ^${newest%.*+*}. <<<$releases | tail -n 1)
    apt-get -qy install -t trixie-backports linux-image-$release linux-headers-$release
";

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

/// Copies the packages to the folder that [`INSTALL`] names, and installs the packages that they
/// depend on or recommend.
#[track_caller]
fn prepare(root: &Chroot) {
    let folder = root.path().join("root/build/deb");
    fs::create_dir_all(&folder).expect("making a folder");
    for entry in
        fs::read_dir(project().join("build/deb")).expect("listing build/deb, which make deb makes")
    {
        let path = entry.expect("listing build/deb").path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            run("cp", &[&path.to_string_lossy(), &folder.to_string_lossy()]);
        }
    }
    root.run(
        "for deb in /root/build/deb/*.deb; do
            for field in Depends Recommends; do
                apt-get -qy satisfy \"$(dpkg-deb -f $deb $field | sed 's/rust-tree, //')\"
            done
        done",
    );
}

/// Adds two modules that know nothing of rust-tree to the sources of DKMS: `hello`, in Rust, and `mixed`, in C with a part
/// in Rust that is left out if the headers lack metadata.
#[track_caller]
fn add_modules(root: &Chroot) {
    for name in ["hello", "mixed"] {
        let source = project().join("tests/fixtures").join(name);
        let copy = root.path().join(format!("usr/src/{name}-1.0"));
        run(
            "cp",
            &["-r", &source.to_string_lossy(), &copy.to_string_lossy()],
        );
    }
}

/// Asserts that DKMS has built and installed `module` for the kernels `releases` and for no other.
#[track_caller]
fn assert_installed(root: &Chroot, module: &str, releases: &[&str]) {
    let status = root.run(&format!("dkms status {module}"));
    let mut installed: Vec<_> = status
        .lines()
        .filter(|line| line.contains(": installed"))
        .filter_map(|line| line.split(", ").nth(1))
        .collect();

    installed.sort_unstable();
    assert_eq!(installed, releases, "{status}");
}

/// Purges the packages, and asserts that no file is left that is not in the list `before`, and that the files of all
/// other packages are as they were.
#[track_caller]
fn assert_purges(root: &Chroot, before: &BTreeSet<String>) {
    root.run("apt-get -qy purge kstat-dkms rust-tree");
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
    assert_verified(root);
}

/// Asserts that no file of the headers' packages was changed.
#[track_caller]
fn assert_verified(root: &Chroot) {
    assert_eq!(
        root.run("dpkg --verify $(dpkg-query -f '${db:Status-Status} ${Package}\\n' -W 'linux-*' | sed -n 's/^installed //p')"),
        ""
    );
}
