// SPDX-License-Identifier: GPL-2.0

//! KUnit tests of the policy code that needs no network. A kernel with KUnit runs them when it
//! loads the module.
//!
//! Tests on the host (`tests/host/arithmetic.rs`) cover the arithmetic in detail. The tests here
//! check that it gives the same results with the kernel's compiler flags. Writes to `start` while
//! the module is being loaded or unloaded can be tested here without a race.

use crate::{
    abstractions::{
        netfilter::InetHook,
        param::{
            Origin,
            Param, //
        }, //
    },
    publish::Publish,
    service::State,
    stats::Totals,
    step::{
        ParseError,
        Step, //
    }, //
};
use kernel::prelude::*;

#[kunit_tests(kstat)]
mod tests {
    use super::*;

    const MAX: u64 = u64::MAX;

    #[test]
    fn count_is_published_every_n_packets() -> Result {
        let publish = Publish::new(Step::new(10).ok_or(EINVAL)?);

        assert_eq!(publish.public(0), 0);
        assert_eq!(publish.public(9), 0);
        assert_eq!(publish.public(10), 10);
        assert_eq!(publish.public(19), 10);
        assert_eq!(publish.public(20), 20);
        assert_eq!(publish.public(MAX), MAX - MAX % 10);
        Ok(())
    }

    #[test]
    fn setting_n_does_not_change_the_published_count() -> Result {
        let mut publish = Publish::new(Step::new(10).ok_or(EINVAL)?);

        publish.set_step(25, Step::new(7).ok_or(EINVAL)?);
        assert_eq!(publish.step().get().get(), 7);
        assert_eq!(publish.public(25), 20);
        assert_eq!(publish.public(26), 20);
        assert_eq!(publish.public(27), 27);
        publish.set_step(27, Step::new(MAX).ok_or(EINVAL)?);
        assert_eq!(publish.public(MAX), 27);
        publish.set_step(MAX, Step::new(1).ok_or(EINVAL)?);
        assert_eq!(publish.public(MAX), MAX);
        Ok(())
    }

    #[test]
    fn each_packet_is_a_segment_and_a_super_packet_has_more() {
        let totals = Totals::new([3, 66_160, 44]);

        assert_eq!(totals.packets, 3);
        assert_eq!(totals.segments, 47);
        assert_eq!(totals.octets, 66_160);
        assert_eq!(Totals::new([MAX, 0, 2]).segments, 1);
    }

    #[test]
    fn step_accepts_decimal_numbers_from_1_and_nothing_else() {
        assert!(Step::parse(b"1").is_ok_and(|step| step.get().get() == 1));
        assert!(Step::parse(b" \t\n\x0b\x0c\r0020\n").is_ok_and(|step| step.get().get() == 20));
        assert!(Step::parse(b"18446744073709551615").is_ok_and(|step| step.get().get() == MAX));
        assert!(Step::parse(b"18446744073709551616") == Err(ParseError::TooLarge));
        assert!(Step::parse(b"99999999999999999999999999999999") == Err(ParseError::TooLarge));
        for text in [
            &b""[..],
            b" ",
            b"0",
            b"-1",
            b"+1",
            b"0x10",
            b"10x",
            b"1 0",
            b"1\0",
            &[b'1'; 33],
        ] {
            assert!(Step::parse(text) == Err(ParseError::Invalid));
        }
    }

    #[test]
    fn only_nonempty_white_space_is_white_space() {
        assert!(Step::is_white_space(b"\n"));
        assert!(Step::is_white_space(b" \t\n\x0b\x0c\r"));
        assert!(!Step::is_white_space(b""));
        assert!(!Step::is_white_space(b"\n1"));
        assert!(!Step::is_white_space(b"\0"));
    }

    #[test]
    fn invalid_counter_is_refused_and_keeps_its_value() {
        let mut counter = Step::INITIAL;

        assert!(counter.set(b"20", Origin::Load).is_ok());
        assert!(counter.get().get() == 20);
        assert!(counter.set(b"0", Origin::Load) == Err(EINVAL));
        assert!(counter.set(b"18446744073709551616", Origin::Load) == Err(ERANGE));
        assert!(counter.get().get() == 20);
    }

    #[test]
    fn invalid_hook_is_refused_and_keeps_its_value() {
        let mut hook = InetHook::INITIAL;

        assert!(hook == InetHook::LocalOut);
        assert!(hook.set(b"post_routing", Origin::Load).is_ok());
        for text in [&b""[..], b"local", b"local_outx", b"LOCAL_OUT", b"\xff"] {
            assert!(hook.set(text, Origin::Load) == Err(EINVAL));
            assert!(hook == InetHook::PostRouting);
        }
        assert!(hook.set(b"local_out", Origin::Load).is_ok());
        assert!(hook == InetHook::LocalOut);
    }

    #[test]
    fn start_while_loading_is_kept_for_the_loader_and_refused_for_sysfs() {
        let mut state = State::Loading { start: false };

        assert!(state.set(b"1", Origin::Sysfs) == Err(EBUSY));
        assert!(matches!(state, State::Loading { start: false }));
        assert!(state.set(b"on", Origin::Load).is_ok());
        assert!(matches!(state, State::Loading { start: true }));
        assert!(state.set(b"2", Origin::Load) == Err(EINVAL));
        assert!(matches!(state, State::Loading { start: true }));
        assert!(state.set(b"0", Origin::Load).is_ok());
        assert!(matches!(state, State::Loading { start: false }));
    }

    #[test]
    fn start_while_unloading_is_refused() {
        let mut state = State::Unloading;

        for text in [b"1", b"0"] {
            assert!(state.set(text, Origin::Sysfs) == Err(ENODEV));
            assert!(matches!(state, State::Unloading));
        }
        assert!(state.set(b"2", Origin::Sysfs) == Err(EINVAL));
    }
}
