// SPDX-License-Identifier: GPL-2.0

//! Helpers of the tests that run in the lab and not in a guest.

use crate::tool::Outcome;
use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

pub mod chroot;
pub mod rust_tree;

/// Returns the root folder of the project.
pub fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ has a parent folder")
        .to_owned()
}

/// Returns Debian's name for the architecture of the lab's kernel.
pub fn architecture() -> String {
    env::var("KSTAT_ARCH").expect("KSTAT_ARCH, which scripts/lab sets")
}

/// Returns a command that runs a program, its further arguments, in a mount namespace of its own. Other
/// namespaces do not see the program's mounts.
///
/// Panics outside of the lab.
#[track_caller]
pub fn unshare_mounts() -> Command {
    assert!(
        Path::new("/etc/kstat-lab").exists(),
        "these tests run in the lab, never on the machine itself: type 'make test'"
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private"]);
    command
}

/// Copies the sources and makefiles of the module into `folder`, and nothing else of the project.
#[track_caller]
pub fn copy_sources(folder: &Path) {
    Outcome::of(
        Command::new("bash")
            .args([
                "-c",
                r#"cp -r *.rs *.[ch] abstractions Kbuild Makefile VERSION "$1""#,
            ])
            .arg("bash")
            .arg(folder)
            .current_dir(project()),
    )
    .expect_success();
}

/// Returns a command that runs `scripts/vm`, which boots a guest.
pub fn vm() -> Command {
    Command::new(project().join("scripts/vm"))
}
