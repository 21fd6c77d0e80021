// SPDX-License-Identifier: GPL-2.0

//! A Rust module that has nothing to do with kstat.

use kernel::prelude::*;

module! {
    type: Hello,
    name: "hello",
    authors: ["kstat developers"],
    description: "Says hello",
    license: "GPL",
}

struct Hello;

impl kernel::Module for Hello {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        pr_info!("from outside of the tree\n");
        Ok(Self)
    }
}
