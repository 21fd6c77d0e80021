// SPDX-License-Identifier: GPL-2.0

//! A network namespace that an unprivileged user makes in a user namespace of their own.

use crate::guest::{identity::NOBODY, netns::Netns};
use std::{
    io::Read,
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
};

/// The namespace, and the user's process that is in it until this is dropped.
pub struct UserNetns {
    net: Netns,
    user: Child,
}

impl UserNetns {
    /// Makes the namespace, in which the user runs a shell script.
    #[track_caller]
    pub fn new(script: &str) -> Self {
        let mut user = Command::new("unshare")
            .args(["--user", "--map-root-user", "--net", "sh", "-c"])
            .arg(format!("{script}\necho ready && exec sleep infinity"))
            .uid(NOBODY)
            .gid(NOBODY)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("running unshare as nobody: {error}"));
        let mut ready = [0; 6];

        user.stdout
            .as_mut()
            .expect("its output is a pipe")
            .read_exact(&mut ready)
            .unwrap_or_else(|error| panic!("running a script as nobody: {error}"));
        Self {
            net: Netns::open(&format!("/proc/{}/ns/net", user.id())),
            user,
        }
    }

    /// The network namespace.
    pub fn net(&self) -> &Netns {
        &self.net
    }
}

impl Drop for UserNetns {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.user.kill();
        let _ = self.user.wait();
    }
}
