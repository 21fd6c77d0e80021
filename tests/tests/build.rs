// SPDX-License-Identifier: GPL-2.0

//! What `make` needs, and what it says if that is missing. Runs in the lab, without a guest.

use kstat_tests::{
    root::project,
    tool,
    tree::{
        release,
        tree, //
    }, //
};
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
fn the_shim_is_at_most_150_lines() {
    let lines = ["netfilter_shim.c", "netfilter_shim.h"]
        .map(|name| fs::read_to_string(project().join(name)).expect("reading the shim"))
        .iter()
        .map(|text| text.lines().count())
        .sum::<usize>();

    assert!(lines <= 150, "the shim is {lines} lines");
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
    let (success, errors) = copy.make(&tree());
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

    // The first of the others is what `make` alone does, the second is a part of it, and the third is DKMS's.
    for target in makefile
        .lines()
        .filter_map(|line| line.strip_prefix(".PHONY: "))
        .filter(|target| !["modules", "kdir", "dkms", "help"].contains(target))
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

    let (success, errors) = copy.make(&tree());

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
fn make_says_if_rustc_is_another_than_the_kernels() {
    let copy = Copy::new("rustc");
    let config = fs::read_to_string(tree().join(".config")).expect("reading .config");
    fs::write(
        copy.0.join(".config"),
        config.replace("VERSION_TEXT=\"rustc 1.", "VERSION_TEXT=\"rustc 9."),
    )
    .expect("writing .config");
    fs::create_dir(copy.0.join("rust")).expect("making rust");
    fs::write(copy.0.join("rust/libkernel.rmeta"), "").expect("writing metadata");

    assert_says(copy.make(&copy.0), &["was built by 'rustc 9.", "RUSTC="]);
}

/// Other distributions' headers come with metadata. Each is laid out here as theirs are, from Debian's
/// headers and the metadata made for them, where the running kernel's are looked for; and `make` says so.
#[test]
fn make_finds_metadata_where_distributions_put_it() {
    for (distribution, lay_out) in [
        // linux-headers-*-generic, whose rust/ is a link to that of the package linux-lib-rust-*-generic.
        (
            "Ubuntu",
            "headers=/usr/src/linux-headers-$release-generic
            mkdir /usr/src/linux-lib-rust-$release-generic
            cp -a $tree $headers
            mv $headers/rust /usr/src/linux-lib-rust-$release-generic/
            ln -s ../linux-lib-rust-$release-generic/rust $headers/rust
            ln -s $headers /lib/modules/$release/build",
        ),
        // kernel-devel
        (
            "Fedora",
            "headers=/usr/src/kernels/$release
            mkdir /usr/src/kernels
            cp -a $tree $headers
            ln -s $headers /lib/modules/$release/build",
        ),
        // linux-headers
        (
            "Arch",
            "headers=/lib/modules/$release/build
            cp -a $tree $headers
            ln -s $headers /usr/src/linux",
        ),
    ] {
        let copy = Copy::new(distribution);
        let script = format!(
            "release={} tree={} rust_tree={}/scripts/rust-tree
            mount -t tmpfs tmpfs /run
            mkdir /run/upper /run/work /run/bin
            mount -t overlay -o lowerdir=/usr/src,upperdir=/run/upper,workdir=/run/work overlay /usr/src
            mount -t tmpfs tmpfs /lib/modules
            mkdir /lib/modules/$release
            {lay_out}
            sed -i s,KBUILD_OUTPUT=.*,KBUILD_OUTPUT=$headers, $headers/Makefile
            printf '#!/bin/sh\n[ \"$*\" != -r ] || exec echo %s\nexec /usr/bin/uname \"$@\"\n' $release >/run/bin/uname
            chmod +x /run/bin/uname
            PATH=/run/bin:$PATH
            [ $(readlink -f $($rust_tree)) = $(readlink -f $headers) ]
            make 2>&1
            modinfo -F vermagic kstat.ko",
            release(),
            tree().display(),
            project().display(),
        );
        let output = Command::new("unshare")
            .args(["--mount", "--propagation=unchanged", "bash", "-ec"])
            .arg(script)
            .current_dir(&copy.0)
            .output()
            .expect("running unshare");
        let said = tool::said(distribution, &output);

        assert!(
            said.contains(&format!("\n{} ", release())),
            "{distribution}: {said}"
        );
    }
}
