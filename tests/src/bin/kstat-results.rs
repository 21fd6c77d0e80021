// SPDX-License-Identifier: GPL-2.0

//! Prints the results of a test program so that they read as a specification.
//!
//! `kstat-results [EMULATOR [ARGUMENT...]] PROGRAM` reads the JSON events of a run of PROGRAM (libtest's `--format
//! json`) from standard input. It runs PROGRAM, by the emulator if one is named, to ask where its tests are. Each module
//! gets a heading, the first sentence of its source file; below it stand its tests in the order of the file, with their
//! times. The output of a test follows if the test failed, or if the run was told to `--show-output`. Other lines of the
//! input are passed on. Meanwhile the terminal, if there is one, shows the test that runs.

use serde_json::Value;
use std::{
    collections::HashMap,
    env,
    fs::{self, File, OpenOptions},
    io::{self, BufRead, Write},
    path::Path,
    process::{Command, ExitCode},
};

/// Where a test is defined.
#[derive(Clone, Default)]
struct Place {
    file: String,
    line: u64,
}

/// How a test ended.
struct Ended {
    name: String,
    event: String,
    seconds: f64,
    output: String,
}

/// Returns where each test of the program that `command` runs is defined.
fn places(command: &[String]) -> HashMap<String, Place> {
    let output = Command::new(&command[0])
        .args(&command[1..])
        .args(["--list", "--format", "json", "-Zunstable-options"])
        .env("RUSTC_BOOTSTRAP", "1")
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}", command[0]));

    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|event| event["event"] == "discovered")
        .map(|event| {
            let place = Place {
                file: text(&event["source_path"]),
                line: event["start_line"].as_u64().unwrap_or(0),
            };
            (text(&event["name"]), place)
        })
        .collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Splits the full name of a test into its module, which is empty at the root, and its own name.
fn split(name: &str) -> (&str, &str) {
    name.rsplit_once("::").unwrap_or(("", name))
}

/// Returns the first sentence of the documentation at the top of a source file.
fn title(source: &str) -> String {
    let paragraph: Vec<_> = source
        .lines()
        .skip_while(|line| !line.starts_with("//! "))
        .map_while(|line| line.strip_prefix("//! "))
        .collect();
    let paragraph = paragraph.join(" ");

    match paragraph.split_once(". ") {
        Some((sentence, _)) => sentence.to_owned(),
        None => paragraph.trim_end_matches('.').to_owned(),
    }
}

/// The report on a run.
struct Report {
    program: String,
    places: HashMap<String, Place>,
    /// The tests of `module` that have ended, until the module's last test has.
    ended: Vec<Ended>,
    module: Option<String>,
    running: Option<String>,
    passed: u64,
    failed: Vec<String>,
    ignored: u64,
}

impl Report {
    fn new(program: &str, places: HashMap<String, Place>) -> Self {
        Self {
            program: program.to_owned(),
            places,
            ended: Vec::new(),
            module: None,
            running: None,
            passed: 0,
            failed: Vec::new(),
            ignored: 0,
        }
    }

    /// Takes in an event of libtest; returns the text to print.
    fn take(&mut self, event: &Value) -> String {
        let name = text(&event["name"]);
        let mut printed = String::new();

        match (event["type"].as_str(), event["event"].as_str()) {
            (Some("test"), Some("started")) => self.running = Some(name),
            (Some("test"), Some(result @ ("ok" | "failed" | "ignored"))) => {
                let (module, _) = split(&name);
                if self.module.as_deref() != Some(module) {
                    printed = self.flush();
                    self.module = Some(module.to_owned());
                }
                match result {
                    "ok" => self.passed += 1,
                    "ignored" => self.ignored += 1,
                    _ => self.failed.push(name.clone()),
                }
                self.running = None;
                self.ended.push(Ended {
                    name,
                    event: result.to_owned(),
                    seconds: event["exec_time"].as_f64().unwrap_or(0.0),
                    output: text(&event["stdout"]),
                });
            }
            (Some("suite"), Some("ok" | "failed")) => {
                printed = self.flush();
                printed += &format!(
                    "\n{}: {} passed, {} failed, {} ignored, in {:.0} s\n",
                    self.program,
                    self.passed,
                    self.failed.len(),
                    self.ignored,
                    event["exec_time"].as_f64().unwrap_or(0.0),
                );
                for name in &self.failed {
                    printed += &format!("{}: FAILED: {name}\n", self.program);
                }
            }
            _ => {}
        }
        printed
    }

    /// Ends the report of a program that ended by itself or was ended, as by the death of its guest.
    fn finish(&mut self) -> String {
        let mut printed = self.flush();

        if let Some(name) = &self.running {
            printed += &format!("{}: FAILED: {name}: ended while it ran\n", self.program);
        }
        printed
    }

    /// Returns the report on the module whose tests have ended.
    fn flush(&mut self) -> String {
        let mut ended = std::mem::take(&mut self.ended);
        let place = |test: &Ended| self.places.get(&test.name).cloned().unwrap_or_default();
        ended.sort_by_key(|test| place(test).line);
        let Some(first) = ended.first() else {
            return String::new();
        };

        // The compiler names source files from the workspace's folder.
        let source = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("..")
            .join(place(first).file);
        let title = title(&fs::read_to_string(source).unwrap_or_default());
        let (module, _) = split(&first.name);
        let separator = if module.is_empty() { "" } else { "::" };
        let mut printed = format!("\n{}{separator}{module}: {title}\n", self.program);
        for test in &ended {
            let result = match test.event.as_str() {
                "failed" => "FAILED",
                other => other,
            };
            let (_, name) = split(&test.name);
            printed += &format!("  {result:<7} {:6.1} s  {name}\n", test.seconds);
            for line in test.output.lines() {
                printed += &format!("          {line}\n");
            }
        }
        printed
    }
}

/// Returns the name of a test program without the hash that cargo appends to it.
fn program_name(path: &str) -> &str {
    let name = Path::new(path)
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or(path);

    name.rsplit_once('-').map_or(name, |(name, _)| name)
}

/// Replaces the line that the terminal shows. Progress is not worth a failure.
fn show(terminal: Option<&mut File>, name: &str) {
    if let Some(terminal) = terminal {
        let _ = write!(terminal, "\r\x1b[K{name}");
    }
}

fn main() -> ExitCode {
    let command: Vec<_> = env::args().skip(1).collect();
    let Some(program) = command.last() else {
        eprintln!("usage: kstat-results [EMULATOR [ARGUMENT...]] PROGRAM <EVENTS");
        return ExitCode::FAILURE;
    };
    let mut report = Report::new(program_name(program), places(&command));
    // Standard output and error may be pipes to a log.
    let mut terminal = OpenOptions::new().write(true).open("/dev/tty").ok();

    for line in io::stdin().lock().lines() {
        let line = match line {
            Ok(line) => line,
            Err(error) => {
                eprintln!("kstat-results: reading standard input: {error}");
                return ExitCode::FAILURE;
            }
        };
        let printed = match serde_json::from_str::<Value>(&line) {
            Ok(event @ Value::Object(_)) => report.take(&event),
            _ => format!("{line}\n"),
        };
        show(terminal.as_mut(), "");
        print!("{printed}");
        show(terminal.as_mut(), report.running.as_deref().unwrap_or(""));
    }
    print!("{}", report.finish());
    ExitCode::SUCCESS
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn report() -> Report {
        let place = |line| Place {
            file: String::new(),
            line,
        };
        let places = [("m::second", 20), ("m::first", 10), ("n::third", 5)];
        Report::new(
            "guest",
            places
                .map(|(name, line)| (name.to_owned(), place(line)))
                .into(),
        )
    }

    fn ended(name: &str, event: &str) -> Value {
        json!({"type": "test", "event": event, "name": name, "exec_time": 1.25, "stdout": "said\n"})
    }

    #[test]
    fn tests_of_a_module_are_printed_in_the_order_of_their_lines() {
        let mut report = report();

        assert_eq!(report.take(&ended("m::second", "ok")), "");
        assert_eq!(report.take(&ended("m::first", "failed")), "");
        assert_eq!(
            report.take(&ended("n::third", "ok")),
            "\nguest::m: \n  FAILED     1.2 s  first\n          said\n  ok         1.2 s  second\n          said\n"
        );
    }

    #[test]
    fn last_lines_have_the_numbers_and_the_tests_that_failed() {
        let mut report = report();

        report.take(&ended("m::first", "failed"));
        let end = report.take(&json!({"type": "suite", "event": "failed", "exec_time": 2.0}));
        assert!(
            end.ends_with(
                "guest: 0 passed, 1 failed, 0 ignored, in 2 s\nguest: FAILED: m::first\n"
            ),
            "{end}"
        );
    }

    #[test]
    fn test_that_ran_when_the_events_end_has_failed() {
        let mut report = report();

        report.take(&json!({"type": "test", "event": "started", "name": "m::first"}));
        assert_eq!(
            report.finish(),
            "guest: FAILED: m::first: ended while it ran\n"
        );
    }

    #[test]
    fn title_is_the_first_sentence_of_the_files_documentation() {
        assert_eq!(
            title("// SPDX\n\n//! One\n//! thing. Another.\n//!\n//! More.\n"),
            "One thing"
        );
        assert_eq!(title("//! Only this.\n\nuse std;\n"), "Only this");
    }
}
