// SPDX-License-Identifier: GPL-2.0

//! What must hold of a loaded kstat: the names of the tests, read in order, are its specification.

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
