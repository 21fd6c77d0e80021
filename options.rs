// SPDX-License-Identifier: GPL-2.0

//! What is settled when the module is loaded: the parameters `counter` and `hook`.

#![forbid(unsafe_code)]

use crate::{
    netfilter::Point,
    param::{
        Locked,
        Origin,
        Param, //
    },
    step::{
        ParseError,
        Step, //
    },
};
use core::fmt;
use kernel::{
    prelude::*,
    str::CStr, //
};

/// The parameter `counter`.
pub(crate) static COUNTER: Locked<FirstStep> = Locked::new(FirstStep::DEFAULT);

/// The parameter `hook`.
pub(crate) static HOOK: Locked<Hook> = Locked::new(Hook::DEFAULT);

/// The step that every network namespace has at first.
pub(crate) fn counter() -> Step {
    COUNTER.lock().get()
}

/// Where packets are to be seen.
pub(crate) fn hook() -> Point {
    HOOK.lock().get()
}

/// The value of `counter`.
pub(crate) struct FirstStep(Step);

impl FirstStep {
    /// What it is if nobody says anything.
    pub(crate) const DEFAULT: Self = Self(Step::DEFAULT);

    /// The step.
    pub(crate) fn get(&self) -> Step {
        self.0
    }
}

impl Param for FirstStep {
    fn set(&mut self, value: &CStr, _origin: Origin) -> Result {
        self.0 = Step::parse(value.to_bytes()).inspect_err(|_| {
            pr_err!(
                "counter= takes a whole number from 1 to {}: load kstat with such a number\n",
                u64::MAX
            );
        })?;
        Ok(())
    }
}

impl fmt::Display for FirstStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<ParseError> for Error {
    fn from(error: ParseError) -> Self {
        match error {
            ParseError::Invalid => EINVAL,
            ParseError::TooLarge => ERANGE,
        }
    }
}

/// The value of `hook`.
pub(crate) struct Hook(Point);

impl Hook {
    /// What it is if nobody says anything.
    pub(crate) const DEFAULT: Self = Self(Point::LocalOut);

    const LOCAL_OUT: &'static str = "local_out";
    const POST_ROUTING: &'static str = "post_routing";

    /// Where packets are to be seen.
    pub(crate) fn get(&self) -> Point {
        self.0
    }
}

impl Param for Hook {
    fn set(&mut self, value: &CStr, _origin: Origin) -> Result {
        self.0 = match value.to_str() {
            Ok(Self::LOCAL_OUT) => Point::LocalOut,
            Ok(Self::POST_ROUTING) => Point::PostRouting,
            _ => {
                pr_err!(
                    "hook= takes {} or {}: load kstat with one of them\n",
                    Self::LOCAL_OUT,
                    Self::POST_ROUTING
                );
                return Err(EINVAL);
            }
        };
        Ok(())
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Point::LocalOut => Self::LOCAL_OUT,
            Point::PostRouting => Self::POST_ROUTING,
        })
    }
}
