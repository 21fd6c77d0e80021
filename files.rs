// SPDX-License-Identifier: GPL-2.0

//! The files in `/proc/kstat`, `nout` and `counter`, and `/proc/net/kstat`.
//!
//! An open file of `/proc/kstat` refers to the network namespace in which it was opened, even if a
//! task in another namespace uses its descriptor. A file in `/proc/net` belongs to the namespace of
//! the process in its path.

#![forbid(unsafe_code)]

use crate::{
    abstractions::{
        netns::{
            Capability,
            LiveNet,
            Registration, //
        },
        proc_fs::{
            Dir,
            File,
            Operations, //
        },
        proc_net, //
    },
    stats::Stats,
    step::Step, //
};
use kernel::{
    fs::{
        self,
        LocalFile, //
    },
    prelude::*,
    seq_file::SeqFile,
    seq_print,
    sync::{
        aref::ARef,
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc, //
    },
    uaccess::UserSliceReader, //
};

/// The files. Dropping this removes them and `/proc/kstat`.
pub(crate) struct Files {
    _nout: File<Nout>,
    _counter: File<Counter>,
}

impl Files {
    /// Creates `/proc/kstat` and the files in it. They show and set `stats`.
    pub(crate) fn new(stats: &Arc<Registration<Stats>>) -> Result<Self> {
        let dir = Dir::new(c"kstat").inspect_err(|error| {
            if *error == EEXIST {
                pr_err!("/proc/kstat already exists: unload the module that created it, then load kstat\n");
            }
        })?;
        let dir = Arc::new(dir, GFP_KERNEL)?;

        Ok(Self {
            _nout: File::new(dir.clone(), c"nout", 0o444, Nout(stats.clone()))?,
            _counter: File::new(dir, c"counter", 0o644, Counter(stats.clone()))?,
        })
    }
}

/// Creates `/proc/net/kstat`, which shows all that is counted.
pub(crate) fn net_files(stats: &Arc<Registration<Stats>>) -> Result<proc_net::Files<Stats>> {
    proc_net::register(stats.clone()).inspect_err(|error| {
        if *error == EEXIST {
            pr_err!("/proc/net/kstat already exists: unload the module that created it, then load kstat\n");
        }
    })
}

/// Returns the network namespace of the task that opens a file.
fn opener_net() -> Result<ARef<LiveNet>> {
    LiveNet::current().ok_or(ESRCH)
}

/// The file `nout`: shows the published count.
struct Nout(Arc<Registration<Stats>>);

#[vtable]
impl Operations for Nout {
    type Open = ARef<LiveNet>;

    fn open(&self) -> Result<ARef<LiveNet>> {
        opener_net()
    }

    fn show(&self, net: &ARef<LiveNet>, out: &SeqFile) {
        if let Some(stats) = self.0.get(net) {
            seq_print!(out, "{}\n", stats.nout());
        }
    }
}

/// The file `counter`: shows the step, and sets it when it is written.
struct Counter(Arc<Registration<Stats>>);

/// The data of an open `counter` file.
struct OpenCounter {
    net: ARef<LiveNet>,

    /// The offset at the end of the last successful write, or 0 if there was none.
    end: Atomic<i64>,
}

#[vtable]
impl Operations for Counter {
    type Open = OpenCounter;

    fn open(&self) -> Result<OpenCounter> {
        Ok(OpenCounter {
            net: opener_net()?,
            end: Atomic::new(0),
        })
    }

    fn show(&self, open: &OpenCounter, out: &SeqFile) {
        if let Some(stats) = self.0.get(&open.net) {
            seq_print!(out, "{}\n", stats.step().get().get());
        }
    }

    fn write(
        &self,
        open: &OpenCounter,
        file: &LocalFile,
        mut text: UserSliceReader,
        offset: fs::file::Offset,
    ) -> Result {
        if !open.net.capable(file, Capability::NET_ADMIN) {
            return Err(EPERM);
        }

        let mut buffer = [0; Step::MAX_TEXT];
        let buffer = buffer.get_mut(..text.len()).ok_or(EINVAL)?;
        text.read_slice(buffer)?;

        if offset == 0 {
            let step = Step::parse(buffer)?;
            self.0.get(&open.net).ok_or(ENODEV)?.set_step(step);
        } else if offset != open.end.load(Relaxed) || !Step::is_white_space(buffer) {
            // A separate write may add white space after the number: toybox writes the newline this
            // way.
            return Err(EINVAL);
        }
        open.end.store(offset + buffer.len() as i64, Relaxed);
        Ok(())
    }
}
