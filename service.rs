// SPDX-License-Identifier: GPL-2.0

//! Start and stop: what the parameter `start` does.
//!
//! The lock of [`Locked`] protects the state, and a writer of the parameter holds it. So writers queue
//! up with each other, with the end of loading, and with the beginning of unloading.

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

/// What the module is doing.
pub(crate) enum State {
    /// It is being loaded, and has nothing that could count.
    Loading {
        /// Whether to start counting as soon as it is loaded: what the loader was told.
        start: bool,
    },
    /// It is loaded, and nothing is hooked.
    Stopped(Source),
    /// It counts.
    Running {
        /// What is counted.
        source: Source,
        /// The hooks, which are there until this is dropped.
        _hooks: Registered<Stats>,
    },
    /// It is being unloaded, and will not count again.
    Going,
}

/// What is to be counted, and where.
#[derive(Clone)]
pub(crate) struct Source {
    /// The counts.
    pub(crate) stats: Arc<Registration<Stats>>,
    /// The hook that packets pass.
    pub(crate) hook: InetHook,
}

impl State {
    /// Starts or stops; does nothing if that is how it is already.
    fn switch(&mut self, start: bool) -> Result {
        *self = match (&*self, start) {
            (Self::Stopped(source), true) => {
                let hooks = netfilter::register(source.stats.clone(), source.hook, PRI_LAST)?;
                let left_out = hooks.left_out();
                if left_out != 0 {
                    pr_warn!("not counting in {left_out} network namespace(s) of unprivileged users, whose hooks are all taken: stop and start again when they have room\n");
                }
                Self::Running {
                    source: source.clone(),
                    _hooks: hooks,
                }
            }
            (Self::Running { source, .. }, false) => Self::Stopped(source.clone()),
            (Self::Stopped(_), false) | (Self::Running { .. }, true) => return Ok(()),
            (Self::Loading { .. }, _) => return Err(EBUSY),
            (Self::Going, _) => return Err(ENODEV),
        };
        Ok(())
    }
}

/// `start`: whether kstat counts.
impl Param for State {
    const INITIAL: Self = Self::Loading { start: false };

    /// As for the kernel's own bool parameters.
    const NO_ARG: &'static [u8] = b"1";

    /// Fails with [`EINVAL`] if `value` is no bool; with [`EBUSY`] while the module is loading, as
    /// no packet is counted yet when the write would return; with [`ENODEV`] when it is unloading; or
    /// with the error of registering the hooks.
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
            Self::Loading { .. } | Self::Stopped(_) | Self::Going => "0",
        })
    }
}

/// The service of a loaded module. Dropping it stops counting for good.
pub(crate) struct Service(&'static Locked<State>);

impl Service {
    /// Lets the parameter `state` be written, and starts if the loader was told so.
    pub(crate) fn new(state: &'static Locked<State>, source: Source) -> Result<Self> {
        let mut guard = state.lock();

        let start = matches!(*guard, State::Loading { start: true });
        let mut loaded = State::Stopped(source);
        loaded.switch(start).inspect_err(|error| {
            pr_err!("start=1: hooks could not be registered in every network namespace ({error:?}): load kstat without it, and see what a write to start says\n");
        })?;
        *guard = loaded;
        Ok(Self(state))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        *self.0.lock() = State::Going;
    }
}
