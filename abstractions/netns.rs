// SPDX-License-Identifier: GPL-2.0

//! Network namespaces, and data that each of them has.
//!
//! C headers: [`include/net/net_namespace.h`](srctree/include/net/net_namespace.h) and
//! [`include/net/netns/generic.h`](srctree/include/net/netns/generic.h)

use super::bindings;
use core::{
    cell::UnsafeCell,
    ops::Deref,
    ptr::{
        self,
        NonNull, //
    },
};
use kernel::{
    error::{
        from_result,
        to_result, //
    },
    fs::LocalFile,
    prelude::*,
    sync::{
        aref::{
            ARef,
            AlwaysRefCounted, //
        },
        atomic::{
            Acquire,
            Atomic,
            Release, //
        },
    },
    types::Opaque,
};

/// A network namespace.
///
/// # Invariants
///
/// While a reference to it lasts, neither the namespace is freed nor the data that pernet operations
/// keep in it.
#[repr(transparent)]
pub(crate) struct Net(Opaque<bindings::net>);

// SAFETY: Nothing in `struct net` belongs to one task.
unsafe impl Send for Net {}

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

    /// The user namespace that owns this namespace.
    fn owner(&self) -> *mut bindings::user_namespace {
        // SAFETY: The namespace is valid; `copy_net_ns()` sets its owner before it calls anybody, and
        // keeps it until the namespace is freed.
        unsafe { bindings::shim_net_user_ns(self.as_raw()) }
    }

    /// Whether the initial user namespace owns this namespace.
    ///
    /// If not, a user without privileges may be the one who configures it.
    pub(crate) fn is_owned_by_init_user_ns(&self) -> bool {
        ptr::eq(self.owner(), &raw const bindings::init_user_ns)
    }

    /// Whether both the opener of `file` and the current task have `capability` over this namespace,
    /// in the user namespace that owns it.
    ///
    /// Both are asked, as `netlink_ns_capable()` does: otherwise a descriptor that is handed to a more
    /// privileged program would lend that program's privileges to the opener.
    pub(crate) fn capable(&self, file: &LocalFile, capability: Capability) -> bool {
        // SAFETY: `file` and its owner are valid.
        let opener =
            unsafe { bindings::file_ns_capable(file.as_ptr(), self.owner(), capability.0) };
        // SAFETY: The owner is valid.
        opener && unsafe { bindings::ns_capable(self.owner(), capability.0) }
    }
}

/// A capability: a `CAP_` number.
#[derive(Clone, Copy)]
pub(crate) struct Capability(c_int);

impl Capability {
    /// `CAP_NET_ADMIN`: to configure a network.
    pub(crate) const NET_ADMIN: Self = Self(bindings::CAP_NET_ADMIN as c_int);
}

/// A network namespace that is in use, and stays so while it is referenced.
///
/// It is not [`Net`] itself that is reference counted, because the namespaces that [`PerNet::init`]
/// and [`PerNet::pre_exit`] are called for are not in use: the first may fail to be set up, which
/// frees it whoever references it; the second is being torn down.
///
/// # Invariants
///
/// The namespace has a reference count of at least 1.
#[repr(transparent)]
pub(crate) struct LiveNet(Net);

impl LiveNet {
    /// Returns the current task's network namespace.
    ///
    /// `None` if the task is exiting and has left its namespaces (`exit_nsproxy_namespaces()`): then
    /// it may still release files. Callable from any context.
    pub(crate) fn current() -> Option<ARef<Self>> {
        // SAFETY: `current` is valid.
        let net = unsafe { bindings::shim_current_net() }.cast::<Self>();

        // SAFETY: The pointer is null or that of a namespace that the current task references; only
        // the task itself changes that. `LiveNet` is transparent.
        unsafe { net.as_ref() }.map(ARef::from)
    }
}

impl Deref for LiveNet {
    type Target = Net;

    fn deref(&self) -> &Net {
        &self.0
    }
}

// SAFETY: By the type invariant every `LiveNet` is reference counted; a namespace is neither torn down
// nor freed while its count is not 0.
unsafe impl AlwaysRefCounted for LiveNet {
    fn inc_ref(&self) {
        // SAFETY: By the type invariant the count is not 0.
        unsafe { bindings::shim_get_net(self.as_raw()) };
    }

    unsafe fn dec_ref(obj: NonNull<Self>) {
        // SAFETY: The caller has a reference to give up; any context may do that.
        unsafe { bindings::shim_put_net(obj.as_ptr().cast()) };
    }
}

/// Data that every network namespace has one of.
///
/// # Examples
///
/// ```
/// use crate::abstractions::{
///     netns::{
///         At,
///         LiveNet,
///         Net,
///         PerNet,
///         Registration,
///         Slot, //
///     },
///     percpu, //
/// };
///
/// #[pin_data]
/// struct Seen {
///     packets: percpu::Counter,
/// }
///
/// static SLOT: Slot<Seen> = Slot::new();
///
/// impl PerNet for Seen {
///     type Context = ();
///     const SLOT: At<Self> = SLOT.at();
///
///     fn init(_: &(), _net: &Net) -> impl PinInit<Self, Error> {
///         try_pin_init!(Self {
///             packets: percpu::Counter::new()?,
///         })
///     }
/// }
///
/// let seen = Registration::<Seen>::new(())?;
/// let net = LiveNet::current().ok_or(ESRCH)?;
/// seen.get(&net).ok_or(ENOENT)?.packets.borrow().inc();
/// assert_eq!(seen.get(&net).ok_or(ENOENT)?.packets.borrow().sum(), 1);
///
/// // One at a time.
/// assert_eq!(Registration::<Seen>::new(()).err(), Some(EBUSY));
/// # Ok::<(), Error>(())
/// ```
pub(crate) trait PerNet: Send + Sync + Sized + 'static {
    /// What [`PerNet::init`] is given beside the namespace.
    type Context: Send + Sync + 'static;

    /// Where the static memory of the registration is.
    const SLOT: At<Self>;

    /// Makes the data of one namespace.
    ///
    /// Called for each existing namespace at registration, then for each new one before any task can
    /// be in it. An error makes the registration, or the creation of the namespace, fail with it.
    /// May sleep; `pernet_ops_rwsem` is held.
    fn init(context: &Self::Context, net: &Net) -> impl PinInit<Self, Error>;

    /// Makes the data unreachable for RCU readers: called before it is dropped, with an RCU grace
    /// period in between.
    ///
    /// May sleep; `pernet_ops_rwsem` is held.
    fn pre_exit(self: Pin<&Self>, _net: &Net) {}
}

/// The static memory of the [`Registration`] of a [`PerNet`].
///
/// The callbacks of `struct pernet_operations` get the namespace and no other argument, so they find
/// the registration in a static.
pub(crate) struct Slot<T: PerNet> {
    /// Whether a [`Registration`] exists, or is being made or dropped. Whoever sets it owns the other
    /// fields.
    taken: Atomic<i32>,
    /// The index of the pointer to the data in `net->gen`.
    id: UnsafeCell<c_uint>,
    ops: Opaque<bindings::pernet_operations>,
    context: UnsafeCell<*const T::Context>,
}

// SAFETY: `taken` is atomic, and gives the other fields to one owner at a time. While a registration
// lasts, Rust code does not write them.
unsafe impl<T: PerNet> Sync for Slot<T> {}

/// The address of a [`Slot`], for [`PerNet::SLOT`].
///
/// An associated constant names the same static at each use, which an associated function need not.
///
/// # Invariants
///
/// The slot is a static.
pub(crate) struct At<T: PerNet>(*const Slot<T>);

impl<T: PerNet> At<T> {
    fn get(self) -> &'static Slot<T> {
        // SAFETY: By the type invariant.
        unsafe { &*self.0 }
    }
}

impl<T: PerNet> Slot<T> {
    /// Returns a slot without a registration.
    pub(crate) const fn new() -> Self {
        Self {
            taken: Atomic::new(0),
            id: UnsafeCell::new(0),
            ops: Opaque::uninit(),
            context: UnsafeCell::new(ptr::null()),
        }
    }

    /// Returns the slot's address.
    pub(crate) const fn at(&'static self) -> At<T> {
        // INVARIANT: The reference is `'static`.
        At(self)
    }

    /// Returns where `net` keeps its pointer to the data.
    ///
    /// The result is null if the core has made no room in `net` yet; the pointer is null before
    /// [`PerNet::init`] has succeeded.
    ///
    /// # Safety
    ///
    /// The slot must be registered.
    unsafe fn data(&self, net: &Net) -> *mut *mut T {
        // SAFETY: The slot is registered, so `id` is set and not written.
        unsafe { bindings::shim_net_generic(net.as_raw(), *self.id.get()).cast() }
    }

    /// # Safety
    ///
    /// To be called by the pernet core only, for the operations of `T`'s slot.
    unsafe extern "C" fn init(net: *mut bindings::net) -> c_int {
        let slot = T::SLOT.get();
        // SAFETY: The core calls this for a namespace that it holds.
        let net = unsafe { Net::from_raw(net) };
        // SAFETY: `Registration::new` wrote the pointer before it registered the operations; the context
        // lives until they are unregistered.
        let context = unsafe { &**slot.context.get() };

        from_result(|| {
            let data = KBox::try_pin_init(T::init(context, net), GFP_KERNEL)?;
            // SAFETY: The data is not moved before `exit` drops it.
            let data = KBox::into_raw(unsafe { Pin::into_inner_unchecked(data) });

            // SAFETY: The core has made room for the pointer, and no other task looks there yet.
            unsafe { *slot.data(net) = data };
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// To be called by the pernet core only, for the operations of `T`'s slot.
    unsafe extern "C" fn pre_exit(net: *mut bindings::net) {
        // SAFETY: The core calls this for a namespace that it holds.
        let net = unsafe { Net::from_raw(net) };

        // SAFETY: The core calls this after `init`, which put the data there, and before `exit`, which
        // drops it; the data is not moved in between.
        unsafe { Pin::new_unchecked(&**T::SLOT.get().data(net)) }.pre_exit(net);
    }

    /// # Safety
    ///
    /// To be called by the pernet core only, for the operations of `T`'s slot.
    unsafe extern "C" fn exit(net: *mut bindings::net) {
        // SAFETY: The core calls this for a namespace that it holds.
        let net = unsafe { Net::from_raw(net) };

        // SAFETY: `init` made the data a box and put it there. The core calls this once, when nobody
        // can find the data any more: the namespace is dead, or the registration is being dropped.
        drop(unsafe { KBox::from_raw(*T::SLOT.get().data(net)) });
    }
}

/// Keeps a [`PerNet`] in every network namespace until it is dropped.
///
/// Dropping it may sleep, takes `pernet_ops_rwsem`, and waits for RCU grace periods; their number
/// does not depend on the number of namespaces.
///
/// It has to be dropped before the module is unloaded, as every registration in the kernel has to be:
/// if it is leaked, by [`core::mem::forget`] for example, the kernel calls code that is gone.
///
/// # Invariants
///
/// `T::SLOT` is taken by this registration, its operations are registered, and its context is
/// `context`.
pub(crate) struct Registration<T: PerNet> {
    context: Pin<KBox<T::Context>>,
}

impl<T: PerNet> Registration<T> {
    /// Gives every namespace its `T`; `context` is what [`PerNet::init`] is given.
    ///
    /// May sleep. Fails with [`EBUSY`] if there is a registration of `T`, with [`ENOMEM`], or with the
    /// error of [`PerNet::init`]; then no namespace has a `T`.
    pub(crate) fn new(context: T::Context) -> Result<Self> {
        let context = KBox::pin(context, GFP_KERNEL)?;
        let slot = T::SLOT.get();
        slot.taken.cmpxchg(0, 1, Acquire).map_err(|_| EBUSY)?;

        // SAFETY: This task has taken the slot, and the slot is not registered: no other code reads or
        // writes it. The context is pinned, and lives until the operations are unregistered.
        let result = unsafe {
            *slot.context.get() = ptr::from_ref(&*context);
            slot.ops.get().write(bindings::pernet_operations {
                init: Some(Slot::<T>::init),
                pre_exit: Some(Slot::<T>::pre_exit),
                exit: Some(Slot::<T>::exit),
                id: slot.id.get(),
                size: size_of::<*mut T>(),
                // No other operation, and a list head that the core fills in.
                ..pin_init::zeroed()
            });
            to_result(bindings::register_pernet_subsys(slot.ops.get()))
        };

        if let Err(error) = result {
            slot.taken.store(0, Release);
            return Err(error);
        }
        // INVARIANT: All this was done just now.
        Ok(Self { context })
    }

    /// The context that the registration was made with.
    pub(crate) fn context(&self) -> &T::Context {
        &self.context
    }

    /// Returns the data of `net`.
    ///
    /// `None` only if `net` is being set up, and its `T` is not made yet.
    pub(crate) fn get<'a>(&'a self, net: &'a Net) -> Option<&'a T> {
        // SAFETY: The slot is registered by the type invariant.
        let data = unsafe { T::SLOT.get().data(net) };
        // SAFETY: Both pointers are null or valid. The data is dropped only after `net` is gone or
        // `self` is.
        unsafe { data.as_ref().and_then(|data| data.as_ref()) }
    }
}

impl<T: PerNet> Drop for Registration<T> {
    fn drop(&mut self) {
        let slot = T::SLOT.get();

        // SAFETY: By the type invariant the operations are registered.
        unsafe { bindings::unregister_pernet_subsys(slot.ops.get()) };
        slot.taken.store(0, Release);
    }
}
