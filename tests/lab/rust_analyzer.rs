// SPDX-License-Identifier: GPL-2.0

//! What rust-analyzer knows of the module: `make rust-analyzer`.
//!
//! Runs in a lab whose Debian has the package rust-analyzer, in the version of the kernel's rustc.

use kstat_tests::{
    lab::{copy_sources, project, rust_tree::tree},
    tool::{shell, Outcome},
};
use serde_json::Value;
use std::{fs, path::Path, process::Command};

#[test]
fn rust_analyzer_finds_no_error_in_the_module() {
    let copy = project().join("build/rust-analyzer");
    shell(&format!("rm -rf {0}; mkdir -p {0}", copy.display()));
    copy_sources(&copy);
    shell(&format!(
        "cp -r {}/rust-tree {}",
        project().display(),
        copy.display()
    ));
    shell(&format!(
        "cd {} && make KDIR={} rust-analyzer 2>&1",
        copy.display(),
        tree().display()
    ));

    let text =
        fs::read_to_string(copy.join("rust-project.json")).expect("reading the project file");
    let file: Value = serde_json::from_str(&text).expect("a project file in JSON");
    let crates = file["crates"].as_array().expect("crates");
    for part in crates {
        let root = part["root_module"].as_str().expect("a root module");
        assert!(Path::new(root).exists(), "{root} does not exist");
    }
    let module = crates
        .iter()
        .find(|part| part["display_name"] == "kstat")
        .expect("the module's crate");
    assert_eq!(
        module["root_module"],
        copy.join("kstat.rs").display().to_string()
    );

    let errors = errors_in(&copy);
    assert_eq!(errors, Vec::<String>::new());

    // The scan sees a name that does not exist.
    let broken = copy.join("step.rs");
    let source = fs::read_to_string(&broken).expect("reading a source");
    fs::write(&broken, format!("{source}\nuse kernel::no_such_name;\n")).expect("writing a source");
    let errors = errors_in(&copy);
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(errors[0].contains("step.rs"), "{errors:?}");
}

/// Returns the errors that rust-analyzer finds in the module in `folder`.
fn errors_in(folder: &Path) -> Vec<String> {
    let outcome = Outcome::of(
        Command::new("rust-analyzer")
            .args(["diagnostics", "."])
            .current_dir(folder),
    );
    let output = outcome.stdout_text();

    assert!(output.contains("diagnostic scan complete"), "{outcome:?}");
    output
        .split(['\r', '\n'])
        .filter(|line| line.contains(": Error "))
        // rust-analyzer infers fewer types than rustc does.
        .filter(|line| !line.contains("E0282"))
        .map(str::to_owned)
        .collect()
}
