// SPDX-License-Identifier: GPL-2.0

//! The module's own KUnit tests, in a kernel that runs them when it loads the module.

use kstat_tests::{
    guest::{exclusive::KernelLock, log::Log, module::Kstat},
    scale::did,
};

/// As many as there are in kunit.rs.
const TESTS: u64 = 8;

/// The number in a word such as `pass:6`.
fn number(line: &str, word: &str) -> Option<u64> {
    line.split_whitespace()
        .find_map(|text| text.strip_prefix(word)?.strip_prefix(':')?.parse().ok())
}

#[test]
fn all_pass() {
    let lock = KernelLock::take();
    let mut log = Log::from_now();
    let kstat = Kstat::load(&lock, "");
    let lines = log.lines();
    kstat.unload();

    // KTAP: `# kstat: pass:5 fail:0 skip:0 total:5`, and `ok 1 kstat` when all is over.
    let totals = lines
        .iter()
        .find(|line| line.starts_with("# kstat: pass:"))
        .unwrap_or_else(|| panic!("KUnit says nothing of kstat: {lines:#?}"));
    assert_eq!(number(totals, "fail"), Some(0), "{lines:#?}");
    assert_eq!(number(totals, "skip"), Some(0), "{lines:#?}");
    let passed = number(totals, "pass").expect("a number of tests that passed");
    assert_eq!(passed, TESTS, "{lines:#?}");
    assert!(lines.iter().any(|line| line == "ok 1 kstat"), "{lines:#?}");
    did(passed, "KUnit tests");
}
