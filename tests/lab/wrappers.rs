// SPDX-License-Identifier: GPL-2.0

//! The wrappers, used as kstat does not: the examples of their documentation run, and safe calls do
//! not reach undefined behaviour.
//!
//! Runs in the lab, and boots a guest of the kernel that `KSTAT_KERNEL` names: KASAN's kernel reports what
//! the stock kernel may survive.

use kstat_tests::{
    lab::{chroot::project, rust_tree},
    scale::did,
    tool,
};
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
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
        let path = project().join(format!("abstractions/{wrapper}.rs"));
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
                let tree = tool::run(&project().join("lab/kernel").to_string_lossy(), &[&kernel]);
                (
                    kernel,
                    tree.trim_end().to_owned(),
                    vec!["LLVM=1".to_owned()],
                )
            }
            _ => (
                rust_tree::release(),
                rust_tree::tree().display().to_string(),
                Vec::new(),
            ),
        };
        let copy = project().join(format!("build/wrappers-{name}"));
        let own = project().join("tests/fixtures/wrappers");
        tool::shell(&format!(
            "rm -rf {copy}; mkdir -p {copy}; cd {project}
             cp -r abstractions netfilter_shim.[ch] Kbuild Makefile {own}/*.rs {copy}",
            copy = copy.display(),
            project = project().display(),
            own = own.display(),
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

/// What is done with the module in the guest, in this order, each under a name.
///
/// `late` is first: it needs a registration with a higher number than the kernel has given before.
const SCRIPTS: [(&str, &str); 5] = [
    (
        "late",
        // The second registration waits in its callback, and so does the set-up of a namespace that was
        // allocated before, and has no room for that registration's pointer.
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
    ),
    (
        "names",
        // The module checks them when it is loaded.
        "insmod $KO; [ ! -e /proc/misuse/b ]; rmmod kstat; [ ! -e /proc/misuse ]; echo refused",
    ),
    (
        "exiting",
        "insmod $KO
         bash -c 'exec 3</proc/misuse/exiting; kill -KILL $$' || true
         cat /proc/misuse/exiting
         rmmod kstat",
    ),
    (
        "held",
        // The set-up of a namespace calls a registration that was left behind.
        "insmod $KO held=1; unshare --net true; rmmod kstat; unshare --net true
         ! insmod $KO held=1 fail=1 2>&1 || exit 1
         unshare --net true
         ! insmod $KO held=1 fail=x 2>&1 || exit 1
         unshare --net true
         insmod $KO held=1; rmmod kstat; unshare --net true; echo end",
    ),
    (
        "examples",
        "dmesg -C; insmod $KO examples=1; rmmod kstat; dmesg | grep -o 'an example of .*'",
    ),
];

/// Returns what the script of that name printed, in a guest that runs all of them once.
#[track_caller]
fn said(name: &str) -> &'static str {
    static OUTPUT: OnceLock<String> = OnceLock::new();

    let output = OUTPUT.get_or_init(|| {
        let mut all = format!("set -euo pipefail\nKO={}\n", object().display());
        for (name, script) in SCRIPTS {
            // A subshell after || would ignore failures.
            all += &format!("echo '== {name}'\nset +e\n(set -e\n{script})\nset -e\n");
        }
        let output = Command::new(project().join("scripts/vm"))
            .args(["--", "bash", "-c", &all])
            .output()
            .expect("running scripts/vm");
        tool::said("the scripts that use the wrappers", &output)
    });
    let (_, rest) = output
        .split_once(&format!("== {name}\n"))
        .unwrap_or_else(|| panic!("{name} was not run: {output}"));
    let said = rest.split("== ").next().expect("a part");

    println!("{said}");
    said
}

#[test]
fn examples_of_the_documentation_run() {
    let said = said("examples");

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
    assert_eq!(said("names"), "refused\n");
}

#[test]
fn current_namespace_is_none_when_an_exiting_task_releases_a_file() {
    assert_eq!(said("exiting"), "1\n");
}

#[test]
fn registration_in_a_parameter_is_dropped_when_the_module_is_unloaded_or_fails_to_load() {
    let said = said("held");

    assert!(said.contains("Operation canceled"), "{said}");
    assert!(said.contains("Invalid parameters"), "{said}");
    assert!(said.ends_with("end\n"), "{said}");
}

#[test]
fn data_of_a_namespace_allocated_before_the_registration_is_none_during_its_set_up() {
    assert_eq!(said("late"), "found 0\n");
}
