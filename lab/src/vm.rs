// SPDX-License-Identifier: GPL-2.0

//! Runs a command in a guest: builds kstat for the guest's kernel, puts the guest's files together, starts
//! the virtual machine, and judges how it ended.

use crate::{
    command::build_modules,
    console::{self, Console},
    kernel::Custom,
    machine::{Accelerator, Architecture, Ended, Machine, Qemu, UserMode},
};
use anyhow::{bail, ensure, Context, Result};
use clap::Args;
use nix::{
    fcntl::{Flock, FlockArg},
    mount::{mount, MsFlags},
    sched::{unshare, CloneFlags},
    sys::statvfs::{statvfs, FsFlags},
};
use std::{
    env,
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{self, IsTerminal},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Duration,
};

/// The exit status if the command cannot be run, or if the guest fails.
pub const FAILED: u8 = 125;

/// Runs a command as root in a guest, in the current folder. The guest's files are the lab's, and changes to
/// them are lost when the guest ends; but what it writes to this project's build/ stays. The command's standard
/// output, standard error and exit status are passed on. If the guest panics, oopses, warns, or takes too long,
/// its console is shown and the exit status is 125.
///
/// Without a command, on a terminal, runs a shell.
///
/// The command has these variables in its environment: KSTAT_KO, the path of kstat.ko, built for the guest's
/// kernel; KSTAT_TREE, the build folder of the kernel, if that is a custom one.
///
/// These variables are read: KSTAT_KERNEL, the default of -k; KSTAT_APPEND, added to the kernel's command line;
/// KSTAT_ACCEL, which is kvm, tcg, or icount (TCG that counts instructions), by default kvm if that works, or else
/// tcg; KSTAT_COVERAGE, which if set has the guest record the code of the module that runs (see make coverage).
#[derive(Args)]
#[command(override_usage = "scripts/vm [OPTIONS] [-- COMMAND [ARGUMENT]...]")]
pub struct Options {
    /// The guest's kernel: a name that scripts/lab takes, or a custom kernel of lab/kernels: kasan, kcsan, or uml,
    /// which runs without QEMU
    #[arg(short)]
    kernel: Option<String>,
    /// Number of CPUs
    #[arg(short = 's', default_value_t = 2)]
    cpus: u32,
    /// Memory in bytes, with a suffix M or G
    #[arg(short, default_value = "2G")]
    memory: String,
    /// How long the guest may take; the default is 600, and for a shell, for ever
    #[arg(short = 't', value_name = "SECONDS")]
    seconds: Option<u64>,
    /// The folder of a Debian system that has systemd and busybox. The guest boots that system with its own KERNEL,
    /// and runs the command when systemd has started everything else. No module is built
    #[arg(short = 'r', value_name = "FOLDER")]
    root: Option<PathBuf>,
    /// Shows the guest's console on standard error while the guest runs
    #[arg(long)]
    console: bool,
    /// Loads kstat.ko, built with debug information, and waits for gdb whenever gdb attaches: the first line on
    /// standard error is the command that attaches it
    #[arg(long)]
    gdb: bool,
    /// The command and its arguments
    #[arg(last = true)]
    command: Vec<OsString>,
}

/// Returns the root folder of the project.
pub fn project() -> &'static Path {
    let lab = Path::new(env!("CARGO_MANIFEST_DIR"));
    lab.parent().expect("lab/ has a parent folder")
}

/// Returns the value of a variable, or "" if it is not set.
pub fn variable(name: &str) -> String {
    env::var(name).unwrap_or_default()
}

/// The kernel of a guest, and how modules are built for it.
struct Kernel {
    /// The name of the folder in build/.
    name: String,
    /// The bootable image, or the program of user-mode Linux.
    image: PathBuf,
    /// What `make` takes as KDIR=, if kstat is to be built.
    tree: Option<PathBuf>,
    custom: Option<Custom>,
    architecture: Architecture,
    /// Arguments of make for this kernel's modules.
    make: Vec<String>,
    /// Put in front of KSTAT_APPEND.
    append: Vec<&'static str>,
}

impl Kernel {
    fn find(name: &str, root: Option<&Path>) -> Result<Self> {
        let mut kernel = Self {
            name: name.to_owned(),
            image: PathBuf::new(),
            tree: None,
            custom: None,
            architecture: Architecture::host(),
            make: Vec::new(),
            append: Vec::new(),
        };
        if let Some(root) = root {
            kernel.architecture = Architecture::of_kernel();
            kernel.image = root.join(format!("boot/vmlinuz-{name}"));
            kernel.name += "-installed";
            ensure!(
                kernel.image.exists(),
                "there is no kernel {name} in {}",
                root.display()
            );
            return Ok(kernel);
        }
        let Some(custom) = Custom::named(name) else {
            let lab = variable("KSTAT_LAB");
            ensure!(
                name.is_empty() || name == lab,
                "this is the lab of {lab}: leave it to boot {name}"
            );
            kernel.name = release()?;
            kernel.image = format!("/lib/modules/{}/vmlinuz", kernel.name).into();
            kernel.tree = Some(stock_tree(&kernel.name)?);
            kernel.architecture = Architecture::of_kernel();
            if kernel.is_foreign() {
                let gnu = kernel.architecture.gnu();
                kernel.make.push(format!("CROSS_COMPILE={gnu}-"));
            }
            return Ok(kernel);
        };
        let tree = custom.folder()?;
        kernel.custom = Some(custom);
        kernel.make.push(custom.flags().to_owned());
        if custom == Custom::Uml {
            kernel.image = tree.join("linux");
            // As -mcmodel=large for C: modules are loaded far from the kernel.
            kernel
                .make
                .push("KRUSTFLAGS=-Crelocation-model=static -Ccode-model=large".to_owned());
        } else {
            kernel.image = tree.join("arch/x86/boot/bzImage");
            kernel.append = vec![
                // An emulated CPU is slow: more than 10 seconds pass before the detectors report a lockup.
                "watchdog_thresh=30",
                // New network namespaces get no fallback tunnel devices, which are most of the cost of
                // making a namespace.
                "fb_tunnels=initns",
                // identify_cpu() clears the CPU's feature bits for a moment. If an interrupt comes while LA57
                // is cleared, KASAN does not find its shadow memory, and the boot stops. So the guest has no
                // LA57.
                "no5lvl",
            ];
            if custom == Custom::Kcsan {
                // KCSAN reports races of the kernel itself as well. They must not end the guest: Console
                // filters them out.
                kernel.append.push("panic_on_warn=0");
            }
        }
        kernel.tree = Some(tree);
        Ok(kernel)
    }

    /// Returns whether this kernel runs on another architecture than the lab.
    fn is_foreign(&self) -> bool {
        self.architecture != Architecture::host()
    }

    fn is_user_mode(&self) -> bool {
        self.custom == Some(Custom::Uml)
    }

    /// Builds kstat.ko in `folder`, with debug information if `debug` is set. If `coverage` is the path of
    /// coverage.ko, kstat.ko calls it in each basic block.
    fn build_module(&self, folder: &Path, coverage: Option<&Path>, debug: bool) -> Result<()> {
        let Some(tree) = &self.tree else {
            return Ok(());
        };
        // kbuild builds elsewhere only from a clean folder.
        ensure!(
            !project().join("modules.order").exists(),
            "this folder has files that a plain 'make' built: remove them with 'make clean'"
        );
        let lock = File::create(folder.join(".lock"))?;
        let _lock = Flock::lock(lock, FlockArg::LockExclusive)
            .map_err(|(_, error)| io::Error::from(error))?;
        let mut make = Command::new("make");
        make.args(["-s", "-C"])
            .arg(project())
            .arg(join("KDIR=", tree))
            .arg(join("MO=", folder))
            .args(&self.make);
        if let Some(coverage) = coverage {
            // Without inlining, no copy of a function is left that nothing calls.
            make.args([
                "KCFLAGS=-fsanitize-coverage=trace-pc -g",
                "KRUSTFLAGS=-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=3 \
                 -Cllvm-args=-sanitizer-coverage-trace-pc -Zinline-llvm=no -Zinline-mir=no \
                 -Cdebuginfo=2",
            ]);
            make.arg(join(
                "KBUILD_EXTRA_SYMBOLS=",
                &coverage.with_file_name("Module.symvers"),
            ));
        } else if debug {
            make.args(["KCFLAGS=-g", "KRUSTFLAGS=-Cdebuginfo=2"]);
        }
        // Only the command writes to the standard output.
        make.stdout(File::from(
            std::os::fd::AsFd::as_fd(&io::stderr()).try_clone_to_owned()?,
        ));
        let status = make.status().context("running make")?;
        ensure!(
            status.success(),
            "the module could not be built for {}: see above",
            self.name
        );
        Ok(())
    }

    /// Returns the path of lab/modules/coverage.c, built for this kernel.
    fn coverage_module(&self) -> Result<PathBuf> {
        let tree = self.tree.as_ref().context("there is no module to build")?;
        if self.custom.is_some() {
            return Ok(tree.join("kstat-modules/coverage.ko"));
        }
        let folder = project().join(format!("build/{}-modules", self.name));
        fs::create_dir_all(&folder)?;
        fs::copy(
            project().join("lab/modules/coverage.c"),
            folder.join("coverage.c"),
        )?;
        fs::write(folder.join("Kbuild"), "obj-m := coverage.o\n")?;
        build_modules(tree, &folder, &[])?;
        Ok(folder.join("coverage.ko"))
    }
}

/// Returns the folder with which modules are built for a stock kernel.
pub fn stock_tree(release: &str) -> Result<PathBuf> {
    printed_path(Command::new(project().join("rust-tree/rust-tree")).arg(release))
}

/// Returns the release of the lab's kernel.
pub fn release() -> Result<String> {
    let mut releases = fs::read_dir("/lib/modules").context("looking for the lab's kernel")?;
    let release = releases.next().context("the lab has no kernel")??;
    Ok(release.file_name().to_string_lossy().into_owned())
}

/// Runs a program that prints the path of a folder, and says by itself why it cannot.
fn printed_path(command: &mut Command) -> Result<PathBuf> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stderr(std::process::Stdio::inherit()).output();
    let output = output.with_context(|| format!("running {name}"))?;
    ensure!(output.status.success(), "{name} failed: see above");
    Ok(OsStr::from_bytes(output.stdout.trim_ascii_end()).into())
}

fn join(name: &str, path: &Path) -> OsString {
    let mut word = OsString::from(name);
    word.push(path);
    word
}

pub fn run(options: Options) -> Result<ExitCode> {
    let interactive = options.command.is_empty();
    ensure!(
        !interactive || (io::stdin().is_terminal() && io::stdout().is_terminal()),
        "name a command to run, as in 'scripts/vm -- uname -a': a shell needs a terminal"
    );
    let name = options.kernel.unwrap_or_else(|| variable("KSTAT_KERNEL"));
    let kernel = Kernel::find(&name, options.root.as_deref())?;
    ensure!(
        !options.gdb || (!kernel.is_user_mode() && kernel.tree.is_some()),
        "--gdb is for kernels of scripts/lab, kasan and kcsan"
    );
    ensure!(
        !options.gdb || !kernel.is_foreign(),
        "--gdb is for kernels of this machine's architecture: leave out --gdb, or name another kernel"
    );

    let coverage = !variable("KSTAT_COVERAGE").is_empty();
    let suffix = match (coverage, options.gdb) {
        (true, _) => "-coverage",
        (_, true) => "-gdb",
        _ => "",
    };
    let folder = project().join("build").join(kernel.name.clone() + suffix);
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let coverage = coverage.then(|| kernel.coverage_module()).transpose()?;
    kernel.build_module(&folder, coverage.as_deref(), options.gdb)?;

    let accelerator = if kernel.is_user_mode() {
        None
    } else {
        Some(Accelerator::choose(kernel.architecture)?)
    };

    // The guest's mounts end with this process. They are not in the temporary folder, whose removal would remove
    // the files of a system that is mounted in it.
    unshare(CloneFlags::CLONE_NEWNS).context("making a mount namespace")?;
    let root = Path::new("/run/guest");
    let foreign = PathBuf::from(variable("KSTAT_ROOT"));
    let system = options.root.as_deref();
    make_root(
        root,
        system.or(kernel.is_foreign().then_some(foreign.as_path())),
    )?;
    if system.is_none() && kernel.is_foreign() {
        bind(Path::new("/usr/lib/modules"), &root.join("usr/lib/modules"))?;
    }
    let run = tempfile::Builder::new()
        .prefix("vm.")
        .tempdir_in("/run")
        .context("making a folder in /run")?;

    let mut command = options.command.clone();
    if interactive {
        command = vec!["bash".into(), "-l".into()];
    }
    if let Some(module) = coverage {
        let covered = project().join("lab/guest/covered").into();
        let reached = project().join("build/coverage").join(&kernel.name);
        fs::create_dir_all(&reached)?;
        command.splice(
            0..0,
            ["bash".into(), covered, module.into(), reached.into()],
        );
    }
    let script = Script {
        accelerator,
        kernel: &kernel,
        system: options.root.as_deref(),
        folder: &folder,
        interactive,
        gdb: options.gdb,
        command: &command,
    };
    fs::write(root.join("mnt/command"), script.text()?).context("writing /mnt/command")?;

    // Turn oopses, warnings, stalls and hung tasks into panics: every such failure is then a guest without an
    // exit status. What comes later wins.
    let mut arguments = vec![
        "rw",
        "init=/mnt/init",
        "panic=-1",
        "oops=panic",
        "panic_on_warn=1",
        "sysctl.kernel.panic_on_rcu_stall=1",
        "sysctl.kernel.hung_task_panic=1",
        "sysctl.kernel.softlockup_panic=1",
    ];
    arguments.extend(&kernel.append);
    let append = variable("KSTAT_APPEND");
    arguments.extend(append.split_whitespace());
    if options.gdb {
        // gdb stops all CPUs, which a watchdog would report.
        arguments.extend(["nokaslr", "nowatchdog", "rcupdate.rcu_cpu_stall_suppress=1"]);
    }

    let machine = Machine {
        run: run.path(),
        root,
        cpus: options.cpus,
        memory: &options.memory,
        arguments: &arguments.join(" "),
        show_console: options.console,
        terminal: interactive,
        limit: match options.seconds {
            None if interactive || options.gdb => None,
            seconds => Some(Duration::from_secs(seconds.unwrap_or(600))),
        },
    };
    let ended = match accelerator {
        None => machine.run(UserMode {
            program: &kernel.image,
        })?,
        Some(accelerator) => {
            let gdb = options.gdb.then(|| folder.join("gdb.socket"));
            if let Some(socket) = &gdb {
                let _ = fs::remove_file(socket);
                eprintln!("vm: in another terminal, 'scripts/lab gdb -x {}' attaches gdb as soon as kstat.ko is loaded", folder.join("gdb.commands").display());
            }
            let boot = || {
                machine.run(Qemu {
                    architecture: kernel.architecture,
                    image: &kernel.image,
                    accelerator,
                    gdb: gdb.clone(),
                })
            };
            let ended = boot()?;
            if matches!(accelerator, Accelerator::Tcg)
                && console::boot_failed_by_emulation(&ended.console, ended.timed_out.is_some())
            {
                eprintln!(
                    "vm: the kernel died or hung while it booted, because of a fault in QEMU's emulation: booting it again"
                );
                boot()?
            } else {
                ended
            }
        }
    };
    fs::write(folder.join("console"), &ended.console).context("keeping the console")?;
    judge(&ended, &folder.join("console"))
}

/// Returns the exit status of the guest's command. If the guest failed, shows its console and returns the reason.
fn judge(ended: &Ended, kept: &Path) -> Result<ExitCode> {
    let text = String::from_utf8_lossy(&ended.console);
    let console = Console::new(&text);
    if console.foreign_races > 0 {
        eprintln!(
            "vm: KCSAN reported {} races in which kstat has no part",
            console.foreign_races
        );
    }
    let fault = console.fault(120);
    match status(ended, fault.is_some()) {
        Ok(status) => Ok(ExitCode::from(status)),
        Err(reason) => {
            let lines = fault.unwrap_or_else(|| console::tail(&console.text, 120));
            for line in lines.lines() {
                eprintln!("console: {line}");
            }
            bail!(
                "{reason}: see the lines of its console above, or all of it in {}",
                kept.display()
            )
        }
    }
}

/// Returns the exit status of the guest's command, or the reason why the guest failed.
fn status(ended: &Ended, has_fault: bool) -> Result<u8, String> {
    if let Some(limit) = ended.timed_out {
        return Err(format!(
            "the guest did not end within {} seconds",
            limit.as_secs()
        ));
    }
    if !ended.machine.success() {
        return Err(format!(
            "the guest's virtual machine ended with {}: {}",
            ended.machine,
            console::tail(&ended.messages, 5).trim_end()
        ));
    }
    if ended.status.is_empty() {
        return Err("the guest died".to_owned());
    }
    if has_fault {
        return Err("the guest's kernel reported a fault".to_owned());
    }
    let status = ended.status.trim();
    status
        .parse()
        .map_err(|_| format!("the guest's exit status is '{status}', which is no number"))
}

/// Puts together the folder that the guest has as its root file system: the lab (or `system`), read-only and without
/// the mounts in it, and below /mnt the project, the caches (read-only), and the scripts of lab/guest.
fn make_root(root: &Path, system: Option<&Path>) -> Result<()> {
    fs::create_dir_all(root)?;
    bind(system.unwrap_or(Path::new("/")), root)?;
    make_read_only(root)?;
    let mnt = root.join("mnt");
    mount(
        Some("tmpfs"),
        &mnt,
        Some("tmpfs"),
        MsFlags::empty(),
        None::<&str>,
    )
    .with_context(|| format!("mounting a tmpfs on {}", mnt.display()))?;

    // build/ in it is a mount of its own, which can be written to.
    let target = mnt.join("project");
    fs::create_dir(&target)?;
    let recursive = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(
        Some(project()),
        &target,
        None::<&str>,
        recursive,
        None::<&str>,
    )
    .context("mounting the project")?;
    for name in ["kstat", "rust-tree"] {
        let target = mnt.join("cache").join(name);
        fs::create_dir_all(&target)?;
        bind(&Path::new(&variable("XDG_CACHE_HOME")).join(name), &target)?;
        make_read_only(&target)?;
    }
    for (script, name) in [("init", "init"), ("command", "run")] {
        let source = project().join("lab/guest").join(script);
        let target = mnt.join(name);
        fs::copy(source, &target)?;
        let executable = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
        fs::set_permissions(&target, executable)?;
    }
    Ok(())
}

fn bind(source: &Path, target: &Path) -> Result<()> {
    mount(
        Some(source),
        target,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .with_context(|| format!("mounting {} on {}", source.display(), target.display()))
}

/// Makes a bind mount read-only. Its other flags stay, as a user namespace may not clear them.
fn make_read_only(target: &Path) -> Result<()> {
    let have = statvfs(target)?.flags();
    let mut flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    for (flag, mount_flag) in [
        (FsFlags::ST_NOSUID, MsFlags::MS_NOSUID),
        (FsFlags::ST_NODEV, MsFlags::MS_NODEV),
        (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
        (FsFlags::ST_NOATIME, MsFlags::MS_NOATIME),
        (FsFlags::ST_NODIRATIME, MsFlags::MS_NODIRATIME),
        (FsFlags::ST_RELATIME, MsFlags::MS_RELATIME),
    ] {
        flags.set(mount_flag, have.contains(flag));
    }
    mount(None::<&str>, target, None::<&str>, flags, None::<&str>)
        .with_context(|| format!("making {} read-only", target.display()))
}

/// The file /mnt/command, a part of the scripts of lab/guest.
struct Script<'a> {
    accelerator: Option<Accelerator>,
    kernel: &'a Kernel,
    system: Option<&'a Path>,
    folder: &'a Path,
    interactive: bool,
    gdb: bool,
    command: &'a [OsString],
}

impl Script<'_> {
    fn text(&self) -> Result<Vec<u8>> {
        let mut text = Vec::new();
        let mut line = |before: &str, value: &OsStr| -> Result<()> {
            text.extend(before.bytes());
            text.extend(
                shlex::bytes::try_quote(value.as_bytes())
                    .context("quoting a word")?
                    .iter(),
            );
            text.push(b'\n');
            Ok(())
        };
        let accelerator = self.accelerator.map_or("none", Accelerator::name);
        let terminal = match (self.interactive, self.kernel.is_user_mode()) {
            (false, _) => "",
            (true, false) => "/dev/hvc0",
            (true, true) => "/dev/tty1",
        };
        line("project=", project().as_os_str())?;
        line("cache=", variable("XDG_CACHE_HOME").as_ref())?;
        line("accel=", accelerator.as_ref())?;
        line("terminal=", terminal.as_ref())?;
        line("system=", self.system.unwrap_or(Path::new("")).as_os_str())?;
        let gdb = if self.gdb { self.folder } else { Path::new("") };
        line("gdb=", gdb.as_os_str())?;
        for (name, value) in env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            if name.starts_with("KSTAT_")
                || ["CI", "RUST_BACKTRACE", "RUST_TEST_THREADS"].contains(&name.as_str())
            {
                line(&format!("export {name}="), &value)?;
            }
        }
        if self.kernel.tree.is_some() {
            line("export KSTAT_KO=", self.folder.join("kstat.ko").as_os_str())?;
        }
        if let (Some(_), Some(tree)) = (self.kernel.custom, &self.kernel.tree) {
            line("export KSTAT_TREE=", tree.as_os_str())?;
        }
        if self.interactive {
            let term = env::var_os("TERM").unwrap_or_else(|| "linux".into());
            line("export TERM=", &term)?;
        }
        line("folder=", env::current_dir()?.as_os_str())?;
        let words = self.command.iter().map(|word| word.as_bytes());
        text.extend(b"command=(");
        text.extend(shlex::bytes::try_join(words).context("quoting the command")?);
        text.extend(b")\n");
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{os::unix::process::ExitStatusExt, process::ExitStatus};

    /// Returns a machine that ended by itself, whose command had this exit status.
    fn ended(status: &str) -> Ended {
        Ended {
            machine: ExitStatus::from_raw(0),
            messages: String::new(),
            console: Vec::new(),
            status: status.to_owned(),
            timed_out: None,
        }
    }

    #[test]
    fn exit_status_of_the_command_is_that_of_the_guest() {
        assert_eq!(status(&ended("7\n"), false), Ok(7));
        assert!(status(&ended("none\n"), false).is_err());
    }

    #[test]
    fn guest_without_an_exit_status_died() {
        assert_eq!(status(&ended(""), false), Err("the guest died".to_owned()));
    }

    #[test]
    fn fault_fails_the_guest_even_if_the_command_succeeded() {
        let reason = status(&ended("0\n"), true).unwrap_err();
        assert_eq!(reason, "the guest's kernel reported a fault");
    }

    #[test]
    fn hanging_guest_fails_for_its_time_even_if_it_reported_a_fault() {
        let hung = Ended {
            timed_out: Some(Duration::from_secs(20)),
            ..ended("")
        };
        let reason = status(&hung, true).unwrap_err();
        assert_eq!(reason, "the guest did not end within 20 seconds");
    }

    #[test]
    fn failure_of_the_virtual_machine_is_shown_with_its_messages() {
        let failed = Ended {
            machine: ExitStatus::from_raw(1 << 8),
            messages: "one\nno such device\n".to_owned(),
            ..ended("")
        };
        let reason = status(&failed, false).unwrap_err();
        assert!(reason.contains("no such device"), "{reason}");
    }
}
