// SPDX-License-Identifier: GPL-2.0

//! Netfilter hooks that look at packets, and let every one of them pass.
//!
//! C header: [`include/linux/netfilter.h`](srctree/include/linux/netfilter.h)

use super::{
    bindings,
    netns::{
        At,
        Net,
        PerNet,
        Registration, //
    },
    percpu, //
};
use core::{
    marker::PhantomData,
    ptr, //
};
use kernel::{
    error::from_err_ptr,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc, //
    },
};

/// A hook of the IP stack, for IPv4 and IPv6 alike: `enum nf_inet_hooks`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InetHook {
    /// `NF_INET_LOCAL_OUT`: packets that this host made, before they are routed for good.
    LocalOut,
    /// `NF_INET_POST_ROUTING`: packets on their way out, whether this host made or forwards them.
    PostRouting,
}

impl InetHook {
    fn hooknum(self) -> c_uint {
        match self {
            Self::LocalOut => bindings::nf_inet_hooks_NF_INET_LOCAL_OUT,
            Self::PostRouting => bindings::nf_inet_hooks_NF_INET_POST_ROUTING,
        }
    }
}

/// `NF_IP_PRI_LAST`: the priority of a hook that sees what all hooks of lower priorities accepted.
///
/// Of hooks with the same priority, the one that was registered last runs first
/// (`nf_hook_entries_grow()` in `net/netfilter/core.c`).
pub(crate) const PRI_LAST: i32 = bindings::nf_ip_hook_priorities_NF_IP_PRI_LAST;

/// The transport protocol TCP, `IPPROTO_TCP`.
pub(crate) const L4PROTO_TCP: u8 = bindings::IPPROTO_TCP as u8;

/// An IP packet at a hook.
///
/// # Invariants
///
/// `skb` is valid for `'a`, is not written meanwhile, and its network header, which is that of
/// `family`, is in its linear part.
#[derive(Clone, Copy)]
pub(crate) struct Packet<'a> {
    skb: *const bindings::sk_buff,
    family: Family,
    _skb: PhantomData<&'a bindings::sk_buff>,
}

#[derive(Clone, Copy)]
enum Family {
    Ipv4,
    Ipv6,
}

impl Packet<'_> {
    /// The number of the transport protocol, as nftables' `meta l4proto` has it.
    ///
    /// For IPv4 it is the header's `protocol`, in any fragment. For IPv6 it is the first header that
    /// is no extension header, or the authentication header if that comes first; a later fragment
    /// has what its fragment header names. A chain of extension headers that is cut short or too
    /// long to follow has none.
    ///
    /// See `nft_set_pktinfo_ipv4()` and `nft_set_pktinfo_ipv6()` in `include/net/netfilter`.
    #[inline]
    pub(crate) fn l4proto(&self) -> Option<u8> {
        match self.family {
            Family::Ipv4 => {
                // SAFETY: By the type invariant an IPv4 header stands there.
                Some(unsafe { (*self.network_header::<bindings::iphdr>()).protocol })
            }
            Family::Ipv6 => {
                // SAFETY: By the type invariant an IPv6 header stands there.
                let next = unsafe { (*self.network_header::<bindings::ipv6hdr>()).nexthdr };

                // These are no extension headers: the search would end with them where it began.
                match next.into() {
                    bindings::IPPROTO_TCP | bindings::IPPROTO_UDP => Some(next),
                    _ => self.find_transport_header(),
                }
            }
        }
    }

    /// `skb_network_header()`, which is too small for a call of a C function.
    #[inline]
    fn network_header<T>(&self) -> *const T {
        let offset = bindings::SHIM_SKB_NETWORK_HEADER as usize;

        // SAFETY: By the type invariant the skb is valid; the field of that offset is the distance
        // of the network header from the head of its buffer.
        unsafe {
            let network_header = *self.skb.byte_add(offset).cast::<u16>();
            (*self.skb).head.add(network_header.into()).cast()
        }
    }

    /// Follows the chain of IPv6 extension headers the way nftables does.
    ///
    /// Out of line and by value, so that the fast path needs no stack frame.
    #[cold]
    #[inline(never)]
    fn find_transport_header(self) -> Option<u8> {
        let mut offset: c_uint = 0;
        let mut flags = bindings::IP6_FH_F_AUTH as c_int;

        // SAFETY: By the type invariant the skb is valid and starts with an IPv6 header; the other
        // pointers are to our own variables, but for that to where a fragment begins, which may be
        // null. -1 asks for the first header that is no extension.
        let protocol = unsafe {
            bindings::ipv6_find_hdr(self.skb, &mut offset, -1, ptr::null_mut(), &mut flags)
        };

        if offset > u16::MAX.into() {
            return None;
        }
        // A negative number is an error.
        u8::try_from(protocol).ok()
    }
}

/// A value that fits into `nf_hook_ops::priv`.
///
/// # Safety
///
/// [`Self::from_raw`] of what [`Self::into_raw`] returned must be the same value.
pub(crate) unsafe trait HookData: Copy + Send {
    /// Turns the value into a pointer.
    fn into_raw(self) -> *mut c_void;

    /// Turns the pointer back into the value.
    ///
    /// # Safety
    ///
    /// `raw` must have come from [`Self::into_raw`], and what the value borrows must still be valid.
    unsafe fn from_raw(raw: *mut c_void) -> Self;
}

// SAFETY: A reference is a pointer.
unsafe impl<T: Sync> HookData for &T {
    fn into_raw(self) -> *mut c_void {
        ptr::from_ref(self).cast_mut().cast()
    }

    unsafe fn from_raw(raw: *mut c_void) -> Self {
        // SAFETY: The caller promises it.
        unsafe { &*raw.cast() }
    }
}

// SAFETY: The counter has these functions itself.
unsafe impl HookData for percpu::CounterRef<'_> {
    fn into_raw(self) -> *mut c_void {
        Self::into_raw(self)
    }

    #[inline(always)]
    unsafe fn from_raw(raw: *mut c_void) -> Self {
        // SAFETY: The caller promises it.
        unsafe { Self::from_raw(raw) }
    }
}

/// Data of a network namespace that sees each packet at a hook of that namespace.
///
/// # Examples
///
/// ```
/// use crate::abstractions::{
///     netfilter::{
///         self,
///         Hooks,
///         InetHook,
///         Observer,
///         Packet,
///         PRI_LAST, //
///     },
///     netns::{
///         At,
///         Net,
///         PerNet,
///         Registration,
///         Slot, //
///     },
///     percpu, //
/// };
/// use kernel::sync::Arc;
///
/// #[pin_data]
/// struct Seen {
///     packets: percpu::Counter,
/// }
///
/// static SEEN: Slot<Seen> = Slot::new();
/// static HOOKS: Slot<Hooks<Seen>> = Slot::new();
///
/// impl PerNet for Seen {
///     type Context = ();
///     const SLOT: At<Self> = SEEN.at();
///
///     fn init(_: &(), _net: &Net) -> impl PinInit<Self, Error> {
///         try_pin_init!(Self {
///             packets: percpu::Counter::new()?,
///         })
///     }
/// }
///
/// impl Observer for Seen {
///     const SLOT: At<Hooks<Self>> = HOOKS.at();
///     type HookData<'a> = percpu::CounterRef<'a>;
///
///     fn hook_data(&self) -> percpu::CounterRef<'_> {
///         self.packets.borrow()
///     }
///
///     fn observe(packets: percpu::CounterRef<'_>, _packet: Packet<'_>) {
///         packets.inc();
///     }
/// }
///
/// let seen = Arc::new(Registration::<Seen>::new(())?, GFP_KERNEL)?;
/// let hooks = netfilter::register(seen, InetHook::LocalOut, PRI_LAST)?;
/// assert_eq!(hooks.left_out(), 0);
/// # Ok::<(), Error>(())
/// ```
pub(crate) trait Observer: PerNet {
    /// Where the static memory of the hooks' registration is.
    const SLOT: At<Hooks<Self>>;

    /// The value passed to every hook call as `nf_hook_ops::priv`; usually a reference to a field of
    /// `Self`.
    type HookData<'a>: HookData;

    /// Returns the `nf_hook_ops::priv` of this namespace's hooks.
    ///
    /// Called once for each namespace at each registration of hooks.
    fn hook_data(&self) -> Self::HookData<'_>;

    /// Called for each packet; must not sleep.
    ///
    /// Without `CONFIG_PREEMPT_RCU`, sleeping would end the RCU read-side critical section that keeps
    /// `data` valid. As elsewhere in Rust for Linux, the compiler does not check this. The RCU read lock
    /// is held, in a task or in a softirq. The stack may send the same packet past
    /// the hook more than once.
    fn observe(data: Self::HookData<'_>, packet: Packet<'_>);

    /// Whether `net`, where the hooks could not be registered because of `error`, may go without them.
    ///
    /// If not, the registration fails, or the creation of the namespace does. May sleep;
    /// `pernet_ops_rwsem` is held.
    fn may_leave_out(_net: &Net, _error: Error) -> bool {
        false
    }
}

/// The hooks of one network namespace: one for IPv4, one for IPv6.
///
/// # Invariants
///
/// `hooks` is null if the namespace is left out. Otherwise the hooks are registered between
/// [`PerNet::init`] and [`PerNet::pre_exit`], and an RCU grace period passes between that and the drop.
pub(crate) struct Hooks<O: Observer> {
    hooks: *mut bindings::shim_nf_hooks,
    _observer: PhantomData<O>,
}

// SAFETY: Any task may unregister and free hooks.
unsafe impl<O: Observer> Send for Hooks<O> {}

// SAFETY: Only netfilter writes to registered hooks, under a lock of its own.
unsafe impl<O: Observer> Sync for Hooks<O> {}

/// What [`Hooks`] are made from.
pub(crate) struct Context<O: Observer> {
    /// The observers, which are not dropped while there are hooks.
    observers: Arc<Registration<O>>,
    hook: InetHook,
    priority: i32,
    left_out: Atomic<u64>,
}

/// Shows `observers` every IPv4 and IPv6 packet at `hook`, in all network namespaces, existing and new.
///
/// When this returns, every later packet is shown, except in namespaces that are left out (see
/// [`Observer::may_leave_out`]). When the result has been dropped, no hook is registered anywhere and
/// none is running. Both may sleep and take `pernet_ops_rwsem`; dropping waits
/// for RCU grace periods, whose number does not depend on the number of namespaces.
///
/// Fails with [`EBUSY`] if hooks for an `O` are registered already, with [`ENOMEM`], or with [`E2BIG`]
/// if a namespace that may not be left out has 1,024 hooks there (`MAX_HOOK_COUNT` in
/// `net/netfilter/core.c`). Then no hook is registered.
pub(crate) fn register<O: Observer>(
    observers: Arc<Registration<O>>,
    hook: InetHook,
    priority: i32,
) -> Result<Registered<O>> {
    let hooks = Registration::new(Context {
        observers,
        hook,
        priority,
        left_out: Atomic::new(0),
    })?;

    Ok(Registered(hooks))
}

/// The hooks that [`register`] registered in all namespaces. Dropping it unregisters them.
///
/// It hides the [`Registration`]: with its context or data, a user could have hooks registered once more,
/// or unregistered early.
pub(crate) struct Registered<O: Observer>(Registration<Hooks<O>>);

impl<O: Observer> Registered<O> {
    /// How many namespaces were left out: see [`Observer::may_leave_out`].
    pub(crate) fn left_out(&self) -> u64 {
        self.0.context().left_out.load(Relaxed)
    }
}

impl<O: Observer> Hooks<O> {
    /// Registers the hooks of `net`; returns null if it is left out.
    fn register(context: &Context<O>, net: &Net) -> Result<*mut bindings::shim_nf_hooks> {
        let data = context.observers.get(net).ok_or(ENOENT)?.hook_data();

        // SAFETY: The namespace is valid, and the functions are hook functions that may be called with
        // this `priv` until the namespace's observer is dropped, which is after `pre_exit` has
        // unregistered the hooks and an RCU grace period has passed.
        let hooks = from_err_ptr(unsafe {
            bindings::shim_nf_register_hooks(
                net.as_raw(),
                Some(Self::ipv4),
                Some(Self::ipv6),
                data.into_raw(),
                context.hook.hooknum(),
                context.priority,
            )
        });

        match hooks {
            Err(error) if O::may_leave_out(net, error) => {
                context.left_out.add(1, Relaxed);
                Ok(ptr::null_mut())
            }
            result => result,
        }
    }

    /// # Safety
    ///
    /// To be called by netfilter only, for a hook of [`Hooks<O>`] that is for IPv4.
    unsafe extern "C" fn ipv4(
        data: *mut c_void,
        skb: *mut bindings::sk_buff,
        _state: *const bindings::nf_hook_state,
    ) -> c_uint {
        // SAFETY: The caller's promise is passed on.
        unsafe { Self::show(data, skb, Family::Ipv4) }
    }

    /// # Safety
    ///
    /// To be called by netfilter only, for a hook of [`Hooks<O>`] that is for IPv6.
    unsafe extern "C" fn ipv6(
        data: *mut c_void,
        skb: *mut bindings::sk_buff,
        _state: *const bindings::nf_hook_state,
    ) -> c_uint {
        // SAFETY: The caller's promise is passed on.
        unsafe { Self::show(data, skb, Family::Ipv6) }
    }

    /// # Safety
    ///
    /// `data` must be the `priv` of a hook of [`Hooks<O>`] that is running, and `skb` the packet
    /// it runs for, of that `family`.
    #[inline(always)]
    unsafe fn show(data: *mut c_void, skb: *const bindings::sk_buff, family: Family) -> c_uint {
        // SAFETY: `register` turned the hook data of the namespace's observer into `priv`. The observer
        // is not dropped before its registration (which our context holds) or its namespace is, and in
        // both cases after our `pre_exit` and an RCU grace period; netfilter runs hooks in RCU
        // read-side critical sections.
        let data = unsafe { HookData::from_raw(data) };

        // INVARIANT: Netfilter owns the packet while hooks run, and IP has checked and linearized its
        // header before it runs these.
        let packet = Packet {
            skb,
            family,
            _skb: PhantomData,
        };
        O::observe(data, packet);

        bindings::NF_ACCEPT
    }
}

impl<O: Observer> PerNet for Hooks<O> {
    type Context = Context<O>;
    const SLOT: At<Self> = <O as Observer>::SLOT;

    fn init(context: &Context<O>, net: &Net) -> impl PinInit<Self, Error> {
        // INVARIANT: `register` registers them, or returns null.
        try_init!(Self {
            hooks: Self::register(context, net)?,
            _observer: PhantomData,
        })
    }

    fn pre_exit(self: Pin<&Self>, net: &Net) {
        if !self.hooks.is_null() {
            // SAFETY: By the type invariant, `init` registered the hooks in the same namespace.
            unsafe { bindings::shim_nf_unregister_hooks(net.as_raw(), self.hooks) };
        }
    }
}

impl<O: Observer> Drop for Hooks<O> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the hooks are unregistered, and no longer run. They came from
        // `kzalloc()`, or are null, which `kfree()` takes.
        unsafe { bindings::kfree(self.hooks.cast()) };
    }
}
