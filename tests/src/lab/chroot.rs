// SPDX-License-Identifier: GPL-2.0

//! Debian systems for tests of installation. Each is a folder in the lab, in which a test installs
//! packages and which it boots in a guest.

use crate::{
    lab::{architecture, project, unshare_mounts, vm},
    tool::Outcome,
    unless_panicking,
};
use std::{
    collections::BTreeSet,
    fs, io, iter,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The packages that `scripts/vm` needs to boot a system, and those that send packets and count
/// them there.
const COMMON: &str = "systemd-sysv,busybox-static,kmod,nftables,ncat,iproute2,linux-base,procps";

/// A Debian system in a folder. Dropping it removes the folder.
pub struct Chroot(PathBuf);

impl Chroot {
    /// Makes a system of Debian's `suite` and installs `packages`, separated by commas. Its apt
    /// also knows the suites `more`.
    #[track_caller]
    pub fn new(suite: &str, more: &[&str], packages: &str) -> Self {
        let path = project().join(format!("build/root-{suite}"));
        let chroot = Self(path);
        chroot.remove().expect("removing an old system");
        fs::create_dir_all(chroot.0.parent().expect("build/")).expect("making build/");

        // Use the mirror and the apt settings of the lab.
        let mirror = fs::read_to_string("/etc/apt/sources.list")
            .expect("reading the lab's sources")
            .split_whitespace()
            .find(|word| word.contains("://"))
            .expect("a mirror in the lab's sources")
            .to_owned();
        let sources = iter::once(&suite)
            .chain(more)
            .map(|suite| format!("deb {mirror} {suite} main"));
        println!("making a system of {suite}");
        Outcome::of(
            Command::new("mmdebstrap")
                .args([
                    "--variant=apt",
                    "--mode=root",
                    "--quiet",
                    "--skip=check/qemu",
                ])
                .arg(format!("--architectures={}", architecture()))
                .arg("--aptopt=/etc/apt/apt.conf.d/99mmdebstrap")
                .arg(format!("--include={COMMON},{packages}"))
                .arg(suite)
                .arg(&chroot.0)
                .args(sources)
                .env("INITRD", "No"),
        )
        .expect_success();
        chroot.run("apt-get -q update");
        chroot
    }

    /// Returns the folder.
    pub fn path(&self) -> &Path {
        &self.0
    }

    fn remove(&self) -> io::Result<()> {
        // Nothing that is mounted there may be removed.
        let status = Command::new("rm")
            .args(["-rf", "--one-file-system"])
            .arg(&self.0)
            .status()?;
        if status.success() {
            Ok(())
        } else {
            Err(io::Error::other(format!("rm: {status}")))
        }
    }

    /// Runs `script` as root in the system, with `unshare` as further options of unshare(1).
    fn enter(&self, unshare: &[&str], script: &str) -> Outcome {
        Outcome::of(
            unshare_mounts()
                .args(["--pid", "--fork", "--kill-child"])
                .args(unshare)
                .args(["bash", "-ec", ENTER, "enter"])
                .arg(&self.0)
                .arg(script)
                .stdin(Stdio::null()),
        )
    }

    /// Runs `script` as root in the system. Its standard error goes to its standard output. Returns
    /// also if the script fails.
    pub fn attempt(&self, script: &str) -> Outcome {
        self.enter(&[], script)
    }

    /// As [`Self::attempt`], without a network.
    pub fn attempt_offline(&self, script: &str) -> Outcome {
        self.enter(&["--net"], script)
    }

    /// Runs `script` as root in the system, asserts that it succeeds, and returns its output.
    #[track_caller]
    pub fn run(&self, script: &str) -> String {
        println!("# {script}");
        self.attempt(script).expect_success()
    }

    /// Boots the system with its kernel `release`, runs `script` there, asserts that it succeeds,
    /// and returns its output.
    #[track_caller]
    pub fn boot(&self, release: &str, script: &str) -> String {
        println!("{release}# {script}");
        Outcome::of(
            vm().args(["-k", release, "-r"])
                .arg(&self.0)
                .args(["--", "bash", "-ec", script])
                .current_dir("/"),
        )
        .expect_success()
    }

    /// Returns the releases of the installed kernels, the oldest first.
    pub fn kernels(&self) -> Vec<String> {
        self.run("linux-version list | linux-version sort")
            .lines()
            .map(str::to_owned)
            .collect()
    }

    /// Returns all files and folders that belong to no package, except those that dpkg, apt and the
    /// linker write themselves.
    pub fn unowned(&self) -> BTreeSet<String> {
        self.run(UNOWNED).lines().map(str::to_owned).collect()
    }
}

impl Drop for Chroot {
    fn drop(&mut self) {
        let removed = self.remove();

        unless_panicking(|| removed.expect("removing a system"));
    }
}

/// Enters the system `$1` as mmdebstrap does, and runs the script `$2` there.
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

/// Lists the files and folders for [`Chroot::unowned`].
const UNOWNED: &str = r#"
    find / -xdev ! -path '/var/lib/dpkg/*' ! -path '/var/lib/apt/*' ! -path '/var/cache/apt/*' \
        ! -path '/var/log/*' ! -path '/var/cache/ldconfig/*' ! -path '/root/*' | sort >/tmp/all
    # The lists of packages name paths in /lib, /bin and so on, which are links into /usr.
    cat /var/lib/dpkg/info/*.list | sed -E 's,^/(bin|sbin|lib|lib64)/,/usr/\1/,' | sort -u >/tmp/owned
    comm -23 /tmp/all /tmp/owned
"#;
