// SPDX-License-Identifier: GPL-2.0

//! Finds faults of the kernel in the console of a guest.

/// Beginnings of lines with which a kernel reports a fault without a panic, each followed by a colon
/// and a space. A call trace alone is not a fault: a failed allocation prints one, and tests make
/// allocations fail.
const REPORTS: [&str; 9] = [
    "BUG",
    "WARNING",
    "INFO",
    "KASAN",
    "KCSAN",
    "UBSAN",
    "ODEBUG",
    "ref_tracker",
    "DEBUG_LOCKS_WARN_ON",
];

/// The line with which KCSAN begins and ends a report.
const RULER: &str = "==========";

/// A console without KCSAN's reports of races in which kstat has no part.
pub struct Console {
    /// The remaining lines.
    pub text: String,
    /// The number of reports that were removed.
    pub foreign_races: usize,
}

impl Console {
    /// Reads the console of a guest.
    ///
    /// kstat has a part in a race if it is in one of the two stacks, above the first interrupt entry
    /// (`asm_*`): the code below was only interrupted. A fault that another CPU reports between the
    /// lines of a report of KCSAN is kept.
    pub fn new(console: &str) -> Self {
        let mut this = Self {
            text: String::new(),
            foreign_races: 0,
        };
        let mut report: Option<Report> = None;

        for line in console.lines() {
            let line = line.trim_end_matches('\r');
            report = match report {
                _ if line.ends_with(RULER) => match report {
                    Some(report) => {
                        this.end(report);
                        None
                    }
                    None => Some(Report::default()),
                },
                None => {
                    this.keep(line);
                    None
                }
                Some(report) if is_fault(line) && !line.contains("BUG: KCSAN") => {
                    this.keep(line);
                    Some(report)
                }
                Some(report) => Some(report.with(line)),
            };
        }
        // The guest ended in the middle of a report.
        if let Some(report) = report {
            this.text += &report.text;
        }
        this
    }

    fn keep(&mut self, line: &str) {
        self.text += line;
        self.text += "\n";
    }

    fn end(&mut self, report: Report) {
        if report.is_race && !report.has_kstat {
            self.foreign_races += 1;
        } else {
            self.text += &report.text;
        }
    }

    /// Returns the first fault and the lines that follow it, at most `lines` in all.
    pub fn fault(&self, lines: usize) -> Option<String> {
        let first = self.text.lines().position(is_fault)?;
        Some(join(self.text.lines().skip(first).take(lines)))
    }
}

/// The lines between two rulers, as far as they were read.
#[derive(Default)]
struct Report {
    text: String,
    is_race: bool,
    has_kstat: bool,
    /// The next line of the stack is below an interrupt entry.
    interrupted: bool,
}

impl Report {
    fn with(mut self, line: &str) -> Self {
        self.is_race |= line.contains("BUG: KCSAN");
        // The first line of a stack: "read to 0xffff... of 8 bytes by task 1 on cpu 0:".
        if line.contains(" bytes by ") {
            self.interrupted = false;
        }
        self.interrupted |= line.contains(" asm_");
        self.has_kstat |= line.contains("[kstat]") && !self.interrupted;
        self.text += line;
        self.text += "\n";
        self
    }
}

/// Returns whether a guest's kernel has started init, and so the first code of this project.
pub fn has_booted(console: &[u8]) -> bool {
    String::from_utf8_lossy(console).contains("Run /mnt/init")
}

/// Returns whether a guest failed before init because of a fault of QEMU's TCG (docs/design.md): it hung, which is
/// `timed_out`, or a CPU executed an instruction that the kernel was patching.
pub fn boot_failed_by_emulation(console: &[u8], timed_out: bool) -> bool {
    let patched = || String::from_utf8_lossy(console).contains("Oops: int3");
    !has_booted(console) && (timed_out || patched())
}

/// Returns whether the kernel reports a fault with `line`.
pub fn is_fault(line: &str) -> bool {
    let reported = |report: &&str| {
        line.match_indices(*report)
            .any(|(at, _)| line[at + report.len()..].starts_with(": "))
    };
    // "BUG kmalloc-64 (Tainted: G ...): ..."
    let slab = || {
        line.split_once("BUG ").is_some_and(|(_, rest)| {
            rest.split_once(' ')
                .is_some_and(|(cache, rest)| !cache.is_empty() && rest.starts_with('('))
        })
    };
    REPORTS.iter().any(reported)
        || slab()
        || line.contains("Oops")
        || line.contains("unregister_netdevice: waiting for")
}

/// Returns the last `lines` of `text`.
pub fn tail(text: &str, lines: usize) -> String {
    let skipped = text.lines().count().saturating_sub(lines);
    join(text.lines().skip(skipped))
}

fn join<'a>(lines: impl Iterator<Item = &'a str>) -> String {
    lines.flat_map(|line| [line, "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Consoles that guests of `scripts/vm` wrote.
    macro_rules! recorded {
        ($name:literal) => {
            Console::new(include_str!(concat!("../consoles/", $name)))
        };
    }

    #[test]
    fn clean_end_has_no_fault() {
        let console = recorded!("clean");
        assert_eq!(console.fault(120), None);
        assert_eq!(console.foreign_races, 0);
        assert!(tail(&console.text, 1).contains("Power down"));
    }

    #[test]
    fn guest_that_hangs_quietly_has_no_fault() {
        let console = recorded!("hang");
        assert_eq!(console.fault(120), None);
        assert!(tail(&console.text, 3).contains("Run /mnt/init"));
    }

    #[test]
    fn only_an_int3_oops_or_a_hang_before_init_is_a_failed_boot() {
        let died = recorded!("boot-int3").text;
        assert!(boot_failed_by_emulation(died.as_bytes(), false));
        let later = format!("Run /mnt/init as init process\n{died}");
        assert!(!boot_failed_by_emulation(later.as_bytes(), false));
        assert!(boot_failed_by_emulation(b"smp: Brought up 1 node", true));
        let hang = recorded!("hang").text;
        assert!(!boot_failed_by_emulation(hang.as_bytes(), true));
        let kasan = recorded!("kasan").text;
        assert!(!boot_failed_by_emulation(kasan.as_bytes(), false));
    }

    #[test]
    fn kasan_report_is_shown_from_its_first_line() {
        let fault = recorded!("kasan").fault(120).unwrap();
        let first = fault.lines().next().unwrap();
        assert!(
            first.contains("BUG: KASAN: vmalloc-out-of-bounds"),
            "{first}"
        );
        assert!(fault.contains("Call Trace:"), "{fault}");
    }

    #[test]
    fn race_with_kstat_in_a_stack_is_a_fault() {
        let console = recorded!("kcsan-kstat");
        let fault = console.fault(120).unwrap();
        assert!(fault.contains("BUG: KCSAN: data-race"), "{fault}");
        assert!(fault.contains("[kstat]"), "{fault}");
    }

    #[test]
    fn race_without_kstat_is_counted_and_is_no_fault() {
        let console = recorded!("kcsan-kernel");
        assert_eq!(console.fault(120), None);
        assert!(console.foreign_races > 0);
    }

    #[test]
    fn race_in_an_interrupt_of_kstat_is_counted_and_is_no_fault() {
        let console = recorded!("kcsan-interrupt");
        assert_eq!(console.fault(120), None);
        assert_eq!(console.foreign_races, 1);
    }

    #[test]
    fn fault_between_the_lines_of_a_foreign_race_is_kept() {
        let race = include_str!("../consoles/kcsan-kernel");
        let at = race.find("BUG: KCSAN").unwrap();
        let next_line = at + race[at..].find('\n').unwrap() + 1;
        let (before, after) = race.split_at(next_line);
        let console = Console::new(&format!(
            "{before}[ 1.0] WARNING: on another CPU\r\n{after}"
        ));
        let fault = console.fault(1).unwrap();
        assert!(fault.contains("WARNING: on another CPU"), "{fault}");
    }

    #[test]
    fn report_that_does_not_end_is_a_fault() {
        let race = include_str!("../consoles/kcsan-kernel");
        let at = race.find("BUG: KCSAN").unwrap();
        let console = Console::new(&race[..at + 60]);
        assert!(console.fault(1).unwrap().contains("BUG: KCSAN"));
    }

    #[test]
    fn report_of_the_slab_allocator_is_a_fault_and_a_word_that_contains_bug_is_not() {
        assert!(is_fault(
            "BUG kmalloc-64 (Tainted: G  O): Poison overwritten"
        ));
        assert!(is_fault("[ 1.0] Oops: general protection fault"));
        assert!(!is_fault("[ 1.0] Freeing unused DEBUG pages"));
        assert!(!is_fault("BUGS: mitigated"));
        assert!(!is_fault("INFO lacks a colon"));
    }
}
