// SPDX-License-Identifier: GPL-2.0

//! Network namespaces, and data that each of them has.
//!
//! C headers: [`include/net/net_namespace.h`](srctree/include/net/net_namespace.h) and
//! [`include/net/netns/generic.h`](srctree/include/net/netns/generic.h)

use crate::bindings;
use core::{
    cell::UnsafeCell,
    marker::PhantomData,
    mem::{
        self,
        MaybeUninit, //
    },
    ops::Deref,
    ptr::NonNull, //
};
use kernel::{
    error::to_result,
    fs::File,
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

    /// Whether `capability` (a `CAP_` number) is had over this namespace, in the user namespace that
    /// owns it, by the one who opened `file` and by the current task as well.
    ///
    /// Both are asked, as netlink does it (`netlink_ns_capable()`): else a descriptor handed to a
    /// program that has more rights than its owner would lend these to the owner.
    pub(crate) fn capable(&self, file: &File, capability: u32) -> bool {
        // SAFETY: A namespace's owner is set before anybody sees it, and lives as long.
        let owner = unsafe { (*self.as_raw()).user_ns };

        // SAFETY: `file` and `owner` are valid.
        let opener =
            unsafe { bindings::file_ns_capable(file.as_ptr(), owner, capability as c_int) };
        // SAFETY: `owner` is valid.
        opener && unsafe { bindings::ns_capable(owner, capability as c_int) }
    }
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
///     fn key() -> &'static netns::Key<Self> {
///         static KEY: netns::Key<Seen> = netns::Key::new();
///         &KEY
///     }
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

    /// The static that stands for this data; always the same one, and no other type's.
    fn key() -> &'static Key<Self>;

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

/// The place that the kernel keeps a [`PerNet`]'s registration in: pernet operations are told no
/// more than the namespace they are called for, so what else they need is in a static.
pub(crate) struct Key<T: PerNet> {
    /// Whether there is a [`Registration`], or one is being made or undone: who sets this owns the
    /// other fields.
    taken: Atomic<i32>,
    id: UnsafeCell<c_uint>,
    ops: Opaque<bindings::pernet_operations>,
    context: UnsafeCell<MaybeUninit<T::Context>>,
}

// SAFETY: `taken` is atomic, and gives the rest to one owner at a time. While a registration
// lasts, the rest is not written by Rust code, and `Context` is `Sync`. It is `Send`, so any task
// may make and undo a registration.
unsafe impl<T: PerNet> Sync for Key<T> {}

impl<T: PerNet> Key<T> {
    /// A key that nothing is registered with.
    pub(crate) const fn new() -> Self {
        Self {
            taken: Atomic::new(0),
            id: UnsafeCell::new(0),
            ops: Opaque::uninit(),
            context: UnsafeCell::new(MaybeUninit::uninit()),
        }
    }

    /// Where `net` keeps its pointer to the data; null if `net` is not told of this key yet.
    ///
    /// # Safety
    ///
    /// The key must be registered.
    unsafe fn slot(&self, net: &Net) -> *mut *mut T {
        // SAFETY: The caller says that the key is registered, so that `id` is set and not written,
        // and every visible namespace has room for this `id`.
        unsafe { bindings::shim_net_generic(net.as_raw(), *self.id.get()).cast() }
    }

    /// Drops the context, and lets the key be taken again.
    ///
    /// # Safety
    ///
    /// The caller must have taken the key and written its context; the operations must not be
    /// registered.
    unsafe fn release(&self) {
        // SAFETY: The caller owns the context and has written it.
        unsafe { (*self.context.get()).assume_init_drop() };
        self.taken.store(0, Release);
    }

    /// # Safety
    ///
    /// To be called by the pernet core only, as the `init` of `T`'s operations.
    unsafe extern "C" fn init(net: *mut bindings::net) -> c_int {
        let key = T::key();
        // SAFETY: The core calls this for a namespace that it holds.
        let net = unsafe { Net::from_raw(net) };
        // SAFETY: It was written before the operations were registered, and is not before they are
        // no more.
        let context = unsafe { (*key.context.get()).assume_init_ref() };

        match T::init(context, net) {
            Ok(data) => {
                // SAFETY: The operations are registered, and the core allocated the pointer's place
                // before it called. Nobody else reaches it yet. The data stays pinned, as nothing
                // but `exit` takes it out, to drop it.
                unsafe { *key.slot(net) = KBox::into_raw(Pin::into_inner_unchecked(data)) };
                0
            }
            Err(error) => error.to_errno(),
        }
    }

    /// # Safety
    ///
    /// To be called by the pernet core only, as the `pre_exit` of `T`'s operations.
    unsafe extern "C" fn pre_exit(net: *mut bindings::net) {
        // SAFETY: The core calls this for a namespace that it holds.
        let net = unsafe { Net::from_raw(net) };
        // SAFETY: The core calls this between `init`, which put the pointer there, and `exit`.
        let data = unsafe { Pin::new_unchecked(&**T::key().slot(net)) };

        data.pre_exit(net);
    }

    /// # Safety
    ///
    /// To be called by the pernet core only, as the `exit` of `T`'s operations.
    unsafe extern "C" fn exit(net: *mut bindings::net) {
        // SAFETY: The core calls this for a namespace that it holds.
        let net = unsafe { Net::from_raw(net) };
        // SAFETY: `init` put the pointer there. The core calls this once, when nobody can find the
        // data any more: the namespace is dead, or the registration is being dropped.
        drop(unsafe { KBox::from_raw(*T::key().slot(net)) });
    }
}

/// Keeps a [`PerNet`] in every network namespace, until it is dropped.
///
/// Dropping it may sleep, takes `pernet_ops_rwsem`, and waits for RCU grace periods; however many
/// namespaces there are, these are as many.
///
/// # Invariants
///
/// The key is taken by this, and its operations are registered.
pub(crate) struct Registration<T: PerNet>(PhantomData<T>);

impl<T: PerNet> Registration<T> {
    /// Gives every namespace its `T`; `context` is what [`PerNet::init`] is to be told.
    ///
    /// May sleep. Fails with [`EBUSY`] if `T` is registered already, with [`ENOMEM`], or with what
    /// [`PerNet::init`] failed with; then no namespace has one.
    pub(crate) fn new(context: T::Context) -> Result<Self> {
        let key = T::key();

        if key.taken.cmpxchg(0, 1, Acquire).is_err() {
            return Err(EBUSY);
        }

        // SAFETY: The key is taken by us and not registered: nobody else reads or writes the fields.
        // Zeroes are right for what is not named: no such operation, and a list head to be filled in.
        let result = unsafe {
            (*key.context.get()).write(context);
            key.ops.get().write(bindings::pernet_operations {
                init: Some(Key::<T>::init),
                pre_exit: Some(Key::<T>::pre_exit),
                exit: Some(Key::<T>::exit),
                id: key.id.get(),
                size: size_of::<*mut T>(),
                ..mem::zeroed()
            });
            to_result(bindings::register_pernet_subsys(key.ops.get()))
        };

        // INVARIANT: The key is taken, and the operations are registered, or else the drop below
        // is not reached.
        match result {
            Ok(()) => Ok(Self(PhantomData)),
            Err(error) => {
                // SAFETY: The key is still taken by us, and its operations are not registered.
                unsafe { key.release() };
                Err(error)
            }
        }
    }

    /// The data of `net`.
    ///
    /// There is none only if `net` is still being made, and is not told of this registration yet.
    pub(crate) fn get<'a>(&'a self, net: &'a Net) -> Option<&'a T> {
        // SAFETY: The key is registered by the type invariant.
        let slot = unsafe { T::key().slot(net) };
        // SAFETY: The slot is null or valid, and the pointer in it null or the data's, which is
        // dropped only after `net` is gone or `self` is.
        unsafe { slot.as_ref().and_then(|data| data.as_ref()) }
    }
}

impl<T: PerNet> Drop for Registration<T> {
    fn drop(&mut self) {
        let key = T::key();

        // SAFETY: By the type invariant the operations are registered.
        unsafe { bindings::unregister_pernet_subsys(key.ops.get()) };
        // SAFETY: By the type invariant the key is ours; the operations are no longer registered.
        unsafe { key.release() };
    }
}
