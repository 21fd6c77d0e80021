// SPDX-License-Identifier: GPL-2.0

//! Programs that run in the background of a test, and folders for their files.

use crate::guest::netns::Netns;
use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    process::{Child, Command, Stdio},
};
use tempfile::TempDir;

/// A running program. Dropping it ends the program with SIGTERM.
pub struct Daemon(Child);

impl Daemon {
    /// Runs `program` in a network namespace. The program must stay in the foreground.
    #[track_caller]
    pub fn run(net: &Netns, program: &str, args: &[&str]) -> Self {
        net.run(|| {
            Command::new(program)
                .args(args)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .spawn()
                .map(Self)
                .unwrap_or_else(|error| panic!("{program}: {error}"))
        })
    }

    /// Returns the process ID.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // SAFETY: The child has not been waited for, so the kernel has not given its number to
        // another process.
        unsafe { libc::kill(self.0.id() as i32, libc::SIGTERM) };
        // The child may have ended already, with any status.
        let _ = self.0.wait();
    }
}

/// A temporary folder for the files of a program. Dropping it removes the folder.
pub struct Folder(TempDir);

impl Folder {
    /// Makes the folder. Every user may read it, as some programs give up root's privileges.
    #[track_caller]
    pub fn new() -> Self {
        tempfile::Builder::new()
            .prefix("kstat-")
            .permissions(Permissions::from_mode(0o755))
            .tempdir()
            .map(Self)
            .unwrap_or_else(|error| panic!("making a temporary folder: {error}"))
    }

    /// Returns the path of the file `name` in the folder.
    pub fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_string_lossy().into_owned()
    }

    /// Writes the file `name` in the folder, and returns its path.
    #[track_caller]
    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) -> String {
        let path = self.path(name);

        fs::write(&path, text).unwrap_or_else(|error| panic!("writing {path}: {error}"));
        path
    }
}

impl Default for Folder {
    fn default() -> Self {
        Self::new()
    }
}
