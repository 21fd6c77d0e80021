// SPDX-License-Identifier: GPL-2.0

//! Checks formatting and style, and runs the linters: rustfmt, clippy, checkpatch and shellcheck.

use crate::{
    command::succeed,
    lint,
    vm::{project, release, stock_tree, variable},
};
use anyhow::{ensure, Result};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

/// Runs all checks. The first that fails ends them.
pub fn run() -> Result<ExitCode> {
    let release = release()?;

    step("rustfmt, with the kernel's settings");
    succeed(Command::new("rustfmt").args([
        "--check",
        "kstat.rs",
        "tests/fixtures/wrappers/misuse.rs",
    ]))?;
    succeed(Command::new("cargo").args(["fmt", "--all", "--check"]))?;

    step("clippy on the module, with the kernel's lints");
    let folder = project().join("build/clippy");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder)?;
    succeed(
        Command::new("make")
            .args(["-s", "CLIPPY=1", "KRUSTFLAGS=-Dwarnings", "KCFLAGS=-Werror"])
            .arg(format!("KDIR={}", stock_tree(&release)?.display()))
            .arg(format!("MO={}", folder.display())),
    )?;

    step("clippy on the tests, the benchmark and the lab");
    succeed(
        Command::new("cargo")
            .args(["clippy", "-q", "--locked", "--workspace", "--all-targets"])
            .args(["--", "-D", "warnings"]),
    )?;

    step("checkpatch on the C files and headers");
    succeed(
        Command::new(checkpatch(&release)?)
            .args(["--no-tree", "--strict", "--terse", "--file"])
            .args(matching(&[
                "netfilter_shim.[ch]",
                "abstractions/*.h",
                "lab/modules/*.c",
                "bench/module/*.[ch]",
            ])?),
    )?;

    step("git apply --check on the patches of tests/mutants");
    for patch in matching(&["tests/mutants/*.patch"])? {
        succeed(Command::new("git").args(["apply", "--check"]).arg(patch))?;
    }

    step("shellcheck on the scripts");
    let scripts = [
        "scripts/*",
        "lab/program",
        "lab/run-test",
        "lab/install-kernel",
        "lab/guest/*",
        "rust-tree/rust-tree",
        "rust-tree/kernel-hook",
        "rust-tree/debian/rust-tree.p*",
        "debian/kstat-dkms.post*",
        ".ci/run",
    ];
    // With the files that they source.
    let mut shellcheck = Command::new("shellcheck");
    shellcheck.args(["-x", "-a", "-P", "SCRIPTDIR"]);
    succeed(shellcheck.args(matching(&scripts)?))?;

    step("rules of this project");
    lint::run()
}

fn step(what: &str) {
    println!("check: {what}");
}

/// Returns the files of the project that a shell's patterns match.
fn matching(patterns: &[&str]) -> Result<Vec<PathBuf>> {
    let output = Command::new("bash")
        .args([
            "-c",
            &format!("shopt -s failglob; printf '%s\\n' {}", patterns.join(" ")),
        ])
        .current_dir(project())
        .output()?;
    ensure!(
        output.status.success(),
        "no file matches one of {patterns:?}"
    );
    Ok(String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(PathBuf::from)
        .collect())
}

/// Returns the path of the kernel's checkpatch. It is unpacked from the linux-source package, with its word lists, which
/// it needs in its own folder.
fn checkpatch(release: &str) -> Result<PathBuf> {
    let series = release.splitn(3, '.').take(2).collect::<Vec<_>>().join(".");
    let folder = Path::new(&variable("XDG_CACHE_HOME")).join(format!("kstat/checkpatch-{series}"));
    let program = folder.join("checkpatch.pl");
    if !program.exists() {
        let new = folder.with_extension("new");
        fs::create_dir_all(&new)?;
        let names = ["checkpatch.pl", "spelling.txt", "const_structs.checkpatch"];
        succeed(
            Command::new("tar")
                .arg("-C")
                .arg(&new)
                .args(["--strip-components=2", "--occurrence=1", "-xf"])
                .arg(format!("/usr/src/linux-source-{series}.tar.xz"))
                .args(names.map(|name| format!("linux-source-{series}/scripts/{name}"))),
        )?;
        fs::rename(&new, &folder)?;
    }
    Ok(program)
}
