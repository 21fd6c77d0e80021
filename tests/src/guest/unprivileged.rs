// SPDX-License-Identifier: GPL-2.0

//! A network namespace that an unprivileged user makes in a new user namespace.

use crate::guest::{identity::NOBODY, netns::Netns};
use std::{
    io::Read,
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
};

/// The network namespace, and the user's process in it. Dropping this ends the process.
pub struct UserNetns {
    net: Netns,
    user: Child,
}

impl UserNetns {
    /// Makes the namespace as user nobody, and returns when the shell script `script` has run
    /// there.
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
            .expect("the standard output is a pipe")
            .read_exact(&mut ready)
            .unwrap_or_else(|error| panic!("running a script as nobody: {error}"));
        Self {
            net: Netns::open(&format!("/proc/{}/ns/net", user.id())),
            user,
        }
    }

    /// Returns the process ID.
    pub fn pid(&self) -> u32 {
        self.user.id()
    }

    /// Returns the network namespace.
    pub fn net(&self) -> &Netns {
        &self.net
    }
}

impl Drop for UserNetns {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.user.kill();
        let _ = self.user.wait();
    }
}
