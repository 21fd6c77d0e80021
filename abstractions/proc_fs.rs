// SPDX-License-Identifier: GPL-2.0

//! Directories and files in `/proc`.
//!
//! C headers: [`include/linux/proc_fs.h`](srctree/include/linux/proc_fs.h) and
//! [`include/linux/seq_file.h`](srctree/include/linux/seq_file.h)

use super::bindings;
use core::{
    marker::PhantomData,
    mem::MaybeUninit,
    ptr::{
        self,
        NonNull, //
    },
};
use kernel::{
    error::{
        from_err_ptr,
        from_result,
        to_result,
        VTABLE_DEFAULT_ERROR, //
    },
    fs::{
        self,
        LocalFile, //
    },
    prelude::*,
    seq_file::SeqFile,
    str::CStr,
    sync::Arc,
    uaccess::{
        UserSlice,
        UserSliceReader, //
    },
};

/// A directory directly in `/proc`. Dropping this removes the directory.
///
/// It must be dropped before the module is unloaded, and so must each [`File`]. If a file is
/// leaked, procfs calls code that no longer exists.
///
/// # Invariants
///
/// `entry` is the entry of the directory. It is not removed before this is dropped.
pub(crate) struct Dir {
    entry: NonNull<bindings::proc_dir_entry>,
}

// SAFETY: An entry of procfs may be removed by any task.
unsafe impl Send for Dir {}

// SAFETY: Procfs protects its entries by its own locks.
unsafe impl Sync for Dir {}

impl Dir {
    /// Creates the directory. May sleep.
    ///
    /// Fails with
    ///
    /// - [`EINVAL`] if an entry of `/proc` cannot have this name: it is empty, `.`, `..`, or a
    ///   number, is longer than 255 bytes, or contains a `/`;
    /// - [`EEXIST`] if `/proc` already has an entry of this name;
    /// - [`ESRCH`] if the task is exiting and has left its namespaces;
    /// - [`ENOMEM`], or the error of a lookup in `/proc`.
    pub(crate) fn new(name: &CStr) -> Result<Self> {
        check_name(name)?;
        if name.to_bytes().iter().all(u8::is_ascii_digit) {
            return Err(EINVAL);
        }
        if exists_in_proc(name)? {
            return Err(EEXIST);
        }

        // SAFETY: The name is valid. A null parent is the root of procfs.
        let entry = unsafe { bindings::proc_mkdir(name.as_char_ptr(), ptr::null_mut()) };

        // INVARIANT: The directory was created above.
        Ok(Self {
            entry: NonNull::new(entry).ok_or(ENOMEM)?,
        })
    }
}

/// Fails with [`EINVAL`] if an entry of a directory cannot have this name.
///
/// `__proc_create()` in `fs/proc/generic.c` prints a warning for most of these names. It takes a
/// `/` for a path separator, and would create the entry in a directory that belongs to other code.
pub(super) fn check_name(name: &CStr) -> Result {
    match name.to_bytes() {
        b"" | b"." | b".." => Err(EINVAL),
        name if name.len() > bindings::NAME_MAX as usize || name.contains(&b'/') => Err(EINVAL),
        _ => Ok(()),
    }
}

/// Returns whether `/proc` has an entry at this path.
///
/// Procfs has no function for this, and `proc_register()` prints a warning with a call trace if the
/// name is already in use. Therefore, this looks the name up as a user would, in a private mount of
/// procfs. If another module creates an entry of this name after the lookup, procfs prints its
/// warning.
pub(super) fn exists_in_proc(name: &CStr) -> Result<bool> {
    // `alloc_fs_context()` dereferences the namespaces of the current task without a check for
    // null.
    //
    // SAFETY: `current` is valid.
    if unsafe { bindings::shim_current_net() }.is_null() {
        return Err(ESRCH);
    }

    let fs_name = c"proc".as_char_ptr();
    let mut path = MaybeUninit::<bindings::path>::uninit();

    // SAFETY: The name is a C string. Procfs is built in, so its type has no reference count.
    let fs = NonNull::new(unsafe { bindings::get_fs_type(fs_name) }).ok_or(ENODEV)?;
    // SAFETY: The type and the name are valid. Procfs accepts null as its mount data.
    let mount = from_err_ptr(unsafe {
        bindings::vfs_kern_mount(
            fs.as_ptr(),
            bindings::SHIM_SB_KERNMOUNT as c_int,
            fs_name,
            ptr::null_mut(),
        )
    })?;
    // SAFETY: The mount is valid, the name is a C string, and `path` may be written to.
    let result = to_result(unsafe {
        bindings::vfs_path_lookup(
            (*mount).mnt_root,
            mount,
            name.as_char_ptr(),
            0,
            path.as_mut_ptr(),
        )
    });
    if result.is_ok() {
        // SAFETY: The lookup has succeeded, so it has initialized `path` and taken references.
        unsafe { bindings::path_put(path.as_ptr()) };
    }
    // SAFETY: `vfs_kern_mount()` returned a reference, which this gives up.
    unsafe { bindings::mntput(mount) };

    match result {
        Ok(()) => Ok(true),
        Err(ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        // SAFETY: By the type invariant, the entry has not been removed.
        unsafe { bindings::proc_remove(self.entry.as_ptr()) };
    }
}

/// The operations of a file: it shows a text, and may accept writes.
///
/// # Examples
///
/// ```
/// use crate::abstractions::proc_fs::{
///     Dir,
///     File,
///     Operations, //
/// };
/// use kernel::{
///     seq_file::SeqFile,
///     seq_print,
///     sync::Arc, //
/// };
///
/// struct Greeting;
///
/// #[vtable]
/// impl Operations for Greeting {
///     type Open = ();
///
///     fn open(&self) -> Result {
///         Ok(())
///     }
///
///     fn show(&self, _: &(), out: &SeqFile) {
///         seq_print!(out, "hello\n");
///     }
/// }
///
/// let dir = Arc::new(Dir::new(c"example")?, GFP_KERNEL)?;
/// let _file = File::new(dir, c"greeting", 0o444, Greeting)?;
///
/// // The name is in use as long as the directory exists.
/// assert_eq!(Dir::new(c"example").err(), Some(EEXIST));
/// # Ok::<(), Error>(())
/// ```
#[vtable]
pub(crate) trait Operations: Send + Sync + Sized + 'static {
    /// Data of one open file. It is dropped when the last descriptor of the open file is closed or
    /// when the [`File`] is dropped.
    type Open: Send + Sync;

    /// Called when the current task opens the file. May sleep. An error is returned to the task.
    fn open(&self) -> Result<Self::Open>;

    /// Writes the whole text to `out`. May sleep.
    ///
    /// Called for a read at offset 0, and for a read at any other offset than the end of the
    /// previous read. Called again with a larger buffer if the text did not fit. A read at the end
    /// of the previous read returns the next piece of the same text.
    fn show(&self, open: &Self::Open, out: &SeqFile);

    /// Called when the current task writes `text` at `offset`. May sleep.
    ///
    /// Either accepts the whole text or fails. If this is not implemented, a write fails with
    /// [`EIO`].
    fn write(
        &self,
        _open: &Self::Open,
        _file: &LocalFile,
        _text: UserSliceReader,
        _offset: fs::file::Offset,
    ) -> Result {
        build_error!(VTABLE_DEFAULT_ERROR)
    }
}

/// A file in a [`Dir`]. Dropping this removes the file.
///
/// Dropping may sleep, and waits for operations that are running (`proc_entry_rundown()` in
/// `fs/proc/inode.c`). A reader whose buffer is in a FUSE file or in userfaultfd memory may delay
/// it. Afterwards, reads and writes of descriptors that are still open fail with [`EIO`], and seeks
/// fail with [`EINVAL`].
///
/// # Invariants
///
/// `entry` is the entry of the file, and its data is `_operations`. It is not removed before this
/// is dropped.
pub(crate) struct File<T: Operations> {
    entry: NonNull<bindings::proc_dir_entry>,
    _operations: Pin<KBox<T>>,
    _dir: Arc<Dir>,
}

// SAFETY: An entry of procfs may be removed by any task.
unsafe impl<T: Operations> Send for File<T> {}

// SAFETY: Procfs protects its entries by its own locks.
unsafe impl<T: Operations> Sync for File<T> {}

impl<T: Operations> File<T> {
    /// Creates the file `name` in `dir`, with the permissions `mode`; root owns it. May sleep.
    ///
    /// Fails with
    ///
    /// - [`EINVAL`] if a file cannot have this name, if `mode` has bits other than permissions, or
    ///   if `mode` is 0, for which procfs would use 0444;
    /// - [`ENOMEM`] if memory is short, or if `dir` already has a file of this name. In the second
    ///   case, procfs prints a warning.
    pub(crate) fn new(dir: Arc<Dir>, name: &CStr, mode: u16, operations: T) -> Result<Self> {
        check_name(name)?;
        if mode == 0 || mode & !0o777 != 0 {
            return Err(EINVAL);
        }
        let operations = KBox::pin(operations, GFP_KERNEL)?;

        // SAFETY: The directory exists, the name is valid, and the operations are static. The data
        // is pinned, and is dropped after the file is removed.
        let entry = unsafe {
            bindings::proc_create_data(
                name.as_char_ptr(),
                mode,
                dir.entry.as_ptr(),
                &Vtable::<T>::OPS,
                ptr::from_ref(&*operations).cast_mut().cast(),
            )
        };

        // INVARIANT: The file was created above.
        Ok(Self {
            entry: NonNull::new(entry).ok_or(ENOMEM)?,
            _operations: operations,
            _dir: dir,
        })
    }
}

impl<T: Operations> Drop for File<T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant, the entry has not been removed.
        unsafe { bindings::proc_remove(self.entry.as_ptr()) };
    }
}

/// Returns the data of an entry, as `pde_data()` does.
///
/// # Safety
///
/// `inode` must be the inode of an entry of procfs.
pub(super) unsafe fn entry_data(inode: *const bindings::inode) -> *mut c_void {
    // SAFETY: By the safety requirements, the inode is valid.
    unsafe { (*inode).i_private }
}

/// The private data of the `seq_file` of an open file.
struct Opened<T: Operations> {
    /// The operations of the [`File`]. Dropping the `File` releases all open files before it drops
    /// the operations.
    operations: NonNull<T>,
    open: T::Open,
}

impl<T: Operations> Opened<T> {
    /// Returns the operations and the data of an open file.
    ///
    /// # Safety
    ///
    /// `m` must be the `seq_file` of an open file of [`File<T>`], which must stay open during `'a`.
    unsafe fn from_seq<'a>(m: *const bindings::seq_file) -> (&'a T, &'a T::Open) {
        // SAFETY: `Vtable::open` stored a pointer to an `Opened<T>`, and only `Vtable::release`
        // frees it.
        let opened = unsafe { &*(*m).private.cast::<Self>() };
        // SAFETY: The file is open, so the operations have not been dropped.
        (unsafe { opened.operations.as_ref() }, &opened.open)
    }
}

/// The C operations of a [`File<T>`].
struct Vtable<T: Operations>(PhantomData<T>);

impl<T: Operations> Vtable<T> {
    const OPS: bindings::proc_ops = bindings::proc_ops {
        proc_open: Some(Self::open),
        proc_read_iter: Some(bindings::seq_read_iter),
        proc_write: if T::HAS_WRITE {
            Some(Self::write)
        } else {
            None
        },
        proc_lseek: Some(bindings::seq_lseek),
        proc_release: Some(Self::release),
        // No other operations, and no flags.
        ..pin_init::zeroed()
    };

    /// # Safety
    ///
    /// Only procfs may call this, to open a [`File<T>`].
    unsafe extern "C" fn open(inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
        // SAFETY: The inode belongs to a `File<T>`, whose data is its operations. They are not
        // dropped while the file is being opened or is open.
        let operations = unsafe { &*entry_data(inode).cast::<T>() };

        from_result(|| {
            let open = operations.open()?;
            let operations = NonNull::from(operations);
            // Any user can open the file, so the memory is charged to the memory cgroup of the
            // opener.
            let opened = KBox::new(Opened::<T> { operations, open }, GFP_KERNEL_ACCOUNT)?;
            let opened = KBox::into_raw(opened);

            // SAFETY: The file is being opened. `show` casts the pointer back to its type.
            let result = unsafe { bindings::single_open(file, Some(Self::show), opened.cast()) };
            if let Err(error) = to_result(result) {
                // SAFETY: The pointer comes from the `KBox` above. `single_open()` has failed, so
                // it has not kept the pointer.
                drop(unsafe { KBox::from_raw(opened) });
                return Err(error);
            }
            if T::HAS_WRITE {
                // `seq_open()` clears this flag. A file that supports `pwrite()` has to set it
                // again.
                //
                // SAFETY: The file is being opened, so no other task accesses it.
                unsafe { (*file).f_mode |= bindings::SHIM_FMODE_PWRITE };
            }
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// Only `seq_file` may call this, for an open file of [`File<T>`].
    unsafe extern "C" fn show(m: *mut bindings::seq_file, _: *mut c_void) -> c_int {
        // SAFETY: By the safety requirements, `m` is the `seq_file` of an open file of `File<T>`.
        let (operations, open) = unsafe { Opened::<T>::from_seq(m) };
        // SAFETY: `m` is valid, and `seq_file` holds its lock during the call.
        operations.show(open, unsafe { SeqFile::from_raw(m) });
        0
    }

    /// # Safety
    ///
    /// Only procfs may call this, for an open file of [`File<T>`].
    unsafe extern "C" fn write(
        file: *mut bindings::file,
        text: *const c_char,
        len: usize,
        offset: *mut bindings::loff_t,
    ) -> isize {
        // SAFETY: `single_open()` has set the private data of the open file to a `seq_file`.
        let (operations, open) = unsafe { Opened::<T>::from_seq((*file).private_data.cast()) };
        // SAFETY: The caller keeps the file during the call. If there is an `fdget_pos()` call on
        // the file that took no lock, it is on this thread, and a `LocalFile` stays on its thread.
        let file = unsafe { LocalFile::from_raw_file(file) };
        let text = UserSlice::new(UserPtr::from_ptr(text.cast_mut().cast()), len).reader();

        // SAFETY: The caller passes a valid pointer to the offset.
        let offset = unsafe { &mut *offset };

        from_result(|| {
            operations.write(open, file, text, *offset)?;
            *offset += len as bindings::loff_t;
            Ok(len as isize)
        })
    }

    /// # Safety
    ///
    /// Only procfs may call this, once for each open file of [`File<T>`], when the open file is no
    /// longer used.
    unsafe extern "C" fn release(inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
        // SAFETY: `single_open()` has set the private data of the open file to a `seq_file`. The
        // private data of the `seq_file` is the `KBox` that `open` stored.
        let opened = unsafe {
            let m = (*file).private_data.cast::<bindings::seq_file>();
            KBox::from_raw((*m).private.cast::<Opened<T>>())
        };

        // SAFETY: The file was opened by `single_open()`, and is no longer used.
        let result = unsafe { bindings::single_release(inode, file) };
        drop(opened);
        result
    }
}
