// SPDX-License-Identifier: GPL-2.0

//! Starting and stopping, by the parameter `start`.
//!
//! The lock of [`Locked`] protects the state. It serializes the writers of the parameter with each
//! other, with the end of loading, and with the beginning of unloading.

#![forbid(unsafe_code)]

use crate::{
    abstractions::{
        netfilter::{
            self,
            InetHook,
            Registered,
            PRI_LAST, //
        },
        netns::Registration,
        param::{
            Locked,
            Origin,
            Param, //
        }, //
    },
    stats::Stats, //
};
use kernel::{
    fmt,
    prelude::*,
    str::kstrtobool_bytes,
    sync::Arc, //
};

/// The state of the module.
pub(crate) enum State {
    /// The module is being loaded, and cannot count yet.
    Loading {
        /// Whether to start counting at the end of loading. The load arguments set it.
        start: bool,
    },
    /// The module is loaded, and no hook is registered.
    Stopped(Source),
    /// The module is counting.
    Running {
        /// Kept for the next start.
        source: Source,
        /// The registered hooks. Dropping this unregisters them.
        _hooks: Registered<Stats>,
    },
    /// The module is being unloaded, and does not count again.
    Unloading,
}

/// Where packets are counted.
#[derive(Clone)]
pub(crate) struct Source {
    /// The statistics of all network namespaces, which have the counters.
    pub(crate) stats: Arc<Registration<Stats>>,
    /// The hook at which packets are counted.
    pub(crate) hook: InetHook,
}

impl State {
    /// Starts or stops counting. Does nothing if the module is already in that state.
    fn switch(&mut self, start: bool) -> Result {
        *self = match (&*self, start) {
            (Self::Stopped(source), true) => {
                let hooks = netfilter::register(source.stats.clone(), source.hook, PRI_LAST)?;
                let left_out = hooks.left_out();
                if left_out != 0 {
                    pr_warn!("not counting in {left_out} network namespace(s) of unprivileged users, which have no room for another hook: stop and start kstat once they have room\n");
                }
                Self::Running {
                    source: source.clone(),
                    _hooks: hooks,
                }
            }
            (Self::Running { source, .. }, false) => Self::Stopped(source.clone()),
            (Self::Stopped(_), false) | (Self::Running { .. }, true) => return Ok(()),
            (Self::Loading { .. }, _) => return Err(EBUSY),
            (Self::Unloading, _) => return Err(ENODEV),
        };
        Ok(())
    }
}

/// The parameter `start`: whether kstat counts.
impl Param for State {
    const INITIAL: Self = Self::Loading { start: false };

    /// `start` without a value starts counting, as for the bool parameters of the kernel.
    const NO_ARG: &'static [u8] = b"1";

    /// Starts or stops counting. A value from the load arguments takes effect at the end of
    /// loading.
    ///
    /// Fails with
    ///
    /// - [`EINVAL`] if `value` is not a boolean value;
    /// - [`EBUSY`] for a write while the module is being loaded, because packets would not be
    ///   counted yet when the write returns;
    /// - [`ENODEV`] for a write while the module is being unloaded;
    /// - the error of registering the hooks.
    fn set(&mut self, value: &[u8], origin: Origin) -> Result {
        let value = kstrtobool_bytes(value)?;

        match (self, origin) {
            (Self::Loading { start }, Origin::Load) => {
                *start = value;
                Ok(())
            }
            (state, _) => state.switch(value),
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Running { .. } => "1",
            Self::Loading { .. } | Self::Stopped(_) | Self::Unloading => "0",
        })
    }
}

/// Allows starting and stopping while the module is loaded. Dropping it stops counting for good.
pub(crate) struct Service(&'static Locked<State>);

impl Service {
    /// Allows writes to the parameter `state`, and starts counting if the load arguments say so.
    pub(crate) fn new(state: &'static Locked<State>, source: Source) -> Result<Self> {
        let mut guard = state.lock();

        let start = matches!(*guard, State::Loading { start: true });
        let mut loaded = State::Stopped(source);
        loaded.switch(start).inspect_err(|error| {
            pr_err!("start=1: hooks could not be registered in every network namespace ({error:?}): load kstat without start=1, remove the cause, and write 1 to the parameter start\n");
        })?;
        *guard = loaded;
        Ok(Self(state))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        *self.0.lock() = State::Unloading;
    }
}
