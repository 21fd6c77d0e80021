// SPDX-License-Identifier: GPL-2.0

//! Hostile input: random text, written in every way.
//!
//! Tests write it to the files of kstat, and load the module with it. Some of the text is valid,
//! much is nearly valid, and the rest is random bytes.

use kstat_tests::{
    guest::{
        background::while_repeating,
        exclusive::KernelLock,
        file::{self, COUNTER, NOUT, START},
        host::Host,
        module::{self, Kstat},
        nft::HookPoint,
        setting,
        wire::{Counts, OWN},
    },
    scale::{did, times},
    seed,
};
use nix::{
    errno::Errno,
    fcntl::{splice, SpliceFFlags},
    sys::uio::{pwrite, writev},
    unistd::pipe,
};
use rand::{rngs::StdRng, seq::IndexedRandom, Rng};
use std::{
    fs::{File, OpenOptions},
    io::{IoSlice, Seek, Write},
    os::fd::AsRawFd,
    ptr,
    sync::Mutex,
};

/// Every valid number that these tests write is a multiple of this. To read another number from
/// `counter` means that an invalid write had an effect.
const FACTOR: u64 = 7;

/// The least number of writes of a test. Among fewer, possibly none would be valid.
const MIN_WRITES: u64 = 200;

/// A way to write a text to a file.
#[derive(Clone, Copy, Debug)]
enum Method {
    /// `write(2)` at offset 0.
    Write,
    /// `pwrite(2)` at this offset.
    AtOffset(i64),
    /// `writev(2)` in two pieces, the first of this length.
    InTwoPieces(usize),
    /// `splice(2)` from a pipe.
    Splice,
    /// `write(2)` from an address where no memory is mapped.
    FromUnmapped,
}

/// Chooses a way to write `text`. Splits it only where the first piece is either no valid N or a
/// multiple of [`FACTOR`].
fn random_method(random: &mut StdRng, text: &[u8]) -> Method {
    match random.random_range(0..10) {
        0 if random.random() => Method::AtOffset(random.random_range(1..=i64::MAX)),
        0 => Method::AtOffset(
            *[1, 2, 19, 4096, i64::MAX]
                .choose(random)
                .expect("the list is not empty"),
        ),
        1 => Method::AtOffset(0),
        2 => {
            let first = random.random_range(0..=text.len());
            if is_invalid_or_multiple(&text[..first]) {
                Method::InTwoPieces(first)
            } else {
                Method::Write
            }
        }
        3 => Method::Splice,
        4 => Method::FromUnmapped,
        _ => Method::Write,
    }
}

/// Writes `text` to `file` by `method`, once.
fn write_by(mut file: &File, text: &[u8], method: Method) -> Result<usize, Errno> {
    file.rewind().expect("seeking to the start");
    match method {
        Method::Write => file.write(text).map_err(file::errno),
        Method::AtOffset(offset) => pwrite(file, text, offset),
        Method::InTwoPieces(first) => {
            let (first, second) = text.split_at(first);
            writev(file, &[IoSlice::new(first), IoSlice::new(second)])
        }
        Method::Splice => {
            // The capacity of a pipe is 16 pages.
            let (read, write) = pipe().expect("making a pipe");
            let text = &text[..text.len().min(16 * 4096)];
            File::from(write).write_all(text).expect("filling a pipe");
            splice(read, None, file, None, text.len(), SpliceFFlags::empty())
        }
        Method::FromUnmapped => {
            // SAFETY: The kernel checks the address. Nothing is mapped at 0, so it fails with
            // EFAULT.
            let written = unsafe { libc::write(file.as_raw_fd(), ptr::null(), text.len()) };
            Errno::result(written).map(|written| written as usize)
        }
    }
}

/// Returns whether `byte` is white space for `isspace()` in the C locale.
fn is_space(byte: &u8) -> bool {
    b" \t\n\x0b\x0c\r".contains(byte)
}

/// Returns whether kstat ignores `text` behind a number: white space, of at most 32 bytes.
fn is_white_space(text: &[u8]) -> bool {
    text.len() <= 32 && text.iter().all(is_space)
}

/// Returns the N that `text` stands for, if it is valid: a decimal number other than 0, which may
/// have white space around it, in at most 32 bytes.
fn parse_n(text: &[u8]) -> Option<u64> {
    let start = text.iter().position(|byte| !is_space(byte))?;
    let end = text.iter().rposition(|byte| !is_space(byte))?;
    let digits = std::str::from_utf8(&text[start..=end]).ok()?;

    if text.len() > 32 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok().filter(|n| *n != 0)
}

/// Returns the N that is set if `text` is written to `counter` by `method`, or `None` if the write
/// must be refused.
fn expected_n(text: &[u8], method: Method) -> Option<u64> {
    match method {
        Method::Write | Method::AtOffset(0) => parse_n(text),
        // For a file in /proc the kernel makes each piece a write of its own, at the offset where
        // the previous piece ended.
        Method::InTwoPieces(first) => parse_n(&text[..first]),
        Method::AtOffset(_) | Method::Splice | Method::FromUnmapped => None,
    }
}

/// Returns whether `text` is either no valid N or a multiple of [`FACTOR`].
fn is_invalid_or_multiple(text: &[u8]) -> bool {
    parse_n(text).is_none_or(|n| n % FACTOR == 0)
}

/// Returns whether the kernel returns 0 without a call of the file's write operation.
fn is_not_passed_on(text: &[u8], method: Method) -> bool {
    text.is_empty() && matches!(method, Method::InTwoPieces(_) | Method::Splice)
}

/// Makes a text that may be a valid N. If so, N is a multiple of [`FACTOR`].
fn random_text(random: &mut StdRng) -> Vec<u8> {
    let multiple = random.random_range(1..u64::MAX / FACTOR) * FACTOR;
    let small = random.random_range(1..1000) * FACTOR;
    let space = |random: &mut StdRng| -> String {
        (0..random.random_range(0..4))
            .map(|_| {
                *[' ', '\t', '\n', '\r', '\x0b', '\x0c']
                    .choose(random)
                    .expect("the list is not empty")
            })
            .collect()
    };

    let text: Vec<u8> = match random.random_range(0..12) {
        0 => format!("{multiple}").into(),
        1 => format!("{small}\n").into(),
        2 => format!("{}{small}{}", space(random), space(random)).into(),
        3 => format!("{small:0width$}", width = random.random_range(1..80)).into(),
        4 => format!("-{small}").into(),
        5 => format!("+{small}").into(),
        6 => format!("0x{small:x}").into(),
        7 => format!("{multiple}{small}").into(),
        8 => format!(
            "{small}{}{small}",
            ["\0", " ", ".", "e", "\u{660}"]
                .choose(random)
                .expect("the list is not empty")
        )
        .into(),
        9 => vec![],
        10 => {
            let length = *[31, 32, 33, 255, 4095, 4096, 4097, 70_000]
                .choose(random)
                .expect("the list is not empty");
            let byte = *b" 07x\n\0".choose(random).expect("the list is not empty");
            vec![byte; length]
        }
        _ => {
            let mut bytes = vec![0; random.random_range(1..40)];
            random.fill(&mut bytes[..]);
            bytes
        }
    };

    // Another valid N would look like an effect of an invalid write.
    if is_invalid_or_multiple(&text) {
        text
    } else {
        b"none".to_vec()
    }
}

#[test]
fn counter_takes_only_valid_numbers_and_no_other_file_takes_a_write() {
    let lock = KernelLock::take();
    let _kstat = Kstat::started(&lock, "counter=7");
    let host = Host::new(&lock);
    let nft = host.nft(HookPoint::Output);
    let counter = host.open(COUNTER, OpenOptions::new().read(true).write(true));
    let nout = host.open(NOUT, OpenOptions::new().read(true).write(true));
    let own = host.open(OWN, OpenOptions::new().read(true).write(true));
    let mut random = seed::random();
    let writes = times(9000).max(MIN_WRITES);
    let (mut current_n, mut accepted) = (FACTOR, 0);

    let traffic = host.bursts();
    let last_nout = Mutex::new(0);
    let last_counts = Mutex::new(Counts::default());
    let counter_reader = host.open(COUNTER, OpenOptions::new().read(true));
    let nout_reader = host.open(NOUT, OpenOptions::new().read(true));
    let read = || {
        let n = file::reread(COUNTER, &counter_reader);
        assert_eq!(
            n % FACTOR,
            0,
            "counter is {n}, which no valid write has set"
        );

        let mut last = last_nout.lock().expect("the mutex is not poisoned");
        let nout = file::reread(NOUT, &nout_reader);
        assert!(nout >= *last, "nout decreased from {last} to {nout}");
        *last = nout;

        let mut last = last_counts.lock().expect("the mutex is not poisoned");
        let counts = Counts::of(host.net());
        counts.since(*last);
        *last = counts;
    };
    while_repeating(&[&read], || {
        for _ in 0..writes {
            let text = random_text(&mut random);
            let method = random_method(&mut random, &text);
            let result = write_by(&counter, &text, method);
            let expected = expected_n(&text, method);

            let expected_length = match method {
                // White space may follow the number in a write of its own.
                Method::InTwoPieces(first) if !is_white_space(&text[first..]) => first,
                _ => text.len(),
            };

            match (expected, &result) {
                (Some(n), Ok(written)) if *written == expected_length => {
                    current_n = n;
                    accepted += 1;
                }
                (None, Err(Errno::EINVAL | Errno::ERANGE | Errno::EFAULT)) => {}
                (None, Ok(0)) if is_not_passed_on(&text, method) => {}
                _ => panic!(
                    "{method:?} of {text:02x?} to counter: {result:?}, expected N: {expected:?}"
                ),
            }
            assert_eq!(
                file::reread(COUNTER, &counter),
                current_n,
                "N after {method:?} of {text:02x?}"
            );

            for (name, file) in [("nout", &nout), ("/proc/net/kstat", &own)] {
                let result = write_by(file, &text, method);
                assert!(
                    matches!(
                        result,
                        Err(Errno::EIO | Errno::EACCES | Errno::EINVAL | Errno::ESPIPE)
                    ) || (result == Ok(0) && is_not_passed_on(&text, method)),
                    "{method:?} of {text:02x?} to {name}: {result:?}"
                );
            }
        }
    });
    traffic.stop();
    host.set_counter(1);
    nft.assert_agrees(host.nout());
    println!("counter accepted {accepted} of {writes} writes");
    assert!(
        accepted > writes / 20,
        "counter accepted hardly any of {writes} writes: {accepted}"
    );
    did(writes * 3, "hostile writes to all files");
}

/// Returns the value that `kstrtobool()`, the kernel's parser of bool parameters, gives `text`.
fn parse_bool(text: &[u8]) -> Option<bool> {
    match text.first()? {
        b'1' | b'y' | b'Y' | b't' | b'T' | b'e' | b'E' => Some(true),
        b'0' | b'n' | b'N' | b'f' | b'F' | b'd' | b'D' => Some(false),
        b'o' | b'O' => match text.get(1)? {
            b'n' | b'N' => Some(true),
            b'f' | b'F' => Some(false),
            _ => None,
        },
        _ => None,
    }
}

#[test]
fn start_takes_only_the_kernels_boolean_values() {
    let lock = KernelLock::take();
    let _expedited = setting::expedite_grace_periods();
    let kstat = Kstat::load(&lock, "counter=1");
    let busy = Host::new(&lock);
    let quiet = Host::new(&lock);
    let start = file::open(START, OpenOptions::new().read(true).write(true));
    let mut random = seed::random();
    let writes = times(1000).max(MIN_WRITES);
    let mut is_started = false;
    let mut refused = 0;

    let traffic = busy.bursts();
    for _ in 0..writes {
        let text = match random.random_range(0..3) {
            0 => [
                "1", "0", "on", "of", "off", "yes", "No", "o", "O\n", "true", "F", "2", "-1", " 1",
                "\n", "1x",
            ]
            .choose(&mut random)
            .expect("the list is not empty")
            .as_bytes()
            .to_vec(),
            _ => random_text(&mut random),
        };
        // sysfs ignores the offset, and makes one text of all pieces, of at most a page.
        let method = random_method(&mut random, &text);
        let result = write_by(&start, &text, method);
        let expected = match method {
            Method::AtOffset(offset) if offset > i64::MAX - text.len() as i64 => None,
            Method::FromUnmapped => None,
            _ => parse_bool(&text),
        };

        match (expected, &result) {
            (Some(value), Ok(_)) => is_started = value,
            (None, Err(Errno::EINVAL | Errno::EFAULT | Errno::EOVERFLOW)) => refused += 1,
            // An empty write does not reach the parameter.
            (None, Ok(0)) => {}
            _ => panic!(
                "{method:?} of {text:02x?} to start: {result:?}, expected value: {expected:?}"
            ),
        }
        assert_eq!(
            kstat.is_started(),
            is_started,
            "start after {method:?} of {text:02x?}"
        );
        let before = quiet.nout();
        quiet.send_tcp(1);
        assert_eq!(
            quiet.nout() - before,
            u64::from(is_started),
            "packets counted while start is {is_started}"
        );
    }
    traffic.stop();
    kstat.unload();
    assert!(
        refused > writes / 10,
        "start refused hardly any of {writes} writes: {refused}"
    );
    did(writes, "hostile writes to start");
}

#[test]
fn loader_accepts_only_valid_parameters() {
    let lock = KernelLock::take();
    let _expedited = setting::expedite_grace_periods();
    let host = Host::new(&lock);
    let traffic = host.bursts();
    let mut random = seed::random();
    let loads = times(150).max(MIN_WRITES / 10);
    let mut accepted = 0;

    for _ in 0..loads {
        let &name = ["counter", "start", "hook", "nout", ""]
            .choose(&mut random)
            .expect("the list is not empty");
        let value = match (name, random.random_bool(0.5)) {
            ("hook", true) => [
                "local_out",
                "post_routing",
                "\"local_out\"",
                "LOCAL_OUT",
                "local_outx",
                "local_out ",
                "local",
                "output",
            ]
            .choose(&mut random)
            .expect("the list is not empty")
            .as_bytes()
            .to_vec(),
            _ => random_text(&mut random),
        };
        let mut parameter = format!("{name}=").into_bytes();
        // A NUL would end the parameters.
        let value: Vec<u8> = value
            .into_iter()
            .filter(|byte| *byte != 0)
            .take(3000)
            .collect();
        parameter.extend(&value);
        // White space and quotes may make the loader see other parameters, or more of them. The
        // test does not know whether these are valid.
        let is_one_parameter = !value
            .iter()
            .any(|byte| b" \t\n\x0b\x0c\r\xa0\"".contains(byte));
        let is_valid = match name {
            "counter" => parse_n(&value).is_some(),
            "start" => parse_bool(&value).is_some(),
            "hook" => [&b"local_out"[..], b"post_routing"].contains(&&value[..]),
            // The loader ignores parameters that the module does not have.
            _ => true,
        };

        let result = module::load(&lock, parameter.as_slice());
        assert!(
            !is_one_parameter || result.is_ok() == is_valid,
            "loading with {}: {result:?}",
            parameter.escape_ascii()
        );
        match result {
            Ok(()) => {
                let (counter, start) = (file::number(COUNTER), file::number(START));
                if is_one_parameter {
                    let value_of = |parameter, value| if name == parameter { value } else { None };
                    assert_eq!(
                        counter,
                        value_of("counter", parse_n(&value)).unwrap_or(10),
                        "N"
                    );
                    assert_eq!(
                        start,
                        value_of("start", parse_bool(&value).map(u64::from)).unwrap_or(0),
                        "start"
                    );
                }
                assert_ne!(counter, 0);
                module::unload(&lock).unwrap_or_else(|error| panic!("unloading: {error}"));
                accepted += 1;
            }
            Err(Errno::EINVAL | Errno::ERANGE | Errno::ENOSPC) => assert!(
                !module::is_loaded(),
                "a part of kstat is there after loading with {} was refused",
                parameter.escape_ascii()
            ),
            Err(error) => panic!("loading with {}: {error}", parameter.escape_ascii()),
        }
    }
    traffic.stop();
    println!("the loader accepted {accepted} of {loads}");
    assert!(
        accepted > 0 && accepted < loads,
        "the loader accepted {accepted} of {loads}"
    );
    did(loads, "loads with hostile parameters");
}
