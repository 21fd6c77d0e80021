// SPDX-License-Identifier: GPL-2.0

//! The wrappers, apart from kstat. The examples in their documentation run, and safe calls do not
//! reach undefined behaviour.
//!
//! Runs in the lab, and boots a guest with the kernel that `KSTAT_KERNEL` names. The KASAN kernel
//! reports memory errors that the stock kernel may survive.

use kstat_tests::{
    lab::{project, rust_tree, vm},
    scale::did,
    tool::{self, Outcome},
};
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// The wrappers that have examples.
const WRAPPERS: [&str; 7] = [
    "modinfo",
    "netfilter",
    "netns",
    "param",
    "percpu",
    "proc_fs",
    "proc_net",
];

/// An example in the documentation.
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
                // As in rustdoc, lines that begin with # are compiled but not shown.
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

/// Builds the module for the kernel under test, at the first call. Returns the path of the object.
fn object() -> &'static Path {
    static OBJECT: OnceLock<PathBuf> = OnceLock::new();

    OBJECT.get_or_init(|| {
        let kernel = env::var("KSTAT_KERNEL").unwrap_or_default();
        let (name, tree, flags) = match kernel.as_str() {
            "kasan" | "kcsan" => {
                let program = project().join("lab/program");
                let tree = tool::run(&program.to_string_lossy(), &["kernel", &kernel]);
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
        let fixture = project().join("tests/fixtures/wrappers");
        tool::shell(&format!(
            "rm -rf {copy}; mkdir -p {copy}; cd {project}
             cp -r abstractions netfilter_shim.[ch] Kbuild Makefile VERSION {fixture}/*.rs {copy}",
            copy = copy.display(),
            project = project().display(),
            fixture = fixture.display(),
        ));
        fs::write(copy.join("examples.rs"), source(&examples())).expect("writing the examples");

        Outcome::of(
            Command::new("make")
                .arg("-s")
                .arg(format!("KDIR={tree}"))
                .args(flags)
                .current_dir(&copy),
        )
        .expect_success();
        copy.join("kstat.ko")
    })
}

/// The scripts that run in the guest, in this order, each with its name.
///
/// `late` is the first: it needs registrations whose numbers are higher than any that the kernel has
/// assigned before.
const SCRIPTS: [(&str, &str); 5] = [
    (
        "late",
        // The first registration holds pernet_ops_rwsem. The second registration, which has no
        // number yet, waits for the semaphore, and the set-up of a namespace waits after it. That
        // namespace is allocated: it has room for the pointer of the first registration, but not
        // for that of the second.
        "insmod $KO
         echo first >/proc/misuse/late &
         first=$!
         until grep -q registering /proc/misuse/late; do sleep 0.05; done
         echo second >/proc/misuse/late &
         second=$!
         until grep -qE 'register_pernet|rwsem' /proc/$second/wchan; do sleep 0.05; done
         unshare --net true &
         namespace=$!
         until grep -qE 'copy_net_ns|rwsem' /proc/$namespace/wchan; do sleep 0.05; done
         echo proceed >/proc/misuse/late
         wait $first
         wait $second
         wait $namespace
         cat /proc/misuse/late
         rmmod kstat",
    ),
    (
        "names",
        // The module checks the names when it is loaded.
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
        // If a registration was left behind, the set-up of the next namespace calls it.
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

/// Returns the output of the script `name`. The first call boots a guest, which runs all scripts.
#[track_caller]
fn output_of(name: &str) -> &'static str {
    static OUTPUT: OnceLock<String> = OnceLock::new();

    let output = OUTPUT.get_or_init(|| {
        let mut all = format!("set -euo pipefail\nKO={}\n", object().display());
        for (name, script) in SCRIPTS {
            // The subshell is not the left side of ||: bash would ignore set -e in it.
            all += &format!("echo '== {name}'\nset +e\n(set -e\n{script})\nset -e\n");
        }
        Outcome::of(vm().args(["--", "bash", "-c", &all])).expect_success()
    });
    let (_, rest) = output
        .split_once(&format!("== {name}\n"))
        .unwrap_or_else(|| panic!("{name} was not run: {output}"));
    let output = rest.split("== ").next().expect("at least one part");

    println!("{output}");
    output
}

#[test]
fn documentation_examples_run() {
    let output = output_of("examples");

    for Example { wrapper, .. } in &examples() {
        assert!(
            output.contains(&format!("an example of {wrapper} passed")),
            "{wrapper}: {output}"
        );
    }
    assert_eq!(output.lines().count(), examples().len(), "{output}");
    did(examples().len() as u64, "examples of the documentation");
}

#[test]
fn proc_fs_refuses_names_that_are_paths_numbers_or_in_use() {
    assert_eq!(output_of("names"), "refused\n");
}

#[test]
fn current_namespace_is_none_when_an_exiting_task_releases_a_file() {
    assert_eq!(output_of("exiting"), "1\n");
}

#[test]
fn parameter_drops_its_registration_on_unload_and_on_failed_load() {
    let output = output_of("held");

    assert!(output.contains("No such device or address"), "{output}");
    assert!(output.contains("Invalid parameters"), "{output}");
    assert!(output.ends_with("end\n"), "{output}");
}

#[test]
fn data_is_none_during_setup_of_a_namespace_older_than_its_registration() {
    assert_eq!(output_of("late"), "found 0\n");
}
