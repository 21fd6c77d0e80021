// SPDX-License-Identifier: GPL-2.0

//! What `make` needs, and what it says if that is missing. Runs in the lab, without a guest.

use std::{
    env,
    fs,
    path::{
        Path,
        PathBuf, //
    },
    process::Command, //
};

/// A copy of what the module is made of, and nothing else of the project, in a folder of its own.
struct Copy(PathBuf);

impl Copy {
    fn new(name: &str) -> Self {
        let copy = env::temp_dir().join(format!("kstat-{name}-{}", std::process::id()));
        fs::create_dir(&copy).unwrap_or_else(|error| panic!("making {copy:?}: {error}"));

        for entry in fs::read_dir(project()).expect("listing the project") {
            let path = entry.expect("listing the project").path();
            let name = path.file_name().expect("a name");
            let is_source = matches!(
                path.extension().and_then(|extension| extension.to_str()),
                Some("rs" | "c" | "h")
            ) || name == "Kbuild"
                || name == "Makefile";
            let is_built =
                name == "bindings_generated.rs" || name.to_string_lossy().ends_with(".mod.c");
            if is_source && !is_built {
                fs::copy(&path, copy.join(name))
                    .unwrap_or_else(|error| panic!("copying {path:?}: {error}"));
            }
        }
        Self(copy)
    }

    /// Says `make KDIR=kdir`, and returns whether that succeeded, and what it said of errors.
    fn make(&self, kdir: &Path) -> (bool, String) {
        let output = Command::new("make")
            .arg(format!("KDIR={}", kdir.display()))
            .current_dir(&self.0)
            .env_clear()
            .env("PATH", env::var_os("PATH").expect("a PATH"))
            .output()
            .expect("running make");

        (
            output.status.success(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0)
            .unwrap_or_else(|error| panic!("removing {:?}: {error}", self.0));
    }
}

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The newest kernel of the lab.
fn release() -> String {
    fs::read_dir("/lib/modules")
        .expect("listing kernels")
        .map(|entry| entry.expect("listing kernels").file_name())
        .max()
        .and_then(|release| release.into_string().ok())
        .expect("a kernel in the lab")
}

/// Runs `scripts/rust-tree`, and returns whether it succeeded, its output, and its errors.
fn rust_tree(release: &str) -> (bool, String, String) {
    let output = Command::new(project().join("scripts/rust-tree"))
        .arg(release)
        .output()
        .expect("running rust-tree");

    (
        output.status.success(),
        String::from_utf8_lossy(&output.stdout).trim_end().into(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

/// Asserts that `make` failed, with one sentence of ours, which has `words` in it.
fn assert_says((success, said): (bool, String), words: &[&str]) {
    let sentences: Vec<_> = said
        .lines()
        .filter(|line| line.starts_with("kstat: "))
        .collect();

    assert!(!success, "make succeeded");
    assert_eq!(sentences.len(), 1, "make said:\n{said}");
    for word in words {
        assert!(sentences[0].contains(word), "{word:?} is not in: {said}");
    }
}

#[test]
fn policy_has_no_unsafe_code() {
    for name in ["service", "stats", "publish", "step", "files", "options"] {
        let path = project().join(format!("{name}.rs"));
        let text = fs::read_to_string(&path).expect("reading a source");

        assert!(
            text.contains("#![forbid(unsafe_code)]"),
            "{path:?} does not forbid unsafe code"
        );
    }
    // What `module!` makes of it is unsafe, so it cannot forbid it.
    let root = fs::read_to_string(project().join("kstat.rs")).expect("reading kstat.rs");
    assert!(!root.contains("unsafe"), "kstat.rs has unsafe code");
}

#[test]
fn the_shim_is_at_most_120_lines() {
    let lines = ["netfilter_shim.c", "netfilter_shim.h"]
        .map(|name| fs::read_to_string(project().join(name)).expect("reading the shim"))
        .iter()
        .map(|text| text.lines().count())
        .sum::<usize>();

    assert!(lines <= 120, "the shim is {lines} lines");
}

#[test]
fn make_clean_leaves_the_sources_and_nothing_else() {
    let copy = Copy::new("clean");
    let files = || {
        let mut names: Vec<_> = fs::read_dir(&copy.0)
            .expect("listing the copy")
            .map(|entry| entry.expect("listing the copy").file_name())
            .collect();
        names.sort();
        names
    };
    let before = files();
    let (success, tree, errors) = rust_tree(&release());
    assert!(success, "rust-tree: {errors}");
    let (success, errors) = copy.make(Path::new(&tree));
    assert!(success, "make: {errors}");
    assert_ne!(files(), before, "make made nothing");

    let status = Command::new("make")
        .arg("clean")
        .current_dir(&copy.0)
        .output()
        .expect("running make clean")
        .status;

    assert!(status.success(), "make clean: {status}");
    assert_eq!(files(), before);
}

#[test]
fn make_help_names_every_target() {
    let makefile = fs::read_to_string(project().join("Makefile")).expect("reading Makefile");
    let output = Command::new("make")
        .arg("help")
        .current_dir(project())
        .output()
        .expect("running make help");
    let help = String::from_utf8_lossy(&output.stdout);

    // The first of the others is what `make` alone does, and the second is a part of it.
    for target in makefile
        .lines()
        .filter_map(|line| line.strip_prefix(".PHONY: "))
        .filter(|target| !["modules", "kdir", "help"].contains(target))
    {
        assert!(
            help.contains(&format!("make {target} ")),
            "make help does not name {target}:\n{help}"
        );
    }
}

#[test]
fn make_says_if_kdir_is_empty() {
    let copy = Copy::new("no-kdir");

    assert_says(copy.make(Path::new("")), &["KDIR= names no folder"]);
}

#[test]
fn make_says_if_the_kernel_is_built_without_netfilter() {
    let copy = Copy::new("no-netfilter");
    fs::write(
        copy.0.join(".config"),
        "CONFIG_RUST=y\n# CONFIG_NETFILTER is not set\n",
    )
    .expect("writing .config");
    fs::create_dir(copy.0.join("rust")).expect("making rust");
    fs::write(copy.0.join("rust/libkernel.rmeta"), "").expect("writing metadata");

    assert_says(copy.make(&copy.0), &["without CONFIG_NETFILTER"]);
}

#[test]
fn make_needs_headers_with_rust_metadata_and_nothing_of_the_lab() {
    let copy = Copy::new("make");
    let (success, tree, errors) = rust_tree(&release());
    assert!(success, "rust-tree: {errors}");

    let (success, errors) = copy.make(Path::new(&tree));

    assert!(success, "make: {errors}");
    let vermagic = Command::new("modinfo")
        .args(["-F", "vermagic"])
        .arg(copy.0.join("kstat.ko"))
        .output()
        .expect("running modinfo");
    let vermagic = String::from_utf8_lossy(&vermagic.stdout);
    assert_eq!(vermagic.split(' ').next(), Some(release().as_str()));
}

#[test]
fn make_says_if_the_kernel_is_built_without_rust() {
    let copy = Copy::new("no-rust");
    fs::write(copy.0.join(".config"), "# CONFIG_RUST is not set\n").expect("writing .config");

    assert_says(copy.make(&copy.0), &["without CONFIG_RUST", "make demo"]);
}

#[test]
fn make_says_if_the_headers_come_without_rust_metadata() {
    let copy = Copy::new("no-metadata");
    let headers = format!("/lib/modules/{}/build", release());

    assert_says(
        copy.make(Path::new(&headers)),
        &["without Rust metadata", "make KDIR=$(scripts/rust-tree)"],
    );
}

#[test]
fn make_says_if_there_are_no_headers() {
    let copy = Copy::new("no-headers");

    assert_says(
        copy.make(Path::new("/nowhere")),
        &["no kernel headers in /nowhere", "linux-headers-"],
    );
}

#[test]
fn rust_tree_says_if_there_are_no_headers_and_prints_no_folder() {
    let (success, tree, errors) = rust_tree("1.2.3-none");

    assert!(!success, "rust-tree succeeded");
    assert_eq!(tree, "");
    assert_eq!(
        errors,
        "rust-tree: the headers of 1.2.3-none are not here: install the package linux-headers-1.2.3-none\n"
    );
}
