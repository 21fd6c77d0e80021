// SPDX-License-Identifier: GPL-2.0

//! The step N of publishing: its valid values, and how it is parsed.
//!
//! This file uses no kernel types, so that tests can build it on the host.

#![forbid(unsafe_code)]

use core::num::NonZeroU64;

/// The number of packets between two published counts, from 1 to [`u64::MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step(NonZeroU64);

/// The reason why a text is not a [`Step`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ParseError {
    /// The text is not a decimal number, is 0, or is longer than [`Step::MAX_TEXT`].
    Invalid,
    /// The number is greater than [`u64::MAX`].
    TooLarge,
}

impl Step {
    /// The default value.
    pub(crate) const DEFAULT: Self = match Self::new(10) {
        Some(step) => step,
        None => unreachable!(),
    };

    /// The maximum length of a text, in bytes. It allows for the 20 digits of [`u64::MAX`] and for
    /// white space.
    pub(crate) const MAX_TEXT: usize = 32;

    /// Returns `n` as a step, or `None` if `n` is 0.
    pub(crate) const fn new(n: u64) -> Option<Self> {
        match NonZeroU64::new(n) {
            Some(n) => Some(Self(n)),
            None => None,
        }
    }

    /// Returns the step as a number. It is not 0, so dividing by it cannot fail.
    pub(crate) const fn get(self) -> NonZeroU64 {
        self.0
    }

    /// Parses a decimal number, optionally with white space of the C locale before and after it.
    ///
    /// A sign, a prefix such as `0x`, or any other character that is not a digit is [`Invalid`].
    /// Leading zeros do not change a number.
    ///
    /// [`Invalid`]: ParseError::Invalid
    pub(crate) fn parse(text: &[u8]) -> Result<Self, ParseError> {
        if text.len() > Self::MAX_TEXT {
            return Err(ParseError::Invalid);
        }

        let digits = trim(text);
        if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
            return Err(ParseError::Invalid);
        }

        let n = digits
            .iter()
            .try_fold(0u64, |n, digit| {
                n.checked_mul(10)?.checked_add((digit - b'0').into())
            })
            .ok_or(ParseError::TooLarge)?;

        Self::new(n).ok_or(ParseError::Invalid)
    }

    /// Returns whether `text` is not empty and consists of white space, which may follow a number.
    pub(crate) fn is_white_space(text: &[u8]) -> bool {
        !text.is_empty() && trim(text).is_empty()
    }
}

/// Returns `text` without the white space at its beginning and end.
fn trim(text: &[u8]) -> &[u8] {
    // `u8::is_ascii_whitespace()` does not include the vertical tab, but `isspace()` in C does.
    let is_space = |byte: &u8| byte.is_ascii_whitespace() || *byte == b'\x0b';

    let Some(first) = text.iter().position(|byte| !is_space(byte)) else {
        return &[];
    };
    let end = text
        .iter()
        .rposition(|byte| !is_space(byte))
        .map_or(first, |last| last + 1);
    &text[first..end]
}
