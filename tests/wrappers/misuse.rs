// SPDX-License-Identifier: GPL-2.0

//! Safe calls of the wrappers that have once reached undefined behaviour, or could.

#![forbid(unsafe_code)]

use crate::abstractions::{
    netns::{
        At,
        LiveNet,
        Net,
        PerNet,
        Registration,
        Slot, //
    },
    param::{
        Origin,
        Param, //
    },
    proc_fs::{
        Dir,
        File,
        Operations, //
    },
};
use kernel::{
    fmt,
    fs::{
        self,
        LocalFile, //
    },
    new_mutex,
    prelude::*,
    seq_file::SeqFile,
    seq_print,
    str::{
        kstrtobool_bytes,
        CString, //
    },
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc,
        Completion,
        Mutex, //
    },
    uaccess::UserSliceReader, //
};

/// A parameter that is set or not.
pub(crate) struct Flag(pub(crate) bool);

impl Param for Flag {
    const INITIAL: Self = Self(false);

    fn set(&mut self, value: &[u8], _: Origin) -> Result {
        self.0 = kstrtobool_bytes(value)?;
        Ok(())
    }
}

impl fmt::Display for Flag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0 { "1" } else { "0" })
    }
}

/// A parameter whose static holds a registration, which nothing else drops.
pub(crate) struct Held(Option<Registration<Idle>>);

impl Param for Held {
    const INITIAL: Self = Self(None);

    fn set(&mut self, _: &[u8], _: Origin) -> Result {
        self.0 = Some(Registration::new(())?);
        Ok(())
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "1" } else { "0" })
    }
}

/// Data of a namespace that is of no use.
pub(crate) struct Idle {
    _some: u64,
}

static IDLE: Slot<Idle> = Slot::new();

impl PerNet for Idle {
    type Context = ();
    const SLOT: At<Self> = IDLE.at();

    fn init(_: &(), _: &Net) -> impl PinInit<Self, Error> {
        try_init!(Self { _some: 1 })
    }
}

/// Makes entries of procfs by names that it does not take, or takes for a path.
pub(crate) fn names() -> Result {
    let long = CString::try_from_fmt(fmt!("{:0256}x", 0))?;

    for name in [
        c"",
        c".",
        c"..",
        c"misuse/b",
        c"/misuse",
        c"misuse/",
        c"1",
        &long,
    ] {
        expect("a folder's name", Dir::new(name).err() == Some(EINVAL))?;
    }
    let dir = Arc::new(Dir::new(c"misuse")?, GFP_KERNEL)?;
    for name in [c"misuse", c"self", c"net"] {
        expect("a name in use", Dir::new(name).err() == Some(EEXIST))?;
    }
    for name in [c"", c".", c"..", c"a/b", c"/a", &long] {
        let file = File::new(dir.clone(), name, 0o444, Exiting);
        expect("a file's name", file.err() == Some(EINVAL))?;
    }
    for mode in [0, 0o4444, 0o40444] {
        let file = File::new(dir.clone(), c"a", mode, Exiting);
        expect("a file's mode", file.err() == Some(EINVAL))?;
    }
    Ok(())
}

fn expect(what: &str, is_so: bool) -> Result {
    if !is_so {
        pr_err!("{what} was not refused as it has to be\n");
        return Err(EPROTO);
    }
    Ok(())
}

/// The files of `/proc/misuse`.
pub(crate) struct Files {
    _exiting: File<Exiting>,
    _late: File<LateFile>,
    _early: Registration<Early>,
    shared: Arc<Shared>,
}

impl Drop for Files {
    fn drop(&mut self) {
        // The registration of `Late` holds what holds it.
        let late = self.shared.late.lock().take();
        drop(late);
    }
}

impl Files {
    /// Makes the files.
    pub(crate) fn new() -> Result<Self> {
        let shared = Arc::pin_init(
            try_pin_init!(Shared {
                late <- new_mutex!(None),
                proceed <- Completion::new(),
                registered <- Completion::new(),
                is_registering: Atomic::new(0),
                found: Atomic::new(-1),
            }),
            GFP_KERNEL,
        )?;
        let dir = Arc::new(Dir::new(c"misuse")?, GFP_KERNEL)?;

        Ok(Self {
            _early: Registration::new(shared.clone())?,
            _exiting: File::new(dir.clone(), c"exiting", 0o444, Exiting)?,
            _late: File::new(dir, c"late", 0o644, LateFile(shared.clone()))?,
            shared,
        })
    }
}

/// How often a file was released by a task that had no namespaces any more.
static WITHOUT_NAMESPACES: Atomic<i32> = Atomic::new(0);

/// A file that asks for the current network namespace when it is released.
struct Exiting;

struct OpenExiting;

impl Drop for OpenExiting {
    fn drop(&mut self) {
        let folder = Dir::new(c"misuse_exiting");
        if LiveNet::current().is_none() && folder.err() == Some(ESRCH) {
            WITHOUT_NAMESPACES.add(1, Relaxed);
        }
    }
}

#[vtable]
impl Operations for Exiting {
    type Open = OpenExiting;

    fn open(&self) -> Result<OpenExiting> {
        Ok(OpenExiting)
    }

    fn show(&self, _: &OpenExiting, out: &SeqFile) {
        seq_print!(out, "{}\n", WITHOUT_NAMESPACES.load(Relaxed));
    }
}

/// What the registrations of [`Early`] and [`Late`] tell each other.
#[pin_data]
pub(crate) struct Shared {
    #[pin]
    late: Mutex<Option<Arc<Registration<Late>>>>,
    #[pin]
    proceed: Completion,
    #[pin]
    registered: Completion,
    is_registering: Atomic<i32>,
    /// -1 before [`Early`] has asked for a [`Late`], then how many it found.
    found: Atomic<i32>,
}

/// Data that asks, while a namespace is being set up, for data of a registration that is made meanwhile.
pub(crate) struct Early {
    _some: u64,
}

static EARLY: Slot<Early> = Slot::new();

impl PerNet for Early {
    type Context = Arc<Shared>;
    const SLOT: At<Self> = EARLY.at();

    fn init(shared: &Arc<Shared>, net: &Net) -> impl PinInit<Self, Error> {
        if shared.is_registering.load(Relaxed) != 0 {
            shared.registered.wait_for_completion();
            if let Some(late) = &*shared.late.lock() {
                shared.found.store(late.get(net).is_some().into(), Relaxed);
            }
        }
        try_init!(Self { _some: 1 })
    }
}

/// Data whose registration takes as long as a test needs.
pub(crate) struct Late {
    _some: u64,
}

static LATE: Slot<Late> = Slot::new();

impl PerNet for Late {
    type Context = Arc<Shared>;
    const SLOT: At<Self> = LATE.at();

    fn init(shared: &Arc<Shared>, _: &Net) -> impl PinInit<Self, Error> {
        shared.is_registering.store(1, Relaxed);
        shared.proceed.wait_for_completion();
        try_init!(Self { _some: 1 })
    }
}

/// A write of `register` registers [`Late`], which lasts until a write of `proceed`.
struct LateFile(Arc<Shared>);

#[vtable]
impl Operations for LateFile {
    type Open = ();

    fn open(&self) -> Result {
        Ok(())
    }

    fn show(&self, _: &(), out: &SeqFile) {
        match (
            self.0.is_registering.load(Relaxed),
            self.0.found.load(Relaxed),
        ) {
            (0, _) => seq_print!(out, "idle\n"),
            (_, -1) => seq_print!(out, "registering\n"),
            (_, found) => seq_print!(out, "found {found}\n"),
        }
    }

    fn write(
        &self,
        _: &(),
        _: &LocalFile,
        mut text: UserSliceReader,
        _: fs::file::Offset,
    ) -> Result {
        let mut buffer = [0; 16];
        let buffer = buffer.get_mut(..text.len()).ok_or(EINVAL)?;
        text.read_slice(buffer)?;

        match &*buffer {
            b"register\n" => {
                let late = Arc::new(Registration::new(self.0.clone())?, GFP_KERNEL)?;
                *self.0.late.lock() = Some(late);
                self.0.registered.complete_all();
            }
            b"proceed\n" => self.0.proceed.complete_all(),
            _ => return Err(EINVAL),
        }
        Ok(())
    }
}
