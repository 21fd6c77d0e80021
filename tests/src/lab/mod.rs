// SPDX-License-Identifier: GPL-2.0

//! What runs in the lab: Debian systems in folders, and `rust-tree`.

pub mod chroot;
pub mod rust_tree;
