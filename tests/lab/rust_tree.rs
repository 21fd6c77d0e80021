// SPDX-License-Identifier: GPL-2.0

//! `rust-tree`: its errors, and a module that is built with its tree. Runs in the lab. The test program `install` has its errors without network, source
//! or disk space.

use kstat_tests::{
    lab::{
        project,
        rust_tree::{cache, release, rust_tree, rust_tree_after, tree},
        vm,
    },
    tool::{run, shell, Outcome},
};
use std::{
    fs,
    path::{Path, PathBuf},
};
use tempfile::TempDir;

/// The name that rust-tree puts before its messages.
const SPEAKER: &str = "rust-tree";

/// A cache folder with a copy of the lab's tree, which a test may change. rust-tree finds it in
/// place of the lab's cache.
struct Copy(TempDir);

impl Copy {
    /// Copies the lab's tree.
    #[track_caller]
    fn new() -> Self {
        // The lab's /tmp is in memory, and a tree takes 180 MB.
        let copy = tempfile::Builder::new()
            .prefix("tree-")
            .tempdir_in(project().join("build"))
            .expect("making a folder");

        run(
            "cp",
            &[
                "-a",
                &tree().to_string_lossy(),
                &copy.path().to_string_lossy(),
            ],
        );
        Self(copy)
    }

    /// Returns the cache folder.
    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Runs `change`, a shell script, in the tree, and then `rust-tree --check`.
    #[track_caller]
    fn check_after(&self, change: &str) -> Outcome {
        self.rust_tree_after(change, &["--check", &release()])
    }

    /// Runs `change`, a shell script, in the tree, and then rust-tree.
    #[track_caller]
    fn rust_tree_after(&self, change: &str, arguments: &[&str]) -> Outcome {
        let setup = format!(
            "mount --bind {} {}; cd {}; {change}",
            self.path().display(),
            cache().display(),
            cache().join(release()).display()
        );
        rust_tree_after(&setup, arguments)
    }
}

/// Asserts that rust-tree failed because the tree cannot be used, and that its message about the
/// tree contains `words`.
#[track_caller]
fn assert_unusable(outcome: &Outcome, words: &str) {
    assert!(!outcome.status.success(), "{outcome:?}");
    let lines = outcome.lines_by(SPEAKER);
    let Some(line) = lines.iter().find(|line| line.contains("cannot be used: ")) else {
        panic!("rust-tree does not call the tree unusable: {outcome:?}");
    };
    assert!(line.contains(words), "{words:?} is not in {line:?}");
}

#[test]
fn complete_tree_passes_check_and_is_listed() {
    let copy = Copy::new();
    let tree = tree();

    let printed = copy.check_after("true").expect_success();
    assert_eq!(PathBuf::from(printed.trim_end()), tree);

    let listed = rust_tree(&["--list"]).expect_success();
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
fn complete_tree_passes_check_in_any_locale() {
    rust_tree_after(
        "export LC_ALL=C.UTF-8 LANGUAGE=de",
        &["--check", &release()],
    )
    .expect_success();
}

/// The old tree may be impossible to make again: by then, the source may not be available any more.
#[test]
fn unusable_tree_is_kept_until_its_replacement_is_complete() {
    let copy = Copy::new();
    let outcome = copy.rust_tree_after(
        "rm rust/libpin_init.rmeta
        mkdir ../bin
        printf '#!/bin/sh\\necho 1M\\n' >../bin/df
        chmod +x ../bin/df
        export PATH=$(readlink -f ../bin):$PATH",
        &[&release()],
    );

    outcome.assert_refused(SPEAKER, &["has 1 MB free"]);
    let tree = copy.path().join(release());
    assert!(tree.join("rust/libkernel.rmeta").exists());
}

#[test]
fn changed_tree_is_refused() {
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
        assert_unusable(
            &Copy::new().check_after(change),
            "its files were changed after it was made",
        );
    }
}

#[test]
fn tree_made_from_other_headers_or_compilers_is_refused() {
    let headers = "$(readlink -f /lib/modules/*/build)";
    // Another kernel symbol, another rustc, another bindgen, no record of what the tree was made
    // from, and a tree made from another version of the headers.
    for change in [
        format!("sed '0,/_R/s/_R/_Q/' {headers}/Module.symvers >/tmp/new; mount --bind /tmp/new {headers}/Module.symvers"),
        "sed -i 's/^rustc .*/rustc 1.2.3/' .key".into(),
        "sed -i 's/^bindgen .*/bindgen 1.2.3/' .key".into(),
        "rm .key".into(),
        "sed -i 's,/usr/src/linux-headers-.*,/usr/src/linux-headers-1.2.3 1.2.3-1,' .key".into(),
    ] {
        assert_unusable(
            &Copy::new().check_after(&change),
            "made from other headers, or by another rustc or bindgen",
        );
    }
}

#[test]
fn headers_with_another_configuration_than_the_kernels_are_refused() {
    let outcome = rust_tree_after(
        "headers=$(readlink -f /lib/modules/*/build)
        sed 's/^CONFIG_IPV6=y/CONFIG_IPV6=m/' $headers/.config >/tmp/new
        mount --bind /tmp/new $headers/.config",
        &[&release()],
    );
    outcome.assert_refused(
        SPEAKER,
        &[
            "is not the kernel's configuration, which has 'CONFIG_IPV6=y'",
            "reinstall linux-headers-",
        ],
    );
}

#[test]
fn missing_cross_compiler_for_another_architecture_is_named() {
    let outcome = rust_tree_after(
        "headers=$(readlink -f /lib/modules/*/build)
        case $(uname -m) in x86_64) other=arm64 ;; *) other=x86 ;; esac
        sed \"s,^# Linux/[^ ]*,# Linux/$other,\" $headers/.config >/tmp/new
        mount --bind /tmp/new $headers/.config",
        &[&release()],
    );
    outcome.assert_refused(SPEAKER, &["-linux-gnu-gcc is missing", "apt install gcc-"]);
}

#[test]
fn rustc_other_than_the_kernels_is_refused() {
    let outcome = rust_tree_after(
        "printf '#!/bin/sh\\necho rustc 1.2.3\\n' >/tmp/rustc
        chmod +x /tmp/rustc
        mount --bind /tmp/rustc $(readlink -f /usr/bin/rustc)",
        &[&release()],
    );
    outcome.assert_refused(
        SPEAKER,
        &[
            "was built by 'rustc 1.",
            "rustc here is 'rustc 1.2.3'",
            "install the rustc",
        ],
    );
}

#[test]
fn invalid_arguments_are_refused() {
    let assert_refused =
        |arguments: &[&str], words: &[&str]| rust_tree(arguments).assert_refused(SPEAKER, words);

    assert_refused(&["--never"], &["there is no option --never"]);
    assert_refused(&["../etc"], &["../etc is not a kernel release"]);
    assert_refused(&["a", "b"], &["name one kernel release"]);
    assert_refused(&["--remove"], &["name a kernel release"]);
    assert_refused(&["--check", ""], &["name a kernel release"]);
    assert_refused(
        &["--remove", "1.2.3-none"],
        &["there is no tree for 1.2.3-none"],
    );
    assert_refused(
        &["1.2.3-none"],
        &[
            "the headers of 1.2.3-none are not installed",
            "linux-headers-1.2.3-none",
        ],
    );
    assert!(rust_tree(&["--help"])
        .expect_success()
        .starts_with("usage: rust-tree "));
}

#[test]
fn remove_deletes_only_the_named_tree() {
    let copy = Copy::new();
    fs::create_dir(copy.path().join("other")).expect("making another tree");
    let setup = format!(
        "mount --bind {} {}",
        copy.path().display(),
        cache().display()
    );

    rust_tree_after(&setup, &["--remove", &release()]).expect_success();

    assert!(!copy.path().join(release()).exists());
    assert!(copy.path().join("other").exists());
    assert!(
        cache().join(release()).exists(),
        "the lab's own tree is gone"
    );
}

#[test]
fn unrelated_module_builds_and_loads() {
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
    let outcome = Outcome::of(
        vm().args([
            "--",
            "sh",
            "-c",
            "insmod $1 && rmmod hello && dmesg | grep -o 'hello: from.*'",
            "sh",
        ])
        .arg(folder.join("hello.ko")),
    );

    assert_eq!(
        outcome.stdout_text(),
        "hello: from outside of the tree\n",
        "{outcome:?}"
    );
}
