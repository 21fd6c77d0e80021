// SPDX-License-Identifier: GPL-2.0

//! Runs programs, and checks their exit status and their output.

use std::{
    fmt,
    io::Write,
    iter,
    process::{Command, ExitStatus, Output, Stdio},
};

/// A program that has ended: its command line, exit status and output.
#[derive(Clone)]
pub struct Outcome {
    command: String,
    /// The exit status.
    pub status: ExitStatus,
    /// The standard output.
    pub stdout: Vec<u8>,
    /// The standard error.
    pub stderr: Vec<u8>,
}

impl Outcome {
    /// Runs `command` to its end. Its standard input is empty unless `command` sets one.
    #[track_caller]
    pub fn of(command: &mut Command) -> Self {
        let line = iter::once(command.get_program())
            .chain(command.get_args())
            .map(|word| word.to_string_lossy())
            .collect::<Vec<_>>()
            .join(" ");
        let output = command
            .output()
            .unwrap_or_else(|error| panic!("{line}: {error}"));

        Self::new(line, output)
    }

    fn new(command: String, output: Output) -> Self {
        Self {
            command,
            status: output.status,
            stdout: output.stdout,
            stderr: output.stderr,
        }
    }

    /// Returns the standard output as text.
    pub fn stdout_text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Returns the standard error as text.
    pub fn stderr_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Asserts that the exit status is 0, and returns the standard output as text.
    #[track_caller]
    pub fn expect_success(&self) -> String {
        assert!(self.status.success(), "{self:?}");
        self.stdout_text()
    }

    /// Asserts that the program exited with `code`.
    #[track_caller]
    pub fn assert_exit_code(&self, code: i32) {
        assert_eq!(self.status.code(), Some(code), "{self:?}");
    }

    /// Returns the lines of the output that begin with `speaker` and a colon, such as
    /// `rust-tree: ...`: the lines of the standard output, then those of the standard error.
    pub fn lines_by(&self, speaker: &str) -> Vec<String> {
        let prefix = format!("{speaker}: ");

        [self.stdout_text(), self.stderr_text()]
            .iter()
            .flat_map(|text| text.lines())
            .filter(|line| line.starts_with(&prefix))
            .map(str::to_owned)
            .collect()
    }

    /// Asserts that the program failed, and that the last line of its output, or of its standard
    /// error if it has any, begins with `speaker` and a colon and contains all of `words`.
    #[track_caller]
    pub fn assert_refused(&self, speaker: &str, words: &[&str]) {
        let output = self.stdout_text() + &self.stderr_text();
        let last = output.lines().last().unwrap_or("");

        assert!(!self.status.success(), "{self:?}");
        assert!(last.starts_with(&format!("{speaker}: ")), "{self:?}");
        for word in words {
            assert!(last.contains(word), "{word:?} is not in {last:?}: {self:?}");
        }
    }
}

/// Shows the output as the program wrote it, not as a list of bytes.
impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {}\n{}{}",
            self.command,
            self.status,
            self.stdout_text(),
            self.stderr_text()
        )
    }
}

/// Runs `program` in the network namespace of the calling thread, with `input` as its standard
/// input. Returns also if the program fails.
#[track_caller]
pub fn attempt(program: &str, args: &[&str], input: &str) -> Outcome {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}"));

    // This does not deadlock: no program here is given more input than a pipe holds before the
    // program itself has written its output.
    child
        .stdin
        .take()
        .expect("the standard input is a pipe")
        .write_all(input.as_bytes())
        .unwrap_or_else(|error| panic!("writing to {program} {args:?}: {error}"));
    let output = child
        .wait_with_output()
        .unwrap_or_else(|error| panic!("waiting for {program} {args:?}: {error}"));

    let mut command = format!("{program} {}", args.join(" "));
    if !input.is_empty() {
        command += " with the input: ";
        command.extend(input.chars().take(2000));
    }
    Outcome::new(command, output)
}

/// Runs `program`, asserts that it succeeds, and returns its standard output.
#[track_caller]
pub fn run(program: &str, args: &[&str]) -> String {
    run_with(program, args, "")
}

/// Runs `program` with `input` as its standard input, asserts that it succeeds, and returns its
/// standard output.
#[track_caller]
pub fn run_with(program: &str, args: &[&str], input: &str) -> String {
    attempt(program, args, input).expect_success()
}

/// Runs `line` in bash, asserts that it succeeds, and returns its standard output.
#[track_caller]
pub fn shell(line: &str) -> String {
    run("bash", &["-c", line])
}
