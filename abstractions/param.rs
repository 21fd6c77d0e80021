// SPDX-License-Identifier: GPL-2.0

//! Module parameters whose values are checked, and which do something when they are set.
//!
//! C header: [`include/linux/moduleparam.h`](srctree/include/linux/moduleparam.h)

use super::bindings;
use core::{
    cell::UnsafeCell,
    marker::PhantomData,
    mem,
    ops::{
        Deref,
        DerefMut, //
    },
    ptr, //
};
use kernel::{
    error::from_result,
    fmt,
    prelude::*,
    str::CStr,
    types::NotThreadSafe, //
};

/// Who sets a parameter.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The loader, from its arguments, before the module's `init` is called.
    Load,
    /// A task that writes to `/sys/module/<module>/parameters`: at any time from shortly before
    /// `init` is called until shortly after the module has been dropped.
    Sysfs,
}

/// A module parameter's value. It is read as its [`fmt::Display`] and a newline.
///
/// The methods run with the lock of [`Locked`] held, and may sleep. Of other locks, only those of the open
/// sysfs file are held (kernfs's mutex and active reference). An error is returned to the writer, or
/// fails the loading, and should leave the parameter as it was.
///
/// # Examples
///
/// ```
/// use crate::abstractions::param::{
///     Origin,
///     Param, //
/// };
/// use kernel::fmt;
///
/// struct Volume(u8);
///
/// impl Param for Volume {
///     const INITIAL: Self = Volume(1);
///
///     fn set(&mut self, value: &[u8], _: Origin) -> Result {
///         self.0 = match value {
///             b"low" => 1,
///             b"high" => 11,
///             _ => return Err(EINVAL),
///         };
///         Ok(())
///     }
/// }
///
/// impl fmt::Display for Volume {
///     fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
///         f.write_str(if self.0 < 11 { "low" } else { "high" })
///     }
/// }
///
/// crate::abstractions::param::module_param!(VOLUME: Volume, volume: charp, 0o644, "low or high");
///
/// assert_eq!(VOLUME.lock().0, 1);
/// # Ok::<(), Error>(())
/// ```
pub(crate) trait Param: fmt::Display + Send + Sized + 'static {
    /// The value that the parameter has at first, and again when the module goes.
    const INITIAL: Self;

    /// The value that the parameter's name stands for without `=`: usually none.
    const BARE: &'static [u8] = b"";

    /// Sets the value. A newline at its end has been removed, so that `echo` works.
    fn set(&mut self, value: &[u8], origin: Origin) -> Result;
}

/// The static that holds a parameter's value, and the lock that protects it.
///
/// All parameters of a module share one lock, a mutex that exists before the module's `init` and after
/// the module has been dropped. The kernel's own lock of a module's parameters will not do: the locks
/// of all modules are one lockdep class, mac80211 takes its own while it holds the RTNL, and to
/// register pernet operations takes `pernet_ops_rwsem`, which is taken before the RTNL elsewhere. So
/// lockdep would report a cycle between parameter lock, `pernet_ops_rwsem` and RTNL.
///
/// A parameter is set back to [`Param::INITIAL`] when the module goes or fails to load, which drops
/// what the parameter held. At unload the module is `MODULE_STATE_UNFORMED` then, and lockdep accepts no
/// lock of the module that it has not seen before: a module should drop registrations in its own drop, and
/// have taken this lock in its `init`.
pub(crate) struct Locked<T>(UnsafeCell<T>);

// SAFETY: The value is reached with the lock held, by one task at a time, which may be any.
unsafe impl<T: Send> Sync for Locked<T> {}

impl<T> Locked<T> {
    /// Takes the lock, which the guard releases when it is dropped. May sleep.
    ///
    /// The caller must not hold the lock, of this parameter or another: [`Param`]'s methods do.
    pub(crate) fn lock(&'static self) -> Guard<T> {
        // SAFETY: The mutex is a static, and initialized.
        unsafe { bindings::mutex_lock(&raw mut bindings::shim_param_mutex) };
        // INVARIANT: The lock was taken just now.
        Guard {
            locked: self,
            _not_send: NotThreadSafe,
        }
    }
}

impl<T: Param> Locked<T> {
    /// # Safety
    ///
    /// The result must be a static that is a parameter's value, which [`module_param!`] makes it:
    /// others would keep what they hold when the module goes.
    pub(crate) const unsafe fn new() -> Self {
        Self(UnsafeCell::new(T::INITIAL))
    }
}

/// Access to the value of a [`Locked`].
///
/// # Invariants
///
/// The current task holds the lock.
pub(crate) struct Guard<T: 'static> {
    locked: &'static Locked<T>,
    // The task that takes a mutex has to release it.
    _not_send: NotThreadSafe,
}

impl<T> Deref for Guard<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: By the type invariant the lock is held.
        unsafe { &*self.locked.0.get() }
    }
}

impl<T> DerefMut for Guard<T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: By the type invariant the lock is held.
        unsafe { &mut *self.locked.0.get() }
    }
}

impl<T> Drop for Guard<T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the current task holds the lock.
        unsafe { bindings::mutex_unlock(&raw mut bindings::shim_param_mutex) };
    }
}

/// `THIS_MODULE`; Linux 7.3 has [`kernel::module::this_module`] for that, and 7.2 has not.
const fn this_module() -> *mut bindings::module {
    (&raw const bindings::__this_module).cast_mut()
}

/// The C operations of a parameter that is a `T`.
struct Ops<T: Param>(PhantomData<T>);

impl<T: Param> Ops<T> {
    const OPS: bindings::kernel_param_ops = bindings::kernel_param_ops {
        flags: bindings::KERNEL_PARAM_OPS_FL_NOARG as c_uint,
        set: Some(Self::set),
        get: Some(Self::get),
        free: if mem::needs_drop::<T>() {
            Some(Self::free)
        } else {
            None
        },
    };

    /// # Safety
    ///
    /// To be called by the module loader or by sysfs only, for a parameter made from a `Locked<T>`,
    /// with the kernel's lock of it held.
    unsafe extern "C" fn set(value: *const c_char, param: *const bindings::kernel_param) -> c_int {
        // SAFETY: The caller passes a parameter made from a `Locked<T>`, which is a static.
        let locked = unsafe { &*(*param).__bindgen_anon_1.arg.cast::<Locked<T>>() };
        // SAFETY: The module's memory is there while its parameters are set. The loader sets up
        // what sysfs needs after it has parsed the arguments, and before anybody can open a file.
        let origin = if unsafe { (*(*param).mod_).mkobj.mp.is_null() } {
            Origin::Load
        } else {
            Origin::Sysfs
        };

        let value = if value.is_null() {
            T::BARE
        } else {
            // SAFETY: It is not null, so it is a string, which the caller keeps until this returns.
            unsafe { CStr::from_char_ptr(value) }.to_bytes()
        };
        let value = value.strip_suffix(b"\n").unwrap_or(value);

        from_result(|| {
            // SAFETY: The caller holds the kernel's lock.
            unsafe { without_kernel_lock(|| locked.lock().set(value, origin)) }.map(|()| 0)
        })
    }

    /// # Safety
    ///
    /// To be called by sysfs only, for a parameter made from a `Locked<T>`, with the kernel's lock of
    /// it held.
    unsafe extern "C" fn get(page: *mut c_char, param: *const bindings::kernel_param) -> c_int {
        // SAFETY: The caller passes a parameter made from a `Locked<T>`, which is a static.
        let locked = unsafe { &*(*param).__bindgen_anon_1.arg.cast::<Locked<T>>() };
        let show = || {
            let value = locked.lock();

            // SAFETY: sysfs passes a page; `%pA` takes a pointer to `fmt::Arguments`.
            unsafe {
                bindings::sysfs_emit(
                    page,
                    c"%pA".as_char_ptr(),
                    ptr::from_ref(&fmt!("{}\n", *value)),
                )
            }
        };

        // SAFETY: The caller holds the kernel's lock.
        unsafe { without_kernel_lock(show) }
    }

    /// # Safety
    ///
    /// To be called by the module loader only, for the `arg` of a parameter made from a `Locked<T>`,
    /// when sysfs has no file of it: the module fails to load, or its `exit` has returned.
    unsafe extern "C" fn free(arg: *mut c_void) {
        // SAFETY: The caller passes a pointer to a `Locked<T>`, which is a static.
        let locked = unsafe { &*arg.cast::<Locked<T>>() };

        // Dropped without the lock, which the value's own drop may take.
        let value = mem::replace(&mut *locked.lock(), T::INITIAL);
        drop(value);
    }
}

/// Does `work` without the kernel's lock of the module's parameters, which the current task holds.
///
/// [`Locked`] says why. No other module in the tree releases that lock within a parameter's operation;
/// it is safe to, as the lock protects the strings of `charp` parameters, which a module that uses only
/// [`module_param!`] has none of, and as sysfs keeps the file, and so the module's memory, until the
/// operation has returned.
///
/// # Safety
///
/// The current task must hold that lock.
unsafe fn without_kernel_lock<R>(work: impl FnOnce() -> R) -> R {
    // SAFETY: The caller promises that the lock is held.
    unsafe { bindings::kernel_param_unlock(this_module()) };
    let result = work();
    // SAFETY: The module is this one, which exists as long as its parameters are written or read.
    unsafe { bindings::kernel_param_lock(this_module()) };
    result
}

/// A record of the `__param` section, from which the module loader makes a parameter.
#[repr(transparent)]
pub(crate) struct Record(bindings::kernel_param);

// SAFETY: Nothing writes to it.
unsafe impl Sync for Record {}

impl Record {
    /// Makes a record, for [`module_param!`], which puts it into the section.
    pub(crate) const fn new<T: Param>(
        name: &'static CStr,
        mode: u16,
        value: &'static Locked<T>,
    ) -> Self {
        Self(bindings::kernel_param {
            name: kernel::str::as_char_ptr_in_const_context(name),
            mod_: this_module(),
            ops: &Ops::<T>::OPS,
            perm: mode,
            level: -1,
            flags: 0,
            __bindgen_anon_1: bindings::kernel_param__bindgen_ty_1 {
                arg: ptr::from_ref(value).cast_mut().cast(),
            },
        })
    }
}

/// Declares a parameter of the module, and the static that holds its value.
///
/// `module_param!(STATIC: Type, name: type, mode, "description")`: `Type` is a [`Param`], `type` is what
/// `modinfo` prints, and the mode is that of the file in sysfs.
macro_rules! module_param {
    ($value:ident: $param:ty, $name:ident: $type:ident, $mode:expr, $description:literal) => {
        static $value: $crate::abstractions::param::Locked<$param> = {
            // SAFETY: `RECORD` below makes it a parameter's value.
            unsafe { $crate::abstractions::param::Locked::new() }
        };

        const _: () = {
            use $crate::abstractions::param::{
                bytes,
                Record, //
            };

            // `#[used]` alone means the linker where rustc is newer, which then keeps these apart from
            // the rest of `.modinfo`, where modpost does not find the licence.
            #[link_section = "__param"]
            #[used(compiler)]
            static RECORD: Record = Record::new(kernel::c_str!(stringify!($name)), $mode, &$value);

            const TYPE: &str =
                concat!("parmtype=", stringify!($name), ":", stringify!($type), "\0");
            #[link_section = ".modinfo"]
            #[used(compiler)]
            static TYPE_INFO: [u8; TYPE.len()] = bytes(TYPE);

            const PARM: &str = concat!("parm=", stringify!($name), ":", $description, "\0");
            #[link_section = ".modinfo"]
            #[used(compiler)]
            static PARM_INFO: [u8; PARM.len()] = bytes(PARM);
        };
    };
}
pub(crate) use module_param;

/// The bytes of a string, for [`module_param!`].
pub(crate) const fn bytes<const N: usize>(text: &str) -> [u8; N] {
    match text.as_bytes().first_chunk() {
        Some(bytes) => *bytes,
        None => panic!("the text has another length"),
    }
}
