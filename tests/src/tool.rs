// SPDX-License-Identifier: GPL-2.0

//! The commands that a person would type.

use std::{
    io::Write,
    process::{Command, Output, Stdio},
};

/// Runs `program` in the network namespace of the calling thread, however it ends.
#[track_caller]
pub fn attempt(program: &str, args: &[&str], input: &str) -> Output {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}"));

    // Nobody here is given more than a pipe takes before it has written, so this cannot block.
    child
        .stdin
        .take()
        .expect("its input is a pipe")
        .write_all(input.as_bytes())
        .unwrap_or_else(|error| panic!("writing to {program} {args:?}: {error}"));
    child
        .wait_with_output()
        .unwrap_or_else(|error| panic!("waiting for {program} {args:?}: {error}"))
}

/// Runs `program`, which must end with 0, and returns what it printed.
#[track_caller]
pub fn run(program: &str, args: &[&str]) -> String {
    run_with(program, args, "")
}

/// As [`run`], with a standard input.
#[track_caller]
pub fn run_with(program: &str, args: &[&str], input: &str) -> String {
    let output = attempt(program, args, input);
    let mut what = format!("{program} {args:?}");

    if !input.is_empty() {
        what.push_str(" with the input: ");
        what.push_str(&input[..input.len().min(2000)]);
    }
    said(&what, &output)
}

/// What something printed that was run, and must have ended with 0.
#[track_caller]
pub fn said(what: &str, output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stdout).into_owned();

    assert!(
        output.status.success(),
        "{what}: {}\n{said}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    said
}

/// Runs a line of shell as a person would type it.
#[track_caller]
pub fn shell(line: &str) -> String {
    run("bash", &["-c", line])
}
