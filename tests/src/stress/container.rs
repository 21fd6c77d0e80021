// SPDX-License-Identifier: GPL-2.0

//! A container with runc's default configuration, and nothing in it but busybox.

use crate::{
    guest::{daemon::Folder, file},
    tool,
};
use serde_json::json;
use std::{fs, process};

/// The OCI bundle of a container: its root file system and `config.json`.
pub struct Container(Folder);

impl Container {
    /// Makes the bundle, with the `config.json` that `runc spec` writes.
    #[track_caller]
    pub fn new() -> Self {
        let folder = Folder::new();
        let bin = folder.path("rootfs/bin");

        fs::create_dir_all(&bin).unwrap_or_else(|error| panic!("making {bin}: {error}"));
        fs::copy("/bin/busybox", format!("{bin}/busybox"))
            .unwrap_or_else(|error| panic!("copying busybox: {error}"));
        tool::run("runc", &["spec", "--bundle", &folder.path("")]);
        Self(folder)
    }

    /// Runs a shell script in the container, without a terminal, and returns the script's output.
    #[track_caller]
    pub fn run(&self, script: &str) -> String {
        let path = self.0.path("config.json");
        let text = file::read(&path);
        let mut config: serde_json::Value =
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}: {text}"));
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] = json!(["/bin/busybox", "sh", "-c", script]);
        self.0.write("config.json", config.to_string());

        let name = format!("kstat-{}", process::id());
        tool::run("runc", &["run", "--bundle", &self.0.path(""), &name])
    }
}

impl Default for Container {
    fn default() -> Self {
        Self::new()
    }
}
