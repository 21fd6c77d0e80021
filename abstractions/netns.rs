// SPDX-License-Identifier: GPL-2.0

//! Network namespaces, and data that every network namespace has.
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
/// While a reference to it exists, the namespace is not freed, and neither is the data that pernet
/// operations keep in it.
#[repr(transparent)]
pub(crate) struct Net(Opaque<bindings::net>);

// SAFETY: Nothing in `struct net` is tied to one task.
unsafe impl Send for Net {}

// SAFETY: All CPUs share `struct net`, and the methods of `Net` do not need a lock of the caller.
unsafe impl Sync for Net {}

impl Net {
    /// Converts a pointer of the C side to a reference.
    ///
    /// # Safety
    ///
    /// `ptr` must point to a namespace, and the invariants of [`Net`] must hold for it during `'a`.
    unsafe fn from_raw<'a>(ptr: *mut bindings::net) -> &'a Self {
        // SAFETY: By the safety requirements, the pointer is valid during `'a`. The cast is valid
        // because `Net` is transparent.
        unsafe { &*ptr.cast() }
    }

    /// Returns the pointer that C functions take.
    pub(crate) fn as_raw(&self) -> *mut bindings::net {
        self.0.get()
    }

    /// Returns the user namespace that owns this network namespace.
    fn owner(&self) -> *mut bindings::user_namespace {
        // SAFETY: The namespace is valid. `copy_net_ns()` sets the owner before it calls pernet
        // operations, and the namespace references its owner until it is freed.
        unsafe { bindings::shim_net_user_ns(self.as_raw()) }
    }

    /// Returns whether the initial user namespace owns this network namespace.
    ///
    /// If it does not, a user without privileges may configure this network namespace.
    pub(crate) fn is_owned_by_init_user_ns(&self) -> bool {
        ptr::eq(self.owner(), &raw const bindings::init_user_ns)
    }

    /// Returns whether both the opener of `file` and the current task have `capability` in the user
    /// namespace that owns this network namespace.
    ///
    /// Like `netlink_ns_capable()`, this checks both, to prevent a confused deputy: otherwise, an
    /// opener without privileges could pass the descriptor to a privileged program, and use the
    /// privileges of that program.
    pub(crate) fn capable(&self, file: &LocalFile, capability: Capability) -> bool {
        // SAFETY: `file` and the owner of this namespace are valid.
        let opener =
            unsafe { bindings::file_ns_capable(file.as_ptr(), self.owner(), capability.0) };
        // SAFETY: The owner of this namespace is valid.
        opener && unsafe { bindings::ns_capable(self.owner(), capability.0) }
    }
}

/// A capability, such as `CAP_NET_ADMIN`.
#[derive(Clone, Copy)]
pub(crate) struct Capability(c_int);

impl Capability {
    /// `CAP_NET_ADMIN`: the capability to configure the network.
    pub(crate) const NET_ADMIN: Self = Self(bindings::CAP_NET_ADMIN as c_int);
}

/// A network namespace that is in use: while it is referenced, it is neither torn down nor freed.
///
/// [`Net`] itself is not reference counted, because [`PerNet::init`] and [`PerNet::pre_exit`] are
/// called for namespaces that are not in use. If the set-up of a new namespace fails, the namespace
/// is freed even if it is referenced. A namespace in [`PerNet::pre_exit`] is already being torn
/// down.
///
/// # Invariants
///
/// The reference count of the namespace is at least 1.
#[repr(transparent)]
pub(crate) struct LiveNet(Net);

impl LiveNet {
    /// Returns the network namespace of the current task.
    ///
    /// Returns `None` if the task is exiting and has left its namespaces
    /// (`exit_nsproxy_namespaces()`); such a task may still release files. Callable from any
    /// context.
    pub(crate) fn current() -> Option<ARef<Self>> {
        // SAFETY: `current` is valid.
        let net = unsafe { bindings::shim_current_net() }.cast::<Self>();

        // SAFETY: The pointer is null, or points to a namespace that the current task references.
        // Only the task itself changes that reference. `LiveNet` is transparent.
        unsafe { net.as_ref() }.map(ARef::from)
    }
}

impl Deref for LiveNet {
    type Target = Net;

    fn deref(&self) -> &Net {
        &self.0
    }
}

// SAFETY: By the type invariant, the reference count is not 0. A namespace is neither torn down nor
// freed until its reference count is 0.
unsafe impl AlwaysRefCounted for LiveNet {
    fn inc_ref(&self) {
        // SAFETY: By the type invariant, the reference count is not 0.
        unsafe { bindings::shim_get_net(self.as_raw()) };
    }

    unsafe fn dec_ref(obj: NonNull<Self>) {
        // SAFETY: The caller gives up a reference. `put_net()` is callable from any context.
        unsafe { bindings::shim_put_net(obj.as_ptr().cast()) };
    }
}

/// Data of which every network namespace has one instance.
///
/// # Examples
///
/// ```
/// use crate::abstractions::{
///     netns::{
///         LiveNet,
///         Net,
///         PerNet,
///         Registration,
///         Slot,
///         SlotRef, //
///     },
///     percpu, //
/// };
///
/// #[pin_data]
/// struct Seen {
///     packets: percpu::Counters<1>,
/// }
///
/// static SLOT: Slot<Seen> = Slot::new();
///
/// impl PerNet for Seen {
///     type Context = ();
///     const SLOT: SlotRef<Self> = SLOT.slot_ref();
///
///     fn init(_: &(), _net: &Net) -> impl PinInit<Self, Error> {
///         try_pin_init!(Self {
///             packets: percpu::Counters::new()?,
///         })
///     }
/// }
///
/// let seen = Registration::<Seen>::new(())?;
/// let net = LiveNet::current().ok_or(ESRCH)?;
/// seen.get(&net).ok_or(ENOENT)?.packets.borrow().add([1]);
/// assert_eq!(seen.get(&net).ok_or(ENOENT)?.packets.borrow().sum(), [1]);
///
/// // Only one registration can exist at a time.
/// assert_eq!(Registration::<Seen>::new(()).err(), Some(EBUSY));
/// # Ok::<(), Error>(())
/// ```
pub(crate) trait PerNet: Send + Sync + Sized + 'static {
    /// The argument of [`PerNet::init`] beside the namespace.
    type Context: Send + Sync + 'static;

    /// The static that holds the registration.
    const SLOT: SlotRef<Self>;

    /// Creates the data of one namespace.
    ///
    /// Called for each existing namespace at registration, and then for each new namespace before
    /// any task can be in it. If this fails, the registration or the creation of the namespace
    /// fails with the same error. May sleep. Called with `pernet_ops_rwsem` held.
    fn init(context: &Self::Context, net: &Net) -> impl PinInit<Self, Error>;

    /// Makes the data unreachable for RCU readers.
    ///
    /// Called before the data is dropped; an RCU grace period passes in between. May sleep. Called
    /// with `pernet_ops_rwsem` held.
    fn pre_exit(self: Pin<&Self>, _net: &Net) {}
}

/// The memory of the [`Registration`] of a [`PerNet`], which must be a static.
///
/// The callbacks of `struct pernet_operations` get the namespace and no other argument, so they
/// find the registration through a static.
pub(crate) struct Slot<T: PerNet> {
    /// 1 while a [`Registration`] exists, is being created or is being dropped; otherwise 0. The
    /// task that sets it to 1 owns the other fields.
    taken: Atomic<i32>,
    /// The index in `net->gen` of the pointer to the data.
    id: UnsafeCell<c_uint>,
    ops: Opaque<bindings::pernet_operations>,
    /// The context of the registration, for [`PerNet::init`].
    context: UnsafeCell<*const T::Context>,
}

// SAFETY: `taken` is atomic, and gives the other fields to one owner at a time. While a
// registration exists, Rust code does not write to them.
unsafe impl<T: PerNet> Sync for Slot<T> {}

/// A reference to a static [`Slot`], for [`PerNet::SLOT`].
///
/// An associated constant refers to the same static at every use. An associated function could
/// return a different static each time.
///
/// # Invariants
///
/// The slot is a static.
pub(crate) struct SlotRef<T: PerNet>(*const Slot<T>);

impl<T: PerNet> SlotRef<T> {
    fn get(self) -> &'static Slot<T> {
        // SAFETY: By the type invariant, the slot is a static.
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

    /// Returns a reference to the slot, for [`PerNet::SLOT`].
    pub(crate) const fn slot_ref(&'static self) -> SlotRef<T> {
        // INVARIANT: The reference is `'static`.
        SlotRef(self)
    }

    /// Returns the address of the pointer to the data in `net`.
    ///
    /// The address is null if the pernet core has not yet allocated the pointer for `net`. The
    /// pointer is null before [`PerNet::init`] has succeeded.
    ///
    /// # Safety
    ///
    /// The slot must be registered.
    unsafe fn data(&self, net: &Net) -> *mut *mut T {
        // SAFETY: The slot is registered, so `id` is set and does not change.
        unsafe { bindings::shim_net_generic(net.as_raw(), *self.id.get()).cast() }
    }

    /// # Safety
    ///
    /// Only the pernet core may call this, for the operations of the slot of `T`.
    unsafe extern "C" fn init(net: *mut bindings::net) -> c_int {
        let slot = T::SLOT.get();
        // SAFETY: The pernet core calls this for a namespace that it keeps during the call.
        let net = unsafe { Net::from_raw(net) };
        // SAFETY: `Registration::new` set the pointer before it registered the operations. The
        // context lives until the operations are unregistered.
        let context = unsafe { &**slot.context.get() };

        from_result(|| {
            let data = KBox::try_pin_init(T::init(context, net), GFP_KERNEL)?;
            // SAFETY: The data is not moved before `exit` drops it.
            let data = KBox::into_raw(unsafe { Pin::into_inner_unchecked(data) });

            // SAFETY: The pernet core has allocated the pointer, and no other task accesses it yet.
            unsafe { *slot.data(net) = data };
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// Only the pernet core may call this, for the operations of the slot of `T`.
    unsafe extern "C" fn pre_exit(net: *mut bindings::net) {
        // SAFETY: The pernet core calls this for a namespace that it keeps during the call.
        let net = unsafe { Net::from_raw(net) };

        // SAFETY: The pernet core calls this after `init`, which stored the pointer to the data,
        // and before `exit`, which drops the data. The data is not moved in between.
        unsafe { Pin::new_unchecked(&**T::SLOT.get().data(net)) }.pre_exit(net);
    }

    /// # Safety
    ///
    /// Only the pernet core may call this, for the operations of the slot of `T`.
    unsafe extern "C" fn exit(net: *mut bindings::net) {
        // SAFETY: The pernet core calls this for a namespace that it keeps during the call.
        let net = unsafe { Net::from_raw(net) };

        // SAFETY: `init` stored the pointer of a `KBox`. The pernet core calls this once, when the
        // data is no longer used: the namespace is dead, or the registration is being dropped.
        drop(unsafe { KBox::from_raw(*T::SLOT.get().data(net)) });
    }
}

/// Gives every network namespace a `T` until it is dropped.
///
/// Dropping it may sleep, takes `pernet_ops_rwsem`, and waits for RCU grace periods, whose number
/// does not depend on the number of namespaces.
///
/// Like every registration in the kernel, it must be dropped before the module is unloaded. If it
/// is leaked, for example by [`core::mem::forget`], the kernel calls code that no longer exists.
///
/// # Invariants
///
/// This registration has taken `T::SLOT`. The operations of the slot are registered, and its
/// context is `context`.
pub(crate) struct Registration<T: PerNet> {
    context: Pin<KBox<T::Context>>,
}

impl<T: PerNet> Registration<T> {
    /// Creates a `T` in every namespace, by [`PerNet::init`] with `context`.
    ///
    /// May sleep. Fails with [`EBUSY`] if a registration of `T` already exists, with [`ENOMEM`], or
    /// with the error of [`PerNet::init`]. After an error, no namespace has a `T` from this call.
    pub(crate) fn new(context: T::Context) -> Result<Self> {
        let context = KBox::pin(context, GFP_KERNEL)?;
        let slot = T::SLOT.get();
        slot.taken.cmpxchg(0, 1, Acquire).map_err(|_| EBUSY)?;

        // SAFETY: This task has taken the slot, and the slot is not registered, so no other code
        // reads or writes it. The context is pinned, and lives until the operations are
        // unregistered.
        let result = unsafe {
            *slot.context.get() = ptr::from_ref(&*context);
            slot.ops.get().write(bindings::pernet_operations {
                init: Some(Slot::<T>::init),
                pre_exit: Some(Slot::<T>::pre_exit),
                exit: Some(Slot::<T>::exit),
                id: slot.id.get(),
                size: size_of::<*mut T>(),
                // No other operations, and a list head that the pernet core initializes.
                ..pin_init::zeroed()
            });
            to_result(bindings::register_pernet_subsys(slot.ops.get()))
        };

        if let Err(error) = result {
            slot.taken.store(0, Release);
            return Err(error);
        }
        // INVARIANT: The slot was taken, its context set and its operations registered above.
        Ok(Self { context })
    }

    /// Returns the context that was given to [`Registration::new`].
    pub(crate) fn context(&self) -> &T::Context {
        &self.context
    }

    /// Returns the data of `net`.
    ///
    /// Returns `None` only if `net` is being set up and its `T` has not been created yet.
    pub(crate) fn get<'a>(&'a self, net: &'a Net) -> Option<&'a T> {
        // SAFETY: By the type invariant, the slot is registered.
        let data = unsafe { T::SLOT.get().data(net) };
        // SAFETY: Both pointers are null or valid. The data is dropped with `net` or with `self`,
        // and both are borrowed for `'a`.
        unsafe { data.as_ref().and_then(|data| data.as_ref()) }
    }
}

impl<T: PerNet> Drop for Registration<T> {
    fn drop(&mut self) {
        let slot = T::SLOT.get();

        // SAFETY: By the type invariant, the operations are registered.
        unsafe { bindings::unregister_pernet_subsys(slot.ops.get()) };
        slot.taken.store(0, Release);
    }
}
