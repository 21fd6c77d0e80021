// SPDX-License-Identifier: GPL-2.0

//! What `make` needs, and what it says if that is missing. Runs in the lab, without a guest.

use kstat_tests::{
    lab::{
        chroot::{copy_sources, project},
        rust_tree::{release, tree},
    },
    tool,
};
use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process::Command,
};

/// A copy of what the module is made of, and nothing else of the project, in a folder of its own.
struct Copy(PathBuf);

impl Copy {
    fn new(name: impl AsRef<OsStr>) -> Self {
        let mut folder = OsString::from(format!("kstat-{}-", std::process::id()));
        folder.push(name);
        let copy = env::temp_dir().join(folder);
        fs::create_dir(&copy).unwrap_or_else(|error| panic!("making {copy:?}: {error}"));

        copy_sources(&copy);
        Self(copy)
    }

    /// Says `make KDIR=kdir`, and returns whether that succeeded, and what it said of errors.
    fn make(&self, kdir: &Path) -> (bool, String) {
        self.shell(r#"make KDIR="$1""#, kdir)
    }

    /// Runs lines of shell, whose `$1` is `kdir`, in an empty environment and a mount namespace of their own: the lab's
    /// mounts are private, so no other namespace sees theirs. Returns whether the lines succeeded, and their errors.
    fn shell(&self, lines: &str, kdir: &Path) -> (bool, String) {
        let output = Command::new("unshare")
            .args(["--mount", "--propagation=unchanged", "bash", "-ec"])
            .args([lines, "bash"])
            .arg(kdir)
            .current_dir(&self.0)
            .env_clear()
            .env("PATH", env::var_os("PATH").expect("a PATH"))
            .output()
            .expect("running unshare");

        (
            output.status.success(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    }

    /// Asserts that `make` succeeded and made kstat.ko beside the sources.
    #[track_caller]
    fn assert_built(&self, (success, errors): (bool, String)) {
        assert!(success, "make in {:?}: {errors}", self.0);
        assert!(self.0.join("kstat.ko").exists(), "no kstat.ko: {errors}");
    }

    /// Lays out headers here as distributions do whose kernels are built in the source folder: one folder has both, and
    /// no file has the compiler and the architecture, as Debian's .kernelvariables has.
    fn headers(&self) -> PathBuf {
        let headers = self.0.join("headers");
        let lines = "
            common=$(sed -n 's,^include \\(.*\\)/Makefile$,\\1,p' $1/Makefile)
            mkdir headers
            cp -rsL $common/. headers
            cp -rsLf $1/. headers
            rm headers/.kernelvariables headers/Makefile
            cp $common/Makefile headers";
        let (success, errors) = self.shell(lines, &tree());
        assert!(success, "laying out headers: {errors}");
        headers
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0)
            .unwrap_or_else(|error| panic!("removing {:?}: {error}", self.0));
    }
}

/// Asserts that `make` failed, with one sentence of ours, which has `words` in it.
#[track_caller]
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
fn make_and_dkms_refuse_a_kernel_without_an_option_that_kstat_needs() {
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
    fs::create_dir(copy.0.join("rust")).expect("making rust");
    fs::write(copy.0.join("rust/libkernel.rmeta"), "").expect("writing metadata");
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
        fs::write(copy.0.join(".config"), config).expect("writing .config");
        copy.make(&copy.0)
    };

    for missing in options.iter().copied() {
        assert_says(make_without(missing), &[&format!("without {missing}")]);
    }
    // This .config does not name the rustc that built the kernel.
    assert_says(make_without(""), &["was built by ''"]);
}

#[test]
fn make_refuses_a_folder_name_that_kbuild_cannot_use() {
    let refuses = ["cannot use the folder"];

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
        assert_says(Copy::new(name).make(&tree()), &refuses);
    }
    // ISO 8859-1, in which this is a u with two dots.
    let latin = OsStr::from_bytes(b"m\xfcnchen");
    assert_says(Copy::new(latin).make(&tree()), &refuses);

    let copy = Copy::new("kdir");
    for name in ["my headers", "john's", "a:b", "a;b"] {
        assert_says(copy.make(&Path::new("/nowhere").join(name)), &refuses);
    }
    let folders = r#"make KDIR="$1" MO="$PWD/two words""#;
    assert_says(copy.shell(folders, &tree()), &refuses);
}

#[test]
fn make_builds_in_a_folder_with_any_other_name() {
    let copy = Copy::new("!*+,-.=?@[]^_{}~ \u{fc}\u{4e2d}".replace(' ', ""));

    copy.assert_built(copy.make(&tree()));
}

#[test]
fn make_says_if_rustc_cannot_load_macros_from_a_noexec_file_system() {
    let copy = Copy::new("noexec");
    let lines = "
        mkdir noexec
        mount -t tmpfs -o noexec tmpfs noexec
        cp -a $1 noexec/tree
        sed -i \"s,^KBUILD_OUTPUT=.*,KBUILD_OUTPUT=$PWD/noexec/tree,\" noexec/tree/Makefile
        make KDIR=$PWD/noexec/tree";

    assert_says(copy.shell(lines, &tree()), &["mounted noexec"]);
}

#[test]
fn make_builds_if_the_sources_are_on_a_noexec_file_system() {
    let copy = Copy::new("noexec-sources");
    let lines = "
        mkdir noexec
        mount -t tmpfs -o noexec tmpfs noexec
        cp -r *.rs *.[ch] abstractions Kbuild Makefile noexec/
        make -C noexec KDIR=$1
        cp noexec/kstat.ko .";

    copy.assert_built(copy.shell(lines, &tree()));
}

#[test]
fn make_says_if_rustc_or_bindgen_does_not_run() {
    for (tool, script) in [
        ("rustc", "exit 1"),
        ("bindgen", "exit 127"),
        // As bindgen without libclang.
        ("bindgen", "[ \"$1\" = --version ]"),
    ] {
        let copy = Copy::new("broken-tool");
        let lines = format!(
            "mkdir bin
            printf '%s\\n' '#!/bin/sh' '{script}' >bin/{tool}
            chmod +x bin/{tool}"
        );
        let (success, errors) = copy.shell(&lines, &tree());
        assert!(success, "writing {tool}: {errors}");
        let variable = tool.to_uppercase();

        for line in [
            "PATH=$PWD/bin:$PATH make KDIR=$1".to_owned(),
            format!("{variable}=$PWD/bin/{tool} make KDIR=$1"),
        ] {
            let says = format!("{tool} does not run");
            assert_says(
                copy.shell(&line, &tree()),
                &[&says, &format!("{variable}=")],
            );
        }
    }
}

#[test]
fn make_builds_in_any_environment_that_does_not_name_another_compiler() {
    let line = "
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

    debian.assert_built(debian.shell(line, &tree()));
    other.assert_built(other.shell(line, &other.headers()));
}

#[test]
fn make_builds_with_the_kernels_compiler_or_says_that_it_is_another() {
    let debian = Copy::new("compiler-debian");
    let other = Copy::new("compiler-other");
    let headers = other.headers();

    // Debian's headers name the compiler.
    debian.assert_built(debian.shell("LLVM=1 make KDIR=$1", &tree()));
    for (copy, kdir, lines) in [
        (&debian, tree(), "make CC=clang KDIR=$1"),
        (&other, headers.clone(), "make CC=clang KDIR=$1"),
        (&other, headers.clone(), "LLVM=1 make KDIR=$1"),
        (
            &other,
            headers.clone(),
            "CROSS_COMPILE=/nowhere/ make KDIR=$1",
        ),
        // clang's kernel, and no LLVM=1.
        (
            &other,
            headers,
            "sed -i 's/^\\(CONFIG_CC_VERSION_TEXT\\)=.*/\\1=\"clang version 19\"/' $1/include/config/auto.conf
            make KDIR=$1",
        ),
    ] {
        assert_says(
            copy.shell(lines, &kdir),
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
    fs::write(copy.0.join("arch.h"), header).expect("writing a header");

    for (arch, subarch, function) in [
        ("x86", "x86", "shim_x86_64"),
        ("um", "x86", "shim_x86_64"),
        ("arm64", "x86", "shim_aarch64"),
        ("riscv", "x86", "shim_riscv"),
        ("s390", "x86", "shim_s390x"),
        ("loongarch", "x86", "shim_loongarch64"),
    ] {
        // As kbuild includes Kbuild, and with a rule that has the command of another header.
        let lines = format!(
            "mkdir -p tree/include/linux
            : >tree/include/linux/compiler_types.h
            make -f Kbuild --eval='arch.rs: arch.h; $(cmd_bindgen)' -B arch.rs SRCARCH={arch} SUBARCH={subarch} \
                src=. obj=. srctree=tree depfile=arch.d BINDGEN=bindgen CC=gcc CONFIG_CC_VERSION_TEXT=gcc"
        );
        let (success, errors) = copy.shell(&lines, Path::new(""));
        assert!(success, "{arch}: {errors}");
        let bindings = fs::read_to_string(copy.0.join("arch.rs")).expect("reading bindings");

        let functions: Vec<_> = bindings
            .split(|character: char| !character.is_alphanumeric() && character != '_')
            .filter(|word| word.starts_with("shim_"))
            .collect();
        assert_eq!(functions, [function, "shim_bindgen"], "{arch}");
    }
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
        &["without Rust metadata", "make KDIR=$(rust-tree/rust-tree)"],
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
