// SPDX-License-Identifier: GPL-2.0

//! A module that uses the wrappers as kstat does not: it runs the examples of their documentation,
//! and makes safe calls that must not reach undefined behaviour.
//!
//! In a copy of the sources it takes the place of kstat's crate root, so that Kbuild builds it as it
//! is. `tests/tests/wrappers.rs` makes that copy, with `examples.rs`, and says what must happen.

#![allow(dead_code)]

use abstractions::param::module_param;
use kernel::prelude::*;

mod abstractions;
mod examples;
mod misuse;

module! {
    type: Wrappers,
    name: "kstat",
    authors: ["The kstat developers"],
    description: "Use the wrappers of kstat",
    license: "GPL",
}

module_param!(EXAMPLES: misuse::Flag, examples: bool, 0, "Run the examples");
module_param!(FAIL: misuse::Flag, fail: bool, 0, "Fail to load");
module_param!(HELD: misuse::Held, held: bool, 0, "Hold a registration in a static");

struct Wrappers {
    _misuse: misuse::Files,
}

impl kernel::Module for Wrappers {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        if FAIL.lock().0 {
            return Err(ECANCELED);
        }
        if EXAMPLES.lock().0 {
            examples::run()?;
        }
        misuse::names()?;

        Ok(Self {
            _misuse: misuse::Files::new()?,
        })
    }
}
