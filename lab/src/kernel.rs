// SPDX-License-Identifier: GPL-2.0

//! Builds custom kernels from the lab's linux-source package.

use crate::{
    command::read_lines,
    console,
    machine::Architecture,
    vm::{project, variable},
};
use anyhow::{bail, ensure, Context, Result};
use clap::{Args, ValueEnum};
use nix::fcntl::{Flock, FlockArg};
use std::{
    collections::{hash_map::DefaultHasher, BTreeSet},
    fs::{self, File},
    hash::{Hash, Hasher},
    io::Write,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

/// Increased whenever this file builds kernels in another way, so that they are built anew.
const VERSION: u32 = 1;

/// Prints the build folder of a custom kernel. If no folder matches the current inputs, builds the kernel first.
///
/// The folder can be given to make as KDIR=. It has the kernel image where the kernel's build puts it. The folders
/// of kasan and kcsan also have the modules of lab/modules, in kstat-modules.
#[derive(Args)]
pub struct Options {
    name: Custom,
}

/// A custom kernel. lab/kernels/NAME.config has its options.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum Custom {
    /// KASAN, lockdep, kmemleak, UBSAN, fault injection and KUnit
    Kasan,
    /// KCSAN, for C and for Rust code
    Kcsan,
    /// User-mode Linux, with module signatures and BTF
    Uml,
}

pub fn run(options: Options) -> Result<ExitCode> {
    println!("{}", options.name.folder()?.display());
    Ok(ExitCode::SUCCESS)
}

impl Custom {
    /// Returns the kernel of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::from_str(name, false).ok()
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Kasan => "kasan",
            Self::Kcsan => "kcsan",
            Self::Uml => "uml",
        }
    }

    /// Returns the argument of make, for the kernel and for its modules.
    pub fn flags(self) -> &'static str {
        match self {
            Self::Kasan | Self::Kcsan => "LLVM=1",
            Self::Uml => "ARCH=um",
        }
    }

    fn fragments(self) -> Vec<PathBuf> {
        let file = |name: &str| kernels().join(format!("{name}.config"));
        match self {
            Self::Kasan | Self::Kcsan => vec![file("base"), file(self.name())],
            Self::Uml => vec![file(self.name())],
        }
    }

    fn patch(self) -> PathBuf {
        kernels().join(format!("{}.patch", self.name()))
    }

    /// Returns the build folder of this kernel, whose name has a hash of all that it is built from. Builds the
    /// kernel if it is not there.
    pub fn folder(self) -> Result<PathBuf> {
        ensure!(
            Architecture::host() == Architecture::Amd64,
            "kasan, kcsan and uml are built on amd64 machines only: leave out KSTAT_KERNEL= and -k, or use such a machine"
        );
        let cache = Path::new(&variable("XDG_CACHE_HOME")).join("kstat");
        let tree = cache.join(format!(
            "kernel-{}-{}-{:012x}",
            self.name(),
            base_name(&variable("KSTAT_LAB")),
            self.key()? >> 16
        ));
        let lock = File::create(tree.with_extension("lock"))?;
        let _lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock).or_else(|(lock, _)| {
            eprintln!(
                "kernel: waiting for another process, which builds {}",
                tree.display()
            );
            Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| error)
        })?;

        let build = Build {
            kernel: self,
            log: tree.with_extension("log"),
            tree: &tree,
            start: Instant::now(),
        };
        // The file is made last: a folder without it is of a build that did not finish.
        if !tree.join(".whole").exists() {
            build.kernel(&options(&self.fragments())?)?;
            File::create(tree.join(".whole"))?;
        }
        // scripts/lab --clean keeps the kernel of each name that was used last.
        File::open(&tree)?.set_modified(std::time::SystemTime::now())?;
        if self != Self::Uml {
            build.modules()?;
        }
        let _ = fs::remove_file(&build.log);
        Ok(tree)
    }

    fn key(self) -> Result<u64> {
        let mut hasher = DefaultHasher::new();
        (VERSION, self.flags(), options(&self.fragments())?).hash(&mut hasher);
        fs::read(self.patch()).unwrap_or_default().hash(&mut hasher);
        let source = source()?;
        let metadata = fs::metadata(&source)?;
        (source, metadata.size(), metadata.mtime()).hash(&mut hasher);
        for tool in ["rustc", "clang", "bindgen"] {
            let output = Command::new(tool).arg("--version").output();
            output
                .with_context(|| format!("running {tool}"))?
                .stdout
                .hash(&mut hasher);
        }
        Ok(hasher.finish())
    }
}

/// Returns the name of the lab's kernel without flavour and architecture. All flavours of a kernel have one source.
pub fn base_name(kernel: &str) -> String {
    let mut name = kernel;
    for end in ["-amd64", "-arm64", "-cloud", "-rt", "-16k"] {
        name = name.strip_suffix(end).unwrap_or(name);
    }
    name.to_owned()
}

fn kernels() -> PathBuf {
    project().join("lab/kernels")
}

/// Returns the archive of the lab's linux-source package.
fn source() -> Result<PathBuf> {
    for entry in fs::read_dir("/usr/src")? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("linux-source-") && name.ends_with(".tar.xz") {
            return Ok(path);
        }
    }
    bail!("the lab has no /usr/src/linux-source-*.tar.xz")
}

/// Returns the lines of configuration fragments that set options. A change of a comment does not rebuild a kernel.
fn options(fragments: &[PathBuf]) -> Result<BTreeSet<String>> {
    let mut lines = BTreeSet::new();
    for fragment in fragments {
        let text = fs::read_to_string(fragment)
            .with_context(|| format!("reading {}", fragment.display()))?;
        lines.extend(option_lines(&text));
    }
    Ok(lines)
}

fn option_lines(text: &str) -> impl Iterator<Item = String> + '_ {
    text.lines()
        .filter(|line| {
            line.starts_with("CONFIG_")
                || (line.starts_with("# CONFIG_") && line.ends_with(" is not set"))
        })
        .map(str::to_owned)
}

/// A kernel that is being built.
struct Build<'a> {
    kernel: Custom,
    tree: &'a Path,
    log: PathBuf,
    start: Instant,
}

impl Build<'_> {
    fn kernel(&self, options: &BTreeSet<String>) -> Result<()> {
        let name = self.kernel.name();
        File::create(&self.log)?;
        if self.tree.exists() {
            fs::remove_dir_all(self.tree)?;
        }
        fs::create_dir(self.tree)?;
        let (targets, minutes): (&[&str], _) = match self.kernel {
            Custom::Uml => (&["linux", "modules"], 6),
            _ => (&["bzImage", "modules"], 11),
        };
        let source = source()?;
        eprintln!(
            "kernel: building {name} once, {minutes} minutes on 2 CPUs: unpacking {}",
            source.display()
        );
        let mut tar = Command::new("tar");
        tar.args(["--strip-components=1", "-xf"]).arg(source);
        self.run(tar)?;
        let patch = self.kernel.patch();
        if patch.exists() {
            let mut apply = Command::new("busybox");
            apply.args(["patch", "-p1", "-i"]).arg(patch);
            self.run(apply)?;
        }

        self.make(&["tinyconfig"])?;
        let mut merge = Command::new("scripts/kconfig/merge_config.sh");
        merge.args(["-m", ".config"]).args(self.kernel.fragments());
        self.run(merge)?;
        self.make(&["olddefconfig"])?;
        // Kconfig silently drops an option whose dependencies are not met.
        let config = fs::read_to_string(self.tree.join(".config"))?;
        let config: BTreeSet<_> = option_lines(&config).collect();
        let dropped: Vec<_> = options.difference(&config).map(String::as_str).collect();
        ensure!(
            dropped.is_empty(),
            "the kernel does not take these options as they are: {}",
            dropped.join(" ")
        );
        self.make(targets)
    }

    /// Builds lab/modules from copies of the sources. The folder `sources` is copied last: if it equals lab/modules,
    /// the modules are complete and up to date.
    fn modules(&self) -> Result<()> {
        let sources = project().join("lab/modules");
        let modules = self.tree.join("kstat-modules");
        let copied = modules.join("sources");
        let same = Command::new("diff")
            .arg("-r")
            .args([&sources, &copied])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()?;
        if same.success() {
            return Ok(());
        }
        if modules.exists() {
            fs::remove_dir_all(&modules)?;
        }
        fs::create_dir(&modules)?;
        let copy = |target: &Path| {
            let mut cp = Command::new("cp");
            cp.arg("-r").arg(sources.join(".")).arg(target);
            cp
        };
        self.run(copy(&modules))?;
        self.make(&["M=kstat-modules", "modules"])?;
        self.run(copy(&copied))
    }

    fn make(&self, arguments: &[&str]) -> Result<()> {
        let jobs = std::thread::available_parallelism()?;
        let mut make = Command::new("make");
        make.arg(format!("-j{jobs}"))
            .arg(self.kernel.flags())
            .args(arguments)
            .env_remove("MAKEFLAGS")
            .env_remove("MFLAGS");
        self.run(make)
    }

    /// Runs a command in the build folder. All output goes to the log; a line of it is shown every 30 seconds.
    fn run(&self, mut command: Command) -> Result<()> {
        let program = command.get_program().to_string_lossy().into_owned();
        let mut log = File::options().create(true).append(true).open(&self.log)?;
        let mut next = self.start.elapsed() + Duration::from_secs(1);
        command.current_dir(self.tree);
        let status = read_lines(command, |line| {
            log.write_all(line)?;
            log.write_all(b"\n")?;
            if self.start.elapsed() >= next {
                let seconds = self.start.elapsed().as_secs();
                eprintln!("kernel: {seconds:4} s  {}", String::from_utf8_lossy(line));
                next = self.start.elapsed() + Duration::from_secs(30);
            }
            Ok(())
        })?;
        if status.success() {
            return Ok(());
        }
        let log = String::from_utf8_lossy(&fs::read(&self.log)?).into_owned();
        eprint!("{}", console::tail(&log, 30));
        bail!(
            "{program} failed: see above, or the log, {}",
            self.log.display()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flavours_share_custom_kernels() {
        assert_eq!(base_name("trixie-backports-rt-arm64"), "trixie-backports");
        assert_eq!(base_name("7.2"), "7.2");
    }

    #[test]
    fn comments_are_no_options() {
        let text = "# A comment\nCONFIG_A=y\n# CONFIG_B is not set\n# CONFIG_C\n\nconfig\n";
        let lines: Vec<_> = option_lines(text).collect();
        assert_eq!(lines, ["CONFIG_A=y", "# CONFIG_B is not set"]);
    }
}
