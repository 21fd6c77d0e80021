// SPDX-License-Identifier: GPL-2.0

//! Module parameters whose values are checked, and which do something when they are set.
//!
//! C header: [`include/linux/moduleparam.h`](srctree/include/linux/moduleparam.h)

use crate::bindings;
use core::{
    cell::UnsafeCell,
    fmt,
    marker::PhantomData,
    ops::{
        Deref,
        DerefMut, //
    },
    ptr, //
};
use kernel::{
    error::from_result,
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

/// What a parameter is and does. It is read as its [`fmt::Display`] and a newline.
///
/// The methods run with the module's parameter lock held, a mutex, and may sleep. An error is the
/// writer's, or the loader's, and should leave the parameter as it was.
///
/// # Examples
///
/// ```
/// struct Volume(u8);
///
/// impl Param for Volume {
///     fn set(&mut self, value: &CStr, _: Origin) -> Result {
///         self.0 = match value.to_bytes() {
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
/// static VOLUME: Locked<Volume> = Locked::new(Volume(1));
/// module_param!(volume: charp, VOLUME, 0o644, "low or high");
/// ```
pub(crate) trait Param: fmt::Display + Send + 'static {
    /// What the name alone means, without `=`; if [`None`], it is refused with [`EINVAL`].
    const BARE: Option<&'static CStr> = None;

    /// Sets the value. What comes from sysfs ends as the writer ended it, as a rule with a newline.
    fn set(&mut self, value: &CStr, origin: Origin) -> Result;
}

/// A static that the module's parameter lock protects: a parameter's value, and what else goes
/// with it.
pub(crate) struct Locked<T>(UnsafeCell<T>);

// SAFETY: The value is reached with the parameter lock held, by one task at a time, which may be
// any.
unsafe impl<T: Send> Sync for Locked<T> {}

impl<T> Locked<T> {
    /// Puts `value` under the lock.
    pub(crate) const fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }

    /// Takes the lock, and gives it back when the guard is dropped. May sleep.
    ///
    /// All parameters of a module have one lock: who holds it, or is called with it held, must not
    /// take it.
    pub(crate) fn lock(&'static self) -> Guard<T> {
        // SAFETY: The module is this one, and so is there.
        unsafe { bindings::kernel_param_lock(this_module()) };
        // INVARIANT: The lock was taken just now.
        Guard {
            locked: self,
            _not_send: NotThreadSafe,
        }
    }
}

/// Access to what is in a [`Locked`].
///
/// # Invariants
///
/// The current task holds the module's parameter lock.
pub(crate) struct Guard<T: 'static> {
    locked: &'static Locked<T>,
    // Who takes a mutex has to give it back.
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
        // SAFETY: By the type invariant the lock is held.
        unsafe { bindings::kernel_param_unlock(this_module()) };
    }
}

const fn this_module() -> *mut bindings::module {
    (&raw const bindings::__this_module).cast_mut()
}

/// The C operations of a parameter that is a `T`.
struct Ops<T: Param>(PhantomData<T>);

impl<T: Param> Ops<T> {
    const OPS: bindings::kernel_param_ops = bindings::kernel_param_ops {
        flags: if T::BARE.is_some() {
            bindings::KERNEL_PARAM_OPS_FL_NOARG as c_uint
        } else {
            0
        },
        set: Some(Self::set),
        get: Some(Self::get),
        free: None,
    };

    /// # Safety
    ///
    /// To be called by the module loader or by sysfs only, for a parameter made from a `Locked<T>`.
    unsafe extern "C" fn set(value: *const c_char, param: *const bindings::kernel_param) -> c_int {
        // SAFETY: The caller gives us a parameter made from a `Locked<T>`, and holds its lock.
        let this = unsafe { &mut *(*param).__bindgen_anon_1.arg.cast::<T>() };
        // SAFETY: The module's memory is there while its parameters are set. The loader sets up
        // what sysfs needs after it has parsed the arguments, and before anybody can open a file.
        let origin = if unsafe { (*(*param).mod_).mkobj.mp.is_null() } {
            Origin::Load
        } else {
            Origin::Sysfs
        };

        from_result(|| {
            let value = if value.is_null() {
                T::BARE.ok_or(EINVAL)?
            } else {
                // SAFETY: It is not null, and then it is a string.
                unsafe { CStr::from_char_ptr(value) }
            };
            this.set(value, origin)?;
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// To be called by sysfs only, for a parameter made from a `Locked<T>`.
    unsafe extern "C" fn get(page: *mut c_char, param: *const bindings::kernel_param) -> c_int {
        // SAFETY: The caller gives us a parameter made from a `Locked<T>`, and holds its lock.
        let this = unsafe { &*(*param).__bindgen_anon_1.arg.cast::<T>() };

        // SAFETY: sysfs gives us a page; `%pA` takes a pointer to `fmt::Arguments`.
        unsafe {
            bindings::sysfs_emit(
                page,
                c"%pA".as_char_ptr(),
                ptr::from_ref(&core::format_args!("{this}\n")),
            )
        }
    }
}

/// A record of the `__param` section, from which the module loader makes a parameter.
#[repr(transparent)]
pub(crate) struct Record(bindings::kernel_param);

// SAFETY: Nobody writes to it.
unsafe impl Sync for Record {}

impl Record {
    /// For [`module_param!`], which puts it where it belongs.
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
                arg: value.0.get().cast(),
            },
        })
    }
}

/// Declares a parameter of the module.
///
/// `module_param!(name: type, VALUE, mode, "description")`: the type is for `modinfo` to print, the
/// value is a `static` [`Locked`] [`Param`], and the mode is that of the file in sysfs.
macro_rules! module_param {
    ($name:ident: $type:ident, $value:path, $mode:expr, $description:literal) => {
        const _: () = {
            #[link_section = "__param"]
            #[used(compiler)]
            static RECORD: $crate::param::Record =
                $crate::param::Record::new(kernel::c_str!(stringify!($name)), $mode, &$value);

            const TYPE: &str =
                concat!("parmtype=", stringify!($name), ":", stringify!($type), "\0");
            #[link_section = ".modinfo"]
            #[used(compiler)]
            static TYPE_INFO: [u8; TYPE.len()] = $crate::param::bytes(TYPE);

            const PARM: &str = concat!("parm=", stringify!($name), ":", $description, "\0");
            #[link_section = ".modinfo"]
            #[used(compiler)]
            static PARM_INFO: [u8; PARM.len()] = $crate::param::bytes(PARM);
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
