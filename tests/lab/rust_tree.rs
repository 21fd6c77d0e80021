// SPDX-License-Identifier: GPL-2.0

//! `rust-tree/rust-tree`: what it refuses, and that a module which is not ours builds with what it makes.
//! Runs in the lab. What it does where the network, the source or the disk is missing is in `install`.

use kstat_tests::{
    lab::{
        chroot::project,
        rust_tree::{cache, release, rust_tree, rust_tree_after, tree, Said},
    },
    tool::{run, shell},
};
use std::{fs, path::PathBuf, process::Command};

/// A copy of the lab's tree that a test may do anything to, which rust-tree finds where the lab's was.
struct Copy(PathBuf);

impl Copy {
    fn new(name: &str) -> Self {
        let copy = project().join(format!("build/tree-{name}"));
        if copy.exists() {
            fs::remove_dir_all(&copy).expect("removing an old copy");
        }
        fs::create_dir_all(&copy).expect("making a folder");
        run(
            "cp",
            &["-a", &tree().to_string_lossy(), &copy.to_string_lossy()],
        );
        Self(copy)
    }

    /// Changes it by a line of shell, which runs in the tree, and asks rust-tree whether that is whole.
    #[track_caller]
    fn check_after(&self, change: &str) -> Said {
        self.rust_tree_after(change, &["--check", &release()])
    }

    /// Changes it in the same way, and runs rust-tree.
    #[track_caller]
    fn rust_tree_after(&self, change: &str, arguments: &[&str]) -> Said {
        let before = format!(
            "mount --bind {} {}; cd {}; {change}",
            self.0.display(),
            cache().display(),
            cache().join(release()).display()
        );
        rust_tree_after(&before, arguments)
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).expect("removing a copy");
    }
}

#[test]
fn a_whole_tree_passes_and_is_listed() {
    let copy = Copy::new("whole");
    let tree = tree();

    let said = copy.check_after("true");
    assert!(said.success, "{said:?}");
    assert_eq!(PathBuf::from(&said.folder), tree);

    let listed = rust_tree(&["--list"]).folder;
    let line = listed
        .lines()
        .find(|line| line.starts_with(&format!("{}\t", release())))
        .unwrap_or_else(|| panic!("{} is not in {listed:?}", release()));
    let fields: Vec<_> = line.split('\t').collect();
    assert_eq!(fields.len(), 3, "{line:?}");
    assert!(fields[1].ends_with('M'), "{line:?}");
    assert_eq!(PathBuf::from(fields[2]), tree);
}

#[test]
fn a_whole_tree_passes_whatever_the_language() {
    let said = rust_tree_after(
        "export LC_ALL=C.UTF-8 LANGUAGE=de",
        &["--check", &release()],
    );
    assert!(said.success, "{said:?}");
}

/// The source may be gone by then, and with it the way to make another.
#[test]
fn a_tree_that_cannot_be_used_stays_until_there_is_another() {
    let copy = Copy::new("stays");
    let said = copy.rust_tree_after(
        "rm rust/libpin_init.rmeta
        mkdir ../bin
        printf '#!/bin/sh\\necho 1M\\n' >../bin/df
        chmod +x ../bin/df
        export PATH=$(readlink -f ../bin):$PATH",
        &[&release()],
    );

    said.assert_refused(&["has 1 MB free"]);
    assert!(copy.0.join(release()).join("rust/libkernel.rmeta").exists());
}

#[test]
fn a_tree_that_was_changed_is_refused() {
    for change in [
        "printf x | dd of=rust/libkernel.rmeta bs=1 seek=1000000 conv=notrunc status=none",
        "truncate -s -1 rust/libmacros.so",
        "rm rust/libpin_init.rmeta",
        "touch rust/libother.rmeta",
        "rm Module.symvers; sed '0,/_R/s/_R/_Q/' $(readlink -f /lib/modules/*/build)/Module.symvers >Module.symvers",
        "rm .config; sed s/=m/=y/ $(readlink -f /lib/modules/*/build)/.config >.config",
        "ln -sfn /usr/include include",
        "sed -i s/KBUILD_OUTPUT=/KBUILD_OUTPUT=x/ Makefile",
    ] {
        Copy::new("changed")
            .check_after(change)
            .assert_unusable(&["its files were changed after it was made"]);
    }
}

#[test]
fn a_tree_of_other_headers_or_compilers_is_refused() {
    let headers = "$(readlink -f /lib/modules/*/build)";
    // One symbol of the kernel's, its rustc, and a compiler's; and a tree that was made for another.
    for change in [
        format!("sed '0,/_R/s/_R/_Q/' {headers}/Module.symvers >/tmp/new; mount --bind /tmp/new {headers}/Module.symvers"),
        "sed -i 's/^rustc .*/rustc 1.2.3/' .key".into(),
        "sed -i 's/^bindgen .*/bindgen 1.2.3/' .key".into(),
        "rm .key".into(),
        "sed -i 's,/usr/src/linux-headers-.*,/usr/src/linux-headers-1.2.3 1.2.3-1,' .key".into(),
    ] {
        Copy::new("other")
            .check_after(&change)
            .assert_unusable(&["made from other headers, or by another rustc or bindgen"]);
    }
}

#[test]
fn headers_that_are_not_configured_as_the_kernel_are_refused() {
    let said = rust_tree_after(
        "headers=$(readlink -f /lib/modules/*/build)
        sed 's/^CONFIG_IPV6=y/CONFIG_IPV6=m/' $headers/.config >/tmp/new
        mount --bind /tmp/new $headers/.config",
        &[&release()],
    );
    said.assert_refused(&[
        "is not the kernel's configuration, which has 'CONFIG_IPV6=y'",
        "reinstall linux-headers-",
    ]);
}

#[test]
fn another_rustc_than_the_kernels_is_refused() {
    let said = rust_tree_after(
        "printf '#!/bin/sh\\necho rustc 1.2.3\\n' >/tmp/rustc
        chmod +x /tmp/rustc
        mount --bind /tmp/rustc $(readlink -f /usr/bin/rustc)",
        &[&release()],
    );
    said.assert_refused(&[
        "was built by 'rustc 1.",
        "rustc here is 'rustc 1.2.3'",
        "install the rustc",
    ]);
}

#[test]
fn what_makes_no_sense_is_refused() {
    rust_tree(&["--never"]).assert_refused(&["there is no option --never"]);
    rust_tree(&["../etc"]).assert_refused(&["../etc is not a kernel release"]);
    rust_tree(&["a", "b"]).assert_refused(&["name one kernel release"]);
    rust_tree(&["--remove"]).assert_refused(&["name a kernel release"]);
    rust_tree(&["--check", ""]).assert_refused(&["name a kernel release"]);
    rust_tree(&["--remove", "1.2.3-none"]).assert_refused(&["there is no tree for 1.2.3-none"]);
    rust_tree(&["1.2.3-none"]).assert_refused(&[
        "the headers of 1.2.3-none are not installed",
        "linux-headers-1.2.3-none",
    ]);
    assert!(rust_tree(&["--help"])
        .folder
        .starts_with("usage: rust-tree "));
}

#[test]
fn remove_removes_one_and_no_other() {
    let copy = Copy::new("remove");
    fs::create_dir(copy.0.join("other")).expect("making another");
    let before = format!("mount --bind {} {}", copy.0.display(), cache().display());

    let said = rust_tree_after(&before, &["--remove", &release()]);

    assert!(said.success, "{said:?}");
    assert!(!copy.0.join(release()).exists());
    assert!(copy.0.join("other").exists());
    assert!(cache().join(release()).exists(), "the lab's own is gone");
}

#[test]
fn a_module_that_is_not_ours_builds_and_loads() {
    let folder = project().join("build/hello");
    fs::create_dir_all(&folder).expect("making a folder");
    for name in ["Kbuild", "hello.rs"] {
        fs::copy(
            project().join("tests/fixtures/hello").join(name),
            folder.join(name),
        )
        .expect("copying");
    }

    shell(&format!(
        "make -C {} M={} modules 2>&1",
        tree().display(),
        folder.display()
    ));
    let output = Command::new(project().join("scripts/vm"))
        .args([
            "--",
            "sh",
            "-c",
            "insmod $1 && rmmod hello && dmesg | grep -o 'hello: from.*'",
            "sh",
        ])
        .arg(folder.join("hello.ko"))
        .output()
        .expect("running scripts/vm");

    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "hello: from outside of the tree\n",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
