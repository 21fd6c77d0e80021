// SPDX-License-Identifier: GPL-2.0

//! Runs a test program where it belongs, in the lab or in a guest, and prints its results by kstat-results.

use crate::{machine::Architecture, root, vm::variable};
use anyhow::{Context, Result};
use clap::Args;
use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::{SystemTime, UNIX_EPOCH},
};

/// Runs a test program. lab/run-test, which cargo calls, runs this.
///
/// KSTAT_KERNEL names the guest's kernel (default for debug kernels' programs: kasan), KSTAT_CPUS the number of its
/// CPUs, KSTAT_SECONDS how long the program may take, KSTAT_SEED the seed of all random choices, KSTAT_STRESS
/// multiplies the repetitions of the stress tests, which depend on the kernel.
#[derive(Args)]
pub struct Options {
    program: PathBuf,
    /// libtest's arguments. A program of which they select no test is not run
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

pub fn run(options: Options) -> Result<ExitCode> {
    let Options { program, arguments } = options;
    let mut list = listing(&program);
    if arguments.iter().any(|argument| argument == "--list") {
        return Ok(code(list.args(&arguments).status()?));
    }
    let listed = list
        .arg("--list")
        .args(&arguments)
        .stderr(Stdio::inherit())
        .output()?;
    if !String::from_utf8_lossy(&listed.stdout).contains(": test\n") {
        return Ok(code(listed.status));
    }
    let name = name(&program);
    if let Some(reason) = cannot_run(&name) {
        println!("{name}: NOT RUN: {reason}");
        return Ok(ExitCode::SUCCESS);
    }

    let mut seed = variable("KSTAT_SEED");
    if seed.is_empty() {
        seed = SystemTime::now()
            .duration_since(UNIX_EPOCH)?
            .as_nanos()
            .to_string();
    }
    println!("{name}: KSTAT_SEED={seed} repeats the random choices of this run");

    let place = Place::of(&name, &variable("KSTAT_KERNEL"), &variable("KSTAT_CPUS"));
    // libtest's JSON is unstable, so a stable libtest has to be told that it may be used.
    let with_json = ["RUSTC_BOOTSTRAP=1".as_ref(), program.as_os_str()];
    let mut command = match &place {
        Place::Lab => {
            // Tests make systems of the kernel's architecture.
            if Architecture::of_kernel() != Architecture::host() {
                root::register(Architecture::of_kernel())?;
            }
            let mut env = Command::new("env");
            env.args(with_json);
            env
        }
        Place::Guest(guest) => {
            let mut vm = Command::new(env::current_exe()?);
            vm.args(["vm", "-k", &guest.kernel, "-s", &guest.cpus]);
            vm.args([
                "-t",
                &guest.seconds(&variable("KSTAT_SECONDS"))?,
                "--",
                "env",
            ])
            .args(with_json);
            if let Some(factor) = guest.factor()? {
                vm.env("KSTAT_STRESS", factor.to_string());
            }
            if name == "kunit" {
                vm.env(
                    "KSTAT_APPEND",
                    format!("kunit.enable=1 {}", variable("KSTAT_APPEND")),
                );
            }
            vm
        }
    };
    // One test at a time: there is one kernel, and it holds one kstat.
    command
        .args(&arguments)
        .args([
            "--test-threads=1",
            "--report-time",
            "--format=json",
            "-Zunstable-options",
        ])
        .env("KSTAT_SEED", seed)
        .stdout(Stdio::piped());
    let mut tests = command.spawn().with_context(|| format!("running {name}"))?;
    let list = listing(&program);
    let results =
        Command::new(Path::new(&variable("CARGO_TARGET_DIR")).join("debug/kstat-results"))
            .arg(list.get_program())
            .args(list.get_args())
            .stdin(tests.stdout.take().context("the pipe from the tests")?)
            .status()
            .context("running kstat-results")?;
    let tests = tests.wait()?;
    Ok(code(if tests.success() { results } else { tests }))
}

/// Returns why a program cannot run in this lab.
fn cannot_run(name: &str) -> Option<&'static str> {
    let has_rust_analyzer = || {
        Command::new("rust-analyzer")
            .arg("--version")
            .output()
            .is_ok()
    };
    match name {
        "rust_analyzer" if !has_rust_analyzer() => {
            Some("this lab's Debian has no rust-analyzer; the lab of forky has it")
        }
        "make_install" if Architecture::host() != Architecture::Amd64 => {
            Some("user-mode Linux, whose modules it installs, is for amd64")
        }
        _ => None,
    }
}

/// Returns a command that runs a test program in the lab. One of another architecture is emulated; it can list its
/// tests, but not run them.
fn listing(program: &Path) -> Command {
    let architecture = Architecture::of_kernel();
    let foreign = program
        .components()
        .any(|folder| folder.as_os_str() == architecture.rust());
    if !foreign {
        return Command::new(program);
    }
    let mut command = Command::new(architecture.qemu_user());
    command.arg("-L").arg(variable("KSTAT_ROOT")).arg(program);
    command
}

fn code(status: std::process::ExitStatus) -> ExitCode {
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    ExitCode::from(code.unwrap_or(1))
}

/// Returns the name of a test program: cargo adds a hash to it.
fn name(program: &Path) -> String {
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    name.rsplit_once('-')
        .map_or(&*name, |(name, _)| name)
        .to_owned()
}

/// Where a program runs.
#[derive(Debug, PartialEq)]
enum Place {
    Lab,
    Guest(Guest),
}

#[derive(Debug, PartialEq)]
struct Guest {
    kernel: String,
    cpus: String,
    stress: bool,
}

impl Place {
    /// Returns where the program `name` runs, if the caller asked for `kernel` and `cpus` or for nothing ("").
    fn of(name: &str, kernel: &str, cpus: &str) -> Self {
        let or =
            |value: &str, default: &str| if value.is_empty() { default } else { value }.to_owned();
        let (kernel, cpus) = match name {
            "guest" => (kernel.to_owned(), or(cpus, "2")),
            "many_cpus" => (kernel.to_owned(), or(cpus, "4")),
            "stress" | "kunit" => (or(kernel, "kasan"), or(cpus, "2")),
            _ => return Self::Lab,
        };
        Self::Guest(Guest {
            kernel,
            cpus,
            stress: name == "stress",
        })
    }
}

impl Guest {
    /// Returns the factor for the repetitions of the stress tests. The KASAN kernel is slow and reports the most. The
    /// KCSAN kernel has no fault injection and no kmemleak, and is several times as fast.
    fn factor(&self) -> Result<Option<f64>> {
        if !self.stress {
            return Ok(None);
        }
        let factor = match (self.kernel.as_str(), self.cpus.as_str()) {
            ("kcsan", "2") => 1.0,
            ("kcsan", _) => 0.1,
            _ => 0.01,
        };
        let more = variable("KSTAT_STRESS");
        let more: f64 = if more.is_empty() {
            1.0
        } else {
            more.parse().context("KSTAT_STRESS is no number")?
        };
        Ok(Some(factor * more))
    }

    /// Returns how long the program may take.
    fn seconds(&self, wanted: &str) -> Result<String> {
        Ok(match (wanted, self.factor()?) {
            ("", None) => "1800".to_owned(),
            ("", Some(factor)) => format!("{:.0}", 1200.0 + 600.0 * factor),
            _ => wanted.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn program_is_named_without_the_hash() {
        assert_eq!(name(Path::new("/p/deps/many_cpus-0f3a")), "many_cpus");
    }

    #[test]
    fn place_depends_on_the_program_and_on_the_variables() {
        let guest = |kernel: &str, cpus: &str, stress| {
            Place::Guest(Guest {
                kernel: kernel.to_owned(),
                cpus: cpus.to_owned(),
                stress,
            })
        };
        assert_eq!(Place::of("build", "", ""), Place::Lab);
        assert_eq!(Place::of("guest", "", ""), guest("", "2", false));
        assert_eq!(
            Place::of("many_cpus", "kasan", ""),
            guest("kasan", "4", false)
        );
        assert_eq!(Place::of("stress", "", ""), guest("kasan", "2", true));
        assert_eq!(Place::of("stress", "kcsan", "4"), guest("kcsan", "4", true));
    }
}
