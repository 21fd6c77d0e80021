// SPDX-License-Identifier: GPL-2.0

//! Programs that run while a test does something else.

use crate::guest::netns::Netns;
use std::{
    fs,
    path::{Path, PathBuf},
    process::{self, Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

/// A running program, which is ended when this is dropped.
pub struct Daemon(Child);

impl Daemon {
    /// Runs `program` in a namespace. It must not go into the background by itself.
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
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // SAFETY: It is our child, and has not been waited for, so that the number is its own.
        unsafe { libc::kill(self.0.id() as i32, libc::SIGTERM) };
        // It may have ended already.
        let _ = self.0.wait();
    }
}

/// A folder for what a program needs, which is removed when this is dropped.
pub struct Folder(PathBuf);

impl Folder {
    /// Makes it.
    #[track_caller]
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "/tmp/kstat-{}-{}",
            process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );

        fs::create_dir(&name).unwrap_or_else(|error| panic!("making {name}: {error}"));
        Self(name.into())
    }

    /// The path of a file in it.
    pub fn path(&self, name: &str) -> String {
        self.0.join(name).to_string_lossy().into_owned()
    }

    /// Writes a file in it, and returns its path.
    #[track_caller]
    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) -> String {
        let path = self.path(name);

        fs::write(Path::new(&path), text).unwrap_or_else(|error| panic!("writing {path}: {error}"));
        path
    }
}

impl Default for Folder {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
