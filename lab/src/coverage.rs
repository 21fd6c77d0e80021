// SPDX-License-Identifier: GPL-2.0

//! Lists the lines of the module's code that no test reaches.
//!
//! The guest tests run on the stock kernel, and the stress tests, which need fault injection, on the kasan kernel.
//! Their kstat.ko is built to call lab/modules/coverage.c in every basic block. Each guest writes to
//! build/coverage/KERNEL which of these calls were made.

use crate::{command::cargo_test, vm::project};
use anyhow::{ensure, Context, Result};
use object::{Object, ObjectSection, ObjectSymbol, RelocationTarget};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    io::Write,
    path::Path,
    process::{Command, ExitCode, Stdio},
};

/// The function that each basic block calls.
const TRACE: &str = "__sanitizer_cov_trace_pc";

/// The return address of a call: the name of a section, and an offset in it.
type Place = (String, u64);

/// A line of the sources: the file and the number.
type Line = (String, usize);

/// Fails if a line is not reached and not listed in tests/unreached, which says why no test reaches the lines in it.
pub fn run() -> Result<ExitCode> {
    let folder = project().join("build/coverage");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder)?;
    let mut failed = Vec::new();
    for (program, kernel) in [
        ("guest", ""),
        ("many_cpus", ""),
        ("kunit", "kasan"),
        ("stress", "kasan"),
    ] {
        let mut cargo = cargo_test(program);
        cargo
            .env("KSTAT_KERNEL", kernel)
            .env("KSTAT_COVERAGE", "1")
            .env("KSTAT_SECONDS", "3600");
        if !cargo.status().context("running cargo")?.success() {
            failed.push(program);
        }
    }

    // The two compilers assign some instructions to different lines: a line counts as reached if it was in one build.
    let (mut all, mut reached) = (BTreeSet::new(), BTreeSet::new());
    for entry in fs::read_dir(&folder)? {
        let kernel = entry?.path();
        let name = kernel.file_name().unwrap_or_default().to_string_lossy();
        let module = project().join(format!("build/{name}-coverage/kstat.ko"));
        let data = fs::read(&module).with_context(|| format!("reading {}", module.display()))?;
        let object = object::File::parse(&*data)?;
        let symbols = functions(&object)?;
        let mut places = BTreeSet::new();
        for file in fs::read_dir(&kernel)? {
            places.extend(reached_places(&fs::read_to_string(file?.path())?, &symbols));
        }
        all.extend(lines(&module, &calls(&object)?)?);
        reached.extend(lines(&module, &places)?);
    }

    let mut missed = Vec::new();
    for (file, number) in all.difference(&reached) {
        let source = fs::read_to_string(project().join(file))?;
        let text = source.lines().nth(number - 1).unwrap_or_default();
        missed.push(format!("{file}: {}", text.trim()));
    }
    for line in &missed {
        println!("{line}");
    }
    println!(
        "coverage: {} of {} lines with code were reached; the lines above were not",
        all.intersection(&reached).count(),
        all.len()
    );
    let explained = fs::read_to_string(project().join("tests/unreached"))?;
    missed.retain(|line| !explained.lines().any(|known| known == line));
    ensure!(
        missed.is_empty(),
        "no test reaches these lines: add tests, or list them in tests/unreached:\n{}",
        missed.join("\n")
    );
    ensure!(
        failed.is_empty(),
        "tests failed in {}: see above",
        failed.join(", ")
    );
    Ok(ExitCode::SUCCESS)
}

/// Returns the return addresses of all calls of [`TRACE`]: 4 bytes after the relocation, which fills in the end of
/// the call instruction.
fn calls(object: &object::File<'_>) -> Result<BTreeSet<Place>> {
    let mut calls = BTreeSet::new();
    for section in object.sections() {
        for (offset, relocation) in section.relocations() {
            let RelocationTarget::Symbol(index) = relocation.target() else {
                continue;
            };
            if object.symbol_by_index(index)?.name()? == TRACE {
                calls.insert((section.name()?.to_owned(), offset + 4));
            }
        }
    }
    Ok(calls)
}

/// Returns where each function is.
fn functions(object: &object::File<'_>) -> Result<HashMap<String, Place>> {
    let mut functions = HashMap::new();
    for symbol in object.symbols() {
        let Some(index) = symbol.section_index() else {
            continue;
        };
        let section = object.section_by_index(index)?.name()?.to_owned();
        functions.insert(symbol.name()?.to_owned(), (section, symbol.address()));
    }
    Ok(functions)
}

/// Reads what lab/modules/coverage.c wrote: a line SYMBOL+OFFSET/SIZE or "init OFFSET" for each place.
fn reached_places(text: &str, functions: &HashMap<String, Place>) -> BTreeSet<Place> {
    let hexadecimal = |digits: &str| u64::from_str_radix(digits, 16).ok();
    let place = |line: &str| {
        if let Some(offset) = line.strip_prefix("init ") {
            return Some((".init.text".to_owned(), hexadecimal(offset)?));
        }
        let (symbol, rest) = line.split_once("+0x")?;
        let (section, address) = functions.get(symbol)?;
        Some((
            section.clone(),
            address + hexadecimal(rest.split('/').next()?)?,
        ))
    };
    text.lines().filter_map(place).collect()
}

/// Returns the lines of the module's sources at `places`, including those of inlined functions. The call is before
/// its return address, so 1 is subtracted. binutils' addr2line applies the relocations of the debug information.
fn lines(module: &Path, places: &BTreeSet<Place>) -> Result<BTreeSet<Line>> {
    let mut by_section: BTreeMap<&str, String> = BTreeMap::new();
    for (section, offset) in places {
        *by_section.entry(section).or_default() += &format!("{:#x}\n", offset - 1);
    }
    let mut lines = BTreeSet::new();
    for (section, addresses) in by_section {
        let mut addr2line = Command::new("addr2line")
            .args(["-i", "-j", section, "-e"])
            .arg(module)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("running addr2line")?;
        let mut input = addr2line.stdin.take().context("the pipe to addr2line")?;
        let writer = std::thread::spawn(move || input.write_all(addresses.as_bytes()));
        let output = addr2line.wait_with_output()?;
        writer.join().expect("writing to addr2line")?;
        ensure!(output.status.success(), "addr2line failed: see above");
        lines.extend(own_lines(
            &String::from_utf8_lossy(&output.stdout),
            project(),
        ));
    }
    Ok(lines)
}

/// Reads lines of addr2line, and keeps those in the folder of the module and in abstractions/.
fn own_lines(output: &str, folder: &Path) -> BTreeSet<Line> {
    let line = |line: &str| {
        let (path, number) = line.split(" (discriminator").next()?.rsplit_once(':')?;
        let file = Path::new(path).strip_prefix(folder).ok()?;
        let parent = file.parent()?;
        if parent != Path::new("") && parent != Path::new("abstractions") {
            return None;
        }
        Some((file.to_str()?.to_owned(), number.parse().ok()?))
    };
    output.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(section: &str, offset: u64) -> Place {
        (section.to_owned(), offset)
    }

    #[test]
    fn reached_places_are_offsets_in_sections() {
        let functions = HashMap::from([("hook".to_owned(), place(".text", 0x100))]);
        let text = "hook+0x1f/0x40\ninit 2a\nunknown+0x1/0x2\n\nhook\n";
        let expected = BTreeSet::from([place(".text", 0x11f), place(".init.text", 0x2a)]);
        assert_eq!(reached_places(text, &functions), expected);
    }

    #[test]
    fn only_lines_of_the_module_are_kept() {
        let output = "/p/stats.rs:92 (discriminator 2)\n/p/abstractions/netns.rs:7\n/p/build/x.rs:1\n/usr/lib/core/ptr.rs:5\n??:0\n/p/kstat.rs:?\n";
        let expected = [("abstractions/netns.rs", 7), ("stats.rs", 92)];
        let expected = expected.map(|(file, line)| (file.to_owned(), line));
        assert_eq!(own_lines(output, Path::new("/p")), BTreeSet::from(expected));
    }
}
