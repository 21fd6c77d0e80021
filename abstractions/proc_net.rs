// SPDX-License-Identifier: GPL-2.0

//! Files in `/proc/net`, of which every network namespace has its own.
//!
//! A task reads the file of its own network namespace in `/proc/net`, and that of another task's
//! network namespace in `/proc/PID/net`.
//!
//! C header: [`include/linux/proc_fs.h`](srctree/include/linux/proc_fs.h)

use super::{
    bindings,
    netns::{
        Net,
        PerNet,
        Registration,
        SlotRef, //
    },
    proc_fs::{
        check_name,
        entry_data,
        exists_in_proc, //
    },
};
use core::{
    marker::PhantomData,
    ptr::{
        self,
        NonNull, //
    },
};
use kernel::{
    prelude::*,
    seq_file::SeqFile,
    str::{
        CStr,
        CString, //
    },
    sync::Arc, //
};

/// Data of a network namespace that a file in `/proc/net` shows.
///
/// # Examples
///
/// ```
/// use crate::abstractions::{
///     netns::{
///         Net,
///         PerNet,
///         Registration,
///         Slot,
///         SlotRef, //
///     },
///     proc_net::{
///         self,
///         Entry,
///         NetFile, //
///     },
/// };
/// use kernel::{
///     seq_file::SeqFile,
///     seq_print,
///     sync::Arc, //
/// };
///
/// struct Greeting;
///
/// static GREETINGS: Slot<Greeting> = Slot::new();
/// static FILES: Slot<Entry<Greeting>> = Slot::new();
///
/// impl PerNet for Greeting {
///     type Context = ();
///     const SLOT: SlotRef<Self> = GREETINGS.slot_ref();
///
///     fn init(_: &(), _net: &Net) -> impl PinInit<Self, Error> {
///         Ok(Self)
///     }
/// }
///
/// impl NetFile for Greeting {
///     const NAME: &'static CStr = c"greeting";
///     const SLOT: SlotRef<Entry<Self>> = FILES.slot_ref();
///
///     fn show(&self, out: &SeqFile) {
///         seq_print!(out, "hello\n");
///     }
/// }
///
/// let greetings = Arc::new(Registration::<Greeting>::new(())?, GFP_KERNEL)?;
/// let _files = proc_net::register(greetings.clone())?;
///
/// // The name is in use.
/// assert_eq!(proc_net::register(greetings).err(), Some(EEXIST));
/// # Ok::<(), Error>(())
/// ```
pub(crate) trait NetFile: PerNet {
    /// The name of the file.
    const NAME: &'static CStr;

    /// The static that holds the registration of the files.
    const SLOT: SlotRef<Entry<Self>>;

    /// Writes the whole text to `out`. May sleep.
    ///
    /// Called for a read at offset 0, and for a read or seek to another offset than the end of the
    /// previous read. Called again with a larger buffer if the text did not fit.
    fn show(&self, out: &SeqFile);
}

/// The file of one network namespace.
///
/// # Invariants
///
/// `entry` is the entry of the file from [`PerNet::init`] to [`PerNet::pre_exit`], and is not used
/// afterwards.
pub(crate) struct Entry<T: NetFile> {
    entry: NonNull<bindings::proc_dir_entry>,
    _data: PhantomData<T>,
}

// SAFETY: An entry of procfs may be removed by any task.
unsafe impl<T: NetFile> Send for Entry<T> {}

// SAFETY: Procfs protects its entries by its own locks.
unsafe impl<T: NetFile> Sync for Entry<T> {}

/// Creates the file in every network namespace, existing and new. Everyone can read it.
///
/// An open file keeps its network namespace, as all files of `/proc/net` do. Dropping the result
/// removes the files, and waits for reads that are running; afterwards, reads of descriptors that
/// are still open fail with [`EIO`].
///
/// Creating and dropping may sleep and take `pernet_ops_rwsem`. A reader whose buffer is in a FUSE
/// file or in userfaultfd memory may delay a drop, and meanwhile no network namespace can be
/// created or destroyed, because the files are removed with `pernet_ops_rwsem` held. Other pernet
/// operations that remove files have the same limit, for example those of nf_conntrack.
///
/// Fails with
///
/// - [`EINVAL`] if a file cannot have this name;
/// - [`EEXIST`] if the network namespace of the main thread of the current process has a file of
///   this name. If only another one has, procfs prints a warning, and this fails with [`ENOMEM`];
/// - [`EBUSY`] if the files of `T` are registered, or are being registered by another task, and the
///   lookup did not find them;
/// - [`ENOMEM`], or the error of a lookup in `/proc`.
pub(crate) fn register<T: NetFile>(data: Arc<Registration<T>>) -> Result<Files<T>> {
    check_name(T::NAME)?;
    let path = CString::try_from_fmt(fmt!("net/{}", T::NAME.to_str()?))?;
    if exists_in_proc(&path)? {
        return Err(EEXIST);
    }
    Ok(Files {
        _entries: Registration::new(Context(data))?,
    })
}

/// The context of the registration of [`Entry`].
///
/// The field is private, so that only [`register`] can register entries, or call [`Entry::init`]: a
/// user could otherwise create a file that nothing removes.
pub(crate) struct Context<T: NetFile>(Arc<Registration<T>>);

/// The files that [`register`] has created. Dropping this removes them.
///
/// The [`Registration`] is private: with its data, a user could remove a file early.
pub(crate) struct Files<T: NetFile> {
    _entries: Registration<Entry<T>>,
}

impl<T: NetFile> Entry<T> {
    /// # Safety
    ///
    /// Only `seq_file` may call this, for an open file that [`Entry::init`] has created.
    unsafe extern "C" fn show(m: *mut bindings::seq_file, _: *mut c_void) -> c_int {
        // SAFETY: `m` belongs to an open file, whose inode is that of the entry. `init` has stored
        // a pointer to the data of the namespace. The core drops the data after `pre_exit` of all
        // pernet operations (`ops_undo_list()` in `net/core/net_namespace.c`), and ours waits for
        // this function.
        let data = unsafe { &*entry_data((*(*m).file).f_inode).cast::<T>() };
        // SAFETY: `m` is valid, and `seq_file` holds its lock during the call.
        data.show(unsafe { SeqFile::from_raw(m) });
        0
    }

    fn create(data: &T, net: &Net) -> Result<NonNull<bindings::proc_dir_entry>> {
        // SAFETY: The namespace and the name are valid. The function and the data are valid until
        // `pre_exit` removes the entry.
        let entry = unsafe {
            bindings::shim_proc_create_net(
                net.as_raw(),
                T::NAME.as_char_ptr(),
                0o444,
                Some(Self::show),
                ptr::from_ref(data).cast_mut().cast(),
            )
        };
        NonNull::new(entry).ok_or(ENOMEM)
    }
}

impl<T: NetFile> PerNet for Entry<T> {
    /// Its reference keeps the data until the files are gone.
    type Context = Context<T>;
    const SLOT: SlotRef<Self> = <T as NetFile>::SLOT;

    fn init(context: &Context<T>, net: &Net) -> impl PinInit<Self, Error> {
        // INVARIANT: `create` has created the entry.
        try_init!(Self {
            // The data is registered before the files, so it exists.
            entry: Self::create(context.0.get(net).ok_or(ENOENT)?, net)?,
            _data: PhantomData,
        })
    }

    fn pre_exit(self: Pin<&Self>, _net: &Net) {
        // SAFETY: By the type invariant, the entry exists. `Files` keeps the registration private,
        // so only the pernet core calls this, once for each namespace.
        unsafe { bindings::proc_remove(self.entry.as_ptr()) };
    }
}
