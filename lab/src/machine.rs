// SPDX-License-Identifier: GPL-2.0

//! Starts a virtual machine, and connects its ports to this process: the console, and the command's standard
//! output, standard error and exit status.

use crate::{console, terminal, vm::variable};
use anyhow::{bail, Context, Result};
use nix::{
    fcntl::{fcntl, FcntlArg, FdFlag},
    sys::signal::{kill, Signal},
    unistd::Pid,
};
use std::{
    env,
    fs::{self, File},
    io::{self, Read, Write},
    mem,
    os::{
        fd::{AsFd, AsRawFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        mpsc::{self, RecvTimeoutError},
        Arc, Mutex,
    },
    thread::{self, JoinHandle},
    time::{Duration, SystemTime},
};

/// The architecture of a guest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Architecture {
    Amd64,
    Arm64,
}

impl Architecture {
    /// Returns the architecture of this machine.
    pub fn host() -> Self {
        if cfg!(target_arch = "aarch64") {
            Self::Arm64
        } else {
            Self::Amd64
        }
    }

    /// Returns the architecture of the lab's kernel.
    pub fn of_kernel() -> Self {
        if variable("KSTAT_ARCH") == "arm64" {
            Self::Arm64
        } else {
            Self::Amd64
        }
    }

    /// Returns Debian's name for this architecture.
    pub fn debian(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// Returns the triple of the GNU tools for this architecture.
    pub fn gnu(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-linux-gnu",
            Self::Arm64 => "aarch64-linux-gnu",
        }
    }

    /// Returns the program of QEMU that runs programs of this architecture.
    pub fn qemu_user(self) -> &'static str {
        match self {
            Self::Amd64 => "qemu-x86_64",
            Self::Arm64 => "qemu-aarch64",
        }
    }

    /// Returns rustc's target.
    pub fn rust(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-unknown-linux-gnu",
            Self::Arm64 => "aarch64-unknown-linux-gnu",
        }
    }

    /// Returns QEMU's program and the machine that it emulates.
    fn qemu(self) -> Command {
        let (program, machine) = match self {
            Self::Amd64 => ("qemu-system-x86_64", "q35"),
            Self::Arm64 => ("qemu-system-aarch64", "virt,gic-version=max"),
        };
        let mut qemu = Command::new(program);
        qemu.args(["-machine", machine]);
        qemu
    }

    /// Returns the console's device.
    fn console(self) -> &'static str {
        match self {
            Self::Amd64 => "ttyS0",
            Self::Arm64 => "ttyAMA0",
        }
    }

    /// Returns the emulated CPU with the most features. Emulating QARMA5, an algorithm for authenticating pointers, would
    /// take half of the time.
    fn cpu(self) -> &'static str {
        match self {
            Self::Amd64 => "max",
            Self::Arm64 => "max,pauth-impdef=on",
        }
    }
}

/// How QEMU runs the guest's instructions.
#[derive(Clone, Copy)]
pub enum Accelerator {
    Kvm,
    Tcg,
    /// TCG whose guests' clock advances by 1 ns for each instruction.
    Icount,
}

impl Accelerator {
    pub fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
            Self::Icount => "icount",
        }
    }

    fn arguments(self, architecture: Architecture) -> Vec<&'static str> {
        match self {
            Self::Kvm => vec!["-accel", "kvm", "-cpu", "host"],
            Self::Tcg => vec!["-accel", "tcg", "-cpu", architecture.cpu()],
            Self::Icount => vec![
                "-accel",
                "tcg,thread=single",
                "-icount",
                "shift=0,sleep=off",
                "-cpu",
                architecture.cpu(),
            ],
        }
    }

    /// Returns the accelerator that KSTAT_ACCEL names; if it is not set, KVM if it works here for `architecture`, or else
    /// TCG.
    pub fn choose(architecture: Architecture) -> Result<Self> {
        match variable("KSTAT_ACCEL").as_str() {
            "kvm" => Ok(Self::Kvm),
            "tcg" => Ok(Self::Tcg),
            "icount" => Ok(Self::Icount),
            "" if architecture == Architecture::host() && kvm_works()? => Ok(Self::Kvm),
            "" => Ok(Self::Tcg),
            other => {
                bail!("there is no accelerator '{other}': set KSTAT_ACCEL to kvm, tcg or icount")
            }
        }
    }
}

/// Returns whether guests run with KVM. That /dev/kvm can be opened does not prove it, so a guest is tried. The
/// result is kept for this boot of the machine, and a failure for an hour at most.
fn kvm_works() -> Result<bool> {
    let opened = File::options().read(true).write(true).open("/dev/kvm");
    let processor = fs::read_to_string("/proc/cpuinfo")?;
    // arm64 has no such flags.
    let extensions = Architecture::host() == Architecture::Arm64
        || processor
            .split_whitespace()
            .any(|flag| flag == "vmx" || flag == "svm");
    if opened.is_err() || !extensions {
        return Ok(false);
    }
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let kept = Path::new(&variable("XDG_CACHE_HOME")).join("kstat/kvm");
    let (works, again) = (format!("works {boot}"), Duration::from_secs(3600));
    if let Ok(result) = fs::read_to_string(&kept) {
        let age = SystemTime::now().duration_since(fs::metadata(&kept)?.modified()?);
        if result == works {
            return Ok(true);
        }
        if result == format!("fails {boot}") && age.is_ok_and(|age| age < again) {
            return Ok(false);
        }
    }
    eprintln!("vm: trying a guest with KVM");
    let trial = Command::new(env::current_exe()?)
        .args(["vm", "-t", "30", "--", "true"])
        .env("KSTAT_ACCEL", "kvm")
        .env_remove("KSTAT_COVERAGE")
        .stderr(Stdio::null())
        .status()?;
    if trial.success() {
        fs::write(&kept, works)?;
        return Ok(true);
    }
    eprintln!("vm: no guest runs with KVM here, so guests are emulated, which is 10 times as slow; KVM is tried again in an hour");
    fs::write(&kept, format!("fails {boot}"))?;
    Ok(false)
}

/// A virtual machine to be run, whatever runs it.
pub struct Machine<'a> {
    /// A temporary folder.
    pub run: &'a Path,
    /// The folder that is the guest's root file system.
    pub root: &'a Path,
    pub cpus: u32,
    pub memory: &'a str,
    /// The kernel's command line.
    pub arguments: &'a str,
    pub show_console: bool,
    /// Whether the guest has a terminal, which is this process's.
    pub terminal: bool,
    pub limit: Option<Duration>,
}

/// A machine that has ended.
pub struct Ended {
    pub machine: ExitStatus,
    /// What the program that ran the machine wrote.
    pub messages: String,
    pub console: Vec<u8>,
    /// What the guest wrote to the port for the exit status.
    pub status: String,
    /// The limit, if it was exceeded.
    pub timed_out: Option<Duration>,
}

/// QEMU, with the root file system on virtiofs.
pub struct Qemu<'a> {
    pub architecture: Architecture,
    pub image: &'a Path,
    pub accelerator: Accelerator,
    /// The socket at which gdb attaches.
    pub gdb: Option<PathBuf>,
}

/// User-mode Linux, with the root file system on hostfs.
pub struct UserMode<'a> {
    pub program: &'a Path,
}

/// The ends of the guest's ports that the machine gets.
pub struct Ports {
    console: UnixStream,
    out: UnixStream,
    err: UnixStream,
    status: UnixStream,
    size: UnixStream,
}

/// Builds the command line of a machine.
pub trait Launch {
    /// Returns the command. A process that has to run beside it ends when the returned child is killed.
    fn command(&self, machine: &Machine<'_>, ports: &Ports) -> Result<(Command, Option<Child>)>;
}

impl Launch for Qemu<'_> {
    fn command(&self, machine: &Machine<'_>, ports: &Ports) -> Result<(Command, Option<Child>)> {
        let socket = machine.run.join("fs");
        let _ = fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).context("making a socket for virtiofsd")?;
        let daemon = Command::new("/usr/libexec/virtiofsd")
            .arg(format!("--fd={}", inherited(&listener)?))
            .arg(format!("--shared-dir={}", machine.root.display()))
            .args([
                "--sandbox=none",
                "--cache=always",
                "--no-announce-submounts",
                "--log-level=off",
            ])
            .stdin(Stdio::null())
            .stderr(File::create(machine.run.join("virtiofsd"))?)
            .spawn()
            .context("starting virtiofsd")?;

        let mut qemu = self.architecture.qemu();
        qemu.args([
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
        ])
        .args(self.accelerator.arguments(self.architecture))
        .args(["-smp", &machine.cpus.to_string(), "-m", machine.memory])
        .arg("-object")
        .arg(format!(
            "memory-backend-memfd,id=memory,size={},share=on",
            machine.memory
        ))
        .args(["-numa", "node,memdev=memory", "-chardev"])
        .arg(format!("socket,id=fs,path={}", socket.display()))
        .args([
            "-device",
            "vhost-user-fs-pci,chardev=fs,tag=lab",
            "-device",
            "virtio-serial-pci",
        ])
        .args([
            "-chardev",
            &format!("socket,id=console,fd={}", inherited(&ports.console)?),
        ])
        .args(["-serial", "chardev:console"]);
        for (number, name, stream) in [
            (1, "out", &ports.out),
            (2, "err", &ports.err),
            (3, "status", &ports.status),
            (4, "size", &ports.size),
        ] {
            qemu.args([
                "-chardev",
                &format!("socket,id={name},fd={}", inherited(stream)?),
            ])
            .args([
                "-device",
                &format!("virtserialport,nr={number},chardev={name}"),
            ]);
        }
        if machine.terminal {
            qemu.args(["-chardev", "stdio,id=terminal,signal=off"])
                .args(["-device", "virtconsole,nr=0,chardev=terminal"]);
        }
        if let Some(gdb) = &self.gdb {
            qemu.args([
                "-gdb",
                &format!("unix:{},server=on,wait=off", gdb.display()),
            ]);
        }
        qemu.arg("-kernel")
            .arg(self.image)
            .arg("-append")
            .arg(format!(
                "root=lab rootfstype=virtiofs console={} {}",
                self.architecture.console(),
                machine.arguments
            ));
        Ok((qemu, Some(daemon)))
    }
}

impl Launch for UserMode<'_> {
    fn command(&self, machine: &Machine<'_>, ports: &Ports) -> Result<(Command, Option<Child>)> {
        let mut linux = Command::new(self.program);
        linux
            .arg(format!("mem={}", machine.memory))
            .arg(format!("ncpus={}", machine.cpus))
            .args([
                "seccomp=on",
                "noreboot",
                "root=/dev/root",
                "rootfstype=hostfs",
                "con=null",
            ])
            .arg(format!("rootflags={}", machine.root.display()))
            .arg(format!("con0=null,fd:{}", inherited(&ports.console)?))
            .arg(format!("ssl0=null,fd:{}", inherited(&ports.out)?))
            .arg(format!("ssl1=null,fd:{}", inherited(&ports.err)?))
            .arg(format!("ssl2=null,fd:{}", inherited(&ports.status)?))
            .arg(format!("ssl3=fd:{},null", inherited(&ports.size)?));
        if machine.terminal {
            linux.arg("con1=fd:0,fd:1");
        }
        linux.args(machine.arguments.split_whitespace());
        Ok((linux, None))
    }
}

/// Returns the number of a file descriptor, which children inherit from now on.
fn inherited(fd: &impl AsFd) -> Result<i32> {
    fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
    Ok(fd.as_fd().as_raw_fd())
}

impl Machine<'_> {
    /// Runs the machine until it ends, or until the limit.
    pub fn run(&self, launch: impl Launch) -> Result<Ended> {
        let (console, console_port) = UnixStream::pair()?;
        let (out, out_port) = UnixStream::pair()?;
        let (err, err_port) = UnixStream::pair()?;
        let (status, status_port) = UnixStream::pair()?;
        let (size, size_port) = UnixStream::pair()?;
        let ports = Ports {
            console: console_port,
            out: out_port,
            err: err_port,
            status: status_port,
            size: size_port,
        };
        if self.terminal {
            terminal::send_size(size).context("sending the size of the terminal")?;
        }

        let (mut command, daemon) = launch.command(self, &ports)?;
        let messages = self.run.join("machine");
        let log = File::create(&messages)?;
        if self.terminal {
            command.stdin(Stdio::inherit()).stdout(Stdio::inherit());
        } else {
            command.stdin(Stdio::null()).stdout(log.try_clone()?);
        }
        let spawned = command.stderr(log).spawn();
        // Readers see the end of a port when the machine, now its only holder, ends.
        drop(ports);
        let machine = spawned
            .with_context(|| format!("starting {}", command.get_program().to_string_lossy()));

        let result = machine.and_then(|machine| {
            let kept = Arc::new(Mutex::new(Vec::new()));
            let status_kept = Arc::new(Mutex::new(Vec::new()));
            let console = if self.show_console {
                copy(console, unbuffered(&io::stderr())?, Some(kept.clone()))
            } else {
                copy(console, io::sink(), Some(kept.clone()))
            };
            let out = copy(out, unbuffered(&io::stdout())?, None);
            let err = copy(err, unbuffered(&io::stderr())?, None);
            let status = copy(status, io::sink(), Some(status_kept.clone()));
            let (machine, timed_out) = self.wait(machine, &kept)?;
            for thread in [console, out, err, status] {
                thread.join().expect("a reader of a port");
            }
            let taken = |kept: &Kept| mem::take(&mut *kept.lock().expect("what a port wrote"));
            Ok(Ended {
                machine,
                messages: fs::read_to_string(&messages)?,
                console: taken(&kept),
                status: String::from_utf8_lossy(&taken(&status_kept)).into_owned(),
                timed_out,
            })
        });
        if let Some(mut daemon) = daemon {
            // It ends by itself with the machine's connection, unless the machine did not start.
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        result
    }

    /// Waits for the end of `machine`. Ends it at the limit, which is then returned as well.
    fn wait(&self, mut machine: Child, console: &Kept) -> Result<(ExitStatus, Option<Duration>)> {
        let pid = Pid::from_raw(machine.id().try_into()?);
        let (sender, ended) = mpsc::channel();
        thread::spawn(move || sender.send(machine.wait()));
        let Some(limit) = self.limit else {
            return Ok((ended.recv()??, None));
        };
        // An emulated guest has hung while it booted (docs/design.md). The limit for its command may be much longer. Many
        // emulated CPUs start slowly, one after the other.
        let boot = limit.min(Duration::from_secs(300.max(10 * u64::from(self.cpus))));
        let limit = match ended.recv_timeout(boot) {
            Ok(status) => return Ok((status?, None)),
            Err(_) if console::has_booted(&console.lock().expect("the console")) => limit,
            Err(_) => boot,
        };
        for (time, signal) in [
            (limit - boot, Signal::SIGTERM),
            (Duration::from_secs(5), Signal::SIGKILL),
        ] {
            match ended.recv_timeout(time) {
                Ok(status) if signal == Signal::SIGTERM => return Ok((status?, None)),
                Ok(status) => return Ok((status?, Some(limit))),
                Err(RecvTimeoutError::Timeout) => kill(pid, signal)?,
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        Ok((ended.recv()??, Some(limit)))
    }
}

/// What a port wrote so far.
type Kept = Arc<Mutex<Vec<u8>>>;

/// Copies what arrives at `port` to `output`, and to `kept`, in a thread.
///
/// [`io::copy`] would call splice(2), which holds the lock of a pipe while it waits for data, so that no other
/// process could write to the pipe.
fn copy(
    mut port: UnixStream,
    mut output: impl Write + Send + 'static,
    kept: Option<Kept>,
) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut buffer = [0; 65536];
        while let Ok(length @ 1..) = port.read(&mut buffer) {
            // If the output was closed, the guest goes on nevertheless.
            let _ = output.write_all(&buffer[..length]);
            if let Some(kept) = &kept {
                kept.lock()
                    .expect("what a port wrote")
                    .extend(&buffer[..length]);
            }
        }
    })
}

fn unbuffered(stream: &impl AsFd) -> Result<File> {
    Ok(stream.as_fd().try_clone_to_owned()?.into())
}
