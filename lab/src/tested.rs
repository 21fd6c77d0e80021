// SPDX-License-Identifier: GPL-2.0

//! The kernels on which all tests passed: docs/tested-kernels has the last lines of the run, and README.md a table.

use crate::vm::project;
use anyhow::{bail, ensure, Context, Result};
use std::{fs, process::ExitCode};

/// How the table begins.
const HEAD: &str = "| Debian | Linux | amd64 | arm64 |\n| --- | --- | --- | --- |\n";

/// Writes docs/tested-kernels, and README.md with its table, to build/tested, from build/results.
pub fn run() -> Result<ExitCode> {
    let results = fs::read_to_string(project().join("build/results"))
        .context("reading build/results, which 'make test KERNELS=all' writes")?;
    let table = table(&results)?;
    let readme = project().join("README.md");
    let text = fs::read_to_string(&readme)?;
    let old = table_in(&text).context("README.md has no table of tested kernels")?;
    let folder = project().join("build/tested");
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("README.md"), text.replace(old, &table))?;
    fs::write(folder.join("tested-kernels"), results)?;
    Ok(ExitCode::SUCCESS)
}

/// Returns the table in the text of a document.
pub fn table_in(text: &str) -> Option<&str> {
    let table = &text[text.find(HEAD)?..];
    Some(&table[..table.find("\n\n")? + 1])
}

/// Returns the table for lines of results. Fails if a line is not that of a kernel on which all tests passed.
pub fn table(results: &str) -> Result<String> {
    // The suite, the version, and the flavours for each architecture.
    let mut rows: Vec<(&str, &str, [Vec<&str>; 2])> = Vec::new();
    for line in results.lines() {
        let (name, rest) = line.split_once(": ").context("a line has no name")?;
        ensure!(
            line.ends_with(" passed, 0 failed"),
            "not all tests passed: {line}"
        );
        // For example 7.3.4+deb13-cloud-amd64, or 7.3.4+deb13-arm64-16k.
        let (version, rest) = rest.split_once('+').context("no release")?;
        let release = rest.split(',').next().unwrap_or_default();
        let words: Vec<_> = release.split('-').collect();
        let (flavour, architecture) = match words[..] {
            [_, architecture] => ("generic", architecture),
            [_, architecture, "16k"] => ("16k", architecture),
            [_, flavour, architecture] => (flavour, architecture),
            _ => bail!("a release with an unknown form: {line}"),
        };
        // A name that begins with a number is an older series of trixie-backports.
        let suite = ["forky", "sid", "experimental"]
            .into_iter()
            .find(|suite| name.split('-').next() == Some(*suite))
            .unwrap_or("trixie-backports");
        let known = rows
            .iter()
            .position(|row| (row.0, row.1) == (suite, version));
        let row = known.unwrap_or_else(|| {
            rows.push((suite, version, Default::default()));
            rows.len() - 1
        });
        rows[row].2[usize::from(architecture == "arm64")].push(flavour);
    }
    let mut table = HEAD.to_owned();
    for (suite, version, [amd64, arm64]) in rows {
        let (amd64, arm64) = (amd64.join(", "), arm64.join(", "));
        table += &format!("| {suite} | {version} | {amd64} | {arm64} |\n");
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_has_a_row_for_each_version_of_a_suite() {
        let results = "7.2: 7.2.12+deb13-amd64, rustc 1.85.1: 268 passed, 0 failed\n\
            7.2-rt: 7.2.12+deb13-rt-amd64, rustc 1.85.1: 163 passed, 0 failed\n\
            7.2-arm64: 7.2.12+deb13-arm64, rustc 1.85.1: 163 passed, 0 failed\n\
            7.2-16k-arm64: 7.2.12+deb13-arm64-16k, rustc 1.85.1: 163 passed, 0 failed\n\
            sid-arm64: 7.2.13+deb14-arm64, rustc 1.91.1: 163 passed, 0 failed\n";
        let table = table(results).unwrap();
        let rows: Vec<_> = table.lines().skip(2).collect();
        assert_eq!(
            rows,
            [
                "| trixie-backports | 7.2.12 | generic, rt | generic, 16k |",
                "| sid | 7.2.13 |  | generic |"
            ]
        );
        assert_eq!(table_in(&format!("text\n\n{table}\nmore")), Some(&*table));
    }

    #[test]
    fn kernel_on_which_a_test_failed_is_in_no_table() {
        assert!(table("sid: 7.2.13+deb14-amd64, rustc 1.91.1: 1 passed, 1 failed\n").is_err());
        assert!(table("sid: not tested: see above\n").is_err());
    }
}
