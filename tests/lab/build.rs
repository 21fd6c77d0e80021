// SPDX-License-Identifier: GPL-2.0

//! `make`: what it needs, and its message if that is missing. Runs in the lab, without a guest.

use kstat_tests::{
    lab::{
        copy_sources, project,
        rust_tree::{release, tree},
        unshare_mounts,
    },
    tool::Outcome,
};
use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process::Command,
};
use tempfile::TempDir;

/// A copy of the module's sources in a temporary folder, without the rest of the project.
struct Copy(TempDir);

impl Copy {
    /// Makes a copy in a folder whose name ends with `name`.
    #[track_caller]
    fn new(name: impl AsRef<OsStr>) -> Self {
        let mut suffix = OsString::from("-");
        suffix.push(name);
        let folder = tempfile::Builder::new()
            .prefix("kstat-")
            .suffix(&suffix)
            .tempdir()
            .unwrap_or_else(|error| panic!("making a folder with {suffix:?}: {error}"));

        copy_sources(folder.path());
        Self(folder)
    }

    /// Returns the folder.
    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Runs `make KDIR=kdir`.
    #[track_caller]
    fn make(&self, kdir: &Path) -> Outcome {
        self.shell(r#"make KDIR="$1""#, kdir)
    }

    /// Runs a shell script, whose `$1` is `kdir`, in an empty environment and in a mount namespace
    /// of its own. The lab's mounts are private, so no other namespace sees the script's mounts.
    #[track_caller]
    fn shell(&self, script: &str, kdir: &Path) -> Outcome {
        Outcome::of(
            unshare_mounts()
                .args(["bash", "-ec"])
                .args([script, "bash"])
                .arg(kdir)
                .current_dir(self.path())
                .env_clear()
                .env("PATH", env::var_os("PATH").expect("a PATH")),
        )
    }

    /// Asserts that `make` succeeded and made kstat.ko in this folder.
    #[track_caller]
    fn assert_built(&self, make: Outcome) {
        make.expect_success();
        assert!(self.path().join("kstat.ko").exists(), "{make:?}");
    }

    /// Lays out headers in this folder as distributions do that build their kernels in the source
    /// folder.
    ///
    /// One folder then has the files of both of Debian's packages, and no file names the compiler
    /// and the architecture, as Debian's .kernelvariables does.
    #[track_caller]
    fn headers(&self) -> PathBuf {
        let headers = self.path().join("headers");
        let script = "
            common=$(sed -n 's,^include \\(.*\\)/Makefile$,\\1,p' $1/Makefile)
            mkdir headers
            cp -rsL $common/. headers
            cp -rsLf $1/. headers
            rm headers/.kernelvariables headers/Makefile
            cp $common/Makefile headers";
        self.shell(script, &tree()).expect_success();
        headers
    }
}

/// Asserts that `make` failed with exactly one line by kstat's makefile, which contains all of
/// `words`.
#[track_caller]
fn assert_refused(make: Outcome, words: &[&str]) {
    let lines = make.lines_by("kstat");

    assert!(!make.status.success(), "{make:?}");
    assert_eq!(lines.len(), 1, "{make:?}");
    for word in words {
        assert!(lines[0].contains(word), "{word:?} is not in {lines:?}");
    }
}

#[test]
fn make_clean_leaves_only_the_sources() {
    let copy = Copy::new("clean");
    let files = || {
        let mut names: Vec<_> = fs::read_dir(copy.path())
            .expect("listing the copy")
            .map(|entry| entry.expect("listing the copy").file_name())
            .collect();
        names.sort();
        names
    };
    let before = files();
    copy.make(&tree()).expect_success();
    assert_ne!(files(), before, "make made nothing");

    Outcome::of(Command::new("make").arg("clean").current_dir(copy.path())).expect_success();

    assert_eq!(files(), before);
}

#[test]
fn make_refuses_an_empty_kdir() {
    let copy = Copy::new("no-kdir");

    assert_refused(copy.make(Path::new("")), &["KDIR= names no folder"]);
}

#[test]
fn make_and_dkms_refuse_a_kernel_without_a_required_option() {
    let dkms = fs::read_to_string(project().join("dkms.conf")).expect("reading dkms.conf");
    let mut options: Vec<_> = dkms
        .lines()
        .find_map(|line| line.strip_prefix("BUILD_EXCLUSIVE_CONFIG=\""))
        .expect("the options that DKMS asks for")
        .trim_end_matches('"')
        .split(' ')
        .collect();
    options.sort_unstable();
    assert_eq!(
        options,
        [
            "CONFIG_64BIT",
            "CONFIG_IPV6",
            "CONFIG_MODULES",
            "CONFIG_NETFILTER",
            "CONFIG_PROC_FS",
            "CONFIG_RUST",
            "CONFIG_SYSFS",
        ]
    );
    let copy = Copy::new("options");
    fs::create_dir(copy.path().join("rust")).expect("making rust");
    fs::write(copy.path().join("rust/libkernel.rmeta"), "").expect("writing metadata");
    let make_without = |missing: &str| {
        let config: String = options
            .iter()
            .map(|&option| {
                if option == missing {
                    format!("# {option} is not set\n")
                } else {
                    format!("{option}=y\n")
                }
            })
            .collect();
        fs::write(copy.path().join(".config"), config).expect("writing .config");
        copy.make(copy.path())
    };

    for missing in options.iter().copied() {
        assert_refused(make_without(missing), &[&format!("without {missing}")]);
    }
    // With all options the next check fails, as this .config does not name the rustc that built the
    // kernel.
    assert_refused(make_without(""), &["was built by ''"]);
}

#[test]
fn make_refuses_a_folder_name_that_kbuild_cannot_use() {
    let words = ["cannot use the folder"];

    for name in [
        "two words",
        "tab\tbed",
        "two\nlines",
        "\"quoted\"",
        "it's",
        "a\\b",
        "a`b`",
        "$HOME",
        "$(CURDIR)",
        "c#",
        "100%",
        "you&me",
        "(1)",
        "1)",
        "a:b",
        "a;b",
        "a<b",
        "a>b",
        "a|b",
    ] {
        assert_refused(Copy::new(name).make(&tree()), &words);
    }
    // Not UTF-8: \xfc is a letter in ISO 8859-1.
    let latin = OsStr::from_bytes(b"m\xfcnchen");
    assert_refused(Copy::new(latin).make(&tree()), &words);

    let copy = Copy::new("kdir");
    for name in ["my headers", "john's", "a:b", "a;b"] {
        assert_refused(copy.make(&Path::new("/nowhere").join(name)), &words);
    }
    let script = r#"make KDIR="$1" MO="$PWD/two words""#;
    assert_refused(copy.shell(script, &tree()), &words);
}

#[test]
fn make_builds_in_a_folder_with_other_special_characters() {
    let copy = Copy::new("!*+,-.=?@[]^_{}~ \u{fc}\u{4e2d}".replace(' ', ""));

    copy.assert_built(copy.make(&tree()));
}

#[test]
fn make_refuses_rust_metadata_on_a_noexec_file_system() {
    let copy = Copy::new("noexec");
    let script = "
        mkdir noexec
        mount -t tmpfs -o noexec tmpfs noexec
        cp -a $1 noexec/tree
        sed -i \"s,^KBUILD_OUTPUT=.*,KBUILD_OUTPUT=$PWD/noexec/tree,\" noexec/tree/Makefile
        make KDIR=$PWD/noexec/tree";

    assert_refused(copy.shell(script, &tree()), &["mounted noexec"]);
}

#[test]
fn make_builds_sources_on_a_noexec_file_system() {
    let copy = Copy::new("noexec-sources");
    let script = "
        mkdir noexec
        mount -t tmpfs -o noexec tmpfs noexec
        cp -r *.rs *.[ch] abstractions Kbuild Makefile VERSION noexec/
        make -C noexec KDIR=$1
        cp noexec/kstat.ko .";

    copy.assert_built(copy.shell(script, &tree()));
}

#[test]
fn make_refuses_a_rustc_or_bindgen_that_does_not_run() {
    for (tool, script) in [
        ("rustc", "exit 1"),
        ("bindgen", "exit 127"),
        // bindgen without libclang: it prints its version, and fails to read a header.
        ("bindgen", "[ \"$1\" = --version ]"),
    ] {
        let copy = Copy::new("broken-tool");
        let make_tool = format!(
            "mkdir bin
            printf '%s\\n' '#!/bin/sh' '{script}' >bin/{tool}
            chmod +x bin/{tool}"
        );
        copy.shell(&make_tool, &tree()).expect_success();
        let variable = tool.to_uppercase();

        for script in [
            "PATH=$PWD/bin:$PATH make KDIR=$1".to_owned(),
            format!("{variable}=$PWD/bin/{tool} make KDIR=$1"),
        ] {
            assert_refused(
                copy.shell(&script, &tree()),
                &[&format!("{tool} does not run"), &format!("{variable}=")],
            );
        }
    }
}

#[test]
fn make_builds_with_misleading_environment_variables() {
    let script = "
        umask 077
        export ARCH=amd64 SRCARCH=arm64 SUBARCH=arm64 CC=clang LD=ld.lld HOSTCC=clang
        export O=/nowhere M=/nowhere MO=/nowhere KBUILD_OUTPUT=/nowhere KBUILD_EXTMOD=/nowhere
        export CFLAGS=-m32 CPPFLAGS=-m32 LDFLAGS=-m32 CPATH=/usr/include C_INCLUDE_PATH=/usr/include
        export BINDGEN_EXTRA_CLANG_ARGS=--target=arm-linux-gnueabi
        export RUSTFLAGS=--nonsense RUSTC_WRAPPER=/nowhere RUSTUP_TOOLCHAIN=nightly BINDINGS_GENERATED=/nowhere
        export CDPATH=/usr:/tmp LC_ALL=tr_TR.UTF-8 POSIXLY_CORRECT=1 TMPDIR=/nowhere V=1 W=1
        export GREP_OPTIONS=--color=always SHELL=/bin/false BASH_ENV=/nowhere ENV=/nowhere
        make -j8 KDIR=$1/";
    let debian = Copy::new("environment-debian");
    let other = Copy::new("environment-other");

    debian.assert_built(debian.shell(script, &tree()));
    other.assert_built(other.shell(script, &other.headers()));
}

#[test]
fn make_refuses_a_c_compiler_other_than_the_kernels() {
    let debian = Copy::new("compiler-debian");
    let other = Copy::new("compiler-other");
    let headers = other.headers();

    // Debian's headers name the compiler, so LLVM=1 does not change it.
    debian.assert_built(debian.shell("LLVM=1 make KDIR=$1", &tree()));
    for (copy, kdir, script) in [
        (&debian, tree(), "make CC=clang KDIR=$1"),
        (&other, headers.clone(), "make CC=clang KDIR=$1"),
        (&other, headers.clone(), "LLVM=1 make KDIR=$1"),
        (
            &other,
            headers.clone(),
            "CROSS_COMPILE=/nowhere/ make KDIR=$1",
        ),
        // A kernel built by clang, and make without LLVM=1.
        (
            &other,
            headers,
            "sed -i 's/^\\(CONFIG_CC_VERSION_TEXT\\)=.*/\\1=\"clang version 19\"/' $1/include/config/auto.conf
            make KDIR=$1",
        ),
    ] {
        assert_refused(
            copy.shell(script, &kdir),
            &["the kernel was built by '", "and the C compiler here is '"],
        );
    }
}

#[test]
fn bindgen_reads_headers_for_the_architecture_of_the_kernel() {
    let copy = Copy::new("bindgen");
    let mut header = String::new();
    for arch in ["x86_64", "aarch64", "riscv", "s390x", "loongarch64"] {
        header += &format!(
            "#if defined(__{arch}__) || defined(__{arch})\nint shim_{arch}(void);\n#endif\n"
        );
    }
    header += "#ifdef __BINDGEN__\nint shim_bindgen(void);\n#endif\n";
    fs::write(copy.path().join("arch.h"), header).expect("writing a header");

    for (arch, subarch, function) in [
        ("x86", "x86", "shim_x86_64"),
        ("um", "x86", "shim_x86_64"),
        ("arm64", "x86", "shim_aarch64"),
        ("riscv", "x86", "shim_riscv"),
        ("s390", "x86", "shim_s390x"),
        ("loongarch", "x86", "shim_loongarch64"),
    ] {
        // Includes Kbuild as kbuild does, with a rule that runs its bindgen command on another
        // header.
        let script = format!(
            "mkdir -p tree/include/linux
            : >tree/include/linux/compiler_types.h
            make -f Kbuild --eval='arch.rs: arch.h; $(cmd_bindgen)' -B arch.rs SRCARCH={arch} SUBARCH={subarch} \
                src=. obj=. srctree=tree depfile=arch.d BINDGEN=bindgen CC=gcc CONFIG_CC_VERSION_TEXT=gcc"
        );
        copy.shell(&script, Path::new("")).expect_success();
        let bindings = fs::read_to_string(copy.path().join("arch.rs")).expect("reading bindings");

        let functions: Vec<_> = bindings
            .split(|character: char| !character.is_alphanumeric() && character != '_')
            .filter(|word| word.starts_with("shim_"))
            .collect();
        assert_eq!(functions, [function, "shim_bindgen"], "{arch}");
    }
}

#[test]
fn make_builds_with_headers_and_rust_metadata_alone() {
    let copy = Copy::new("make");

    copy.make(&tree()).expect_success();

    let vermagic = Outcome::of(
        Command::new("modinfo")
            .args(["-F", "vermagic"])
            .arg(copy.path().join("kstat.ko")),
    )
    .expect_success();
    assert_eq!(vermagic.split(' ').next(), Some(release().as_str()));
}

#[test]
fn make_refuses_a_kernel_without_rust() {
    let copy = Copy::new("no-rust");
    fs::write(copy.path().join(".config"), "# CONFIG_RUST is not set\n").expect("writing .config");

    assert_refused(
        copy.make(copy.path()),
        &["without CONFIG_RUST", "make demo"],
    );
}

#[test]
fn make_refuses_headers_without_rust_metadata() {
    let copy = Copy::new("no-metadata");
    let headers = format!("/lib/modules/{}/build", release());

    assert_refused(
        copy.make(Path::new(&headers)),
        &[
            "without Rust metadata: add it with 'rust-tree --install'",
            "make KDIR=$(rust-tree/rust-tree)",
        ],
    );
}

#[test]
fn make_refuses_a_missing_headers_folder() {
    let copy = Copy::new("no-headers");

    assert_refused(
        copy.make(Path::new("/nowhere")),
        &["no kernel headers in /nowhere", "linux-headers-"],
    );
}

#[test]
fn make_refuses_a_rustc_other_than_the_kernels() {
    let copy = Copy::new("rustc");
    let config = fs::read_to_string(tree().join(".config")).expect("reading .config");
    fs::write(
        copy.path().join(".config"),
        config.replace("VERSION_TEXT=\"rustc 1.", "VERSION_TEXT=\"rustc 9."),
    )
    .expect("writing .config");
    fs::create_dir(copy.path().join("rust")).expect("making rust");
    fs::write(copy.path().join("rust/libkernel.rmeta"), "").expect("writing metadata");

    assert_refused(
        copy.make(copy.path()),
        &["was built by 'rustc 9.", "RUSTC="],
    );
}

/// The headers packages of other distributions contain the Rust metadata. This test lays out
/// headers as each of them does, where `make` looks for the running kernel's. The files are
/// Debian's headers and the metadata that rust-tree made for them.
#[test]
fn make_finds_rust_metadata_where_distributions_put_it() {
    for (distribution, lay_out) in [
        // The package linux-headers-*-generic: its rust/ links to rust/ of
        // linux-lib-rust-*-generic.
        (
            "Ubuntu",
            "headers=/usr/src/linux-headers-$release-generic
            mkdir /usr/src/linux-lib-rust-$release-generic
            cp -a $tree $headers
            mv $headers/rust /usr/src/linux-lib-rust-$release-generic/
            ln -s ../linux-lib-rust-$release-generic/rust $headers/rust
            ln -s $headers /lib/modules/$release/build",
        ),
        // The package kernel-devel.
        (
            "Fedora",
            "headers=/usr/src/kernels/$release
            mkdir /usr/src/kernels
            cp -a $tree $headers
            ln -s $headers /lib/modules/$release/build",
        ),
        // The package linux-headers.
        (
            "Arch",
            "headers=/lib/modules/$release/build
            cp -a $tree $headers
            ln -s $headers /usr/src/linux",
        ),
    ] {
        let copy = Copy::new(distribution);
        let script = format!(
            "release={} tree={} rust_tree={}/rust-tree/rust-tree
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
        let output = Outcome::of(
            unshare_mounts()
                .args(["bash", "-ec"])
                .arg(script)
                .current_dir(copy.path()),
        )
        .expect_success();

        assert!(
            output.contains(&format!("\n{} ", release())),
            "{distribution}: {output}"
        );
    }
}
