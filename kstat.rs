// SPDX-License-Identifier: GPL-2.0

//! kstat counts the TCP packets that this machine sends, for each network namespace.
//!
//! [`service`] registers netfilter hooks in each network namespace. For each TCP packet, the hook
//! adds one to the per-CPU counter of the namespace ([`stats`]). A reader of `nout` ([`files`])
//! sums the parts of the counter; [`publish`] computes the count that the reader sees from the sum.
//! [`options`] contains the parameters that are set when the module is loaded, and [`abstractions`]
//! contains the safe wrappers for C interfaces. Dropping [`Kstat`] undoes everything that its
//! `init` did.

use abstractions::{
    modinfo::modinfo,
    netfilter::InetHook,
    netns,
    param::module_param,
    proc_net, //
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
modinfo!("version", env!("KSTAT_VERSION"));

module_param!(START: service::State, start: bool, 0o644, "Count packets: 1 to start, 0 to stop (default: 0)");
module_param!(COUNTER: step::Step, counter: ullong, 0o444, "Initial N of every network namespace: nout is published every N packets (default: 10)");
module_param!(HOOK: InetHook, hook: charp, 0o444, "Hook at which packets are counted: local_out or post_routing (default: local_out)");

/// The loaded module. The fields are dropped in this order, so counting stops before the files are
/// removed.
struct Kstat {
    _service: service::Service,
    _net_files: proc_net::Files<stats::Stats>,
    _files: files::Files,
}

impl kernel::Module for Kstat {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let stats = Arc::new(netns::Registration::new(*COUNTER.lock())?, GFP_KERNEL)?;
        let files = files::Files::new(&stats)?;
        let net_files = files::net_files(&stats)?;
        let hook = *HOOK.lock();
        let service = service::Service::new(&START, service::Source { stats, hook })?;

        Ok(Self {
            _service: service,
            _net_files: net_files,
            _files: files,
        })
    }
}
