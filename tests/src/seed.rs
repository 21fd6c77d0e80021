// SPDX-License-Identifier: GPL-2.0

//! Chance that can be had again.

use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use rand::{rngs::StdRng, Rng, SeedableRng};
use std::{
    env,
    io::{self, Write},
    time::SystemTime,
};

/// A seed of the day, or KSTAT_SEED if that is set; a test that fails shows which it was.
#[track_caller]
pub fn seed() -> u64 {
    let seed = match env::var("KSTAT_SEED") {
        Ok(seed) => seed
            .parse()
            .unwrap_or_else(|error| panic!("KSTAT_SEED is a number, not {seed:?}: {error}")),
        Err(_) => SystemTime::UNIX_EPOCH
            .elapsed()
            .expect("it is after 1970")
            .as_nanos() as u64,
    };

    // Not by a macro: what these print is held back until the tests are over, and a guest may die
    // before that.
    writeln!(io::stderr(), "KSTAT_SEED={seed} makes this run again")
        .unwrap_or_else(|error| panic!("writing to standard error: {error}"));
    seed
}

/// Random numbers from [`seed`].
#[track_caller]
pub fn random() -> StdRng {
    StdRng::seed_from_u64(seed())
}

/// What tries a property on so many cases, from [`seed`].
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
