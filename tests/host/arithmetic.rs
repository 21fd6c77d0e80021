// SPDX-License-Identifier: GPL-2.0

//! How N is parsed, and which count is published. Runs without the module
//! and without a guest.

#[path = "../../publish.rs"]
mod publish;
#[path = "../../step.rs"]
mod step;

/// Parsing N.
mod steps {
    use crate::step::{ParseError, Step};

    /// Asserts that `text` is parsed as `n`.
    #[track_caller]
    fn assert_parses(text: &str, n: u64) {
        assert_eq!(
            Step::parse(text.as_bytes()),
            Ok(Step::new(n).expect("not 0")),
            "{text:?}"
        );
    }

    /// Asserts that `text` is refused with `error`.
    #[track_caller]
    fn assert_refuses(text: impl AsRef<[u8]>, error: ParseError) {
        let text = text.as_ref();

        assert_eq!(
            Step::parse(text),
            Err(error),
            "{:?}",
            String::from_utf8_lossy(text)
        );
    }

    #[test]
    fn default_step_is_10() {
        assert_eq!(Step::DEFAULT.get().get(), 10);
    }

    #[test]
    fn zero_is_refused() {
        assert_eq!(Step::new(0), None);
        assert_refuses("0", ParseError::Invalid);
        assert_refuses("000", ParseError::Invalid);
    }

    #[test]
    fn numbers_from_1_to_u64_max_are_parsed() {
        let around_powers = (1..64).flat_map(|bit| [(1 << bit) - 1, 1u64 << bit, (1 << bit) | 1]);

        for n in (1..=10_000)
            .chain(around_powers)
            .chain([u64::MAX - 1, u64::MAX])
        {
            let step = Step::new(n).expect("not 0");

            assert_parses(&n.to_string(), n);
            assert_eq!(step.get().get(), n);
        }
    }

    #[test]
    fn white_space_is_one_or_more_bytes_of_isspace() {
        for byte in 0..=u8::MAX {
            let is_space = matches!(byte, b' ' | b'\t' | b'\n' | 0x0b | 0x0c | b'\r');

            assert_eq!(Step::is_white_space(&[byte]), is_space, "{byte}");
            assert_eq!(
                Step::is_white_space(&[b' ', byte, b'\n']),
                is_space,
                "{byte}"
            );
        }
        assert!(!Step::is_white_space(b""));
    }

    #[test]
    fn white_space_around_a_number_is_allowed() {
        for space in [" ", "\t", "\n", "\x0b", "\x0c", "\r", " \t\n\x0b\x0c\r"] {
            assert_parses(&format!("{space}20"), 20);
            assert_parses(&format!("20{space}"), 20);
            assert_parses(&format!("{space}20{space}"), 20);
            assert_parses(&format!("{space}{}", u64::MAX), u64::MAX);
        }
    }

    #[test]
    fn leading_zeros_are_ignored() {
        assert_parses("0020", 20);
        assert_parses("00000000000018446744073709551615", u64::MAX);
    }

    #[test]
    fn text_other_than_a_decimal_number_is_invalid() {
        for text in [
            "", " ", "\n", "\0", "abc", "10x", "x10", "0x10", "0b1", "1e3", "1.0", "1,000",
            "1_000", "-1", "-0", "+1", "- 1", "1 0", "1\n0", "10\0", "\u{661}", "\u{a0}1",
        ] {
            assert_refuses(text, ParseError::Invalid);
        }
        // A byte that is not UTF-8, and every single byte other than a digit.
        assert_refuses(b"1\xff", ParseError::Invalid);
        for byte in (0..=u8::MAX).filter(|byte| !byte.is_ascii_digit()) {
            assert_refuses([byte], ParseError::Invalid);
        }
    }

    #[test]
    fn number_above_u64_max_is_too_large() {
        for text in [
            "18446744073709551616",
            "18446744073709551620",
            "99999999999999999999",
            "100000000000000000000",
            " 18446744073709551616\n",
            "99999999999999999999999999999999",
        ] {
            assert_refuses(text, ParseError::TooLarge);
        }
    }

    #[test]
    fn text_longer_than_max_text_is_invalid() {
        let digits = |length| format!("{:0>length$}", 7);
        let spaces = |length| format!("{:length$}", 7);

        assert_parses(&digits(Step::MAX_TEXT), 7);
        assert_parses(&spaces(Step::MAX_TEXT), 7);
        assert_refuses(digits(Step::MAX_TEXT + 1), ParseError::Invalid);
        assert_refuses(spaces(Step::MAX_TEXT + 1), ParseError::Invalid);
        assert_refuses("9".repeat(Step::MAX_TEXT + 1), ParseError::Invalid);
    }
}

/// The published count, `nout`.
mod publishing {
    use crate::{publish::Publish, step::Step};
    use kstat_tests::seed;
    use proptest::prelude::*;

    fn step(n: u64) -> Step {
        Step::new(n).expect("a step is not 0")
    }

    /// The specified formula, in numbers that cannot overflow.
    struct Formula {
        base: u128,
        step: u128,
    }

    impl Formula {
        fn nout(&self, total: u64) -> u64 {
            let nout = self.base + (u128::from(total) - self.base) / self.step * self.step;
            u64::try_from(nout).expect("the formula is at most the total")
        }

        fn set_step(&mut self, total: u64, step: u64) {
            self.base = self.nout(total).into();
            self.step = step.into();
        }
    }

    /// The module's arithmetic and the formula, with the same history.
    struct Pair(Publish, Formula);

    impl Pair {
        fn new(n: u64) -> Self {
            Self(
                Publish::new(step(n)),
                Formula {
                    base: 0,
                    step: n.into(),
                },
            )
        }

        /// Sets N to `n` in both when `total` packets have been counted.
        #[track_caller]
        fn set_step(&mut self, total: u64, n: u64) {
            self.0.set_step(total, step(n));
            self.1.set_step(total, n);
            assert_eq!(self.0.step(), step(n));
        }

        /// Asserts that both publish the same count when `total` packets have been counted, and
        /// returns it.
        #[track_caller]
        fn nout(&self, total: u64) -> u64 {
            let nout = self.0.public(total);

            assert_eq!(
                nout,
                self.1.nout(total),
                "{:?} at {total} (right: the formula)",
                self.0
            );
            nout
        }
    }

    #[test]
    fn nout_moves_at_every_nth_packet_to_the_count_at_that_packet() {
        for n in 1..=50 {
            let publish = Publish::new(step(n));
            let mut shown = 0;

            for total in 0..=500 {
                if total % n == 0 {
                    shown = total;
                }
                assert_eq!(publish.public(total), shown, "N is {n}, T is {total}");
            }
        }
    }

    #[test]
    fn nout_follows_the_formula_when_n_is_set_twice() {
        for first in 1..=8 {
            for second in 1..=8 {
                for third in [1, 2, 3, 7, 100] {
                    for once in 0..=20 {
                        for twice in [once, once + 1, once + 5, once + 13] {
                            let mut pair = Pair::new(first);

                            pair.nout(once);
                            pair.set_step(once, second);
                            for total in once..=twice {
                                pair.nout(total);
                            }
                            pair.set_step(twice, third);
                            for total in twice..=twice + 24 {
                                pair.nout(total);
                            }
                        }
                    }
                }
            }
        }
    }

    /// Returns a strategy for numbers. Every number of bits is equally likely, and the smallest and
    /// the largest numbers are more likely than others.
    fn number() -> impl Strategy<Value = u64> {
        prop_oneof![
            8 => (0u32..64, any::<u64>()).prop_map(|(shift, bits)| bits >> shift),
            1 => 0..=10u64,
            1 => u64::MAX - 10..=u64::MAX,
        ]
    }

    /// An event between two reads of `nout`.
    #[derive(Clone, Debug)]
    enum Event {
        /// This number of packets is counted.
        Count(u64),
        /// N is set to this number.
        Set(u64),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            number().prop_map(Event::Count),
            number().prop_map(|n| Event::Set(n.max(1))),
        ]
    }

    #[test]
    fn nout_never_falls_and_stays_less_than_n_behind_in_any_history() {
        let history = (number(), prop::collection::vec(event(), 0..100));

        let result = seed::runner(5_000).run(&history, |(first, events)| {
            let mut n = first.max(1);
            let mut pair = Pair::new(n);
            let (mut total, mut shown) = (0u64, 0);

            for event in events {
                match event {
                    Event::Count(packets) => total = total.saturating_add(packets),
                    Event::Set(next) => {
                        // Setting N keeps the published count. The packets after it stay unpublished
                        // only if they are fewer than the new N.
                        prop_assert!(total - pair.nout(total) < n);
                        pair.set_step(total, next);
                        n = next;
                    }
                }
                let nout = pair.nout(total);
                prop_assert!(shown <= nout, "nout fell from {} to {}", shown, nout);
                prop_assert!(nout <= total, "nout is {} of {}", nout, total);
                prop_assert!(
                    total - nout < n,
                    "nout is {} of {}, N is {}",
                    nout,
                    total,
                    n
                );
                shown = nout;
            }
            Ok(())
        });
        result.unwrap_or_else(|error| panic!("{error}"));
    }

    #[test]
    fn setting_n_never_lowers_nout() {
        for first in 1..=12 {
            for second in 1..=12 {
                for total in 0..=40 {
                    let mut publish = Publish::new(step(first));
                    let before = publish.public(total);

                    publish.set_step(total, step(second));
                    assert!(
                        publish.public(total) >= before,
                        "N from {first} to {second} at {total}"
                    );
                    assert!(
                        total - publish.public(total) < second,
                        "N from {first} to {second} at {total}"
                    );
                }
            }
        }
    }

    #[test]
    fn nout_follows_the_formula_at_the_limits_of_u64() {
        let limits = [
            0,
            1,
            2,
            9,
            10,
            (1 << 32) - 1,
            1 << 32,
            (1 << 63) - 1,
            1 << 63,
            u64::MAX - 10,
            u64::MAX - 1,
            u64::MAX,
        ];

        for first in limits.into_iter().skip(1) {
            for second in limits.into_iter().skip(1) {
                for (i, &once) in limits.iter().enumerate() {
                    let mut pair = Pair::new(first);

                    pair.nout(once);
                    pair.set_step(once, second);
                    for &later in &limits[i..] {
                        pair.nout(later);
                    }
                }
            }
        }
    }
}
