// SPDX-License-Identifier: GPL-2.0

//! `scripts/vm`: what comes back from a guest. Runs in the lab, and boots a guest for each test.

use std::{
    path::Path,
    process::{
        Command,
        Output, //
    },
    time::{
        Duration,
        Instant, //
    },
};

fn vm(arguments: &[&str]) -> Output {
    Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/vm"))
        .args(arguments)
        .output()
        .expect("running scripts/vm")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn output_errors_and_exit_status_come_back_and_there_is_a_module_to_load() {
    let script = "insmod $KSTAT_KO && cat /proc/kstat/counter; echo also >/dev/stderr; exit 7";
    let output = vm(&["--", "sh", "-c", script]);

    assert_eq!(text(&output.stderr), "also\n");
    assert_eq!(text(&output.stdout), "10\n");
    assert_eq!(output.status.code(), Some(7));
}

#[test]
fn the_guest_has_as_many_cpus_as_asked_for_and_what_it_writes_to_the_lab_is_gone() {
    let output = vm(&[
        "-s",
        "4",
        "--",
        "sh",
        "-c",
        "nproc; id -u; touch /of-a-guest",
    ]);

    assert_eq!(text(&output.stdout), "4\n0\n", "{}", text(&output.stderr));
    assert_eq!(output.status.code(), Some(0));
    assert!(
        !Path::new("/of-a-guest").exists(),
        "the guest wrote to the lab"
    );
}

#[test]
fn a_guest_that_crashes_fails_soon_and_its_console_is_shown() {
    let start = Instant::now();
    let output = vm(&["-t", "300", "--", "sh", "-c", "echo c >/proc/sysrq-trigger"]);
    let errors = text(&output.stderr);

    assert_eq!(output.status.code(), Some(125), "{errors}");
    assert!(errors.contains("sysrq triggered crash"), "{errors}");
    assert!(
        start.elapsed() < Duration::from_secs(100),
        "it took {:?}",
        start.elapsed()
    );
}

#[test]
fn a_guest_that_hangs_fails_when_its_time_is_over() {
    let output = vm(&["-t", "20", "--", "sleep", "1000"]);
    let errors = text(&output.stderr);

    assert_eq!(output.status.code(), Some(125), "{errors}");
    assert!(errors.contains("did not end within 20 seconds"), "{errors}");
}
