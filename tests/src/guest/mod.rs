// SPDX-License-Identifier: GPL-2.0

//! Helpers of the tests that run in a guest: the module, hosts that send packets, and the programs
//! with which kstat's count is compared.

pub mod background;
pub mod blocked_write;
pub mod capture;
pub mod cgroup;
pub mod cpu;
pub mod daemon;
pub mod exclusive;
pub mod file;
pub mod frames;
pub mod host;
pub mod identity;
pub mod iptables;
pub mod link;
pub mod log;
pub mod memory;
pub mod module;
pub mod netns;
pub mod network;
pub mod nft;
pub mod nginx;
pub mod packet;
pub mod proc_net_snmp;
pub mod queue;
pub mod setting;
pub mod tcp;
pub mod traffic;
pub mod unprivileged;
pub mod virtio_net;
pub mod wire;
