// SPDX-License-Identifier: GPL-2.0

//! kstat counts the TCP packets that this machine sends, for each network namespace.
//!
//! [`service`] registers a netfilter hook in each network namespace. For each TCP packet, the hook adds
//! one to the counter of the namespace and the CPU ([`stats`]). A reader of `nout` ([`files`]) sums the
//! counters; [`publish`] says which count the reader sees. [`options`] has the module's parameters, and
//! [`abstractions`] the safe wrappers of the C side. Dropping what `init` made undoes it.

use abstractions::{
    netfilter::InetHook,
    netns,
    param::module_param, //
};
use kernel::{
    prelude::*,
    sync::Arc, //
};

mod abstractions;
mod files;
#[cfg(CONFIG_KUNIT = "y")]
mod kunit;
mod options;
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

module_param!(START: service::State, start: bool, 0o644, "Count packets: 1 or 0 (default: 0)");
module_param!(COUNTER: step::Step, counter: ullong, 0o444, "The first N of every network namespace (default: 10)");
module_param!(HOOK: InetHook, hook: charp, 0o444, "Count at this hook: local_out or post_routing (default: local_out)");

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
