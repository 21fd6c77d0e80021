// SPDX-License-Identifier: GPL-2.0

//! Debian systems that are made for a test, each in a folder of its own: what somebody installs
//! there, and what they do when they are booted. All this runs in the lab.

use crate::tool;
use std::{
    collections::BTreeSet,
    env, fs, io,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
};

/// What a system needs to be booted by `scripts/vm`, and to send packets that somebody else counts.
const COMMON: &str = "systemd-sysv,busybox-static,kmod,nftables,ncat,iproute2,linux-base,procps";

/// A Debian system in a folder, which goes when this goes.
pub struct Root(PathBuf);

/// This project's folder.
pub fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the project's folder")
        .to_owned()
}

/// Copies what the module is built from into `folder`, and nothing else of the project.
#[track_caller]
pub fn copy_sources(folder: &Path) {
    let status = Command::new("bash")
        .args([
            "-c",
            r#"cp -r *.rs *.[ch] abstractions Kbuild Makefile "$1""#,
        ])
        .arg("bash")
        .arg(folder)
        .current_dir(project())
        .status()
        .expect("running bash");
    assert!(status.success(), "copying the module's sources: {status}");
}

impl Root {
    /// Makes a system of Debian's `suite`, to which apt knows `more` suites, and installs
    /// `packages`, separated by commas, there.
    #[track_caller]
    pub fn new(suite: &str, more: &[&str], packages: &str) -> Self {
        let path = project().join(format!("build/root-{suite}"));
        let root = Self(path);
        root.remove().expect("removing an old root");
        fs::create_dir_all(root.0.parent().expect("its parent")).expect("making build");

        // The lab's own mirror, and its settings.
        let mirror = fs::read_to_string("/etc/apt/sources.list")
            .expect("reading the lab's sources")
            .split_whitespace()
            .find(|word| word.contains("://"))
            .expect("a mirror in the lab's sources")
            .to_owned();
        let sources = std::iter::once(&suite)
            .chain(more)
            .map(|suite| format!("deb {mirror} {suite} main"));
        println!("making a root of {suite}");
        let output = Command::new("mmdebstrap")
            .args(["--variant=apt", "--mode=root", "--quiet"])
            .arg("--aptopt=/etc/apt/apt.conf.d/99mmdebstrap")
            .arg(format!("--include={COMMON},{packages}"))
            .arg(suite)
            .arg(&root.0)
            .args(sources)
            .env("INITRD", "No")
            .output()
            .expect("running mmdebstrap");
        tool::said("mmdebstrap", &output);
        root.run("apt-get -q update");
        root
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.0
    }

    fn remove(&self) -> io::Result<()> {
        if self.0.exists() {
            fs::remove_dir_all(&self.0)?;
        }
        Ok(())
    }

    fn command(&self, unshare: &[&str], script: &str) -> Command {
        let mut command = Command::new("unshare");
        command
            .args([
                "--mount",
                "--propagation=unchanged",
                "--pid",
                "--fork",
                "--kill-child",
            ])
            .args(unshare)
            .args(["bash", "-ec", ENTER, "enter"])
            .arg(&self.0)
            .arg(script)
            .stdin(Stdio::null());
        command
    }

    /// Runs a script as root in it, however that ends: its output and its errors are one.
    pub fn attempt(&self, script: &str) -> Output {
        self.command(&[], script).output().expect("running unshare")
    }

    /// As [`Self::attempt`], without a network.
    pub fn attempt_offline(&self, script: &str) -> Output {
        self.command(&["--net"], script)
            .output()
            .expect("running unshare")
    }

    /// Runs a script as root in it, which must succeed, and returns what it said.
    #[track_caller]
    pub fn run(&self, script: &str) -> String {
        println!("# {script}");
        let output = self.attempt(script);
        tool::said(script, &output)
    }

    /// Boots it with its kernel `release`, runs a script when it is up, and returns what that said.
    #[track_caller]
    pub fn boot(&self, release: &str, script: &str) -> String {
        println!("{release}# {script}");
        // In a mount namespace of its own: what is mounted on cannot be removed.
        let output = Command::new("unshare")
            .args(["--mount", "--propagation=unchanged"])
            .arg(project().join("scripts/vm"))
            .args(["-k", release, "-r"])
            .arg(&self.0)
            .args(["--", "bash", "-ec", script])
            .current_dir("/")
            .output()
            .expect("running scripts/vm");
        tool::said(script, &output)
    }

    /// The releases of the kernels that are installed, the oldest first.
    pub fn kernels(&self) -> Vec<String> {
        self.run("linux-version list | linux-version sort")
            .lines()
            .map(str::to_owned)
            .collect()
    }

    /// All files and folders but those of packages, and what dpkg, apt and the linker keep for themselves.
    pub fn unowned(&self) -> BTreeSet<String> {
        self.run(UNOWNED).lines().map(str::to_owned).collect()
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let removed = self.remove();

        // If the test has failed already, that is what should be told.
        if !thread::panicking() {
            removed.expect("removing a root");
        }
    }
}

/// Goes into a root as mmdebstrap does, and runs a script there.
const ENTER: &str = r#"
    exec 2>&1
    mount -t proc proc "$1/proc"
    mount --rbind /dev "$1/dev"
    mount -t tmpfs tmpfs "$1/run"
    mount -t tmpfs tmpfs "$1/tmp"
    exec chroot "$1" env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        HOME=/root LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive INITRD=No http_proxy="${http_proxy:-}" \
        bash -ec "$2"
"#;

const UNOWNED: &str = r#"
    find / -xdev ! -path '/var/lib/dpkg/*' ! -path '/var/lib/apt/*' ! -path '/var/cache/apt/*' \
        ! -path '/var/log/*' ! -path '/var/cache/ldconfig/*' ! -path '/root/*' | sort >/tmp/all
    # What a package calls /lib is /usr/lib.
    cat /var/lib/dpkg/info/*.list | sed -E 's,^/(bin|sbin|lib|lib64)/,/usr/\1/,' | sort -u >/tmp/owned
    comm -23 /tmp/all /tmp/owned
"#;
