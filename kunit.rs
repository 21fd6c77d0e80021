// SPDX-License-Identifier: GPL-2.0

//! Tests of what is policy and takes no network, run by a kernel with KUnit built in when it loads
//! the module.
//!
//! The arithmetic is tested at length where that is quick, on the host (`tests/tests/arithmetic.rs`);
//! here it is seen to be the same with the kernel's compiler flags. What `start` says to whom can be
//! had here only.

use crate::{
    netfilter::Point,
    options::{
        FirstStep,
        Hook, //
    },
    param::{
        Origin,
        Param, //
    },
    publish::Publish,
    service::State,
    step::{
        ParseError,
        Step, //
    },
};
use kernel::prelude::*;

#[kunit_tests(kstat)]
mod tests {
    use super::*;

    const MAX: u64 = u64::MAX;

    #[test]
    fn publishes_every_n_packets() -> Result {
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
    fn setting_n_changes_nothing_that_is_public() -> Result {
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
    fn a_step_is_a_decimal_number_from_1() {
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
    fn counter_is_a_step_or_stays_what_it_is() {
        let mut counter = FirstStep::DEFAULT;

        assert!(counter.set(c"20", Origin::Load).is_ok());
        assert!(counter.get().get().get() == 20);
        assert!(counter.set(c"0", Origin::Load) == Err(EINVAL));
        assert!(counter.set(c"18446744073709551616", Origin::Load) == Err(ERANGE));
        assert!(counter.get().get().get() == 20);
    }

    #[test]
    fn hook_is_one_of_two_or_stays_what_it_is() {
        let mut hook = Hook::DEFAULT;

        assert!(matches!(hook.get(), Point::LocalOut));
        assert!(hook.set(c"post_routing", Origin::Load).is_ok());
        for text in [c"", c"local", c"local_outx", c"LOCAL_OUT", c"\xff"] {
            assert!(hook.set(text, Origin::Load) == Err(EINVAL));
            assert!(matches!(hook.get(), Point::PostRouting));
        }
        assert!(hook.set(c"local_out", Origin::Load).is_ok());
        assert!(matches!(hook.get(), Point::LocalOut));
    }

    #[test]
    fn start_is_remembered_from_the_loader_and_refused_from_sysfs_while_loading() {
        let mut state = State::Loading { start: false };

        assert!(state.set(c"1", Origin::Sysfs) == Err(EBUSY));
        assert!(matches!(state, State::Loading { start: false }));
        assert!(state.set(c"on", Origin::Load).is_ok());
        assert!(matches!(state, State::Loading { start: true }));
        assert!(state.set(c"2", Origin::Load) == Err(EINVAL));
        assert!(matches!(state, State::Loading { start: true }));
        assert!(state.set(c"0", Origin::Load).is_ok());
        assert!(matches!(state, State::Loading { start: false }));
    }

    #[test]
    fn a_module_that_is_going_does_not_start_again() {
        let mut state = State::Going;

        for text in [c"1", c"0"] {
            assert!(state.set(text, Origin::Sysfs) == Err(ENODEV));
            assert!(matches!(state, State::Going));
        }
        assert!(state.set(c"2", Origin::Sysfs) == Err(EINVAL));
    }
}
