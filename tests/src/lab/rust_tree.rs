// SPDX-License-Identifier: GPL-2.0

//! `rust-tree/rust-tree`, and the kernel that it is asked for: that of the lab.

use crate::lab::chroot::project;
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// What rust-tree said.
#[derive(Debug)]
pub struct Said {
    pub success: bool,
    /// Its output, without the newline at the end.
    pub folder: String,
    pub errors: String,
}

impl Said {
    /// Asserts that it failed, printed no folder, and that the last line of its errors has `words` in it.
    #[track_caller]
    pub fn assert_refused(&self, words: &[&str]) {
        self.assert_failed_with(self.errors.lines().last().unwrap_or(""), words);
    }

    /// Asserts that it failed, as the tree that there is cannot be used, and the line that says so has `words` in it.
    #[track_caller]
    pub fn assert_unusable(&self, words: &[&str]) {
        let mut lines = self.errors.lines();
        let sentence = lines.find(|line| line.contains("cannot be used: "));

        self.assert_failed_with(sentence.unwrap_or(""), words);
    }

    #[track_caller]
    fn assert_failed_with(&self, sentence: &str, words: &[&str]) {
        assert!(!self.success && self.folder.is_empty(), "{self:?}");
        assert!(sentence.starts_with("rust-tree: "), "{self:?}");
        for word in words {
            assert!(sentence.contains(word), "{word:?} is not in {sentence:?}");
        }
    }
}

/// The newest kernel of the lab.
pub fn release() -> String {
    fs::read_dir("/lib/modules")
        .expect("listing kernels")
        .map(|entry| entry.expect("listing kernels").file_name())
        .max()
        .and_then(|release| release.into_string().ok())
        .expect("a kernel in the lab")
}

/// Where the lab keeps trees.
pub fn cache() -> PathBuf {
    env::var_os("RUST_TREE_CACHE")
        .expect("the lab's cache")
        .into()
}

/// Runs rust-tree, after `before`, a line of shell, in a mount namespace of its own.
pub fn rust_tree_after(before: &str, arguments: &[&str]) -> Said {
    let output = Command::new("unshare")
        .args(["--mount", "--propagation=unchanged", "bash", "-ec"])
        .arg(format!("{before}\nexec \"$@\""))
        .arg("bash")
        .arg(project().join("rust-tree/rust-tree"))
        .args(arguments)
        .output()
        .expect("running unshare");

    Said {
        success: output.status.success(),
        folder: String::from_utf8_lossy(&output.stdout).trim_end().into(),
        errors: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Runs rust-tree.
pub fn rust_tree(arguments: &[&str]) -> Said {
    rust_tree_after("", arguments)
}

/// The tree of the lab's kernel, made if there is none.
#[track_caller]
pub fn tree() -> PathBuf {
    let said = rust_tree(&[&release()]);
    assert!(said.success, "{said:?}");
    Path::new(&said.folder).to_owned()
}
