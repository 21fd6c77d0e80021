// SPDX-License-Identifier: GPL-2.0

//! Rules of this project that no other tool knows.

use crate::{tested, vm::project};
use anyhow::{Context, Result};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

/// Prints one sentence for each rule that is broken, and then fails.
pub fn run() -> Result<ExitCode> {
    let mut broken = Vec::new();
    broken.extend(shim_is_small()?);
    broken.extend(policy_is_safe()?);
    broken.extend(help_is_complete()?);
    broken.extend(installation_is_documented()?);
    broken.extend(version_has_one_home()?);
    broken.extend(guide_shows_tested_files()?);
    broken.extend(mutants_name_tests()?);
    broken.extend(readme_is_short_and_exact()?);
    broken.extend(shell_is_short()?);
    broken.extend(tested_kernels_are_those_of_the_run()?);
    for sentence in &broken {
        eprintln!("lint: {sentence}");
    }
    Ok(ExitCode::from(u8::from(!broken.is_empty())))
}

fn read(name: impl AsRef<Path>) -> Result<String> {
    let path = project().join(name);
    fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
}

/// Returns the files below `folder`, whose names end with `suffix`.
fn files(folder: &str, suffix: &str) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![project().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else if entry.file_name().to_string_lossy().ends_with(suffix) {
                files.push(entry.path());
            }
        }
    }
    Ok(files)
}

fn shim_is_small() -> Result<Vec<String>> {
    let text = read("netfilter_shim.c")? + &read("netfilter_shim.h")?;
    let lines = text.lines().count();
    Ok(broken(lines > 150, || {
        format!("netfilter_shim.c and netfilter_shim.h have {lines} lines together: at most 150 are allowed.")
    }))
}

/// Policy is safe Rust. The crate root cannot forbid unsafe code, as module! expands to some.
fn policy_is_safe() -> Result<Vec<String>> {
    let mut sentences = Vec::new();
    for file in ["service", "stats", "publish", "step", "files", "options"] {
        let forbids = read(format!("{file}.rs"))?.contains("#![forbid(unsafe_code)]");
        sentences.extend(broken(!forbids, || {
            format!("{file}.rs lacks #![forbid(unsafe_code)].")
        }));
    }
    let unsafe_root = read("kstat.rs")?.contains("unsafe");
    sentences.extend(broken(unsafe_root, || {
        "kstat.rs contains the word unsafe.".to_owned()
    }));
    Ok(sentences)
}

/// Every target for people is in 'make help'. modules is the default target and kdir a part of it, DKMS calls dkms.
fn help_is_complete() -> Result<Vec<String>> {
    let make = Command::new("make")
        .args(["--no-print-directory", "help"])
        .current_dir(project())
        .output()?;
    let help = String::from_utf8_lossy(&make.stdout).into_owned();
    let makefile = read("Makefile")?;
    Ok(makefile
        .lines()
        .filter_map(|line| line.strip_prefix(".PHONY: "))
        .filter(|target| !["modules", "kdir", "dkms", "help"].contains(target))
        .filter(|target| !help.contains(&format!("make {target} ")))
        .map(|target| format!("'make help' does not name the target {target}."))
        .collect())
}

/// The commands that tests/install/main.rs runs are documented: a code block has exactly these, a reboot, 'make deb' and
/// modprobe. The tests add a cd and apt's options for unattended use.
fn installation_is_documented() -> Result<Vec<String>> {
    let tests = read("tests/install/main.rs")?;
    let tested = |name| {
        let constant = constant(&tests, name);
        constant.with_context(|| format!("tests/install/main.rs has no constant {name}"))
    };
    let commands = format!(
        "{}\nreboot\nmake deb\n{}\nmodprobe kstat start=1\n",
        tested("UPGRADE")?,
        tested("INSTALL")?
    );
    let mut documents = vec![project().join("README.md")];
    documents.extend(files("docs", ".md")?);
    for document in documents {
        if code_blocks(&read(document)?).contains(&commands) {
            return Ok(Vec::new());
        }
    }
    Ok(vec![format!(
        "no code block in README.md or docs/*.md has exactly the tested commands for installation: {}",
        commands.replace('\n', "; ")
    )])
}

/// The table of tested kernels is written by 'make test KERNELS=all PUBLISH=1', not by hand.
fn tested_kernels_are_those_of_the_run() -> Result<Vec<String>> {
    let table = tested::table(&read("docs/tested-kernels")?)?;
    let readme = read("README.md")?;
    let differs = tested::table_in(&readme) != Some(&*table);
    Ok(broken(differs, || {
        "the table of kernels in README.md is not that of docs/tested-kernels.".to_owned()
    }))
}

/// Returns the value of a string constant in Rust code, without what only tests need.
fn constant(code: &str, name: &str) -> Option<String> {
    let (_, rest) = code.split_once(&format!("const {name}: &str ="))?;
    let (_, rest) = rest.split_once('"')?;
    let (value, _) = rest.split_once('"')?;
    Some(value.replacen("cd /root; ", "", 1).replace(" -qy", ""))
}

fn code_blocks(markdown: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut block: Option<String> = None;
    for line in markdown.lines() {
        block = match (line.starts_with("```"), block) {
            (true, None) => Some(String::new()),
            (true, Some(block)) => {
                blocks.push(block);
                None
            }
            (false, block) => block.map(|block| block + line + "\n"),
        };
    }
    blocks
}

/// The packages and their changelogs follow the file VERSION, and the line "version=" of rust-tree.
fn version_has_one_home() -> Result<Vec<String>> {
    let script = read("rust-tree/rust-tree")?;
    let tool = script
        .lines()
        .find_map(|line| line.strip_prefix("version="))
        .context("rust-tree/rust-tree has no line 'version='")?;
    let mut sentences = Vec::new();
    for (package, version, folder) in [
        ("kstat", read("VERSION")?.trim(), Path::new("")),
        ("rust-tree", tool, Path::new("rust-tree")),
    ] {
        for (file, line) in [
            ("debian/changelog", format!("{package} ({version}) ")),
            ("CHANGELOG.md", format!("## {version}")),
        ] {
            let file = folder.join(file);
            let text = read(&file)?;
            let newest = text.lines().find(|text| text.starts_with(&line[..3]));
            let follows = newest.is_some_and(|newest| newest.starts_with(&line));
            sentences.extend(broken(!follows, || {
                format!("{} does not begin with version {version}.", file.display())
            }));
        }
    }
    let manual = format!("\"rust-tree {tool}\"");
    sentences.extend(broken(
        !read("rust-tree/rust-tree.1")?.contains(&manual),
        || format!("rust-tree/rust-tree.1 is not of version {tool}."),
    ));
    Ok(sentences)
}

/// The files that rust-tree/README.md shows to maintainers of modules are those of the modules that tests build.
fn guide_shows_tested_files() -> Result<Vec<String>> {
    let blocks = code_blocks(&read("rust-tree/README.md")?);
    let mut sentences = Vec::new();
    for name in ["hello/Kbuild", "hello/dkms.conf", "mixed/Kbuild"] {
        let file = read(Path::new("tests/fixtures").join(name))?;
        sentences.extend(broken(!blocks.contains(&file), || {
            format!("no code block in rust-tree/README.md is tests/fixtures/{name}.")
        }));
    }
    Ok(sentences)
}

fn mutants_name_tests() -> Result<Vec<String>> {
    let mut code = String::new();
    for file in files("tests", ".rs")? {
        code += &read(file)?;
    }
    let mut sentences = Vec::new();
    for patch in files("tests/mutants", ".patch")? {
        let test = crate::mutants::caught_by(&read(&patch)?);
        let function = test.as_ref().and_then(|test| test.name.rsplit("::").next());
        let exists = function.is_some_and(|function| code.contains(&format!("fn {function}(")));
        sentences.extend(broken(!exists, || {
            format!(
                "{} has no line Caught-by: that names a test.",
                patch.display()
            )
        }));
    }
    Ok(sentences)
}

/// The instruction counts of README are those of the table that make bench wrote.
fn readme_is_short_and_exact() -> Result<Vec<String>> {
    let readme = read("README.md")?;
    let words = readme.split_whitespace().count();
    let mut sentences = broken(words > 1000, || {
        format!("README.md has {words} words: at most 1,000 are allowed.")
    });
    let counts = instruction_counts(&read("docs/performance.md")?);
    sentences.extend(broken(counts.is_empty(), || {
        "docs/performance.md has no instructions of ipv4-tcp.".to_owned()
    }));
    for count in counts {
        let repeated = readme
            .lines()
            .any(|line| line.ends_with(&format!("| {count} |")));
        sentences.extend(broken(!repeated, || {
            format!("README.md lacks the {count} instructions of docs/performance.md.")
        }));
    }
    Ok(sentences)
}

/// Returns the instructions of an IPv4 TCP packet with an empty hook, kstat and nftables.
fn instruction_counts(document: &str) -> Vec<String> {
    let Some((_, table)) = document.split_once("ipv4-tcp: instructions") else {
        return Vec::new();
    };
    let rows = table
        .lines()
        .skip(1)
        .skip_while(|line| line.is_empty())
        .take_while(|line| !line.is_empty());
    rows.filter_map(|row| {
        let mut cells = row.split('|').map(str::trim).skip(1);
        let name = cells.next()?;
        let count = cells.next()?.split(' ').next()?;
        ["empty", "kstat", "nft"]
            .contains(&name)
            .then(|| count.to_owned())
    })
    .collect()
}

/// What grows logic becomes Rust.
fn shell_is_short() -> Result<Vec<String>> {
    let mut lines = 0;
    for folder in ["scripts", "lab"] {
        for file in files(folder, "")? {
            let bytes = fs::read(&file)?;
            if bytes.starts_with(b"#!/bin/bash\n") {
                lines += bytes.iter().filter(|byte| **byte == b'\n').count();
            }
        }
    }
    Ok(broken(lines > 700, || {
        format!(
            "the shell scripts in scripts/ and lab/ have {lines} lines: at most 700 are allowed."
        )
    }))
}

fn broken(is_broken: bool, sentence: impl FnOnce() -> String) -> Vec<String> {
    is_broken.then(sentence).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constant_is_read_without_what_only_tests_need() {
        let code = "const INSTALL: &str =\n    \"cd /root; apt-get install -qy ./x.deb\";\n";
        assert_eq!(
            constant(code, "INSTALL").as_deref(),
            Some("apt-get install ./x.deb")
        );
        assert_eq!(constant(code, "UPGRADE"), None);
    }

    #[test]
    fn code_block_is_the_lines_between_fences() {
        let markdown = "a\n```\none\ntwo\n```\nb\n```sh\nthree\n```\n";
        assert_eq!(code_blocks(markdown), ["one\ntwo\n", "three\n"]);
    }

    #[test]
    fn instruction_counts_are_those_of_the_first_table() {
        let document = "### ipv4-tcp: instructions\n\n| a | b |\n| --- | --- |\n| empty | 96 (x) |\n| kstat | 100 |\n| other | 7 |\n| nft | 409 |\n\n| nft | 1 |\n";
        assert_eq!(instruction_counts(document), ["96", "100", "409"]);
    }
}
