// SPDX-License-Identifier: GPL-2.0

//! Makes the root file system of guests of another architecture than the lab's.

use crate::{
    archive,
    command::succeed,
    machine::Architecture,
    vm::{project, variable},
};
use anyhow::{Context, Result};
use clap::Args;
use nix::mount::{mount, MsFlags};
use std::{
    fs,
    path::Path,
    process::{Command, ExitCode},
};

/// Makes a Debian system of KSTAT_ARCH with lab/packages/guest in the folder KSTAT_ROOT. scripts/lab runs this if the
/// folder is missing. Needs a network.
#[derive(Args)]
pub struct Options {
    /// The name of the Debian suite
    suite: String,
}

pub fn run(options: Options) -> Result<ExitCode> {
    let architecture = Architecture::of_kernel();
    register(architecture)?;
    let folder = variable("KSTAT_ROOT");
    let new = format!("{folder}.new");
    if Path::new(&new).exists() {
        fs::remove_dir_all(&new).with_context(|| format!("removing {new}"))?;
    }
    let packages = fs::read_to_string(project().join("lab/packages/guest"))?;
    succeed(
        Command::new("mmdebstrap")
            .args([
                "--variant=apt",
                "--mode=root",
                "--skip=chroot/mount/sys,check/qemu",
            ])
            .arg(format!("--architectures={}", architecture.debian()))
            .arg("--aptopt=APT::Install-Recommends \"false\"")
            .arg("--aptopt=/etc/apt/apt.conf.d/99mmdebstrap")
            .arg(format!("--include={}", names(&packages)))
            // The modules of the kernel are mounted here.
            .arg("--customize-hook=mkdir -p \"$1/usr/lib/modules\"")
            .args([&options.suite, &new, &archive::mirror()?]),
    )?;
    fs::rename(&new, &folder).with_context(|| format!("renaming {new}"))?;
    Ok(ExitCode::SUCCESS)
}

/// Has the kernel run programs of an architecture by qemu-user, in this user namespace only. May be called again.
pub fn register(architecture: Architecture) -> Result<()> {
    let folder = Path::new("/run/binfmt");
    if folder.join(architecture.qemu_user()).exists() {
        return Ok(());
    }
    fs::create_dir_all(folder)?;
    mount(
        Some("binfmt_misc"),
        folder,
        Some("binfmt_misc"),
        MsFlags::empty(),
        None::<&str>,
    )
    .context(
        "this kernel mounts no binfmt_misc in a user namespace: boot Linux 6.7 or later, and run 'modprobe \
         binfmt_misc' as root",
    )?;
    fs::write(folder.join("register"), registration(architecture)).context("registering qemu-user")
}

/// Returns the line that binfmt_misc reads (Documentation/admin-guide/binfmt-misc.rst): the bytes of an ELF header and
/// a mask. The header is of a 64-bit file, little endian, of any ABI, executable or shared. F opens the interpreter at
/// once, as the new root does not have it.
fn registration(architecture: Architecture) -> String {
    let machine = match architecture {
        Architecture::Amd64 => r"\x3e\x00",
        Architecture::Arm64 => r"\xb7\x00",
    };
    let qemu = architecture.qemu_user();
    let magic = r"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00";
    let mask = r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff";
    format!(":{qemu}:M::{magic}{machine}:{mask}:/usr/bin/{qemu}:F")
}

/// Returns the names in a list of packages, with commas between them.
fn names(list: &str) -> String {
    let lines = list
        .lines()
        .map(|line| line.split('#').next().unwrap_or(""));
    let names: Vec<_> = lines.flat_map(str::split_whitespace).collect();
    names.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registration_has_a_mask_for_each_byte_of_the_header() {
        for architecture in [Architecture::Amd64, Architecture::Arm64] {
            let line = registration(architecture);
            let fields: Vec<_> = line.split(':').collect();
            let bytes = |field: &str| field.matches(r"\x").count();
            assert_eq!(bytes(fields[4]) + "ELF".len(), 20);
            assert_eq!(bytes(fields[5]), 20);
        }
    }

    #[test]
    fn names_of_packages_stand_beside_comments() {
        assert_eq!(names("# all\n\na b # more\nc\n"), "a,b,c");
    }
}
