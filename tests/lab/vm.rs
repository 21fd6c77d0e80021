// SPDX-License-Identifier: GPL-2.0

//! `scripts/vm`: what it returns from a guest, and when a guest fails. Runs in the lab, and boots a
//! guest for each test.

use kstat_tests::{lab, tool::Outcome, wait};
use nix::pty::{openpty, Winsize};
use std::{
    fs::{self, File},
    io::{Read, Write},
    mem,
    path::Path,
    process::{Child, Command, Stdio},
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
fn guest_has_the_requested_cpus_and_memory() {
    let script = "nproc; id -u; sed -n 's/^MemTotal: *//p' /proc/meminfo";
    let output = vm(&["-s", "4", "-m", "1G", "--", "sh", "-c", script]).expect_success();
    let lines: Vec<_> = output.lines().collect();

    assert_eq!(lines[..2], ["4", "0"]);
    let kilobytes: u64 = lines[2].trim_end_matches(" kB").parse().expect("a number");
    assert!((800_000..1_050_000).contains(&kilobytes), "{output}");
}

#[test]
fn guest_writes_to_build_and_nowhere_else() {
    let script = "touch /of-a-guest; touch build/of-a-guest && touch of-a-guest";
    let outcome = Outcome::of(
        lab::vm()
            .args(["--", "sh", "-c", script])
            .current_dir(lab::project()),
    );
    let written = lab::project().join("build/of-a-guest");

    assert!(!outcome.status.success(), "{outcome:?}");
    let errors = outcome.stderr_text();
    assert!(errors.contains("Read-only file system"), "{errors}");
    assert!(
        !Path::new("/of-a-guest").exists(),
        "the guest wrote to the lab"
    );
    assert!(written.exists(), "{outcome:?}");
    fs::remove_file(written).expect("removing the file");
}

#[test]
fn console_is_shown_while_the_guest_runs() {
    let outcome = vm(&["--console", "--", "sh", "-c", "echo shown >/dev/kmsg"]);

    outcome.expect_success();
    let errors = outcome.stderr_text();
    assert!(errors.contains("Linux version "), "{errors}");
    assert!(errors.contains("shown"), "{errors}");
}

#[test]
fn shell_needs_a_terminal() {
    let outcome = vm(&[]);

    outcome.assert_exit_code(VM_FAILED);
    outcome.assert_refused("vm", &["name a command", "terminal"]);
}

#[test]
fn unknown_option_is_refused() {
    let outcome = vm(&["--no-such-option", "--", "true"]);

    outcome.assert_exit_code(VM_FAILED);
    let errors = outcome.stderr_text();
    assert!(errors.contains("--no-such-option"), "{errors}");
}

/// `scripts/vm` on a pseudo-terminal.
struct Terminal {
    child: Child,
    side: File,
    output: String,
}

impl Terminal {
    fn new(rows: u16, columns: u16) -> Self {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pty = openpty(&size, None).expect("opening a pseudo-terminal");
        let terminal = || {
            let slave = pty.slave.try_clone().expect("duplicating the terminal");
            Stdio::from(slave)
        };
        // The terminal becomes the controlling one, so that the shell's signals come through it.
        let child = Command::new("setsid")
            .args(["--ctty", "--wait"])
            .arg(lab::vm().get_program())
            .args(["-t", "300"])
            .env("TERM", "xterm")
            .stdin(terminal())
            .stdout(terminal())
            .stderr(terminal())
            .spawn()
            .expect("running setsid");
        Self {
            child,
            side: File::from(pty.master),
            output: String::new(),
        }
    }

    /// Changes the size, as a terminal emulator does.
    fn resize(&self, rows: u16, columns: u16) {
        let side = self.side.try_clone().expect("duplicating the terminal");
        let size = [rows.to_string(), columns.to_string()];
        Outcome::of(
            Command::new("stty")
                .args(["rows", &size[0], "columns", &size[1]])
                .stdin(side),
        )
        .expect_success();
    }

    /// Types `keys`.
    fn type_in(&mut self, keys: &str) {
        self.side.write_all(keys.as_bytes()).expect("typing");
    }

    /// Reads until the output contains `text`, and returns the output since the last call.
    #[track_caller]
    fn read_until(&mut self, text: &str) -> String {
        let mut buffer = [0; 4096];
        while !self.output.contains(text) {
            let length = self.side.read(&mut buffer).unwrap_or(0);
            assert!(length > 0, "{text:?} is not in {:?}", self.output);
            self.output += &String::from_utf8_lossy(&buffer[..length]);
        }
        mem::take(&mut self.output)
    }
}

#[test]
fn shell_on_a_terminal_has_job_control_and_the_size_of_the_window() {
    let mut terminal = Terminal::new(33, 101);

    let greeting = terminal.read_until("# ");
    assert!(greeting.contains("kstat.ko is "), "{greeting}");
    terminal.type_in("uname -r; stty size; test -e $KSTAT_KO && echo found $((40 + 2))\n");
    let output = terminal.read_until("found 42");
    assert!(output.contains(&lab::rust_tree::release()), "{output}");
    assert!(output.contains("33 101"), "{output}");

    // The shell gets SIGWINCH.
    terminal.type_in("trap 'stty size' WINCH; echo ready $((1 + 2))\n");
    terminal.read_until("ready 3");
    terminal.resize(44, 120);
    terminal.read_until("44 120");

    let job = "trap 'echo cont$((4 + 5))' CONT; echo run$((4 + 5)); while :; do sleep 0.1; done";
    terminal.type_in(&format!("sh -c \"{}\"\n", job.replace('$', "\\$")));
    terminal.read_until("run9");
    terminal.type_in("\x1a");
    terminal.read_until("Stopped");
    terminal.type_in("fg\n");
    terminal.read_until("cont9");
    terminal.type_in("\x03");
    terminal.read_until("# ");
    terminal.type_in("exit 5\n");
    // The output ends when QEMU, the last process that has the terminal open, ends.
    let mut rest = Vec::new();
    let _ = terminal.side.read_to_end(&mut rest);
    let status = terminal.child.wait().expect("waiting for scripts/vm");
    assert_eq!(status.code(), Some(5));
}

#[test]
fn gdb_stops_at_a_breakpoint_in_the_module() {
    let folder = lab::project().join(format!("build/{}-gdb", lab::rust_tree::release()));
    let (commands, go) = (folder.join("gdb.commands"), folder.join("go"));
    for path in [&commands, &go] {
        let _ = fs::remove_file(path);
    }
    let script = format!(
        "until [ -e {} ]; do sleep 0.1; done; echo 20 >/proc/kstat/counter; cat /proc/kstat/counter",
        go.display()
    );
    let guest = lab::vm()
        .args(["--gdb", "-t", "300", "--", "sh", "-c", &script])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("running scripts/vm");
    // It builds the module first.
    wait::until_within(
        Duration::from_secs(200),
        "the guest had loaded kstat",
        || commands.exists(),
    );

    // gdb is told to go on with the script when it has set its breakpoint.
    let gdb = Outcome::of(
        Command::new("gdb")
            .args(["-batch", "-x"])
            .arg(&commands)
            .args(["-ex", "break kstat::stats::Stats::set_step"])
            .args(["-ex", &format!("shell touch {}", go.display())])
            .args(["-ex", "continue", "-ex", "backtrace", "-ex", "detach"]),
    );
    let output = gdb.expect_success();
    assert!(
        output.contains("hit Breakpoint 1, kstat::stats::Stats::set_step"),
        "{gdb:?}"
    );
    assert!(output.contains("proc_fs.rs:"), "{gdb:?}");
    let guest = guest.wait_with_output().expect("waiting for the guest");
    assert_eq!(String::from_utf8_lossy(&guest.stdout), "20\n");
    fs::remove_file(go).expect("removing the file");
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
