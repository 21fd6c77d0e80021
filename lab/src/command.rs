// SPDX-License-Identifier: GPL-2.0

//! Runs other programs.

use crate::vm::project;
use anyhow::{ensure, Context, Result};
use std::{
    ffi::OsStr,
    fs::File,
    io::{self, BufRead, BufReader},
    path::Path,
    process::{Command, ExitStatus, Stdio},
};

/// Runs a command in the project's folder. Fails if the command fails.
pub fn succeed(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command.current_dir(project()).status();
    let status = status.with_context(|| format!("running {program}"))?;
    let arguments: Vec<_> = command.get_args().map(OsStr::to_string_lossy).collect();
    ensure!(
        status.success(),
        "{program} {} failed: see above",
        arguments.join(" ")
    );
    Ok(())
}

/// Builds the kernel modules in `folder` with the kernel's build folder `tree`. make writes to the standard error.
pub fn build_modules(tree: &Path, folder: &Path, flags: &[&str]) -> Result<()> {
    let mut make = Command::new("make");
    make.arg("-s").arg("-C").arg(tree).args(flags);
    make.arg(format!("M={}", folder.display())).arg("modules");
    succeed(make.stdout(io::stderr()))
}

/// Returns a command that runs a test program of the project. libtest's arguments can be added to it, after `--`.
pub fn cargo_test(program: &str) -> Command {
    let mut cargo = Command::new("cargo");
    cargo
        .args(["test", "--locked", "--no-fail-fast"])
        .args(["-p", "kstat-tests", "--test", program])
        .current_dir(project());
    cargo
}

/// Runs a command, and calls `each` with each line of its output, standard output and standard error together,
/// when the line has been written.
pub fn read_lines(
    mut command: Command,
    mut each: impl FnMut(&[u8]) -> Result<()>,
) -> Result<ExitStatus> {
    let program = command.get_program().to_string_lossy().into_owned();
    let (output, input) = nix::unistd::pipe()?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(input.try_clone()?)
        .stderr(input)
        .spawn()
        .with_context(|| format!("running {program}"))?;
    // The pipe ends when the child, now the only process that can write to it, ends.
    drop(command);
    for line in BufReader::new(File::from(output)).split(b'\n') {
        each(&line?)?;
    }
    Ok(child.wait()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_both_outputs_are_read_until_the_end() {
        let mut shell = Command::new("sh");
        shell.args(["-c", "echo one; echo two >&2; printf three; exit 4"]);
        let mut lines = Vec::new();
        let status = read_lines(shell, |line| {
            lines.push(String::from_utf8_lossy(line).into_owned());
            Ok(())
        });
        assert_eq!(status.unwrap().code(), Some(4));
        assert_eq!(lines, ["one", "two", "three"]);
    }
}
