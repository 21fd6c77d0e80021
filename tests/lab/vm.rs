// SPDX-License-Identifier: GPL-2.0

//! `scripts/vm`: what it returns from a guest, and when a guest fails. Runs in the lab, and boots a
//! guest for each test.

use kstat_tests::{lab, tool::Outcome};
use std::{
    path::Path,
    time::{Duration, Instant},
};

/// The exit status of scripts/vm if it cannot run the command, or if the guest fails.
const VM_FAILED: i32 = 125;

/// Runs scripts/vm with `arguments`.
#[track_caller]
fn vm(arguments: &[&str]) -> Outcome {
    Outcome::of(lab::vm().args(arguments))
}

#[test]
fn output_and_exit_status_are_returned_and_kstat_ko_can_be_loaded() {
    let script = "insmod $KSTAT_KO && cat /proc/kstat/counter; echo also >/dev/stderr; exit 7";
    let outcome = vm(&["--", "sh", "-c", script]);

    assert_eq!(outcome.stderr_text(), "also\n");
    assert_eq!(outcome.stdout_text(), "10\n");
    outcome.assert_exit_code(7);
}

#[test]
fn guest_has_the_requested_cpus_and_its_writes_do_not_reach_the_lab() {
    let outcome = vm(&[
        "-s",
        "4",
        "--",
        "sh",
        "-c",
        "nproc; id -u; touch /of-a-guest",
    ]);

    assert_eq!(outcome.expect_success(), "4\n0\n");
    assert!(
        !Path::new("/of-a-guest").exists(),
        "the guest wrote to the lab"
    );
}

#[test]
fn crashed_guest_fails_within_seconds_and_shows_its_console() {
    let timed = |command| {
        let start = Instant::now();
        let outcome = vm(&["-t", "300", "--", "sh", "-c", command]);
        (outcome, start.elapsed())
    };

    let (sound, sound_time) = timed("exit 1");
    sound.assert_exit_code(1);

    let (crashed, crash_time) = timed("echo c >/proc/sysrq-trigger");
    crashed.assert_exit_code(VM_FAILED);
    let errors = crashed.stderr_text();
    assert!(errors.contains("sysrq triggered crash"), "{errors}");
    println!("a guest took {sound_time:?}, and one that crashed {crash_time:?}");
    assert!(
        crash_time < sound_time + Duration::from_secs(15),
        "a guest took {sound_time:?}, and one that crashed {crash_time:?}"
    );
}

#[test]
fn kernel_of_another_lab_is_refused_inside_a_lab() {
    let outcome = vm(&["-k", "6.12", "--", "true"]);

    outcome.assert_exit_code(VM_FAILED);
    let errors = outcome.stderr_text();
    assert!(errors.starts_with("vm: this is the lab of "), "{errors}");
}

#[test]
fn background_processes_end_with_the_command() {
    let outcome = vm(&[
        "-t",
        "60",
        "--",
        "sh",
        "-c",
        "echo begun; sleep 1000 & exit 3",
    ]);

    assert_eq!(outcome.stdout_text(), "begun\n", "{outcome:?}");
    outcome.assert_exit_code(3);
}

#[test]
fn kernel_warning_fails_the_guest_even_if_the_command_succeeds() {
    let outcome = vm(&["--", "sh", "-c", "echo 'WARNING: a test' >/dev/kmsg"]);

    outcome.assert_exit_code(VM_FAILED);
    let errors = outcome.stderr_text();
    assert!(errors.contains("WARNING: a test"), "{errors}");
}

#[test]
fn race_fails_the_guest_only_if_kstat_is_not_below_an_interrupt() {
    // Logs a report of KCSAN with these stack frames, the innermost first.
    let report = |frames: &[&str]| {
        let lines = [
            &[
                "====================",
                "BUG: KCSAN: data-race in a / b",
                "read to 0x1 of 8 bytes by task 1:",
            ],
            frames,
            &["===================="],
        ];
        let script: Vec<_> = lines
            .concat()
            .iter()
            .map(|line| format!("echo '{line}' >/dev/kmsg\n"))
            .collect();
        vm(&["--", "sh", "-c", &script.concat()])
    };

    // The race is in an interrupt that interrupted kstat's hook.
    let interrupted = report(&["a+0x1/0x2", "asm_sysvec+0x1/0x2", "hook+0x1/0x2 [kstat]"]);
    interrupted.expect_success();
    let errors = interrupted.stderr_text();
    assert!(errors.contains("KCSAN reported 1 races"), "{errors}");

    // The race is in kstat's hook, which ran in an interrupt.
    let kstat = report(&["hook+0x1/0x2 [kstat]", "asm_sysvec+0x1/0x2", "a+0x1/0x2"]);
    kstat.assert_exit_code(VM_FAILED);
    let errors = kstat.stderr_text();
    assert!(errors.contains("BUG: KCSAN: data-race"), "{errors}");

    // Another CPU logs a warning in the middle of a report about a race without kstat.
    let interleaved = report(&["a+0x1/0x2", "WARNING: on another CPU"]);
    interleaved.assert_exit_code(VM_FAILED);
    let errors = interleaved.stderr_text();
    assert!(errors.contains("WARNING: on another CPU"), "{errors}");
}

#[test]
fn demo_prints_the_commands_of_the_readme_and_agrees_with_nftables() {
    let output = vm(&["--", "bash", "../lab/guest/demo"]).expect_success();

    for line in [
        "-- Load kstat. Nothing is hooked yet, and nothing is counted.\n",
        "# curl -s -o /dev/null http://127.0.0.1:8000/file; cat /proc/kstat/nout\n",
        "# curl -s -o /dev/null \"http://[::1]:8000/file\"; cat /proc/kstat/nout\n",
        "# echo 20 >/proc/kstat/counter\n",
        "-- kstat counted ",
    ] {
        assert!(output.contains(line), "{line:?} is not in:\n{output}");
    }
}

#[test]
fn hanging_guest_fails_after_its_time_limit() {
    let outcome = vm(&["-t", "20", "--", "sleep", "1000"]);

    outcome.assert_exit_code(VM_FAILED);
    let errors = outcome.stderr_text();
    assert!(errors.contains("did not end within 20 seconds"), "{errors}");
}
