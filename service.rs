// SPDX-License-Identifier: GPL-2.0

//! Start and stop: what the parameter `start` does.
//!
//! The state is protected by the lock of [`Locked`], which whoever writes to the parameter holds
//! already. So writers queue up with each other, with the end of loading, and with the beginning of
//! unloading.

#![forbid(unsafe_code)]

use crate::{
    netfilter::{
        self,
        Hooks,
        Point,
        PRIORITY_LAST, //
    },
    netns::Registration,
    param::{
        Locked,
        Origin,
        Param, //
    },
    stats::Stats, //
};
use core::fmt;
use kernel::{
    prelude::*,
    str::{
        kstrtobool,
        CStr, //
    },
    sync::Arc, //
};

/// The parameter `start`.
pub(crate) static START: Locked<State> = Locked::new(State::Loading { start: false });

/// What the module is doing.
pub(crate) enum State {
    /// It is being loaded, and has nothing that could count; `start` is what the loader was told.
    Loading {
        /// Whether to start counting as soon as it is loaded.
        start: bool,
    },
    /// It is loaded, and nothing is hooked.
    Stopped(Source),
    /// It counts.
    Running {
        /// What is counted.
        source: Source,
        /// The hooks, which are there until this is dropped.
        _hooks: Registration<Hooks<Stats>>,
    },
    /// It is being unloaded, and will not count again.
    Going,
}

/// What is to be counted, and where.
#[derive(Clone)]
pub(crate) struct Source {
    /// Where the counts are kept.
    pub(crate) stats: Arc<Registration<Stats>>,
    /// Where the packets are seen.
    pub(crate) hook: Point,
}

impl State {
    /// Starts or stops; does nothing if that is how it is already.
    fn switch(&mut self, start: bool) -> Result {
        *self = match (&*self, start) {
            (Self::Stopped(source), true) => {
                let hooks = netfilter::register(source.stats.clone(), source.hook, PRIORITY_LAST)?;
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

impl Param for State {
    /// As for the kernel's own bool parameters.
    const BARE: &'static CStr = c"1";

    /// Fails with [`EINVAL`] if `value` is no bool; with [`EBUSY`] while the module is loading, as
    /// it could not be true yet that packets are counted; with [`ENODEV`] when it is unloading; or
    /// with what registering hooks failed with.
    fn set(&mut self, value: &CStr, origin: Origin) -> Result {
        let value = kstrtobool(value)?;

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
pub(crate) struct Service(());

impl Service {
    /// Lets `start` be written, and starts if the loader was told so.
    pub(crate) fn new(source: Source) -> Result<Self> {
        let mut state = START.lock();

        let start = matches!(*state, State::Loading { start: true });
        let mut loaded = State::Stopped(source);
        loaded.switch(start).inspect_err(|error| {
            pr_err!("start=1: hooks could not be registered in every network namespace ({error:?}): load kstat without it, and see what it says\n");
        })?;
        *state = loaded;
        Ok(Self(()))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        *START.lock() = State::Going;
    }
}
