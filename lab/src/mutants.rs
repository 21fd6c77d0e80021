// SPDX-License-Identifier: GPL-2.0

//! Breaks a copy of kstat in one way at a time, and runs the test that has to notice.

use crate::{command::cargo_test, console, vm::project};
use anyhow::{ensure, Context, Result};
use clap::Args;
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

/// Breaks a copy of kstat in one way at a time, by each patch of tests/mutants, or by those named. Then runs the
/// test that the patch names in its line Caught-by, after it has passed on kstat as it is. Prints "caught" or
/// "MISSED" for each; a missed mutant is an error. Caught-by has the test program and the test, and for a debug
/// kernel its name and the number of CPUs.
#[derive(Args)]
#[command(override_usage = "make mutants MUTANTS=NAME")]
pub struct Options {
    names: Vec<String>,
}

/// Copies to the folder $1 the sources of the tests, which no patch changes, with their times, so that cargo compiles
/// them once; and the sources of the module with the current time, so that make compiles them again.
const COPY: &str = r#"
    cp -rp .cargo Cargo.* bench lab scripts rust-tree tests "$1"
    cp -r *.rs *.[ch] abstractions Kbuild Makefile VERSION "$1"
"#;

/// How a test ended.
#[derive(Debug, PartialEq)]
enum Outcome {
    Passed,
    Failed,
    /// The guest's kernel reported a fault, in this line.
    Report(String),
    DidNotEnd,
}

pub fn run(options: Options) -> Result<ExitCode> {
    let patches = project().join("tests/mutants");
    let mut names = options.names;
    if names.is_empty() {
        for entry in fs::read_dir(&patches)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
    }
    let copy = project().join("build/mutant");
    let mut all_caught = true;
    for name in &names {
        let name = name.trim_end_matches(".patch");
        let path = patches.join(format!("{name}.patch"));
        let patch = fs::read_to_string(&path)
            .with_context(|| format!("there is no mutant {name}: tests/mutants has the patches"))?;
        let test = caught_by(&patch)
            .with_context(|| format!("{} has no line Caught-by:", path.display()))?;

        renew(&copy)?;
        let before = test.run(&copy)?;
        let applied = Command::new("busybox")
            .args(["patch", "-p1", "-i"])
            .arg(&path)
            .current_dir(&copy)
            .stdout(Stdio::null())
            .status()?;
        ensure!(applied.success(), "{} does not apply", path.display());
        let after = test.run(&copy)?;
        let (caught, line) = verdict(&before, &after, &test.name, name);
        all_caught &= caught;
        println!("{line}");
    }
    Ok(ExitCode::from(u8::from(!all_caught)))
}

/// Copies the sources. The copy's build folder is kept.
fn renew(copy: &Path) -> Result<()> {
    fs::create_dir_all(copy.join("build"))?;
    for entry in fs::read_dir(copy)? {
        let path = entry?.path();
        if path.ends_with("build") {
            continue;
        }
        if path.is_dir() {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        }
        .with_context(|| format!("removing {}", path.display()))?;
    }
    let status = Command::new("bash")
        .args(["-ec", COPY, "bash"])
        .arg(copy)
        .current_dir(project())
        .status()?;
    ensure!(
        status.success(),
        "the sources could not be copied to {}",
        copy.display()
    );
    for generated in ["bindings_generated.rs", "kstat.mod.c"] {
        let _ = fs::remove_file(copy.join(generated));
    }
    Ok(())
}

/// A test, and the guest that it needs.
#[derive(Debug, PartialEq)]
pub struct Test {
    program: String,
    pub name: String,
    kernel: String,
    cpus: String,
}

/// Reads the line of a patch that names the test.
pub fn caught_by(patch: &str) -> Option<Test> {
    let line = patch
        .lines()
        .find_map(|line| line.strip_prefix("Caught-by: "))?;
    let mut words = line.split_whitespace().map(str::to_owned);
    Some(Test {
        program: words.next()?,
        name: words.next()?,
        kernel: words.next().unwrap_or_default(),
        cpus: words.next().unwrap_or_default(),
    })
}

impl Test {
    fn run(&self, copy: &Path) -> Result<Outcome> {
        let mut cargo = cargo_test(&self.program);
        cargo
            .args(["--", "--exact", &self.name])
            .current_dir(copy)
            .env("CARGO_TARGET_DIR", copy.join("build/tests"));
        for (name, value) in [("KSTAT_KERNEL", &self.kernel), ("KSTAT_CPUS", &self.cpus)] {
            if !value.is_empty() {
                cargo.env(name, value);
            }
        }
        let output = cargo.output().context("running cargo")?;
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text += &String::from_utf8_lossy(&output.stderr);
        fs::write(log(copy), &text)?;
        Ok(outcome(&text))
    }
}

fn log(copy: &Path) -> PathBuf {
    copy.join("build/log")
}

/// Reads from the output of a test how it ended.
fn outcome(output: &str) -> Outcome {
    let guest_failed = ["vm: the guest's kernel reported", "vm: the guest died"];
    if output
        .lines()
        .any(|line| guest_failed.iter().any(|failed| line.starts_with(failed)))
    {
        let fault = output
            .lines()
            .filter_map(|line| line.strip_prefix("console: "))
            .find(|line| console::is_fault(line));
        return Outcome::Report(fault.unwrap_or("a panic").to_owned());
    }
    let result = |word| {
        output
            .lines()
            .any(|line| line.starts_with(&format!("  {word} ")))
    };
    match (result("FAILED"), result("ok")) {
        (true, _) => Outcome::Failed,
        (_, true) => Outcome::Passed,
        _ => Outcome::DidNotEnd,
    }
}

/// Returns whether a mutant was caught, and a line that says so.
fn verdict(before: &Outcome, after: &Outcome, test: &str, name: &str) -> (bool, String) {
    let log = log(Path::new("build/mutant"));
    let unknown = |reason: &str| {
        (
            false,
            format!("UNKNOWN  {name}: {test} {reason}: see {}", log.display()),
        )
    };
    match (before, after) {
        (Outcome::Passed, Outcome::Failed) => (true, format!("caught   {name}, by {test}")),
        (Outcome::Passed, Outcome::Report(line)) => (
            true,
            format!("caught   {name}, by the kernel in {test}: {line}"),
        ),
        (Outcome::Passed, Outcome::Passed) => (false, format!("MISSED   {name}, by {test}")),
        (Outcome::Passed, Outcome::DidNotEnd) => unknown("did not end"),
        _ => unknown("does not pass on kstat as it is"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_of_a_patch_is_read_from_its_line_caught_by() {
        let test = caught_by("Subject\n\nCaught-by: stress a::b kcsan 4\n--- a/x\n").unwrap();
        assert_eq!(
            (test.program.as_str(), test.name.as_str()),
            ("stress", "a::b")
        );
        assert_eq!((test.kernel.as_str(), test.cpus.as_str()), ("kcsan", "4"));
        assert_eq!(caught_by("Caught-by: guest\n"), None);
        assert_eq!(caught_by("--- a/x\n"), None);
    }

    #[test]
    fn outcome_is_read_from_the_results() {
        assert_eq!(
            outcome("guest::a: title\n  ok   0.1 s  b\n"),
            Outcome::Passed
        );
        assert_eq!(
            outcome("guest::a: title\n  FAILED   0.1 s  b\n"),
            Outcome::Failed
        );
        assert_eq!(outcome("error: could not compile\n"), Outcome::DidNotEnd);
        let report = "  ok   0.1 s  b\nconsole: [ 1.0] x\nconsole: [ 1.0] BUG: KASAN: y\nvm: the guest's kernel reported a fault: see\n";
        assert_eq!(
            outcome(report),
            Outcome::Report("[ 1.0] BUG: KASAN: y".to_owned())
        );
    }

    #[test]
    fn mutant_is_caught_only_if_the_test_passes_without_it() {
        assert!(verdict(&Outcome::Passed, &Outcome::Failed, "t", "m").0);
        assert!(verdict(&Outcome::Passed, &Outcome::Report(String::new()), "t", "m").0);
        assert!(!verdict(&Outcome::Passed, &Outcome::Passed, "t", "m").0);
        assert!(!verdict(&Outcome::Passed, &Outcome::DidNotEnd, "t", "m").0);
        assert!(!verdict(&Outcome::Failed, &Outcome::Failed, "t", "m").0);
    }
}
