// SPDX-License-Identifier: GPL-2.0

//! The files of `/proc/kstat`: `nout` and `counter`.
//!
//! A descriptor stands for the network namespace in which the file was opened, whoever uses it
//! later, as those of `/proc/net` do.

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
        }, //
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

/// The files, which are there until this is dropped.
pub(crate) struct Files {
    _nout: File<Nout>,
    _counter: File<Counter>,
}

impl Files {
    /// Makes `/proc/kstat` and the files in it, which show `stats`.
    pub(crate) fn new(stats: &Arc<Registration<Stats>>) -> Result<Self> {
        let dir = Dir::new(c"kstat").inspect_err(|error| {
            if *error == EEXIST {
                pr_err!("/proc/kstat is there already: unload the module that made it, then load kstat\n");
            }
        })?;
        let dir = Arc::new(dir, GFP_KERNEL)?;

        Ok(Self {
            _nout: File::new(dir.clone(), c"nout", 0o444, Nout(stats.clone()))?,
            _counter: File::new(dir, c"counter", 0o644, Counter(stats.clone()))?,
        })
    }
}

/// Returns the namespace that an opener is in.
fn opened_in() -> Result<ARef<LiveNet>> {
    LiveNet::current().ok_or(ESRCH)
}

/// The count as published.
struct Nout(Arc<Registration<Stats>>);

#[vtable]
impl Operations for Nout {
    type Open = ARef<LiveNet>;

    fn open(&self) -> Result<ARef<LiveNet>> {
        opened_in()
    }

    fn show(&self, net: &ARef<LiveNet>, out: &SeqFile) {
        if let Some(stats) = self.0.get(net) {
            seq_print!(out, "{}\n", stats.nout());
        }
    }
}

/// The step, which can be set.
struct Counter(Arc<Registration<Stats>>);

/// What belongs to an open `counter`.
struct OpenCounter {
    net: ARef<LiveNet>,

    /// The offset behind the number that was set last, or 0 if none was.
    end: Atomic<i64>,
}

#[vtable]
impl Operations for Counter {
    type Open = OpenCounter;

    fn open(&self) -> Result<OpenCounter> {
        Ok(OpenCounter {
            net: opened_in()?,
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
            // White space may follow a number in a write of its own: toybox writes the newline so.
            return Err(EINVAL);
        }
        open.end.store(offset + buffer.len() as i64, Relaxed);
        Ok(())
    }
}
