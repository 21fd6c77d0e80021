// SPDX-License-Identifier: GPL-2.0

//! Measures what counting costs per packet, with kstat and with other counters: in nanoseconds in user-mode Linux,
//! in instructions in a guest of the stock kernel (QEMU counts them), also of whole connections. The measuring
//! program is bench/; this file builds it and runs its parts in guests.

use crate::{
    command::{build_modules, succeed},
    kernel::{base_name, Custom},
    machine::Architecture,
    vm::{project, release, stock_tree, variable},
};
use anyhow::{ensure, Context, Result};
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

/// Writes the results to build/bench: results.json, scale.json, table.md, chart.svg, and performance.md, which is
/// docs/performance.md with the new table. Fails if a claim in the table does not hold.
///
/// On a kernel of another architecture than the lab's, measures only instructions, and writes only table.md and
/// performance.md.
pub fn run() -> Result<ExitCode> {
    let architecture = Architecture::of_kernel();
    ensure!(
        Architecture::host() == Architecture::Amd64,
        "the benchmark builds user-mode Linux, which is for amd64: run it on an amd64 machine"
    );
    let lab = variable("KSTAT_LAB");
    let base = base_name(&lab);
    ensure!(
        lab == base || lab == format!("{base}-arm64"),
        "docs/performance.md has no table for {lab}: name a generic kernel, such as trixie-backports-arm64"
    );
    let emulated = architecture != Architecture::host();
    let folder = project().join("build/bench");
    let target = PathBuf::from(variable("CARGO_TARGET_DIR"));
    eprintln!("bench: building the benchmark");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(folder.join("parts"))?;
    let build = || {
        let mut cargo = Command::new("cargo");
        cargo.args(["build", "--locked", "-p", "kstat-bench"]);
        cargo
    };
    succeed(&mut build())?;
    let bpf = folder.join("count_tcp.bpf.o");
    succeed(
        Command::new("clang")
            .args(["-target", "bpf", "-O2", "-g", "-Wall", "-Werror"])
            .arg(format!("-I/usr/include/{}", architecture.gnu()))
            .args(["-c", "bench/count_tcp.bpf.c", "-o"])
            .arg(&bpf),
    )?;
    let icount = ["cost", "icount", "11", "500"];
    if emulated {
        let gnu = architecture.gnu();
        succeed(
            build()
                .args(["--target", architecture.rust()])
                .env("PKG_CONFIG_ALLOW_CROSS", "1")
                .env(
                    "PKG_CONFIG_PATH",
                    format!("/usr/lib/{gnu}/pkgconfig:/usr/share/pkgconfig"),
                ),
        )?;
        let cross = format!("CROSS_COMPILE={gnu}-");
        let stock = module(&folder.join("stock"), &stock_tree(&release()?)?, &[&cross])?;
        let mut bench = Bench {
            program: target.join(architecture.rust()).join("debug/kstat-bench"),
            parts: folder.join("parts"),
            bpf,
            measured: Vec::new(),
        };
        bench.measure("icount", &stock, &["-s", "1"], &icount)?;
        let report = target.join("debug/kstat-bench");
        return bench.report(&report, &["--instructions"], &folder, &lab);
    }
    let uml = Custom::Uml;
    let uml = module(&folder.join("uml"), &uml.folder()?, &[uml.flags()])?;
    let stock = module(&folder.join("stock"), &stock_tree(&release()?)?, &[])?;

    let mut bench = Bench {
        program: target.join("debug/kstat-bench"),
        parts: folder.join("parts"),
        bpf,
        measured: Vec::new(),
    };
    // Nanoseconds are measured several times, with other parts in between: a shared machine may be slow for minutes.
    let nanoseconds = ["cost", "uml", "17", "100000"];
    let user_mode = ["-k", "uml"];
    bench.measure("uml-1", &uml, &user_mode, &nanoseconds)?;
    bench.measure("scale", &uml, &user_mode, &["scale", "11"])?;
    bench.measure("uml-2", &uml, &user_mode, &nanoseconds)?;
    bench.measure("uml-3", &uml, &user_mode, &nanoseconds)?;
    bench.measure("icount", &stock, &["-s", "1"], &icount)?;
    for work in ["connections", "namespaces"] {
        bench.measure(work, &stock, &["-s", "1"], &[work, "11"])?;
    }
    for cpus in ["1", "4", "16", "64"] {
        eprintln!("bench: measuring memory, and reads of nout, with {cpus} CPUs");
        bench.measure(
            &format!("cpus-{cpus}"),
            &stock,
            &["-s", cpus],
            &["cpus", "101"],
        )?;
    }

    let report = bench.program.clone();
    bench.report(&report, &[], &folder, "")
}

/// Builds the benchmark's own module in `folder`. Returns its path.
fn module(folder: &Path, tree: &Path, flags: &[&str]) -> Result<PathBuf> {
    succeed(Command::new("cp").args(["-r", "bench/module"]).arg(folder))?;
    build_modules(tree, folder, flags)?;
    Ok(folder.join("kstat_bench.ko"))
}

/// The measuring program, and the files that it wrote.
struct Bench {
    program: PathBuf,
    parts: PathBuf,
    bpf: PathBuf,
    measured: Vec<PathBuf>,
}

impl Bench {
    /// Runs the measuring program with `arguments` in a guest that scripts/vm starts with `options`.
    fn measure(
        &mut self,
        name: &str,
        module: &Path,
        options: &[&str],
        arguments: &[&str],
    ) -> Result<()> {
        let output = self.parts.join(format!("{name}.json"));
        let mut vm = Command::new(env::current_exe()?);
        vm.arg("vm").args(options).args(["-t", "1200", "--"]);
        vm.arg(&self.program).args(arguments).arg(&output);
        vm.env("KSTAT_BENCH_KO", module)
            .env("KSTAT_BENCH_BPF", &self.bpf);
        if !options.contains(&"uml") {
            vm.env("KSTAT_ACCEL", "icount");
        }
        succeed(&mut vm)?;
        self.measured.push(output);
        Ok(())
    }

    /// Writes the report by `program`, and the document with its table. `kernel` is what `make bench KERNEL=` names.
    fn report(
        &self,
        program: &Path,
        options: &[&str],
        folder: &Path,
        kernel: &str,
    ) -> Result<ExitCode> {
        let report = Command::new(program)
            .arg("report")
            .args(options)
            .arg(folder)
            .args(&self.measured)
            .status()
            .context("running the report")?;
        let document = fs::read_to_string(project().join("docs/performance.md"))?;
        let table = fs::read_to_string(folder.join("table.md"))?;
        let document = with_table(&document, &command(kernel), &table)?;
        fs::write(folder.join("performance.md"), document)?;
        Ok(if report.success() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

/// Returns the command that writes a table.
fn command(kernel: &str) -> String {
    if kernel.is_empty() {
        "make bench".to_owned()
    } else {
        format!("make bench KERNEL={kernel}")
    }
}

/// Returns the document with `table` between the two markers of `command`.
fn with_table(document: &str, command: &str, table: &str) -> Result<String> {
    let marker = format!("<!-- begin: {command} writes this -->\n");
    let parts = || {
        let begin = document.find(&marker)? + marker.len();
        let end = begin + document[begin..].find("<!-- end -->")?;
        Some((&document[..begin], &document[end..]))
    };
    let (before, after) =
        parts().with_context(|| format!("docs/performance.md has no table of '{command}'"))?;
    Ok(format!("{before}{table}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_replaced_between_the_markers() {
        let document = "a\n<!-- begin: x writes this -->\nold\nold\n<!-- end -->\nb\n";
        let expected = "a\n<!-- begin: x writes this -->\nnew\n<!-- end -->\nb\n";
        assert_eq!(with_table(document, "x", "new\n").unwrap(), expected);
        assert_eq!(with_table(expected, "x", "new\n").unwrap(), expected);
        assert!(with_table(document, "y", "new\n").is_err());
    }
}
