// SPDX-License-Identifier: GPL-2.0

//! Reproducible randomness.

use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use rand::{rngs::StdRng, Rng, SeedableRng};
use std::env;

/// Returns the seed of this run, `KSTAT_SEED`. `lab/run-test` prints it, and sets it if it is not set.
#[track_caller]
pub fn seed() -> u64 {
    match env::var("KSTAT_SEED") {
        Ok(seed) => seed
            .parse()
            .unwrap_or_else(|error| panic!("KSTAT_SEED is not a number, but {seed:?}: {error}")),
        Err(error) => panic!("reading KSTAT_SEED, which lab/run-test sets: {error}"),
    }
}

/// Returns a random number generator that is seeded by [`seed`].
#[track_caller]
pub fn random() -> StdRng {
    StdRng::seed_from_u64(seed())
}

/// Returns a proptest runner that tries a property on `cases` cases, seeded by [`seed`].
#[track_caller]
pub fn runner(cases: u32) -> TestRunner {
    let mut seed = [0; 32];
    random().fill(&mut seed);

    TestRunner::new_with_rng(
        Config {
            cases,
            failure_persistence: None,
            max_shrink_iters: 200,
            ..Config::default()
        },
        TestRng::from_seed(RngAlgorithm::ChaCha, &seed),
    )
}
