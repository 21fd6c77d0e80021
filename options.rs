// SPDX-License-Identifier: GPL-2.0

//! The parameters that are set when the module is loaded: `counter` and `hook`.

#![forbid(unsafe_code)]

use crate::{
    abstractions::{
        netfilter::InetHook,
        param::{
            Origin,
            Param, //
        }, //
    },
    step::{
        ParseError,
        Step, //
    }, //
};
use kernel::{
    fmt,
    prelude::*, //
};

/// The parameter `counter`: the initial step of every network namespace.
impl Param for Step {
    const INITIAL: Self = Self::DEFAULT;

    fn set(&mut self, value: &[u8], _origin: Origin) -> Result {
        *self = Self::parse(value).inspect_err(|_| {
            pr_err!(
                "counter= takes a whole number from 1 to {}: load kstat with such a number\n",
                u64::MAX
            );
        })?;
        Ok(())
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.get().get(), f)
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

const LOCAL_OUT: &str = "local_out";
const POST_ROUTING: &str = "post_routing";

/// The parameter `hook`: the hook at which packets are counted.
impl Param for InetHook {
    const INITIAL: Self = Self::LocalOut;

    fn set(&mut self, value: &[u8], _origin: Origin) -> Result {
        *self = match core::str::from_utf8(value) {
            Ok(LOCAL_OUT) => Self::LocalOut,
            Ok(POST_ROUTING) => Self::PostRouting,
            _ => {
                pr_err!("hook= takes {LOCAL_OUT} or {POST_ROUTING}: load kstat with one of them\n");
                return Err(EINVAL);
            }
        };
        Ok(())
    }
}

impl fmt::Display for InetHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LocalOut => LOCAL_OUT,
            Self::PostRouting => POST_ROUTING,
        })
    }
}
