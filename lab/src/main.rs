// SPDX-License-Identifier: GPL-2.0

//! The programs of the lab that are more than a few lines of shell. `lab/program` builds this
//! program in the lab, and runs it there.

mod archive;
mod bench;
mod check;
mod command;
mod console;
mod coverage;
mod kernel;
mod lint;
mod machine;
mod mutants;
mod root;
mod run_test;
mod stress;
mod terminal;
mod test;
mod tested;
mod try_kernel;
mod vm;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Vm(vm::Options),
    Kernel(kernel::Options),
    Root(root::Options),
    /// Checks formatting and style, and runs the linters
    Check,
    /// Checks rules of this project that no other tool knows
    Lint,
    RunTest(run_test::Options),
    Test(test::Options),
    /// Tries a kernel that has not been tested
    Try,
    /// Writes README.md with the table of tested kernels to build/tested
    Tested,
    Stress(stress::Options),
    /// Lists the lines of the module's code that no test reaches
    Coverage,
    Mutants(mutants::Options),
    Kernels(archive::Options),
    /// Measures what counting costs per packet
    Bench,
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() {
                ExitCode::from(vm::FAILED)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    let (name, failed, result) = match arguments.command {
        // A guest's own command may end with any other exit status.
        Command::Vm(options) => ("vm", vm::FAILED, vm::run(options)),
        Command::Kernel(options) => ("kernel", 1, kernel::run(options)),
        Command::Root(options) => ("root", 1, root::run(options)),
        Command::Check => ("check", 1, check::run()),
        Command::Lint => ("lint", 1, lint::run()),
        Command::RunTest(options) => ("run-test", 1, run_test::run(options)),
        Command::Test(options) => ("test", 1, test::run(options)),
        Command::Try => ("try", 1, try_kernel::run()),
        Command::Tested => ("tested", 1, tested::run()),
        Command::Stress(options) => ("stress", 1, stress::run(options)),
        Command::Coverage => ("coverage", 1, coverage::run()),
        Command::Kernels(options) => ("kernels", 1, archive::run(options)),
        Command::Bench => ("bench", 1, bench::run()),
        Command::Mutants(options) => ("mutants", 1, mutants::run(options)),
    };
    result.unwrap_or_else(|error| {
        eprintln!("{name}: {error:#}");
        ExitCode::from(failed)
    })
}
