// SPDX-License-Identifier: GPL-2.0

//! What people read and write: `/proc/kstat/nout` and `/proc/kstat/counter`.
//!
//! A descriptor stands for the network namespace in which the file was opened, whoever uses it
//! later, as those of `/proc/net` do.

#![forbid(unsafe_code)]

use crate::{
    netns::{
        Capability,
        NetRef,
        Registration, //
    },
    proc_fs::{
        Dir,
        File,
        Operations, //
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
    sync::Arc,
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
        let dir = Arc::new(Dir::new(c"kstat")?, GFP_KERNEL)?;

        Ok(Self {
            _nout: File::new(dir.clone(), c"nout", 0o444, Nout(stats.clone()))?,
            _counter: File::new(dir, c"counter", 0o644, Counter(stats.clone()))?,
        })
    }
}

/// The count as published.
struct Nout(Arc<Registration<Stats>>);

#[vtable]
impl Operations for Nout {
    type Open = NetRef;

    fn open(&self) -> Result<NetRef> {
        Ok(NetRef::current())
    }

    fn show(&self, net: &NetRef, out: &SeqFile) {
        if let Some(stats) = self.0.get(net) {
            seq_print!(out, "{}\n", stats.nout());
        }
    }
}

/// The step, which can be set.
struct Counter(Arc<Registration<Stats>>);

#[vtable]
impl Operations for Counter {
    type Open = NetRef;

    fn open(&self) -> Result<NetRef> {
        Ok(NetRef::current())
    }

    fn show(&self, net: &NetRef, out: &SeqFile) {
        if let Some(stats) = self.0.get(net) {
            seq_print!(out, "{}\n", stats.step().get().get());
        }
    }

    fn write(
        &self,
        net: &NetRef,
        file: &LocalFile,
        mut text: UserSliceReader,
        offset: fs::file::Offset,
    ) -> Result {
        if !net.capable(file, Capability::NET_ADMIN) {
            return Err(EPERM);
        }
        if offset != 0 {
            return Err(EINVAL);
        }

        let mut buffer = [0; Step::MAX_TEXT];
        let buffer = buffer.get_mut(..text.len()).ok_or(EINVAL)?;
        text.read_slice(buffer)?;
        let step = Step::parse(buffer)?;

        self.0.get(net).ok_or(ENODEV)?.set_step(step);
        Ok(())
    }
}
