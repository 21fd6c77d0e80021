// SPDX-License-Identifier: GPL-2.0

//! `rust-tree`: its errors, what `--doctor` says, and the guide for maintainers of modules. Runs in the lab. The test
//! program `install` has its package, and its errors without network, source or disk space.

use kstat_tests::{
    lab::{
        project,
        rust_tree::{cache, release, rust_tree, rust_tree_after, tree},
        unshare_mounts,
    },
    tool::{run, Outcome},
};
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
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

/// What the commands of a setup begin with: a copy of the kernel's headers that they can change, and of the scripts to which
/// these have a link.
const COPY_HEADERS: &str = r#"
    headers=$(readlink -f /lib/modules/*/build)
    scripts=$(readlink -f $headers/scripts)
    cp -a $headers /tmp/headers
    cp -a $scripts /tmp/scripts
    mount --bind /tmp/headers $headers
    mount --bind /tmp/scripts $scripts
"#;

/// Hides Debian's packages of the kernel from dpkg-query.
const FORGET_PACKAGES: &str = r#"
    mkdir /tmp/bin
    printf '#!/bin/sh\nexit 1\n' >/tmp/bin/dpkg-query
    chmod +x /tmp/bin/dpkg-query
    export PATH=/tmp/bin:$PATH
"#;

/// Runs `setup`, a shell script, and then `rust-tree --doctor` for the lab's kernel. Asserts that it calls `problems`, words
/// of a sentence each, problems, and nothing else.
#[track_caller]
fn assert_doctor_finds(setup: &str, problems: &[&str]) {
    let script = project().join("rust-tree/rust-tree");
    let outcome = Outcome::of(
        unshare_mounts()
            .args(["bash", "-ec"])
            .arg(format!("mount -t tmpfs tmpfs /tmp\n{setup}\nexec \"$@\""))
            .arg("bash")
            .arg(script)
            .args(["--doctor", &release()]),
    );
    println!("{outcome:?}");

    let text = outcome.stdout_text();
    let found: Vec<_> = text
        .lines()
        .filter(|line| line.starts_with("problem  "))
        .collect();
    assert_eq!(found.len(), problems.len(), "{outcome:?}");
    for (line, words) in found.iter().zip(problems) {
        assert!(line.contains(words), "{words:?} is not in {line:?}");
    }
    assert_eq!(outcome.status.success(), problems.is_empty(), "{outcome:?}");
    let last = text.lines().last().unwrap_or_default();
    if problems.is_empty() {
        assert!(last.contains(": make -C /lib/modules/"), "{outcome:?}");
    } else {
        assert!(
            last.contains("do what the lines with 'problem' say"),
            "{outcome:?}"
        );
    }
}

#[test]
fn doctor_finds_what_a_debian_machine_lacks() {
    let linked = format!(
        "{COPY_HEADERS}
        mkdir /tmp/headers/rust
        ln -s -t /tmp/headers/rust {0}/rust/*
        find {0}/scripts -type f -exec ln -s -t /tmp/scripts {{}} +",
        tree().display()
    );
    assert_doctor_finds(&linked, &[]);
    assert_doctor_finds(
        "",
        &["the headers have no link to it: run 'rust-tree --install' as root"],
    );

    let empty = "export RUST_TREE_CACHE=/tmp/empty";
    assert_doctor_finds(empty, &["not made yet: run 'rust-tree --install' as root"]);
    let no_source = format!("{empty}; {FORGET_PACKAGES} printf '#!/bin/sh\\ncase \"$*\" in *linux-source*) exit 1 ;; esac\\nexec /usr/bin/dpkg-query \"$@\"\\n' >/tmp/bin/dpkg-query");
    assert_doctor_finds(
        &no_source,
        &["apt does not know it: run 'apt update'", "not made yet"],
    );
    let no_memory = format!("{empty}; printf 'MemAvailable: 500000 kB\\nSwapFree: 400000 kB\\n' >/tmp/meminfo; mount --bind /tmp/meminfo /proc/meminfo");
    assert_doctor_finds(
        &no_memory,
        &[
            "878 MB of memory and swap are free, and making a tree takes 1100 MB",
            "not made yet",
        ],
    );

    let no_bindgen = "mkdir /tmp/bin; ln -s -t /tmp/bin /usr/bin/*; rm /tmp/bin/bindgen; export PATH=/tmp/bin:/usr/sbin";
    assert_doctor_finds(no_bindgen, &["bindgen is missing: install it (apt install"]);
    let other_rustc = "printf '#!/bin/sh\\necho rustc 1.2.3\\n' >/tmp/rustc; chmod +x /tmp/rustc; mount --bind /tmp/rustc $(readlink -f /usr/bin/rustc)";
    assert_doctor_finds(
        other_rustc,
        &["rustc here is 'rustc 1.2.3': install the rustc that built the kernel"],
    );
    let no_rust = format!("{COPY_HEADERS} sed -i s/^CONFIG_RUST=y// /tmp/headers/.config");
    assert_doctor_finds(
        &no_rust,
        &["without CONFIG_RUST and cannot load Rust modules: use a kernel that has it"],
    );
    let no_headers = "mount -t tmpfs tmpfs $(readlink -f /lib/modules/*/build)";
    assert_doctor_finds(
        no_headers,
        &["are not installed: install the package linux-headers-"],
    );
}

#[test]
fn doctor_knows_the_headers_of_other_distributions() {
    // Ubuntu: a link to a package that is not installed.
    assert_doctor_finds(
        &format!("{COPY_HEADERS} ln -s ../linux-lib-rust-1.2.3/rust /tmp/headers/rust"),
        &["in a package that is not installed: install linux-lib-rust-"],
    );
    // Fedora: a folder with a makefile.
    assert_doctor_finds(
        &format!("{COPY_HEADERS} {FORGET_PACKAGES} mkdir /tmp/headers/rust; touch /tmp/headers/rust/Makefile"),
        &["have a folder rust/ without metadata"],
    );
    // The folder in which the owner of a machine built its kernel, after the build and before it.
    let built = "touch /tmp/headers/rust/libkernel.rmeta";
    let source = "mkdir -p /tmp/headers/rust/kernel; touch /tmp/headers/rust/kernel/lib.rs";
    assert_doctor_finds(
        &format!("{COPY_HEADERS} {FORGET_PACKAGES} {source}; {built}"),
        &[],
    );
    assert_doctor_finds(
        &format!("{COPY_HEADERS} {FORGET_PACKAGES} {source}"),
        &["is not built with its Rust crates: run 'make -C "],
    );
}

/// A fake make shows its arguments, and fails as it does if the kernel kills rustc.
#[test]
fn jobs_of_make_fit_into_the_free_memory() {
    for (memory, jobs) in [(1_800_000, "-j 1 "), (64_000_000, "-j 3 ")] {
        let outcome = rust_tree_after(
            &format!(
                "mount -t tmpfs tmpfs /tmp
                export RUST_TREE_CACHE=/tmp/empty
                printf 'MemAvailable: {memory} kB\\n' >/tmp/meminfo
                mount --bind /tmp/meminfo /proc/meminfo
                mkdir /tmp/bin
                printf '#!/bin/sh\\necho 3\\n' >/tmp/bin/nproc
                printf '#!/bin/sh\\necho \"$*\"; echo signal: 9, SIGKILL: kill; exit 2\\n' >/tmp/bin/make
                chmod +x /tmp/bin/*
                export PATH=/tmp/bin:$PATH"
            ),
            &[&release()],
        );
        outcome.assert_refused(SPEAKER, &["the machine has too little memory", "add swap"]);
        assert!(outcome.stderr_text().contains(jobs), "{outcome:?}");
    }
}

/// Runs the last step of the workflow in rust-tree/README.md as it stands there, with the sample module in place of the
/// one that the workflow checks out.
#[test]
fn workflow_of_the_guide_builds_and_loads_a_module() {
    let guide =
        fs::read_to_string(project().join("rust-tree/README.md")).expect("reading the guide");
    let (_, workflow) = guide
        .split_once("        run: |\n")
        .expect("a workflow in the guide");
    let (commands, _) = workflow.split_once("```").expect("the end of the workflow");
    let copy = "rm -rf build/module; cp -r tests/fixtures/hello build/module";
    let outcome = Outcome::of(
        Command::new("bash")
            .args(["-ec", &format!("{copy}\n{commands}")])
            .env(
                "kernel",
                env::var("KSTAT_LAB").expect("KSTAT_LAB, which scripts/lab sets"),
            )
            .current_dir(project()),
    );

    let text = outcome.expect_success();
    assert!(
        text.ends_with("hello: from outside of the tree\n"),
        "{outcome:?}"
    );
}
