// SPDX-License-Identifier: GPL-2.0

//! Tests of a loaded kstat, which run in a guest.
//!
//! The names of the tests are the specification of the module. They are printed in the order of
//! their files, in which the most basic test comes first.

mod commands;
mod counter;
mod counting;
mod crafted;
mod firewall;
mod hook;
mod lifecycle;
mod loading;
mod many_namespaces;
mod model;
mod namespaces;
mod nout;
mod publishing;
mod setups;
mod start;
mod traffic;
mod wire;
