// SPDX-License-Identifier: GPL-2.0

//! The module's own KUnit tests.
//!
//! A kernel with KUnit runs them when it loads the module, and writes the results to its log as
//! KTAP.

use kstat_tests::{
    guest::{exclusive::KernelLock, log::Log, module::Kstat},
    scale::did,
};

/// The source of the KUnit tests.
const SOURCE: &str = include_str!("../../kunit.rs");

/// Returns the number in a word such as `pass:6` of `line`.
fn number(line: &str, word: &str) -> Option<u64> {
    line.split_whitespace()
        .find_map(|text| text.strip_prefix(word)?.strip_prefix(':')?.parse().ok())
}

#[test]
fn all_kunit_tests_pass() {
    let tests = SOURCE.lines().filter(|line| line.trim() == "#[test]");
    let expected = tests.count() as u64;

    let lock = KernelLock::take();
    let mut log = Log::from_now();
    let kstat = Kstat::load(&lock, "");
    let lines = log.lines();
    kstat.unload();

    // KTAP: `# kstat: pass:5 fail:0 skip:0 total:5`, and at the end `ok 1 kstat`.
    let totals = lines
        .iter()
        .find(|line| line.starts_with("# kstat: pass:"))
        .unwrap_or_else(|| panic!("the log has no totals of kstat's KUnit tests: {lines:#?}"));
    assert_eq!(number(totals, "fail"), Some(0), "failed: {lines:#?}");
    assert_eq!(number(totals, "skip"), Some(0), "skipped: {lines:#?}");
    let passed = number(totals, "pass").expect("the totals have a number of passed tests");
    assert_eq!(passed, expected, "passed: {lines:#?}");
    assert!(lines.iter().any(|line| line == "ok 1 kstat"), "{lines:#?}");
    did(passed, "KUnit tests");
}
