// SPDX-License-Identifier: GPL-2.0

//! Tries a kernel that has not been tested: is the module built for it, is it loaded, and does it count?

use crate::{
    command::read_lines,
    test::{about_kernel, write_result},
};
use anyhow::Result;
use std::{
    env,
    io::{self, Write},
    process::{Command, ExitCode},
};

/// Runs the demonstration on the lab's kernel, and adds a line to build/results.
pub fn run() -> Result<ExitCode> {
    let mut vm = Command::new(env::current_exe()?);
    vm.args(["vm", "--", "bash", "lab/guest/demo"]);
    let mut output = String::new();
    let status = read_lines(vm, |line| {
        output += &String::from_utf8_lossy(line);
        output.push('\n');
        let mut stdout = io::stdout().lock();
        stdout.write_all(line)?;
        Ok(stdout.write_all(b"\n")?)
    })?;
    let result = match (status.success(), summary(&output)) {
        (true, Some(summary)) => summary,
        _ => failure(&output),
    };
    write_result(&format!("{}: {result}", about_kernel()?))?;
    Ok(ExitCode::from(!status.success() as u8))
}

/// Returns what the last line of a demonstration that succeeded says.
fn summary(output: &str) -> Option<String> {
    let line = output
        .lines()
        .rev()
        .find(|line| line.starts_with("-- kstat counted "))?;
    Some(format!(
        "built, loaded, {}",
        line.strip_prefix("-- kstat ")?.trim_end_matches('.')
    ))
}

/// Returns how far it came, and the first error. An error of a compiler names what is no longer in the kernel's API, or
/// has another type.
fn failure(output: &str) -> String {
    let lines: Vec<_> = output.lines().collect();
    let after = |index: usize| {
        lines[index + 1..]
            .iter()
            .find_map(|line| line.trim().strip_prefix("--> "))
    };
    // rust-tree also prints its progress. If it failed, vm says so, and its last line has the reason.
    let tree_failed =
        |line: &&str| line.starts_with("vm: ") && line.ends_with("rust-tree failed: see above");
    if lines.iter().any(tree_failed) {
        let mut reasons = lines.iter().rev();
        let reason = reasons.find(|line| line.starts_with("rust-tree: "));
        return format!("no metadata: {}", reason.unwrap_or(&"see above"));
    }
    for (index, line) in lines.iter().enumerate() {
        if line.starts_with("error[") || line.starts_with("error: ") {
            return format!("not built: {line} ({})", after(index).unwrap_or("no place"));
        }
        // gcc's lines, and modpost's.
        if line.contains(": error: ") || line.starts_with("ERROR: modpost: ") {
            return format!("not built: {line}");
        }
        if line.starts_with("insmod: ERROR: ") {
            return format!("built, not loaded: {line}");
        }
    }
    if lines.iter().any(|line| line.starts_with("# insmod ")) {
        return "built, loaded, failed: see above".to_owned();
    }
    "failed: see above".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn successful_demonstration_ends_with_the_counts() {
        let output = "# insmod x.ko\n\n-- kstat counted 130 TCP packets, nftables (meta l4proto tcp, output hook) 130.\n";
        assert_eq!(
            summary(output).as_deref(),
            Some("built, loaded, counted 130 TCP packets, nftables (meta l4proto tcp, output hook) 130")
        );
    }

    #[test]
    fn module_that_is_not_built_names_the_api_that_moved() {
        let output =
            "  RUSTC x.o\nerror[E0425]: cannot find function `get_net` in crate `bindings`\n  --> \
                      abstractions/netns.rs:55:9\n   |\nerror[E0308]: mismatched types\n";
        assert_eq!(
            failure(output),
            "not built: error[E0425]: cannot find function `get_net` in crate `bindings` (abstractions/netns.rs:55:9)"
        );
        let output = "rust-tree: unpacking the source\nerror[E0425]: x\n --> a.rs:1:1\n";
        assert_eq!(failure(output), "not built: error[E0425]: x (a.rs:1:1)");
        let output = "netfilter_shim.c:30:9: error: too few arguments to function 'nf_register'\n";
        assert!(failure(output).starts_with("not built: netfilter_shim.c:30"));
        let output = "ERROR: modpost: \"get_fs_type\" [kstat.ko] undefined!\n";
        assert!(failure(output).starts_with("not built: ERROR: modpost: \"get_fs_type\""));
    }

    #[test]
    fn kernel_without_metadata_has_the_reason_of_rust_tree() {
        let output =
            "rust-tree: unpacking\nrust-tree: rustc here is old\nvm: rust-tree failed: see above\n";
        assert_eq!(failure(output), "no metadata: rust-tree: rustc here is old");
    }

    #[test]
    fn module_that_is_not_loaded_or_does_not_count_says_how_far_it_came() {
        let output =
            "# insmod 'kstat.ko'\ninsmod: ERROR: could not insert module: Invalid module format\n";
        assert!(failure(output).starts_with("built, not loaded: insmod: "));
        assert_eq!(
            failure("# insmod 'kstat.ko'\n# ls\n"),
            "built, loaded, failed: see above"
        );
    }
}
