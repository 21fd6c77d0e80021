// SPDX-License-Identifier: GPL-2.0

//! `scripts/vm`: what comes back from a guest. Runs in the lab, and boots a guest for each test.

use std::{
    path::Path,
    process::{Command, Output},
    time::{Duration, Instant},
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
fn a_guest_that_crashes_fails_within_seconds_and_its_console_is_shown() {
    let timed = |command| {
        let start = Instant::now();
        let output = vm(&["-t", "300", "--", "sh", "-c", command]);
        (output, start.elapsed())
    };

    let (sound, takes) = timed("exit 1");
    assert_eq!(sound.status.code(), Some(1), "{}", text(&sound.stderr));

    let (crashed, took) = timed("echo c >/proc/sysrq-trigger");
    let errors = text(&crashed.stderr);
    assert_eq!(crashed.status.code(), Some(125), "{errors}");
    assert!(errors.contains("sysrq triggered crash"), "{errors}");
    println!("a guest took {takes:?}, one that crashed {took:?}");
    assert!(
        took < takes + Duration::from_secs(15),
        "a guest took {takes:?}, one that crashed {took:?}"
    );
}

#[test]
fn another_kernel_than_the_labs_is_refused_inside_of_it() {
    let output = vm(&["-k", "6.12", "--", "true"]);
    let errors = text(&output.stderr);

    assert_eq!(output.status.code(), Some(125), "{errors}");
    assert!(errors.starts_with("vm: this is the lab of "), "{errors}");
}

#[test]
fn what_the_command_leaves_running_ends_with_it() {
    let output = vm(&[
        "-t",
        "60",
        "--",
        "sh",
        "-c",
        "echo begun; sleep 1000 & exit 3",
    ]);

    assert_eq!(text(&output.stdout), "begun\n", "{}", text(&output.stderr));
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
}

#[test]
fn a_guest_whose_kernel_reports_a_fault_fails_whatever_its_command_said() {
    let output = vm(&["--", "sh", "-c", "echo 'WARNING: a test' >/dev/kmsg"]);
    let errors = text(&output.stderr);

    assert_eq!(output.status.code(), Some(125), "{errors}");
    assert!(errors.contains("WARNING: a test"), "{errors}");
}

#[test]
fn a_race_is_kstats_if_kstat_was_in_it_and_not_below_an_interrupt() {
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

    let others = report(&["a+0x1/0x2", "asm_sysvec+0x1/0x2", "hook+0x1/0x2 [kstat]"]);
    let errors = text(&others.stderr);
    assert_eq!(others.status.code(), Some(0), "{errors}");
    assert!(errors.contains("KCSAN reported 1 races"), "{errors}");

    let ours = report(&["hook+0x1/0x2 [kstat]", "asm_sysvec+0x1/0x2", "a+0x1/0x2"]);
    let errors = text(&ours.stderr);
    assert_eq!(ours.status.code(), Some(125), "{errors}");
    assert!(errors.contains("BUG: KCSAN: data-race"), "{errors}");

    let amidst = report(&["a+0x1/0x2", "WARNING: on another CPU"]);
    let errors = text(&amidst.stderr);
    assert_eq!(amidst.status.code(), Some(125), "{errors}");
    assert!(errors.contains("WARNING: on another CPU"), "{errors}");
}

#[test]
fn the_demo_shows_what_the_readme_says_and_agrees_with_nftables() {
    let output = vm(&["--", "bash", "../lab/guest/demo"]);
    let shown = text(&output.stdout);

    assert_eq!(
        output.status.code(),
        Some(0),
        "{shown}{}",
        text(&output.stderr)
    );
    for line in [
        "-- Load kstat. Nothing is hooked yet, and nothing is counted.\n",
        "# curl -s -o /dev/null http://127.0.0.1:8000/file; cat /proc/kstat/nout\n",
        "# curl -s -o /dev/null \"http://[::1]:8000/file\"; cat /proc/kstat/nout\n",
        "# echo 20 >/proc/kstat/counter\n",
        "-- kstat counted ",
    ] {
        assert!(shown.contains(line), "{line:?} is not in:\n{shown}");
    }
}

#[test]
fn a_guest_that_hangs_fails_when_its_time_is_over() {
    let output = vm(&["-t", "20", "--", "sleep", "1000"]);
    let errors = text(&output.stderr);

    assert_eq!(output.status.code(), Some(125), "{errors}");
    assert!(errors.contains("did not end within 20 seconds"), "{errors}");
}
