// SPDX-License-Identifier: GPL-2.0

//! What rust-analyzer knows of the module: `make rust-analyzer`.
//!
//! Runs in a lab whose Debian has the package rust-analyzer, in the version of the kernel's rustc.

use kstat_tests::{
    lab::{copy_sources, project, rust_tree::tree},
    tool::shell,
};
use serde_json::Value;
use std::{fs, path::Path};

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

    // The exit status says whether there are errors. A name of the kernel crate that does not resolve is one.
    let found = shell(&format!(
        "cd {} && rust-analyzer diagnostics . 2>&1",
        copy.display()
    ));
    println!("{found}");
    let broken = copy.join("step.rs");
    let source = fs::read_to_string(&broken).expect("reading a source");
    fs::write(&broken, format!("{source}\nuse kernel::no_such_name;\n")).expect("writing a source");
    let found = shell(&format!(
        "cd {} && ! rust-analyzer diagnostics . 2>&1",
        copy.display()
    ));
    assert!(
        found.contains("no_such_name") || found.contains("unresolved"),
        "{found}"
    );
}
