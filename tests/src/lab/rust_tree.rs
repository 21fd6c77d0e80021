// SPDX-License-Identifier: GPL-2.0

//! Runs `rust-tree/rust-tree` for the kernel of the lab.

use crate::{
    lab::{project, unshare_mounts},
    tool::Outcome,
};
use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// Returns the release of the newest kernel in the lab.
pub fn release() -> String {
    fs::read_dir("/lib/modules")
        .expect("listing kernels")
        .map(|entry| entry.expect("listing kernels").file_name())
        .max()
        .and_then(|release| release.into_string().ok())
        .expect("the lab has a kernel")
}

/// Returns the folder in which the lab keeps its trees.
pub fn cache() -> PathBuf {
    env::var_os("RUST_TREE_CACHE")
        .expect("scripts/lab sets RUST_TREE_CACHE")
        .into()
}

/// Runs `setup`, a shell script, and then rust-tree, in a mount namespace of their own. Asserts
/// that rust-tree prints no folder if it fails.
#[track_caller]
pub fn rust_tree_after(setup: &str, arguments: &[&str]) -> Outcome {
    let outcome = Outcome::of(
        unshare_mounts()
            .args(["bash", "-ec"])
            .arg(format!("{setup}\nexec \"$@\""))
            .arg("bash")
            .arg(project().join("rust-tree/rust-tree"))
            .args(arguments),
    );

    assert!(
        outcome.status.success() || outcome.stdout.is_empty(),
        "{outcome:?}"
    );
    outcome
}

/// Runs rust-tree. Asserts that it prints no folder if it fails.
#[track_caller]
pub fn rust_tree(arguments: &[&str]) -> Outcome {
    rust_tree_after("", arguments)
}

/// Returns the tree of the lab's kernel. Makes it if there is none.
#[track_caller]
pub fn tree() -> PathBuf {
    Path::new(rust_tree(&[&release()]).expect_success().trim_end()).to_owned()
}
