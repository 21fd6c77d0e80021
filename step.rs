// SPDX-License-Identifier: GPL-2.0

//! N, the granularity of publishing: what it may be, and how it is written down.
//!
//! No kernel type stands here, so that the host can test it.

#![forbid(unsafe_code)]

use core::num::NonZeroU64;

/// How many packets lie between two published counts: 1 to [`u64::MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step(NonZeroU64);

/// Why a text is not a [`Step`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ParseError {
    /// It is no decimal number, or it is 0, or it is longer than [`Step::MAX_TEXT`].
    Invalid,
    /// It is a number above [`u64::MAX`].
    TooLarge,
}

impl Step {
    /// The step of a namespace in which nobody has set one.
    pub(crate) const DEFAULT: Self = match Self::new(10) {
        Some(step) => step,
        None => unreachable!(),
    };

    /// The longest text that is read as a number, in bytes: the 20 digits of [`u64::MAX`], and room
    /// for white space.
    pub(crate) const MAX_TEXT: usize = 32;

    /// `n` as a step, which 0 is not.
    pub(crate) const fn new(n: u64) -> Option<Self> {
        match NonZeroU64::new(n) {
            Some(n) => Some(Self(n)),
            None => None,
        }
    }

    /// The step as a number that it is safe to divide by.
    pub(crate) const fn get(self) -> NonZeroU64 {
        self.0
    }

    /// Reads decimal digits, with white space (the C locale's) before and after them or not.
    ///
    /// A sign, a prefix such as `0x`, or anything else that is not a digit is [`Invalid`]; leading
    /// zeros do not change a number.
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

    /// Whether `text` is what may stand behind a number: white space, and some of it.
    pub(crate) fn is_white_space(text: &[u8]) -> bool {
        !text.is_empty() && trim(text).is_empty()
    }
}

/// `text` without the white space around it.
fn trim(text: &[u8]) -> &[u8] {
    // `u8::is_ascii_whitespace()` leaves out the vertical tab, which `isspace()` takes.
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
