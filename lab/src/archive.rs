// SPDX-License-Identifier: GPL-2.0

//! Asks the Debian archive for the kernels that are built with CONFIG_RUST.

use crate::{
    machine::Architecture,
    vm::{project, variable},
};
use anyhow::{ensure, Context, Result};
use clap::Args;
use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

/// The suites whose kernels are tested, and experimental, where new series appear first.
const SUITES: [&str; 4] = ["trixie-backports", "forky", "sid", EXPERIMENTAL];
const EXPERIMENTAL: &str = "experimental";

/// The suite of which older series are tested too. Users of a stable Debian may stay with one.
const STABLE: &str = SUITES[0];

/// The architectures for which scripts/vm boots guests.
const ARCHITECTURES: [&str; 2] = ["amd64", "arm64"];

/// A kernel in the archive.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Kernel {
    suite: &'static str,
    /// The first two numbers of the version.
    series: (u32, u32),
    /// Empty for the generic kernel.
    flavour: String,
    architecture: &'static str,
    /// What uname -r prints.
    release: String,
    /// The version of the package.
    version: String,
}

/// Lists the kernels in the Debian archive that are built with CONFIG_RUST: the newest kernels of trixie-backports,
/// forky and sid in all flavours, and older series in trixie-backports. Prints a line for each: the name that
/// scripts/lab takes, the release, and the version of the package. Needs a network.
#[derive(Args)]
pub struct Options {
    /// Lists only those that docs/tested-kernels does not have, and release candidates in experimental
    #[arg(long)]
    new: bool,
}

pub fn run(options: Options) -> Result<ExitCode> {
    let archive = Archive::new()?;
    let tested = fs::read_to_string(project().join("docs/tested-kernels"))?;
    let mut count = 0;
    for suite in SUITES {
        if suite == EXPERIMENTAL && !options.new {
            continue;
        }
        for architecture in ARCHITECTURES {
            let list = archive.packages(suite, architecture)?;
            let kernels = newest(headers(suite, architecture, &list));
            for kernel in &kernels {
                if (!options.new || is_new(kernel, &tested)) && archive.has_rust(kernel)? {
                    let name = name(kernel, &kernels);
                    mark_outdated(&name, &kernel.release)?;
                    println!("{name} {} {}", kernel.release, kernel.version);
                    count += 1;
                }
            }
        }
    }
    if options.new && count == 0 {
        eprintln!("kernels: Debian has no kernel that docs/tested-kernels does not have");
    }
    Ok(ExitCode::SUCCESS)
}

/// Has scripts/lab install a kernel again if the lab has another release of it. The files of a kernel cannot be removed
/// here, as they may be those of this lab.
fn mark_outdated(name: &str, release: &str) -> Result<()> {
    let cache = Path::new(&variable("XDG_CACHE_HOME")).join("kstat");
    for entry in fs::read_dir(cache)? {
        let layer = entry?;
        let file = layer.file_name();
        let key = file
            .to_str()
            .and_then(|file| file.strip_prefix(&format!("stock-{name}-")));
        // A key has 12 digits; what follows may also be a flavour.
        let is_layer = key.is_some_and(|key| key.len() == 12);
        if is_layer && !layer.path().join("usr/lib/modules").join(release).exists() {
            fs::write(layer.path().join("outdated"), "")?;
        }
    }
    Ok(())
}

/// Returns whether a kernel is not among those that were tested, or, as a release candidate, of a series that is not.
fn is_new(kernel: &Kernel, tested: &str) -> bool {
    if kernel.suite == EXPERIMENTAL {
        return !tested.contains(&format!(": {}.{}.", kernel.series.0, kernel.series.1));
    }
    !tested.contains(&format!(": {},", kernel.release))
}

/// Returns the name of a kernel that scripts/lab takes. `all` has the kernels of the suite and architecture. The newest
/// series is named by the suite.
fn name(kernel: &Kernel, all: &[Kernel]) -> String {
    let newest = all.iter().map(|other| other.series).max();
    let mut name = if newest == Some(kernel.series) {
        kernel.suite.to_owned()
    } else {
        format!("{}.{}", kernel.series.0, kernel.series.1)
    };
    if !kernel.flavour.is_empty() {
        name += "-";
        name += &kernel.flavour;
    }
    if kernel.architecture != Architecture::host().debian() {
        name += "-";
        name += kernel.architecture;
    }
    name
}

/// Returns the kernels of which a list of packages has headers.
fn headers(suite: &'static str, architecture: &'static str, list: &str) -> Vec<Kernel> {
    let mut kernels = Vec::new();
    for stanza in list.split("\n\n") {
        let field = |name: &str| {
            stanza
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
        };
        let (Some(package), Some(version)) = (field("Package"), field("Version")) else {
            continue;
        };
        let Some(release) = package.strip_prefix("linux-headers-") else {
            continue;
        };
        // For example 7.3.4+deb13-cloud-amd64, 7.3.4+deb13-arm64-16k, or 7.4-rc1-amd64.
        let (rest, pages) = match release.strip_suffix("-16k") {
            Some(rest) => (rest, "16k"),
            None => (release, ""),
        };
        let Some(rest) = rest.strip_suffix(architecture) else {
            continue;
        };
        let rest = rest.trim_end_matches('-');
        let (numbers, flavour) = match rest.rsplit_once('-') {
            Some((numbers, flavour @ ("cloud" | "rt"))) => (numbers, flavour),
            _ => (rest, pages),
        };
        let mut parts = numbers.split(['.', '-', '+']).map(str::parse::<u32>);
        let (Some(Ok(major)), Some(Ok(minor))) = (parts.next(), parts.next()) else {
            continue;
        };
        kernels.push(Kernel {
            suite,
            series: (major, minor),
            flavour: flavour.to_owned(),
            architecture,
            release: release.to_owned(),
            version: version.to_owned(),
        });
    }
    kernels
}

/// Returns the newest kernel of each flavour, and of each series if the suite is [`STABLE`].
fn newest(mut kernels: Vec<Kernel>) -> Vec<Kernel> {
    let series = kernels.iter().map(|kernel| kernel.series).max();
    kernels.retain(|kernel| kernel.suite == STABLE || Some(kernel.series) == series);
    let mut newest: BTreeMap<_, Kernel> = BTreeMap::new();
    for kernel in kernels {
        let key = (kernel.series, kernel.flavour.clone());
        match newest.get(&key) {
            Some(other) if !is_newer(&kernel, other) => {}
            _ => {
                newest.insert(key, kernel);
            }
        }
    }
    newest.into_values().collect()
}

fn is_newer(kernel: &Kernel, other: &Kernel) -> bool {
    let compared = Command::new("dpkg")
        .args(["--compare-versions", &kernel.version, "gt", &other.version])
        .status();
    compared.is_ok_and(|status| status.success())
}

/// Returns the Debian mirror from which the lab was made.
pub fn mirror() -> Result<String> {
    let sources = fs::read_to_string("/etc/apt/sources.list").context("reading the mirror")?;
    let mirror = sources.split_whitespace().find(|word| word.contains("://"));
    Ok(mirror
        .context("/etc/apt/sources.list names no mirror")?
        .to_owned())
}

/// The lists of packages of a Debian mirror, apart from those of the lab.
struct Archive {
    folder: tempfile::TempDir,
    /// The results of [`Archive::has_rust`], a line for each.
    known: PathBuf,
}

impl Archive {
    /// Downloads the lists from the mirror from which the lab was made.
    fn new() -> Result<Self> {
        let folder = tempfile::tempdir().context("making a folder")?;
        let mirror = mirror()?;
        let lines = SUITES.map(|suite| {
            format!(
                "deb [arch={}] {mirror} {suite} main\n",
                ARCHITECTURES.join(",")
            )
        });
        fs::write(folder.path().join("sources.list"), lines.concat())?;
        let archive = Self {
            folder,
            known: Path::new(&variable("XDG_CACHE_HOME")).join("kstat/rust-kernels"),
        };
        fs::create_dir_all(archive.folder.path().join("lists/partial"))?;
        fs::create_dir_all(archive.folder.path().join("cache/archives/partial"))?;
        fs::write(archive.folder.path().join("status"), "")?;
        archive.output("apt-get", &["-qq", "update"])?;
        Ok(archive)
    }

    /// Returns the output of a program of apt that uses these lists.
    fn output(&self, program: &str, arguments: &[&str]) -> Result<Vec<u8>> {
        let folder = self.folder.path().display();
        let output = Command::new(program)
            .arg(format!("-oDir::Etc::SourceList={folder}/sources.list"))
            .arg("-oDir::Etc::SourceParts=/dev/null")
            .arg(format!("-oDir::State::Lists={folder}/lists"))
            .arg(format!("-oDir::State::status={folder}/status"))
            .arg(format!("-oDir::Cache={folder}/cache"))
            .arg("-oAPT::Sandbox::User=root")
            .arg(format!("-oAPT::Architectures={}", ARCHITECTURES.join(",")))
            .args(arguments)
            .current_dir(self.folder.path())
            .stderr(Stdio::inherit())
            .output()
            .with_context(|| format!("running {program}"))?;
        ensure!(
            output.status.success(),
            "{program} {} failed: see above",
            arguments.join(" ")
        );
        Ok(output.stdout)
    }

    /// Returns the list of packages of a suite for an architecture.
    fn packages(&self, suite: &str, architecture: &str) -> Result<String> {
        let files = self.output(
            "apt-get",
            &[
                "indextargets",
                "--format",
                "$(FILENAME)",
                "Created-By: Packages",
                &format!("Release: {suite}"),
                &format!("Architecture: {architecture}"),
            ],
        )?;
        let file = String::from_utf8(files)?;
        let list = self.output("/usr/lib/apt/apt-helper", &["cat-file", file.trim()])?;
        Ok(String::from_utf8_lossy(&list).into_owned())
    }

    /// Returns whether a kernel is built with CONFIG_RUST: its headers have its configuration.
    fn has_rust(&self, kernel: &Kernel) -> Result<bool> {
        let line = |has: bool| format!("{} {} {has}", kernel.release, kernel.version);
        let known = fs::read_to_string(&self.known).unwrap_or_default();
        for has in [true, false] {
            if known.lines().any(|known| known == line(has)) {
                return Ok(has);
            }
        }
        let package = format!(
            "linux-headers-{}:{}={}",
            kernel.release, kernel.architecture, kernel.version
        );
        eprintln!("kernels: looking at the configuration of {package}");
        self.output("apt-get", &["-qq", "download", &package])?;
        let configuration = Command::new("sh")
            .args([
                "-c",
                "dpkg-deb --fsys-tarfile *.deb | tar -xO --wildcards '*/.config'",
            ])
            .current_dir(self.folder.path())
            .output()?;
        ensure!(
            configuration.status.success(),
            "{package} has no configuration"
        );
        let configuration = String::from_utf8_lossy(&configuration.stdout);
        let has = configuration.lines().any(|line| line == "CONFIG_RUST=y");
        for entry in fs::read_dir(self.folder.path())? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "deb") {
                fs::remove_file(path)?;
            }
        }
        let mut file = fs::File::options()
            .create(true)
            .append(true)
            .open(&self.known)?;
        writeln!(file, "{}", line(has))?;
        Ok(has)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "Package: linux-headers-7.2.12+deb13-amd64\nVersion: 7.2.12-1~bpo13+1\n\n\
        Package: linux-headers-7.3.4+deb13-cloud-amd64\nVersion: 7.3.4-1~bpo13+1\n\n\
        Package: linux-headers-7.3.4+deb13-amd64\nVersion: 7.3.4-1~bpo13+1\n\n\
        Package: linux-headers-7.3.3+deb13-amd64\nVersion: 7.3.3-1~bpo13+1\n\n\
        Package: linux-headers-7.3.4+deb13-common\nVersion: 7.3.4-1~bpo13+1\n\n\
        Package: linux-headers-amd64\nVersion: 7.3.4-1~bpo13+1\n";

    #[test]
    fn kernels_are_named_by_series_flavour_and_architecture() {
        let kernels = newest(headers("trixie-backports", "amd64", LIST));
        let names: Vec<_> = kernels
            .iter()
            .map(|kernel| (name(kernel, &kernels), kernel.release.as_str()))
            .collect();
        assert_eq!(
            names,
            [
                ("7.2".to_owned(), "7.2.12+deb13-amd64"),
                ("trixie-backports".to_owned(), "7.3.4+deb13-amd64"),
                (
                    "trixie-backports-cloud".to_owned(),
                    "7.3.4+deb13-cloud-amd64"
                ),
            ]
        );
    }

    #[test]
    fn release_that_was_not_tested_is_new() {
        let tested = "trixie-backports: 7.3.4+deb13-amd64, rustc 1.85.1: 1 passed, 0 failed\n";
        let is_new = |suite, package: &str| {
            let list = format!("Package: linux-headers-{package}\nVersion: 1\n");
            super::is_new(&headers(suite, "amd64", &list)[0], tested)
        };
        assert!(!is_new("trixie-backports", "7.3.4+deb13-amd64"));
        assert!(is_new("trixie-backports", "7.3.5+deb13-amd64"));
        assert!(!is_new(EXPERIMENTAL, "7.3-amd64"));
        assert!(is_new(EXPERIMENTAL, "7.4-amd64"));
        assert!(is_new(EXPERIMENTAL, "7.4-rc1-rt-amd64"));
    }

    #[test]
    fn kernel_of_arm64_has_the_architecture_in_its_name() {
        let list = LIST.replace("amd64", "arm64")
            + "\nPackage: linux-headers-7.3.4+deb13-arm64-16k\nVersion: 7.3.4-1~bpo13+1\n";
        let kernels = newest(headers("forky", "arm64", &list));
        let names: Vec<_> = kernels
            .iter()
            .map(|kernel| name(kernel, &kernels))
            .collect();
        assert_eq!(
            names,
            ["forky-arm64", "forky-16k-arm64", "forky-cloud-arm64"]
        );
    }
}
