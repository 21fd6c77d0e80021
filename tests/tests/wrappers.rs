// SPDX-License-Identifier: GPL-2.0

//! The wrappers, used as kstat does not: the examples of their documentation run, and safe calls do
//! not reach undefined behaviour.
//!
//! Runs in the lab, and boots a guest for each test, of the kernel that `KSTAT_KERNEL` names: KASAN's
//! sees what the stock kernel may survive.

use kstat_tests::{
    root::project,
    tally::did,
    tool,
    tree, //
};
use std::{
    env,
    fs,
    path::{
        Path,
        PathBuf, //
    },
    process::Command,
    sync::OnceLock, //
};

/// The wrappers that have examples.
const WRAPPERS: [&str; 5] = ["netfilter", "netns", "param", "percpu", "proc_fs"];

/// An example of the documentation.
struct Example {
    wrapper: &'static str,
    code: String,
}

/// Returns the examples in the documentation of the wrappers.
fn examples() -> Vec<Example> {
    let mut examples = Vec::new();

    for wrapper in WRAPPERS {
        let path = project().join(format!("{wrapper}.rs"));
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        let mut code: Option<String> = None;
        let before = examples.len();

        for line in text.lines() {
            let Some(line) = line.trim_start().strip_prefix("///") else {
                continue;
            };
            let line = line.strip_prefix(' ').unwrap_or(line);
            match (line, &mut code) {
                ("```", None) => code = Some(String::new()),
                ("```", Some(_)) => examples.push(Example {
                    wrapper,
                    code: code.take().expect("an example that began"),
                }),
                // As in rustdoc, what begins with # is compiled and not shown.
                (line, Some(code)) => {
                    *code += line.strip_prefix("# ").unwrap_or(line);
                    *code += "\n";
                }
                (_, None) => {}
            }
        }
        assert!(code.is_none(), "{path:?} has an example without an end");
        assert!(examples.len() > before, "{path:?} has no example");
    }
    examples
}

/// Returns the source of a module whose function `run` runs the examples.
fn source(examples: &[Example]) -> String {
    let (mut modules, mut calls) = (String::new(), String::new());

    for (i, Example { wrapper, code }) in examples.iter().enumerate() {
        modules += &format!(
            "mod example_{i} {{
                 use super::*;
                 pub(super) fn run() -> Result {{\n{code}\n}}
             }}\n"
        );
        calls += &format!(
            "example_{i}::run().inspect_err(|error| pr_err!(\"an example of {wrapper} failed: {{error:?}}\\n\"))?;
             pr_info!(\"an example of {wrapper} passed\\n\");\n"
        );
    }
    format!(
        "use kernel::prelude::*;\npub(crate) fn run() -> Result {{\n{calls}Ok(())\n}}\n{modules}"
    )
}

/// Builds the module for the kernel under test, once; returns the path of the object.
fn object() -> &'static Path {
    static OBJECT: OnceLock<PathBuf> = OnceLock::new();

    OBJECT.get_or_init(|| {
        let kernel = env::var("KSTAT_KERNEL").unwrap_or_default();
        let (name, tree, flags) = match kernel.as_str() {
            "kasan" | "kcsan" => {
                let tree = tool::run(
                    &project().join("scripts/kernel").to_string_lossy(),
                    &[&kernel],
                );
                (
                    kernel,
                    tree.trim_end().to_owned(),
                    vec!["LLVM=1".to_owned()],
                )
            }
            _ => (
                tree::release(),
                tree::tree().display().to_string(),
                Vec::new(),
            ),
        };
        let copy = project().join(format!("build/wrappers-{name}"));
        let own = project().join("tests/wrappers");
        tool::shell(&format!(
            "rm -rf {copy}; mkdir -p {copy}; cd {project}
             cp bindings.rs bindings_helper.h netfilter_shim.[ch] Kbuild Makefile {own}/*.rs {copy}
             for wrapper in {wrappers}; do cp $wrapper.rs {copy}; done",
            copy = copy.display(),
            project = project().display(),
            own = own.display(),
            wrappers = WRAPPERS.join(" "),
        ));
        fs::write(copy.join("examples.rs"), source(&examples())).expect("writing the examples");

        let output = Command::new("make")
            .arg("-s")
            .arg(format!("KDIR={tree}"))
            .args(flags)
            .current_dir(&copy)
            .output()
            .expect("running make");
        tool::said("building the module that uses the wrappers", &output);
        copy.join("kstat.ko")
    })
}

/// Runs a script in a guest, where `$KO` is the module; returns what it printed.
#[track_caller]
fn guest(script: &str) -> String {
    let script = format!("set -euo pipefail\nKO={}\n{script}", object().display());
    let output = Command::new(project().join("scripts/vm"))
        .args(["--", "bash", "-c", &script])
        .output()
        .expect("running scripts/vm");
    let said = tool::said(&script, &output);

    println!("{said}");
    said
}

/// A new network namespace shows whether a registration was left behind: its set-up calls it.
const NEW_NAMESPACE: &str = "unshare --net true";

#[test]
fn examples_of_the_documentation_run() {
    let said = guest("insmod $KO examples=1; rmmod kstat; dmesg | grep -o 'an example of .*'");

    for Example { wrapper, .. } in &examples() {
        assert!(
            said.contains(&format!("an example of {wrapper} passed")),
            "{wrapper}: {said}"
        );
    }
    assert_eq!(said.lines().count(), examples().len(), "{said}");
    did(examples().len() as u64, "examples of the documentation");
}

#[test]
fn proc_fs_refuses_names_that_are_paths_numbers_or_in_use() {
    // The module checks that when it is loaded.
    guest("insmod $KO; [ ! -e /proc/misuse/b ]; rmmod kstat; [ ! -e /proc/misuse ]");
}

#[test]
fn current_namespace_is_none_when_an_exiting_task_releases_a_file() {
    let said = guest(
        "insmod $KO
         bash -c 'exec 3</proc/misuse/exiting; kill -KILL $$' || true
         cat /proc/misuse/exiting
         rmmod kstat",
    );

    assert_eq!(said, "1\n");
}

#[test]
fn registration_in_a_parameter_is_dropped_when_the_module_is_unloaded_or_fails_to_load() {
    let said = guest(&format!(
        "insmod $KO held=1; {NEW_NAMESPACE}; rmmod kstat; {NEW_NAMESPACE}
         ! insmod $KO held=1 fail=1 2>&1 || exit 1
         {NEW_NAMESPACE}
         ! insmod $KO held=1 fail=x 2>&1 || exit 1
         {NEW_NAMESPACE}
         insmod $KO held=1; rmmod kstat; {NEW_NAMESPACE}; echo end"
    ));

    assert!(said.contains("Operation canceled"), "{said}");
    assert!(said.contains("Invalid parameters"), "{said}");
    assert!(said.ends_with("end\n"), "{said}");
}

/// A namespace is allocated while a registration waits for nothing but its callback: it has no room for
/// the registration's pointer, and an earlier registration, whose callback runs first, asks for that.
#[test]
fn data_of_a_namespace_allocated_before_the_registration_is_none_during_its_set_up() {
    let said = guest(
        "insmod $KO
         echo register >/proc/misuse/late &
         register=$!
         until grep -q registering /proc/misuse/late; do sleep 0.05; done
         unshare --net true &
         namespace=$!
         until grep -qE 'copy_net_ns|rwsem' /proc/$namespace/wchan; do sleep 0.05; done
         echo proceed >/proc/misuse/late
         wait $register
         wait $namespace
         cat /proc/misuse/late
         rmmod kstat",
    );

    assert_eq!(said, "found 0\n");
}
