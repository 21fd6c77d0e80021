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
/// The methods run with the lock of [`Locked`] held and no other, and may sleep. An error is the
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
    /// What the name alone stands for, without `=`: as a rule, no value.
    const BARE: &'static CStr = c"";

    /// Sets the value. What comes from sysfs ends as the writer ended it, as a rule with a newline.
    fn set(&mut self, value: &CStr, origin: Origin) -> Result;
}

/// A static that a lock protects: a parameter's value, and what else goes with it.
///
/// All these statics of a module have one lock, a mutex that is there before the module's `init` and
/// after it has been dropped. It is not the kernel's own lock of the module's parameters: those of
/// all modules are one class to lockdep, and drivers take theirs with the RTNL held, so whoever held
/// it could not register anything that takes the RTNL.
pub(crate) struct Locked<T>(UnsafeCell<T>);

// SAFETY: The value is reached with the lock held, by one task at a time, which may be any.
unsafe impl<T: Send> Sync for Locked<T> {}

impl<T> Locked<T> {
    /// Puts `value` under the lock.
    pub(crate) const fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }

    /// Takes the lock, and gives it back when the guard is dropped. May sleep.
    ///
    /// Who holds it, for this value or another, or is called with it held, must not take it.
    pub(crate) fn lock(&'static self) -> Guard<T> {
        // SAFETY: This may sleep.
        unsafe { bindings::shim_param_lock() };
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
/// The current task holds the lock.
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
        unsafe { bindings::shim_param_unlock() };
    }
}

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
        free: None,
    };

    /// # Safety
    ///
    /// To be called by the module loader or by sysfs only, for a parameter made from a `Locked<T>`,
    /// with the kernel's lock of it held.
    unsafe extern "C" fn set(value: *const c_char, param: *const bindings::kernel_param) -> c_int {
        // SAFETY: The caller gives us a parameter made from a `Locked<T>`, which is a static.
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
            // SAFETY: It is not null, and then it is a string, which is the caller's until we return.
            unsafe { CStr::from_char_ptr(value) }
        };

        // SAFETY: The caller holds the kernel's lock.
        let result = unsafe { without_kernel_lock(|| locked.lock().set(value, origin)) };
        result.map_or_else(Error::to_errno, |()| 0)
    }

    /// # Safety
    ///
    /// To be called by sysfs only, for a parameter made from a `Locked<T>`, with the kernel's lock of
    /// it held.
    unsafe extern "C" fn get(page: *mut c_char, param: *const bindings::kernel_param) -> c_int {
        // SAFETY: The caller gives us a parameter made from a `Locked<T>`, which is a static.
        let locked = unsafe { &*(*param).__bindgen_anon_1.arg.cast::<Locked<T>>() };
        let show = || {
            let value = locked.lock();

            // SAFETY: sysfs gives us a page; `%pA` takes a pointer to `fmt::Arguments`.
            unsafe {
                bindings::sysfs_emit(
                    page,
                    c"%pA".as_char_ptr(),
                    ptr::from_ref(&core::format_args!("{}\n", *value)),
                )
            }
        };

        // SAFETY: The caller holds the kernel's lock.
        unsafe { without_kernel_lock(show) }
    }
}

/// Does `work` while nobody holds the kernel's lock of the module's parameters, as drivers do that
/// have such work: `myri10ge` and `ueagle-atm`, for example.
///
/// # Safety
///
/// The current task must hold that lock.
unsafe fn without_kernel_lock<R>(work: impl FnOnce() -> R) -> R {
    // SAFETY: The caller promises that the lock is held.
    unsafe { bindings::kernel_param_unlock(this_module()) };
    let result = work();
    // SAFETY: The module is this one, and is there as long as its parameters are written or read.
    unsafe { bindings::kernel_param_lock(this_module()) };
    result
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
                arg: ptr::from_ref(value).cast_mut().cast(),
            },
        })
    }
}

/// Declares a parameter of the module.
///
/// `module_param!(name: type, VALUE, mode, "description")`: the type is for `modinfo` to print, the
/// value is a `static` [`Locked`] [`Param`], and the mode is that of the file in sysfs.
///
/// `#[used]` alone means the linker where rustc is newer, which then keeps these apart from the rest
/// of `.modinfo`, and modpost does not find the licence in there.
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
