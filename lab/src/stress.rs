// SPDX-License-Identifier: GPL-2.0

//! Runs the stress tests, and makes the table at their end.

use crate::{
    command::{cargo_test, read_lines},
    vm::{project, variable},
};
use anyhow::{ensure, Context, Result};
use clap::Args;
use comfy_table::{presets, CellAlignment, Table};
use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

/// The least that a whole run with the default factor has to do.
const LEAST: [(&str, u64); 4] = [
    ("loads and unloads", 1_000),
    ("starts and stops", 10_000),
    ("namespaces made and destroyed", 1_000),
    ("hostile writes to counter and nout", 20_000),
];

/// Runs the stress tests on the debug kernels, with 2 CPUs and with 4. Ends with a table of what was done, how many
/// times, and how many reports the kernels made. A report is a failure. KSTAT_STRESS=10 multiplies the repetitions by
/// 10.
#[derive(Args)]
#[command(override_usage = "make stress TESTS=TEST")]
pub struct Options {
    /// Runs only the tests whose full names contain one of these
    tests: Vec<String>,
}

/// The tests that the KCSAN kernel cannot run: it lacks fault injection, kmemleak, and the options that containers need.
const NOT_ON_KCSAN: [&str; 3] = [
    "--skip=failures::",
    "--skip=privileges::",
    "--skip=unreferenced_memory::",
];

pub fn run(options: Options) -> Result<ExitCode> {
    let mut stress = variable("KSTAT_STRESS");
    if stress.is_empty() {
        stress = "1".to_owned();
    }
    let factor = stress
        .parse::<f64>()
        .ok()
        .filter(|factor| factor.is_finite() && *factor > 0.0);
    let factor = factor
        .with_context(|| format!("STRESS= is a number, such as 10 or 0.1, not '{stress}'"))?;
    let logs = project().join("build/stress");
    let _ = fs::remove_dir_all(&logs);
    fs::create_dir_all(&logs)?;

    let mut stress = Stress {
        factor,
        tests: &options.tests,
        logs: &logs,
        done: Done::default(),
        failed: false,
    };
    if options.tests.is_empty() {
        stress.run("kunit", "kasan", 2, "", &[])?;
        stress.run("wrappers", "kasan", 2, "kmemleak=off", &[])?;
    }
    stress.run("stress", "kasan", 2, "", &[])?;
    // Without kmemleak, the KASAN kernel is twice as fast.
    stress.run(
        "stress",
        "kasan",
        4,
        "kmemleak=off",
        &["--skip=unreferenced_memory::"],
    )?;
    for cpus in [2, 4] {
        stress.run("stress", "kcsan", cpus, "", &NOT_ON_KCSAN)?;
    }

    let Stress { done, failed, .. } = stress;
    ensure!(
        done.tests > 0,
        "the name of no test contains {}",
        options.tests.join(" or ")
    );
    println!("{}", done.table());
    let whole = factor == 1.0 && options.tests.is_empty();
    let fewer = done.fewer_than_least();
    ensure!(!whole || fewer.is_empty(), "{}", fewer.join("; "));
    ensure!(
        !failed,
        "something failed: see above, or {}",
        logs.display()
    );
    Ok(ExitCode::SUCCESS)
}

/// The runs so far.
struct Stress<'a> {
    factor: f64,
    tests: &'a [String],
    logs: &'a Path,
    done: Done,
    failed: bool,
}

impl Stress<'_> {
    /// Runs a test program. Its output is shown, and kept in build/stress.
    fn run(
        &mut self,
        program: &str,
        kernel: &str,
        cpus: u32,
        append: &str,
        skipped: &[&str],
    ) -> Result<()> {
        println!("stress: {program} on {kernel}, {cpus} CPUs");
        let mut cargo = cargo_test(program);
        cargo
            .args(["--", "--show-output"])
            .args(skipped)
            .args(self.tests)
            .env("KSTAT_KERNEL", kernel)
            .env("KSTAT_CPUS", cpus.to_string())
            .env("KSTAT_STRESS", self.factor.to_string())
            .env(
                "KSTAT_APPEND",
                format!("{append} {}", variable("KSTAT_APPEND")),
            );
        let mut log = Vec::new();
        let status = read_lines(cargo, |line| {
            for part in [line, b"\n"] {
                io::stdout().write_all(part)?;
                log.extend(part);
            }
            Ok(())
        })?;
        self.failed |= !status.success();
        self.done
            .add(&format!("{kernel}, {cpus}"), &String::from_utf8_lossy(&log));
        fs::write(self.logs.join(format!("{kernel}-{cpus}-{program}")), log)?;
        Ok(())
    }
}

/// Numbers by kernel and number of CPUs.
type Numbers = BTreeMap<String, u64>;

/// What the tests did.
#[derive(Default)]
struct Done {
    columns: Vec<String>,
    /// What was done, in the order in which it was first seen, and how many times.
    rows: Vec<(String, Numbers)>,
    foreign_races: Numbers,
    reports: Numbers,
    tests: u64,
}

impl Done {
    /// Adds the output of a program.
    fn add(&mut self, column: &str, output: &str) {
        if !self.columns.iter().any(|known| known == column) {
            self.columns.push(column.to_owned());
            self.columns.sort();
        }
        for line in output.lines() {
            if let Some(rest) = line.strip_prefix("vm: KCSAN reported ") {
                let races = rest
                    .split(' ')
                    .next()
                    .and_then(|number| number.parse().ok());
                *self.foreign_races.entry(column.to_owned()).or_default() += races.unwrap_or(0);
            } else if line.starts_with("vm: the guest") {
                *self.reports.entry(column.to_owned()).or_default() += 1;
            } else if line.starts_with("  ok ") || line.starts_with("  FAILED ") {
                self.tests += 1;
            } else if let Some((times, what)) = did(line) {
                let index = match self.rows.iter().position(|(row, _)| row == what) {
                    Some(index) => index,
                    None => {
                        self.rows.push((what.to_owned(), Numbers::new()));
                        self.rows.len() - 1
                    }
                };
                *self.rows[index].1.entry(column.to_owned()).or_default() += times;
            }
        }
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        let total = [
            "in all",
            "what was done, on which kernel with how many CPUs",
        ];
        table.set_header(self.columns.iter().map(String::as_str).chain(total));
        let races = "races of the kernel alone, that KCSAN reported";
        let rows = self
            .rows
            .iter()
            .map(|(what, numbers)| (what.as_str(), numbers));
        let last = [(races, &self.foreign_races), ("reports", &self.reports)];
        for (what, numbers) in rows.chain(last) {
            let cells = self
                .columns
                .iter()
                .map(|column| numbers.get(column).unwrap_or(&0));
            let total = numbers.values().sum::<u64>();
            let cells = cells.chain([&total]).map(u64::to_string);
            table.add_row(cells.chain([what.to_owned()]));
        }
        for index in 0..=self.columns.len() {
            let column = table.column_mut(index).expect("a column for each kernel");
            column.set_cell_alignment(CellAlignment::Right);
        }
        table
    }

    fn fewer_than_least(&self) -> Vec<String> {
        let times = |what| {
            let row = self.rows.iter().find(|(row, _)| row == what);
            row.map_or(0, |(_, numbers)| numbers.values().sum())
        };
        LEAST
            .iter()
            .filter(|(what, least)| times(what) < *least)
            .map(|(what, least)| format!("{} {what} are fewer than {least}", times(what)))
            .collect()
    }
}

/// Reads a line by which a test says what it did: `did: 100 loads and unloads`.
fn did(line: &str) -> Option<(u64, &str)> {
    let (times, what) = line.trim_start().strip_prefix("did: ")?.split_once(' ')?;
    Some((times.parse().ok()?, what))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done() -> Done {
        let mut done = Done::default();
        done.add(
            "kasan, 2",
            "  ok  1.0 s  a_test\n        did: 600 loads and unloads\n        did: 5 starts and stops\n",
        );
        done.add(
            "kcsan, 4",
            "  FAILED  1.0 s  a_test\ndid: 500 loads and unloads\nvm: KCSAN reported 12 races in which kstat has no part\nvm: the guest died: see\n",
        );
        done
    }

    #[test]
    fn times_are_added_by_kernel_and_in_all() {
        let table = done().table().to_string();
        let rows: Vec<Vec<_>> = table
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(rows[0][..6], ["kasan,", "2", "kcsan,", "4", "in", "all"]);
        assert_eq!(rows[1][..4], ["600", "500", "1100", "loads"]);
        assert_eq!(rows[2][..4], ["5", "0", "5", "starts"]);
        assert_eq!(rows[3][..4], ["0", "12", "12", "races"]);
        assert_eq!(rows[4], ["0", "1", "1", "reports"]);
        assert_eq!(done().tests, 2);
    }

    #[test]
    fn less_than_a_whole_run_has_to_do_is_named() {
        let fewer = done().fewer_than_least();
        assert_eq!(fewer.len(), 3, "{fewer:?}");
        assert_eq!(fewer[0], "5 starts and stops are fewer than 10000");
    }
}
