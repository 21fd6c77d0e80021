// SPDX-License-Identifier: GPL-2.0

//! Runs the tests on the lab's kernel, and sums up the results.

use crate::{
    command::{read_lines, succeed},
    kernel::Custom,
    machine::Architecture,
    vm::{project, release, variable},
};
use anyhow::{Context, Result};
use clap::Args;
use std::{
    fs::File,
    io::{self, Write},
    process::{Command, ExitCode},
};

/// The programs that test the kernel itself. All others test what is beside it, on generic kernels of the lab's
/// architecture.
const IN_GUESTS: [&str; 2] = ["guest", "many_cpus"];

/// Runs all tests on the lab's kernel, or those that depend on the kernel most if it has a flavour or is of another
/// architecture than the lab. Adds a line to build/results, and one for each test that failed.
#[derive(Args)]
pub struct Options {
    /// Names of tests, or parts of them, and other arguments of libtest
    #[arg(last = true)]
    tests: Vec<String>,
}

pub fn run(options: Options) -> Result<ExitCode> {
    let architecture = Architecture::of_kernel();
    let mut cargo = Command::new("cargo");
    cargo
        .args(["test", "--locked", "--no-fail-fast"])
        .current_dir(project());
    if architecture != Architecture::host() || has_flavour(&release()?) {
        succeed(
            Command::new("cargo")
                .args(["build", "-q", "--locked", "-p", "kstat-tests"])
                .args(["--bin", "kstat-results"]),
        )?;
        cargo.args(["-p", "kstat-tests"]);
        for program in IN_GUESTS {
            cargo.args(["--test", program]);
        }
        if architecture != Architecture::host() {
            cargo.args(["--target", architecture.rust()]);
        }
    } else if options.tests.is_empty() && architecture == Architecture::Amd64 {
        // Tests of make install need user-mode Linux. Build it first, where its progress is seen.
        Custom::Uml.folder()?;
    }
    cargo.arg("--").args(&options.tests);

    let mut sum = Sum::default();
    let status = read_lines(cargo, |line| {
        sum.take(&String::from_utf8_lossy(line));
        let mut output = io::stdout().lock();
        output.write_all(line)?;
        Ok(output.write_all(b"\n")?)
    })?;
    if options.tests.iter().any(|argument| argument == "--list") {
        return Ok(ExitCode::from(!status.success() as u8));
    }
    let wanted = options.tests.join(" ");
    let failure = sum.failure(status.success(), &wanted);
    let counts = sum.counts();
    let about = about_kernel()?;
    match &failure {
        None => write_result(&format!("{about}: {counts}"))?,
        Some(reason) => write_result(&format!("{about}: {counts}, {reason}"))?,
    }
    for name in &sum.names {
        write_result(&format!("{}: failed: {name}", variable("KSTAT_LAB")))?;
    }
    Ok(ExitCode::from(failure.is_some() as u8))
}

/// Returns how a line of results begins: with the name of the lab's kernel, its release, and the version of rustc.
pub fn about_kernel() -> Result<String> {
    let rustc = Command::new("rustc").arg("--version").output()?.stdout;
    let rustc = String::from_utf8_lossy(&rustc);
    let rustc: Vec<_> = rustc.split(' ').take(2).collect();
    let kernel = variable("KSTAT_LAB");
    Ok(format!("{kernel}: {}, {}", release()?, rustc.join(" ")))
}

/// Adds a line to build/results, which scripts/test prints at its end.
pub fn write_result(line: &str) -> Result<()> {
    let mut results = File::options()
        .create(true)
        .append(true)
        .open(project().join("build/results"))?;
    writeln!(results, "{line}").context("writing build/results")
}

/// Returns whether a kernel's release names a flavour, as 7.3.4+deb13-cloud-amd64 does.
fn has_flavour(release: &str) -> bool {
    release.matches('-').count() > 1
}

/// The sum of the results of the test programs.
#[derive(Default)]
struct Sum {
    passed: u64,
    failed: u64,
    /// The tests that failed.
    names: Vec<String>,
}

impl Sum {
    /// Takes in a line of the output. Those that kstat-results ends with are counted: "guest: 2 passed, 1 failed, ..."
    /// and "guest: FAILED: counter::name".
    fn take(&mut self, line: &str) {
        let Some((program, rest)) = line.split_once(": ") else {
            return;
        };
        let is_name = |c: char| c.is_ascii_lowercase() || c == '_' || c == '-';
        if !program.chars().all(is_name) {
            return;
        }
        if let Some(name) = rest.strip_prefix("FAILED: ") {
            self.names.push(name.to_owned());
            return;
        }
        let counts: Vec<_> = rest.split(' ').take(4).collect();
        if let [passed, "passed,", failed, "failed,"] = counts[..] {
            self.passed += passed.parse().unwrap_or(0);
            self.failed += failed.parse().unwrap_or(0);
        }
    }

    fn counts(&self) -> String {
        format!("{} passed, {} failed", self.passed, self.failed)
    }

    /// Returns why a run is not a success. `wanted` is what the user asked for.
    fn failure(&self, success: bool, wanted: &str) -> Option<String> {
        match (success, self.passed + self.failed) {
            (true, 0) => Some(format!("because the name of no test contains {wanted}")),
            (true, _) => None,
            (false, 0) => {
                Some("because the tests, the module or the guest failed: see above".to_owned())
            }
            (false, _) => Some("and something failed: see above".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flavour_is_a_part_of_the_release() {
        assert!(has_flavour("7.3.4+deb13-cloud-amd64"));
        assert!(!has_flavour("7.3.4+deb13-arm64"));
    }

    #[test]
    fn results_of_all_programs_are_summed_up() {
        let mut sum = Sum::default();
        for line in [
            "guest: 159 passed, 1 failed, 0 ignored, in 400 s",
            "guest: FAILED: counter::a",
            "many_cpus: 3 passed, 0 failed, 0 ignored, in 30 s",
            "  ok  0.1 s  one: 3 passed, 0 failed, 0 ignored",
            "warning: unused",
        ] {
            sum.take(line);
        }
        assert_eq!(sum.counts(), "162 passed, 1 failed");
        assert_eq!(sum.names, ["counter::a"]);
        assert!(sum.failure(false, "").is_some());
    }

    #[test]
    fn run_without_a_test_is_no_success() {
        let sum = Sum::default();
        assert!(sum.failure(true, "nothing").is_some());
        assert!(sum.failure(false, "").is_some());
    }
}
