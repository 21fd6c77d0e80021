// SPDX-License-Identifier: GPL-2.0

//! Files below `/proc`.
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

/// A folder at the top of `/proc`, which is removed when this is dropped.
///
/// It has to be dropped before the module is unloaded, as has each [`File`]: if it is leaked, procfs
/// calls code that is gone.
///
/// # Invariants
///
/// `entry` is the folder's, and is not removed before this is dropped.
pub(crate) struct Dir {
    entry: NonNull<bindings::proc_dir_entry>,
}

// SAFETY: procfs has locks of its own; any task may remove what another one made.
unsafe impl Send for Dir {}

// SAFETY: As above.
unsafe impl Sync for Dir {}

impl Dir {
    /// Makes the folder.
    ///
    /// May sleep. Fails with [`EINVAL`] if the name is none that an entry of `/proc` can have: it is
    /// empty, longer than 255 bytes, `.`, `..`, a number, or has a `/` in it; with [`EEXIST`] if `/proc`
    /// has an entry of that name; with [`ESRCH`] if the task is exiting and has left its namespaces; with
    /// [`ENOMEM`]; or with the error of a look-up in `/proc`.
    pub(crate) fn new(name: &CStr) -> Result<Self> {
        check_name(name)?;
        if name.to_bytes().iter().all(u8::is_ascii_digit) {
            return Err(EINVAL);
        }
        if is_in_proc(name)? {
            return Err(EEXIST);
        }

        // SAFETY: The name is valid; no parent is the top of `/proc`.
        let entry = unsafe { bindings::proc_mkdir(name.as_char_ptr(), ptr::null_mut()) };

        // INVARIANT: The folder was made just now.
        Ok(Self {
            entry: NonNull::new(entry).ok_or(ENOMEM)?,
        })
    }
}

/// Fails with [`EINVAL`] if no entry of a folder can have this name.
///
/// `__proc_create()` in `fs/proc/generic.c` warns of most of these. It takes a `/` for the separator of a
/// path, so that the entry would be made in the folder of another owner.
fn check_name(name: &CStr) -> Result {
    match name.to_bytes() {
        b"" | b"." | b".." => Err(EINVAL),
        name if name.len() > bindings::NAME_MAX as usize || name.contains(&b'/') => Err(EINVAL),
        _ => Ok(()),
    }
}

/// Returns whether the top of `/proc` has an entry of this name.
///
/// procfs has no function for that, and `proc_register()` warns with a call trace of a name that is
/// in use. So this asks as a user would, in a mount that nobody else sees. Another module may make an
/// entry of that name after the answer: then procfs warns.
fn is_in_proc(name: &CStr) -> Result<bool> {
    // `alloc_fs_context()` takes the current task's network namespace, and does not check that there is one.
    //
    // SAFETY: `current` is valid.
    if unsafe { bindings::shim_current_net() }.is_null() {
        return Err(ESRCH);
    }

    let fs_name = c"proc".as_char_ptr();
    let mut path = MaybeUninit::<bindings::path>::uninit();

    // SAFETY: The name is a string. procfs is built in, so its type has no reference count.
    let fs = NonNull::new(unsafe { bindings::get_fs_type(fs_name) }).ok_or(ENODEV)?;
    // SAFETY: The type and the name are valid; procfs takes no data.
    let mount = from_err_ptr(unsafe {
        bindings::vfs_kern_mount(
            fs.as_ptr(),
            bindings::SHIM_SB_KERNMOUNT as c_int,
            fs_name,
            ptr::null_mut(),
        )
    })?;
    // SAFETY: The mount is valid, the name is a string, and `path` is there to be written.
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
        // SAFETY: The look-up succeeded, so it has written `path` and taken references.
        unsafe { bindings::path_put(path.as_ptr()) };
    }
    // SAFETY: `vfs_kern_mount()` returned a reference, which is given up here.
    unsafe { bindings::mntput(mount) };

    match result {
        Ok(()) => Ok(true),
        Err(ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the entry is there.
        unsafe { bindings::proc_remove(self.entry.as_ptr()) };
    }
}

/// What a file does: shows a text, and perhaps takes one.
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
/// struct Answer;
///
/// #[vtable]
/// impl Operations for Answer {
///     type Open = ();
///
///     fn open(&self) -> Result {
///         Ok(())
///     }
///
///     fn show(&self, _: &(), out: &SeqFile) {
///         seq_print!(out, "42\n");
///     }
/// }
///
/// let dir = Arc::new(Dir::new(c"deep_thought")?, GFP_KERNEL)?;
/// let file = File::new(dir, c"answer", 0o444, Answer)?;
///
/// // The name is taken while the folder is there.
/// assert_eq!(Dir::new(c"deep_thought").err(), Some(EEXIST));
/// # Ok::<(), Error>(())
/// ```
#[vtable]
pub(crate) trait Operations: Send + Sync + Sized + 'static {
    /// What belongs to an open file, until its last descriptor is closed.
    type Open: Send + Sync;

    /// Somebody, the current task, opens the file. May sleep. An error is the opener's.
    fn open(&self) -> Result<Self::Open>;

    /// Writes the whole text to `out`. May sleep.
    ///
    /// Called for a read at offset 0 or at an offset other than the end of the previous read, and again
    /// with a larger buffer if the text did not fit. A read at the end of the previous one gets the next
    /// piece of the same text.
    fn show(&self, open: &Self::Open, out: &SeqFile);

    /// Somebody writes `text` at `offset`. May sleep. All of it is taken, or there is an error.
    ///
    /// Without this a write fails with [`EIO`].
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

/// A file in a [`Dir`], which is removed when this is dropped.
///
/// Dropping it waits for the operations that are running (`proc_entry_rundown()` in
/// `fs/proc/inode.c`): a reader whose buffer lies in a FUSE file or in userfaultfd memory may hold it up.
/// From then on, reads and writes of descriptors that are still open fail with [`EIO`], and seeks with
/// [`EINVAL`]. May sleep.
///
/// # Invariants
///
/// `entry` is the file's, its data is `operations`, and it is not removed before this is dropped.
pub(crate) struct File<T: Operations> {
    entry: NonNull<bindings::proc_dir_entry>,
    _operations: Pin<KBox<T>>,
    _dir: Arc<Dir>,
}

// SAFETY: procfs has locks of its own; any task may remove what another one made.
unsafe impl<T: Operations> Send for File<T> {}

// SAFETY: As above.
unsafe impl<T: Operations> Sync for File<T> {}

impl<T: Operations> File<T> {
    /// Makes the file `name` in `dir`, owned by root, with permissions `mode`.
    ///
    /// May sleep. Fails with [`EINVAL`] if the name is none that a file can have, or if `mode` has bits
    /// other than permissions or is 0, which procfs takes for 0444. Fails with [`ENOMEM`] for want of
    /// memory, or if `dir` has a file of that name: then procfs prints a warning, too.
    pub(crate) fn new(dir: Arc<Dir>, name: &CStr, mode: u16, operations: T) -> Result<Self> {
        check_name(name)?;
        if mode == 0 || mode & !0o777 != 0 {
            return Err(EINVAL);
        }
        let operations = KBox::pin(operations, GFP_KERNEL)?;

        // SAFETY: The folder is there, the name is valid, the operations are static, and their data
        // is pinned, and lives longer than the file.
        let entry = unsafe {
            bindings::proc_create_data(
                name.as_char_ptr(),
                mode,
                dir.entry.as_ptr(),
                &Vtable::<T>::OPS,
                ptr::from_ref(&*operations).cast_mut().cast(),
            )
        };

        // INVARIANT: The file was made just now.
        Ok(Self {
            entry: NonNull::new(entry).ok_or(ENOMEM)?,
            _operations: operations,
            _dir: dir,
        })
    }
}

impl<T: Operations> Drop for File<T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the entry is there.
        unsafe { bindings::proc_remove(self.entry.as_ptr()) };
    }
}

/// What an open file's `seq_file` points to.
struct Opened<T: Operations> {
    /// The [`File`]'s; procfs releases open files before it lets the file be dropped.
    operations: NonNull<T>,
    open: T::Open,
}

impl<T: Operations> Opened<T> {
    /// # Safety
    ///
    /// `m` must be the `seq_file` of an open file of [`File<T>`], and stay open for `'a`.
    unsafe fn from_seq<'a>(m: *const bindings::seq_file) -> (&'a T, &'a T::Open) {
        // SAFETY: `Vtable::open` put it there, and `Vtable::release` is what takes it away.
        let opened = unsafe { &*(*m).private.cast::<Self>() };
        // SAFETY: The file is open, so the operations are there.
        (unsafe { opened.operations.as_ref() }, &opened.open)
    }
}

/// The C operations of files of `T`.
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
        // No other operation, and no flags.
        ..pin_init::zeroed()
    };

    /// # Safety
    ///
    /// To be called by procfs only, to open a file of [`File<T>`].
    unsafe extern "C" fn open(inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
        // SAFETY: The inode is that of a `File<T>`, whose data is its operations. They are not dropped
        // while the file is being opened or is open.
        let operations = unsafe { &*bindings::shim_pde_data(inode).cast::<T>() };

        from_result(|| {
            let open = operations.open()?;
            let operations = NonNull::from(operations);
            // Any user can open files: what that allocates is charged to the user's memory cgroup.
            let opened = KBox::new(Opened::<T> { operations, open }, GFP_KERNEL_ACCOUNT)?;
            let opened = KBox::into_raw(opened);

            // SAFETY: The file is being opened; `show` casts the pointer back.
            let result = unsafe { bindings::single_open(file, Some(Self::show), opened.cast()) };
            if let Err(error) = to_result(result) {
                // SAFETY: The pointer is of the box above, and nobody has taken it.
                drop(unsafe { KBox::from_raw(opened) });
                return Err(error);
            }
            if T::HAS_WRITE {
                // `seq_open()` takes `pwrite()` away, for files that have no use for an offset.
                //
                // SAFETY: The file is being opened, so nobody else has it.
                unsafe { (*file).f_mode |= bindings::SHIM_FMODE_PWRITE };
            }
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// To be called by `seq_file` only, for an open file of [`File<T>`].
    unsafe extern "C" fn show(m: *mut bindings::seq_file, _: *mut c_void) -> c_int {
        // SAFETY: The caller's promise is passed on.
        let (operations, open) = unsafe { Opened::<T>::from_seq(m) };
        // SAFETY: `m` is valid, and `seq_file` holds its lock meanwhile.
        operations.show(open, unsafe { SeqFile::from_raw(m) });
        0
    }

    /// # Safety
    ///
    /// To be called by procfs only, for an open file of [`File<T>`].
    unsafe extern "C" fn write(
        file: *mut bindings::file,
        text: *const c_char,
        len: usize,
        offset: *mut bindings::loff_t,
    ) -> isize {
        // SAFETY: `single_open()` made the open file's private data a `seq_file`.
        let (operations, open) = unsafe { Opened::<T>::from_seq((*file).private_data.cast()) };
        // SAFETY: The caller holds the file. This task may be in an `fdget_pos()` region of it that
        // took no lock, and stays with the reference, which cannot be sent elsewhere.
        let file = unsafe { LocalFile::from_raw_file(file) };
        let text = UserSlice::new(UserPtr::from_ptr(text.cast_mut().cast()), len).reader();

        // SAFETY: The caller gives a valid pointer to the offset.
        let offset = unsafe { &mut *offset };

        from_result(|| {
            operations.write(open, file, text, *offset)?;
            *offset += len as bindings::loff_t;
            Ok(len as isize)
        })
    }

    /// # Safety
    ///
    /// To be called by procfs only, once, when nobody uses an open file of [`File<T>`] any more.
    unsafe extern "C" fn release(inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
        // SAFETY: `single_open()` made the open file's private data a `seq_file`, whose own private
        // data is the box that `open` put there.
        let opened = unsafe {
            let m = (*file).private_data.cast::<bindings::seq_file>();
            KBox::from_raw((*m).private.cast::<Opened<T>>())
        };

        // SAFETY: The file was opened by `single_open()`, and is used no more.
        let result = unsafe { bindings::single_release(inode, file) };
        drop(opened);
        result
    }
}
