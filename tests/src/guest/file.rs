// SPDX-License-Identifier: GPL-2.0

//! The files of kstat and of the kernel, with the errno of operations that fail.

use nix::errno::Errno;
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, Write},
    os::unix::fs::MetadataExt,
    path::Path,
};

/// The published count.
pub const NOUT: &str = "/proc/kstat/nout";
/// N, the granularity of the published count.
pub const COUNTER: &str = "/proc/kstat/counter";
/// The parameter that starts and stops counting.
pub const START: &str = "/sys/module/kstat/parameters/start";

/// Returns the errno of a failed operation.
pub fn errno(error: io::Error) -> Errno {
    match error.raw_os_error() {
        Some(number) => Errno::from_raw(number),
        None => panic!("an error without an errno: {error}"),
    }
}

/// Returns the whole text of a file.
#[track_caller]
pub fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("reading {path}: {error}"))
}

/// Returns the number that is the whole text of a file.
#[track_caller]
pub fn number(path: &str) -> u64 {
    parse(path, &read(path))
}

/// Parses `text`, which was read from `path`: digits and a newline, and nothing else.
#[track_caller]
pub fn parse(path: &str, text: &str) -> u64 {
    text.strip_suffix('\n')
        .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|digits| digits.parse().ok())
        .unwrap_or_else(|| panic!("{path} is not a number and a newline, but {text:?}"))
}

/// Opens a file, and panics if that fails.
#[track_caller]
pub fn open(path: &str, options: &OpenOptions) -> File {
    options
        .open(path)
        .unwrap_or_else(|error| panic!("opening {path} ({options:?}): {error}"))
}

/// Opens a file for reading.
#[track_caller]
pub fn reader(path: &str) -> File {
    open(path, OpenOptions::new().read(true))
}

/// Opens a file for writing.
#[track_caller]
pub fn writer(path: &str) -> File {
    open(path, OpenOptions::new().write(true))
}

/// Writes `text` by one write(2), also if it is empty.
pub fn write(mut file: &File, text: &[u8]) -> Result<(), Errno> {
    let written = file.write(text).map_err(errno)?;

    assert_eq!(written, text.len(), "only a part of {text:?} was written");
    Ok(())
}

/// Opens a file, writes `text` by one write(2), and closes the file, as `echo` does.
pub fn put(path: &str, text: impl AsRef<[u8]>) -> Result<(), Errno> {
    let file = OpenOptions::new().write(true).open(path).map_err(errno)?;

    write(&file, text.as_ref())
}

/// Writes `text` to a file as [`put`] does, and panics if that fails.
#[track_caller]
pub fn set(path: &str, text: &str) {
    put(path, text).unwrap_or_else(|error| panic!("writing {text:?} to {path}: {error}"));
}

/// Reads the number in an open file from its start.
#[track_caller]
pub fn reread(path: &str, file: &File) -> u64 {
    parse(
        path,
        &try_reread(file).unwrap_or_else(|error| panic!("reading {path} again: {error}")),
    )
}

/// Reads an open file from its start.
pub fn try_reread(mut file: &File) -> Result<String, Errno> {
    let mut text = String::new();

    file.rewind().map_err(errno)?;
    file.read_to_string(&mut text).map_err(errno)?;
    Ok(text)
}

/// Asserts that a file has the permissions `mode`, and that its user and its group are root.
#[track_caller]
pub fn assert_root_owned(path: &str, mode: u32) {
    let file = fs::metadata(path).unwrap_or_else(|error| panic!("stat of {path}: {error}"));
    let mode_of_file = file.mode() & 0o7777;

    assert_eq!(
        mode_of_file, mode,
        "{path} is 0{mode_of_file:o}, not 0{mode:o}"
    );
    assert_eq!((file.uid(), file.gid()), (0, 0), "user and group of {path}");
}

/// Tells whether the file or folder `path` exists.
#[track_caller]
pub fn exists(path: &str) -> bool {
    Path::new(path)
        .try_exists()
        .unwrap_or_else(|error| panic!("looking for {path}: {error}"))
}
