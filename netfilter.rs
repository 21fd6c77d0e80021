// SPDX-License-Identifier: GPL-2.0

//! Netfilter hooks that look at packets, and let every one of them pass.
//!
//! C header: [`include/linux/netfilter.h`](srctree/include/linux/netfilter.h)

use crate::{
    bindings,
    netns::{
        Net,
        PerNet,
        Registration, //
    },
};
use core::{
    marker::{
        PhantomData,
        PhantomPinned, //
    },
    mem,
    ptr, //
};
use kernel::{
    error::to_result,
    prelude::*,
    sync::Arc,
    types::Opaque, //
};

/// Where in the stack a hook stands, for IPv4 and IPv6 alike.
#[derive(Clone, Copy)]
pub(crate) enum Point {
    /// `NF_INET_LOCAL_OUT`: packets that this host made, before they are routed for good.
    LocalOut,
    /// `NF_INET_POST_ROUTING`: packets on their way out, whether this host made or forwards them.
    PostRouting,
}

impl Point {
    fn hooknum(self) -> c_uint {
        match self {
            Self::LocalOut => bindings::nf_inet_hooks_NF_INET_LOCAL_OUT,
            Self::PostRouting => bindings::nf_inet_hooks_NF_INET_POST_ROUTING,
        }
    }
}

/// The priority of a hook that sees what all hooks of lower ones have accepted.
///
/// Of hooks of the same priority, the one that was registered last comes first
/// (`nf_hook_entries_grow()` in `net/netfilter/core.c`).
pub(crate) const PRIORITY_LAST: i32 = bindings::nf_ip_hook_priorities_NF_IP_PRI_LAST;

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

    /// `skb_network_header()`, which is too small to call C for it.
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
    /// Apart, and by value, so that no packet without such headers needs a stack.
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

/// Data of a network namespace that is shown every packet at a hook of that namespace.
///
/// # Examples
///
/// ```
/// impl Observer for Seen {
///     type Eye = percpu::Parts;
///
///     fn eye(&self) -> &percpu::Parts {
///         &self.0
///     }
///
///     fn observe(packets: &percpu::Parts, _packet: Packet<'_>) {
///         packets.inc();
///     }
/// }
///
/// let hooks = netfilter::register(Arc::new(seen, GFP_KERNEL)?, Point::LocalOut, PRIORITY_LAST)?;
/// # Ok::<(), Error>(())
/// ```
pub(crate) trait Observer: PerNet {
    /// What a packet is shown to: a part of the data, or what it owns; the hook has its address.
    type Eye: Sync;

    /// Where that is. Asked once for each namespace.
    fn eye(&self) -> &Self::Eye;

    /// Called for each packet, with the RCU read lock held, in a task or in a softirq; it must not
    /// sleep. The same packet may be shown again if the stack sends it past the hook again.
    fn observe(eye: &Self::Eye, packet: Packet<'_>);
}

/// How many hooks a network namespace has: one for IPv4, one for IPv6.
const COUNT: usize = 2;

/// The hooks of one network namespace.
///
/// # Invariants
///
/// The operations are registered between [`PerNet::init`] and [`PerNet::pre_exit`], and are not
/// freed before an RCU grace period has passed after that.
pub(crate) struct Hooks<O: Observer> {
    operations: Opaque<[bindings::nf_hook_ops; COUNT]>,
    _pin: PhantomPinned,
    _observer: PhantomData<O>,
}

// SAFETY: Hooks may be unregistered by another task than the one that registered them.
unsafe impl<O: Observer> Send for Hooks<O> {}

// SAFETY: Nothing but netfilter writes to the operations once they are registered, under its own lock.
unsafe impl<O: Observer> Sync for Hooks<O> {}

/// What [`Hooks`] are made from.
pub(crate) struct Context<O: Observer> {
    /// Keeps the data that the hooks are for where it is, as long as there are hooks.
    observers: Arc<Registration<O>>,
    point: Point,
    priority: i32,
}

/// Shows `observers` every IPv4 and IPv6 packet at `point`, in all network namespaces: those that
/// there are, and those to come.
///
/// When this returns, every later packet is shown. When what it returned has been dropped, no hook
/// is registered anywhere and none is running. Both may sleep and take `pernet_ops_rwsem`; dropping
/// waits for RCU grace periods, the number of which does not depend on that of namespaces.
///
/// Fails with [`EBUSY`] if the module has too many registrations already, with [`ENOMEM`], or with
/// [`E2BIG`] if a namespace has no place for one more hook. Then nothing is registered.
pub(crate) fn register<O: Observer>(
    observers: Arc<Registration<O>>,
    point: Point,
    priority: i32,
) -> Result<Registration<Hooks<O>>> {
    Registration::new(Context {
        observers,
        point,
        priority,
    })
}

impl<O: Observer> Hooks<O> {
    /// # Safety
    ///
    /// To be called by netfilter only, for a hook of [`Hooks<O>`] that is for IPv4.
    unsafe extern "C" fn ipv4(
        eye: *mut c_void,
        skb: *mut bindings::sk_buff,
        _state: *const bindings::nf_hook_state,
    ) -> c_uint {
        // SAFETY: The caller's promise is passed on.
        unsafe { Self::show(eye, skb, Family::Ipv4) }
    }

    /// # Safety
    ///
    /// To be called by netfilter only, for a hook of [`Hooks<O>`] that is for IPv6.
    unsafe extern "C" fn ipv6(
        eye: *mut c_void,
        skb: *mut bindings::sk_buff,
        _state: *const bindings::nf_hook_state,
    ) -> c_uint {
        // SAFETY: The caller's promise is passed on.
        unsafe { Self::show(eye, skb, Family::Ipv6) }
    }

    /// # Safety
    ///
    /// `eye` must be the `priv` of a hook of [`Hooks<O>`] that is running, and `skb` the packet
    /// it runs for, of that `family`.
    #[inline(always)]
    unsafe fn show(eye: *mut c_void, skb: *const bindings::sk_buff, family: Family) -> c_uint {
        // SAFETY: `init` set `priv` to the eye of the namespace's observer, which has it as long as it
        // is there. It is dropped no sooner than its registration (which our context holds) or its
        // namespace, and in both cases after our `pre_exit` and an RCU grace period; netfilter runs
        // hooks in RCU read-side sections.
        let eye = unsafe { &*eye.cast::<O::Eye>() };

        // INVARIANT: Netfilter owns the packet while hooks run, and before it runs these, IP has
        // made sure of the header.
        let packet = Packet {
            skb,
            family,
            _skb: PhantomData,
        };
        O::observe(eye, packet);

        bindings::NF_ACCEPT
    }
}

impl<O: Observer> PerNet for Hooks<O> {
    type Context = Context<O>;

    fn init(context: &Context<O>, net: &Net) -> Result<Pin<KBox<Self>>> {
        let eye = context.observers.get(net).ok_or(ENOENT)?.eye();
        let operations = |family, hook: bindings::nf_hookfn| bindings::nf_hook_ops {
            hook,
            priv_: ptr::from_ref(eye).cast_mut().cast(),
            pf: family as u8,
            hooknum: context.point.hooknum(),
            priority: context.priority,
            // SAFETY: Zeroes are right for what is not named: the kernel's own fields, no device,
            // and no type of operation that anybody treats in a special way.
            ..unsafe { mem::zeroed() }
        };

        let hooks = KBox::pin(
            Self {
                operations: Opaque::new([
                    operations(bindings::NFPROTO_IPV4, Some(Self::ipv4)),
                    operations(bindings::NFPROTO_IPV6, Some(Self::ipv6)),
                ]),
                _pin: PhantomPinned,
                _observer: PhantomData,
            },
            GFP_KERNEL,
        )?;

        // SAFETY: There are this many operations, pinned; `pre_exit` unregisters them. The hooks may
        // be called with what was set above.
        let result = to_result(unsafe {
            bindings::nf_register_net_hooks(
                net.as_raw(),
                hooks.operations.get().cast(),
                COUNT as c_uint,
            )
        });

        if result.is_err() {
            // The one for IPv4 may have been there for a moment: it must not be freed before those
            // who found it have left it. There is nobody else to wait, as `pre_exit` is not called.
            //
            // SAFETY: This may sleep.
            unsafe { bindings::synchronize_rcu() };
        }

        result.map(|()| hooks)
    }

    fn pre_exit(self: Pin<&Self>, net: &Net) {
        // SAFETY: `init` registered this many operations in the same namespace.
        unsafe {
            bindings::nf_unregister_net_hooks(
                net.as_raw(),
                self.operations.get().cast(),
                COUNT as c_uint,
            )
        };
    }
}
