// SPDX-License-Identifier: GPL-2.0

//! Network namespaces, and data that each of them has.
//!
//! C headers: [`include/net/net_namespace.h`](srctree/include/net/net_namespace.h) and
//! [`include/net/netns/generic.h`](srctree/include/net/netns/generic.h)

use crate::bindings;
use core::{
    cell::UnsafeCell,
    mem::{
        self,
        MaybeUninit, //
    },
    ops::Deref,
    ptr::{
        self,
        NonNull, //
    },
};
use kernel::{
    error::to_result,
    fs::LocalFile,
    prelude::*,
    sync::atomic::{
        Acquire,
        Atomic,
        Release, //
    },
    types::Opaque,
};

/// A network namespace.
///
/// # Invariants
///
/// The namespace is not freed, and the data that pernet operations keep in it is not either, while
/// a reference to this lasts.
#[repr(transparent)]
pub(crate) struct Net(Opaque<bindings::net>);

// SAFETY: `struct net` is shared between all CPUs; the methods of `Net` rely on no caller's lock.
unsafe impl Sync for Net {}

impl Net {
    /// # Safety
    ///
    /// `ptr` must point to a namespace, and [`Net`]'s invariants must hold for it during `'a`.
    unsafe fn from_raw<'a>(ptr: *mut bindings::net) -> &'a Self {
        // SAFETY: The caller promises it; the cast is right as `Net` is transparent.
        unsafe { &*ptr.cast() }
    }

    /// The C side's pointer.
    pub(crate) fn as_raw(&self) -> *mut bindings::net {
        self.0.get()
    }

    /// Whether `capability` is had over this namespace, in the user namespace that
    /// owns it, by the one who opened `file` and by the current task as well.
    ///
    /// Both are asked, as netlink does it (`netlink_ns_capable()`): else a descriptor handed to a
    /// program that has more rights than its owner would lend these to the owner.
    pub(crate) fn capable(&self, file: &LocalFile, capability: Capability) -> bool {
        // SAFETY: The namespace is valid; its owner is set before anybody sees it, and lives as long.
        let owner = unsafe { bindings::shim_net_user_ns(self.as_raw()) };

        // SAFETY: `file` and `owner` are valid.
        let opener = unsafe { bindings::file_ns_capable(file.as_ptr(), owner, capability.0) };
        // SAFETY: `owner` is valid.
        opener && unsafe { bindings::ns_capable(owner, capability.0) }
    }
}

/// What somebody may do: a `CAP_` number.
#[derive(Clone, Copy)]
pub(crate) struct Capability(c_int);

impl Capability {
    /// To configure a network.
    pub(crate) const NET_ADMIN: Self = Self(bindings::CAP_NET_ADMIN as c_int);
}

/// A counted reference to a network namespace.
///
/// # Invariants
///
/// It owns one count of the namespace.
pub(crate) struct NetRef(NonNull<Net>);

// SAFETY: A count may be given back by any task, from any context.
unsafe impl Send for NetRef {}

// SAFETY: `Net` is `Sync`, and more than `&Net` is not to be had from `&NetRef`.
unsafe impl Sync for NetRef {}

impl NetRef {
    /// The current task's network namespace. Process context.
    pub(crate) fn current() -> Self {
        // SAFETY: A running task has its namespaces. `Net` is transparent. The pointer is not null.
        // INVARIANT: The shim took a count, which now is the new object's.
        Self(unsafe { NonNull::new_unchecked(bindings::shim_get_current_net().cast()) })
    }
}

impl Deref for NetRef {
    type Target = Net;

    fn deref(&self) -> &Net {
        // SAFETY: A namespace is not torn down while it is counted, by the type invariant.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for NetRef {
    fn drop(&mut self) {
        // SAFETY: By the type invariant there is a count to give back.
        unsafe { bindings::shim_put_net(self.as_raw()) };
    }
}

/// Data that every network namespace has one of.
///
/// # Examples
///
/// ```
/// struct Seen(percpu::Counter);
///
/// impl PerNet for Seen {
///     type Context = ();
///
///     fn init(_: &(), _net: &Net) -> Result<Pin<KBox<Self>>> {
///         Ok(KBox::pin(Seen(percpu::Counter::new()?), GFP_KERNEL)?)
///     }
/// }
///
/// let seen = netns::Registration::<Seen>::new(())?;
/// seen.get(&NetRef::current()).ok_or(ENOENT)?.0.inc();
/// # Ok::<(), Error>(())
/// ```
pub(crate) trait PerNet: Send + Sync + Sized + 'static {
    /// What [`PerNet::init`] is given beside the namespace.
    type Context: Send + Sync + 'static;

    /// Makes the data of one namespace.
    ///
    /// Called for each namespace there is at registration, then for each new one before anybody
    /// can see it. An error makes the registration, or the creation of the namespace, fail with it.
    /// May sleep; `pernet_ops_rwsem` is held.
    fn init(context: &Self::Context, net: &Net) -> Result<Pin<KBox<Self>>>;

    /// Called before the data is dropped, and an RCU grace period passes in between: the place to
    /// undo what lets an RCU reader find the data. May sleep; `pernet_ops_rwsem` is held.
    fn pre_exit(self: Pin<&Self>, _net: &Net) {}
}

/// How many registrations a module can have at a time.
///
/// Pernet operations are told no more than the namespace they are called for. So each registration
/// has one of [`SLOTS`], and C functions that were compiled for that slot.
const MAX_REGISTRATIONS: usize = 2;

static SLOTS: [Slot; MAX_REGISTRATIONS] = [Slot::new::<0>(), Slot::new::<1>()];

/// What a registration's C functions find.
struct Slot {
    /// Whether there is a [`Registration`], or one is being made or undone: who sets this owns the
    /// other fields.
    taken: Atomic<i32>,
    /// Under which number namespaces keep a pointer to the data.
    id: UnsafeCell<c_uint>,
    /// What the core is given, and to be filled in from `template`.
    ops: Opaque<bindings::pernet_operations>,
    template: Functions,
    /// The [`PerNet`] that this is for, and its context.
    vtable: UnsafeCell<MaybeUninit<Vtable>>,
    context: UnsafeCell<*const c_void>,
}

// SAFETY: `taken` is atomic, and gives the rest to one owner at a time. While a registration
// lasts, the rest is not written by Rust code.
unsafe impl Sync for Slot {}

/// The C functions of one slot.
struct Functions {
    init: unsafe extern "C" fn(*mut bindings::net) -> c_int,
    pre_exit: unsafe extern "C" fn(*mut bindings::net),
    exit: unsafe extern "C" fn(*mut bindings::net),
}

/// The functions of one [`PerNet`], whose type the slot does not know.
struct Vtable {
    init: unsafe fn(context: *const c_void, net: &Net) -> Result<*mut c_void>,
    pre_exit: unsafe fn(data: *mut c_void, net: &Net),
    exit: unsafe fn(data: *mut c_void),
}

impl Vtable {
    const fn of<T: PerNet>() -> Self {
        Self {
            init: Self::init::<T>,
            pre_exit: Self::pre_exit::<T>,
            exit: Self::exit::<T>,
        }
    }

    /// # Safety
    ///
    /// `context` must point to a `T::Context`.
    unsafe fn init<T: PerNet>(context: *const c_void, net: &Net) -> Result<*mut c_void> {
        // SAFETY: The caller promises it.
        let data = T::init(unsafe { &*context.cast() }, net)?;
        // SAFETY: Nobody moves the data before `exit` drops it.
        Ok(KBox::into_raw(unsafe { Pin::into_inner_unchecked(data) }).cast())
    }

    /// # Safety
    ///
    /// `data` must have come from [`Self::init`] with the same `T`, and not been given to `exit`.
    unsafe fn pre_exit<T: PerNet>(data: *mut c_void, net: &Net) {
        // SAFETY: The caller promises that the data is there, and nobody moves it.
        unsafe { Pin::new_unchecked(&*data.cast::<T>()) }.pre_exit(net);
    }

    /// # Safety
    ///
    /// As for `pre_exit`, and nobody may use `data` any more.
    unsafe fn exit<T: PerNet>(data: *mut c_void) {
        // SAFETY: The caller promises that the data, which came out of a box, is there.
        drop(unsafe { KBox::from_raw(data.cast::<T>()) });
    }
}

impl Slot {
    const fn new<const SLOT: usize>() -> Self {
        Self {
            taken: Atomic::new(0),
            id: UnsafeCell::new(0),
            ops: Opaque::uninit(),
            template: Functions {
                init: Self::init::<SLOT>,
                pre_exit: Self::pre_exit::<SLOT>,
                exit: Self::exit::<SLOT>,
            },
            vtable: UnsafeCell::new(MaybeUninit::uninit()),
            context: UnsafeCell::new(ptr::null()),
        }
    }

    /// Where `net` keeps its pointer to the data; it is null before `init` has succeeded.
    ///
    /// # Safety
    ///
    /// The slot must be registered.
    unsafe fn data(&self, net: &Net) -> *mut *mut c_void {
        // SAFETY: The caller says that the slot is registered, so that `id` is set and not written.
        unsafe { bindings::shim_net_generic(net.as_raw(), *self.id.get()).cast() }
    }

    /// # Safety
    ///
    /// To be called by the pernet core only, for the operations of this slot.
    unsafe extern "C" fn init<const SLOT: usize>(net: *mut bindings::net) -> c_int {
        let slot = &SLOTS[SLOT];
        // SAFETY: The core calls this for a namespace that it holds.
        let net = unsafe { Net::from_raw(net) };
        // SAFETY: These were written before the operations were registered, and fit each other.
        let result = unsafe {
            let vtable = (*slot.vtable.get()).assume_init_ref();
            (vtable.init)(*slot.context.get(), net)
        };

        match result {
            Ok(data) => {
                // SAFETY: The core has made room for the pointer, and nobody else looks there yet.
                unsafe { *slot.data(net) = data };
                0
            }
            Err(error) => error.to_errno(),
        }
    }

    /// # Safety
    ///
    /// To be called by the pernet core only, for the operations of this slot.
    unsafe extern "C" fn pre_exit<const SLOT: usize>(net: *mut bindings::net) {
        let slot = &SLOTS[SLOT];
        // SAFETY: The core calls this for a namespace that it holds.
        let net = unsafe { Net::from_raw(net) };

        // SAFETY: The core calls this after `init`, which put the data there, and before `exit`.
        unsafe {
            let vtable = (*slot.vtable.get()).assume_init_ref();
            (vtable.pre_exit)(*slot.data(net), net);
        }
    }

    /// # Safety
    ///
    /// To be called by the pernet core only, for the operations of this slot.
    unsafe extern "C" fn exit<const SLOT: usize>(net: *mut bindings::net) {
        let slot = &SLOTS[SLOT];
        // SAFETY: The core calls this for a namespace that it holds.
        let net = unsafe { Net::from_raw(net) };

        // SAFETY: `init` put the data there. The core calls this once, when nobody can find the
        // data any more: the namespace is dead, or the registration is being dropped.
        unsafe {
            let vtable = (*slot.vtable.get()).assume_init_ref();
            (vtable.exit)(*slot.data(net));
        }
    }
}

/// Keeps a [`PerNet`] in every network namespace, until it is dropped.
///
/// Dropping it may sleep, takes `pernet_ops_rwsem`, and waits for RCU grace periods, the number of
/// which does not depend on that of namespaces.
///
/// # Invariants
///
/// The slot is taken by this, its operations are registered, and its vtable and context are those
/// of `T` and `_context`.
pub(crate) struct Registration<T: PerNet> {
    slot: &'static Slot,
    _context: Pin<KBox<T::Context>>,
}

impl<T: PerNet> Registration<T> {
    /// Gives every namespace its `T`; `context` is what [`PerNet::init`] is to be told.
    ///
    /// May sleep. Fails with [`EBUSY`] if the module has too many registrations already, with
    /// [`ENOMEM`], or with what [`PerNet::init`] failed with; then no namespace has a `T`.
    pub(crate) fn new(context: T::Context) -> Result<Self> {
        let context = KBox::pin(context, GFP_KERNEL)?;
        let slot = SLOTS
            .iter()
            .find(|slot| slot.taken.cmpxchg(0, 1, Acquire).is_ok())
            .ok_or(EBUSY)?;

        // SAFETY: The slot is taken by us and not registered: nobody else reads or writes it. The
        // context is pinned, and lives until the operations are unregistered. Zeroes are right for
        // what is not named: no such operation, and a list head to be filled in.
        let result = unsafe {
            (*slot.vtable.get()).write(Vtable::of::<T>());
            *slot.context.get() = ptr::from_ref(&*context).cast();
            slot.ops.get().write(bindings::pernet_operations {
                init: Some(slot.template.init),
                pre_exit: Some(slot.template.pre_exit),
                exit: Some(slot.template.exit),
                id: slot.id.get(),
                size: size_of::<*mut c_void>(),
                ..mem::zeroed()
            });
            to_result(bindings::register_pernet_subsys(slot.ops.get()))
        };

        if let Err(error) = result {
            slot.taken.store(0, Release);
            return Err(error);
        }
        // INVARIANT: All this was done just now.
        Ok(Self {
            slot,
            _context: context,
        })
    }

    /// The data of `net`.
    ///
    /// There is none only if `net` is still being made, and is not told of this registration yet.
    pub(crate) fn get<'a>(&'a self, net: &'a Net) -> Option<&'a T> {
        // SAFETY: The slot is registered by the type invariant.
        let data = unsafe { self.slot.data(net) };
        // SAFETY: Both pointers are null or valid. The data is a `T` by the type invariant, and is
        // dropped only after `net` is gone or `self` is.
        unsafe { data.as_ref().and_then(|data| data.cast::<T>().as_ref()) }
    }
}

impl<T: PerNet> Drop for Registration<T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the operations are registered.
        unsafe { bindings::unregister_pernet_subsys(self.slot.ops.get()) };
        self.slot.taken.store(0, Release);
    }
}
