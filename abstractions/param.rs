// SPDX-License-Identifier: GPL-2.0

//! Module parameters that check their values, and can act when they are set.
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

/// Where a new value of a parameter comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The load arguments. The module loader sets the parameter before it calls the module's
    /// `init`.
    Load,
    /// A write to `/sys/module/<module>/parameters`. It can happen at any time from shortly before
    /// `init` is called until shortly after the module has been dropped.
    Sysfs,
}

/// The value of a module parameter. Reading the parameter returns its [`fmt::Display`] output and a
/// newline.
///
/// The methods may sleep. They run with the lock of [`Locked`] held. The only other locks that are
/// held are those of the open sysfs file (the mutex and the active reference of kernfs). An error
/// is returned to the writer, or makes loading fail, and should leave the value unchanged.
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
///             b"high" => 10,
///             _ => return Err(EINVAL),
///         };
///         Ok(())
///     }
/// }
///
/// impl fmt::Display for Volume {
///     fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
///         f.write_str(if self.0 < 10 { "low" } else { "high" })
///     }
/// }
///
/// crate::abstractions::param::module_param!(VOLUME: Volume, volume: charp, 0o644, "low or high");
///
/// assert_eq!(VOLUME.lock().0, 1);
/// # Ok::<(), Error>(())
/// ```
pub(crate) trait Param: fmt::Display + Send + Sized + 'static {
    /// The default value. The parameter is set back to it when the module is unloaded.
    const INITIAL: Self;

    /// The text that is passed to [`Self::set`] if the parameter is given without `=value`.
    const NO_ARG: &'static [u8] = b"";

    /// Sets the value from a text. One newline at its end has been removed, so that `echo` works.
    fn set(&mut self, value: &[u8], origin: Origin) -> Result;
}

/// The static that holds the value of a parameter. A lock protects the value.
///
/// All parameters of a module share one lock. It is a mutex that exists before the module's `init`
/// is called and after the module has been dropped.
///
/// The kernel's own lock for the parameters of a module is not suitable. The locks of all modules
/// are one lockdep class, and mac80211 takes its own while it holds the RTNL. Registering pernet
/// operations takes `pernet_ops_rwsem`, and other code takes the RTNL while it holds
/// `pernet_ops_rwsem`. Lockdep would therefore report a cycle of the parameter lock,
/// `pernet_ops_rwsem` and the RTNL.
///
/// When the module is unloaded or fails to load, the parameter is set back to [`Param::INITIAL`],
/// and the old value is dropped. On unloading, the module is `MODULE_STATE_UNFORMED` at that time,
/// and lockdep refuses locks of the module that it has not seen before. Therefore, a module should
/// drop its registrations in its own drop, and should take this lock in its `init`.
pub(crate) struct Locked<T>(UnsafeCell<T>);

// SAFETY: The value is only accessed with the lock held, so by one task at a time; `T: Send` allows
// that to be any task.
unsafe impl<T: Send> Sync for Locked<T> {}

impl<T> Locked<T> {
    /// Takes the lock, and returns a guard that releases it when it is dropped. May sleep.
    ///
    /// The caller must not hold the lock already, through this parameter or another one. The
    /// methods of [`Param`] are called with the lock held.
    pub(crate) fn lock(&'static self) -> Guard<T> {
        // SAFETY: The mutex is an initialized static.
        unsafe { bindings::mutex_lock(&raw mut bindings::shim_param_mutex) };
        // INVARIANT: The current task took the lock above.
        Guard {
            locked: self,
            _not_send: NotThreadSafe,
        }
    }
}

impl<T: Param> Locked<T> {
    /// Returns a parameter value that is [`Param::INITIAL`].
    ///
    /// # Safety
    ///
    /// The result must be a static that is registered as a parameter, as [`module_param!`] does.
    /// Another static would not be reset when the module is unloaded, and would not drop its value.
    pub(crate) const unsafe fn new() -> Self {
        Self(UnsafeCell::new(T::INITIAL))
    }
}

/// Access to the value of a [`Locked`], with the lock held.
///
/// # Invariants
///
/// The current task holds the lock.
pub(crate) struct Guard<T: 'static> {
    locked: &'static Locked<T>,
    // A mutex must be released by the task that took it.
    _not_send: NotThreadSafe,
}

impl<T> Deref for Guard<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: By the type invariant, the lock is held.
        unsafe { &*self.locked.0.get() }
    }
}

impl<T> DerefMut for Guard<T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: By the type invariant, the lock is held.
        unsafe { &mut *self.locked.0.get() }
    }
}

impl<T> Drop for Guard<T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant, the current task holds the lock.
        unsafe { bindings::mutex_unlock(&raw mut bindings::shim_param_mutex) };
    }
}

/// Returns `THIS_MODULE`. Linux 7.3 has [`kernel::module::this_module`] for this; Linux 7.2 does
/// not.
const fn this_module() -> *mut bindings::module {
    (&raw const bindings::__this_module).cast_mut()
}

/// The C operations of a parameter whose value is a `T`.
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
    /// Only the module loader or sysfs may call this, for a parameter that was made from a
    /// `Locked<T>`, with the kernel's lock for the module's parameters held.
    unsafe extern "C" fn set(value: *const c_char, param: *const bindings::kernel_param) -> c_int {
        // SAFETY: The caller passes a parameter that was made from a `Locked<T>`, which is a
        // static.
        let locked = unsafe { &*(*param).__bindgen_anon_1.arg.cast::<Locked<T>>() };
        // SAFETY: The memory of the module exists while its parameters are set. The module loader
        // sets `mkobj.mp` after it has parsed the load arguments, and before a task can open a
        // sysfs file.
        let origin = if unsafe { (*(*param).mod_).mkobj.mp.is_null() } {
            Origin::Load
        } else {
            Origin::Sysfs
        };

        let value = if value.is_null() {
            T::NO_ARG
        } else {
            // SAFETY: `value` is not null, so it is a C string that is valid until this returns.
            unsafe { CStr::from_char_ptr(value) }.to_bytes()
        };
        let value = value.strip_suffix(b"\n").unwrap_or(value);

        from_result(|| {
            // SAFETY: The caller holds the kernel's lock for the module's parameters.
            unsafe { without_kernel_lock(|| locked.lock().set(value, origin)) }.map(|()| 0)
        })
    }

    /// # Safety
    ///
    /// Only sysfs may call this, for a parameter that was made from a `Locked<T>`, with the
    /// kernel's lock for the module's parameters held.
    unsafe extern "C" fn get(page: *mut c_char, param: *const bindings::kernel_param) -> c_int {
        // SAFETY: The caller passes a parameter that was made from a `Locked<T>`, which is a
        // static.
        let locked = unsafe { &*(*param).__bindgen_anon_1.arg.cast::<Locked<T>>() };
        let show = || {
            let value = locked.lock();

            // SAFETY: Sysfs passes a page. `%pA` takes a pointer to `fmt::Arguments`.
            unsafe {
                bindings::sysfs_emit(
                    page,
                    c"%pA".as_char_ptr(),
                    ptr::from_ref(&fmt!("{}\n", *value)),
                )
            }
        };

        // SAFETY: The caller holds the kernel's lock for the module's parameters.
        unsafe { without_kernel_lock(show) }
    }

    /// # Safety
    ///
    /// Only the module loader may call this, for the `arg` of a parameter that was made from a
    /// `Locked<T>`, when the parameter has no file in sysfs: the module has failed to load, or its
    /// `exit` has returned.
    unsafe extern "C" fn free(arg: *mut c_void) {
        // SAFETY: The caller passes a pointer to a `Locked<T>`, which is a static.
        let locked = unsafe { &*arg.cast::<Locked<T>>() };

        // The value is dropped without the lock, because its drop may take the lock.
        let value = mem::replace(&mut *locked.lock(), T::INITIAL);
        drop(value);
    }
}

/// Calls `work` with the kernel's lock for the module's parameters released.
///
/// [`Locked`] gives the reason. No other module in the kernel tree releases that lock in an
/// operation of a parameter, but it is safe. The lock protects the strings of `charp` parameters,
/// and a module that only uses [`module_param!`] has none. Sysfs keeps the file, and thereby the
/// memory of the module, until the operation has returned.
///
/// # Safety
///
/// The current task must hold the kernel's lock for the module's parameters.
unsafe fn without_kernel_lock<R>(work: impl FnOnce() -> R) -> R {
    // SAFETY: By the safety requirements, the current task holds the lock.
    unsafe { bindings::kernel_param_unlock(this_module()) };
    let result = work();
    // SAFETY: This module exists as long as its parameters are written or read.
    unsafe { bindings::kernel_param_lock(this_module()) };
    result
}

/// An entry of the `__param` section, from which the module loader creates a parameter.
#[repr(transparent)]
pub(crate) struct Record(bindings::kernel_param);

// SAFETY: Nothing writes to a record.
unsafe impl Sync for Record {}

impl Record {
    /// Creates a record. For [`module_param!`], which puts it into the `__param` section.
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

/// Declares a module parameter, and the static that holds its value.
///
/// The arguments are `STATIC: Type, name: type, mode, "description"`. `Type` implements [`Param`].
/// `type` is the name of the type that `modinfo` prints. `mode` is the mode of the file in sysfs.
macro_rules! module_param {
    ($value:ident: $param:ty, $name:ident: $type:ident, $mode:expr, $description:literal) => {
        static $value: $crate::abstractions::param::Locked<$param> = {
            // SAFETY: `RECORD` below registers this static as a parameter.
            unsafe { $crate::abstractions::param::Locked::new() }
        };

        const _: () = {
            use $crate::abstractions::{
                modinfo::modinfo,
                param::Record, //
            };

            // `#[used(compiler)]`: see `modinfo!`.
            #[link_section = "__param"]
            #[used(compiler)]
            static RECORD: Record = Record::new(kernel::c_str!(stringify!($name)), $mode, &$value);

            modinfo!("parmtype", stringify!($name), ":", stringify!($type));
            modinfo!("parm", stringify!($name), ":", $description);
        };
    };
}
pub(crate) use module_param;
