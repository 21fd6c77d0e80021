// SPDX-License-Identifier: GPL-2.0

//! kstat counts the TCP packets that this machine sends, for each network namespace.
//!
//! A packet is seen by a netfilter hook ([`netfilter`]), which adds one to a counter of its network
//! namespace and CPU ([`stats`], [`percpu`]). A reader adds these up, and is told the count as it was
//! when it last made N more ([`publish`], [`files`]). [`service`] puts the hooks in and takes them out.
//! Whatever is made below is undone by being dropped, last things first.

use kernel::{
    prelude::*,
    sync::Arc, //
};

mod bindings;
mod files;
#[cfg(CONFIG_KUNIT = "y")]
mod kunit;
mod netfilter;
mod netns;
mod options;
mod param;
mod percpu;
mod proc_fs;
mod publish;
mod service;
mod stats;
mod step;

module! {
    type: Kstat,
    name: "kstat",
    authors: ["The kstat developers"],
    description: "Count the TCP packets that this machine sends",
    license: "GPL",
}

param::module_param!(START: service::State, start: bool, 0o644, "Count packets: 1 or 0 (default: 0)");
param::module_param!(COUNTER: step::Step, counter: ullong, 0o444, "The first N of every network namespace (default: 10)");
param::module_param!(HOOK: netfilter::InetHook, hook: charp, 0o444, "Count at this hook: local_out or post_routing (default: local_out)");

/// What the loaded module has. The fields are dropped in this order.
struct Kstat {
    _service: service::Service,
    _files: files::Files,
}

impl kernel::Module for Kstat {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let stats = Arc::new(netns::Registration::new(*COUNTER.lock())?, GFP_KERNEL)?;
        let files = files::Files::new(&stats)?;
        let hook = *HOOK.lock();
        let service = service::Service::new(&START, service::Source { stats, hook })?;

        Ok(Self {
            _service: service,
            _files: files,
        })
    }
}
