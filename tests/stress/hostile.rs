// SPDX-License-Identifier: GPL-2.0

//! Nonsense, and what looks like sense, written to kstat's files in every way there is.

use kstat_tests::{
    guest::{
        background::while_repeating,
        exclusive::KernelLock,
        file::{self, COUNTER, NOUT, START},
        host::Host,
        module::{self, Kstat},
        nft::HookPoint,
        setting,
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

/// What is valid here is a multiple of this, so that who reads something else has seen what was
/// refused.
const SIGN: u64 = 7;

/// So many writes at least: of fewer, none may happen to be valid.
const LEAST: u64 = 200;

/// How something is written.
#[derive(Clone, Copy, Debug)]
enum Way {
    Write,
    At(i64),
    /// In two pieces, the first so long.
    Vector(usize),
    Splice,
    /// From memory that is not there.
    Unmapped,
}

fn way(random: &mut StdRng, text: &[u8]) -> Way {
    match random.random_range(0..10) {
        0 if random.random() => Way::At(random.random_range(1..=i64::MAX)),
        0 => Way::At(*[1, 2, 19, 4096, i64::MAX].choose(random).expect("some")),
        1 => Way::At(0),
        2 => {
            let first = random.random_range(0..=text.len());
            if has_sign(&text[..first]) {
                Way::Vector(first)
            } else {
                Way::Write
            }
        }
        3 => Way::Splice,
        4 => Way::Unmapped,
        _ => Way::Write,
    }
}

fn write(mut file: &File, text: &[u8], way: Way) -> Result<usize, Errno> {
    file.rewind().expect("seeking to the start");
    match way {
        Way::Write => file.write(text).map_err(file::errno),
        Way::At(offset) => pwrite(file, text, offset),
        Way::Vector(first) => {
            let (first, second) = text.split_at(first);
            writev(file, &[IoSlice::new(first), IoSlice::new(second)])
        }
        Way::Splice => {
            // A pipe takes sixteen pages at once.
            let (read, write) = pipe().expect("a pipe");
            let text = &text[..text.len().min(16 * 4096)];
            File::from(write).write_all(text).expect("filling a pipe");
            splice(read, None, file, None, text.len(), SpliceFFlags::empty())
        }
        Way::Unmapped => {
            // SAFETY: The kernel looks whether there is memory; there is none at 0.
            let written = unsafe { libc::write(file.as_raw_fd(), ptr::null(), text.len()) };
            Errno::result(written).map(|written| written as usize)
        }
    }
}

/// Whether the C locale's `isspace()` takes this.
fn is_space(byte: &u8) -> bool {
    b" \t\n\x0b\x0c\r".contains(byte)
}

/// Whether this is white space and no more than the kernel takes at once.
fn is_white_space(text: &[u8]) -> bool {
    text.len() <= 32 && text.iter().all(is_space)
}

/// What N is to be after this, if that is accepted: digits with space around them, in 32 bytes.
fn n(text: &[u8]) -> Option<u64> {
    let start = text.iter().position(|byte| !is_space(byte))?;
    let end = text.iter().rposition(|byte| !is_space(byte))?;
    let digits = std::str::from_utf8(&text[start..=end]).ok()?;

    if text.len() > 32 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok().filter(|n| *n != 0)
}

/// What N is to be after this was written so.
fn n_after(text: &[u8], way: Way) -> Option<u64> {
    match way {
        Way::Write | Way::At(0) => n(text),
        // Each piece is a write of its own to the kernel, at the offset where the last one ended.
        Way::Vector(first) => n(&text[..first]),
        Way::At(_) | Way::Splice | Way::Unmapped => None,
    }
}

/// Whether this is refused, or has the [`SIGN`].
fn has_sign(text: &[u8]) -> bool {
    n(text).is_none_or(|n| n % SIGN == 0)
}

/// Whether this is nothing, of which the kernel tells nobody.
fn is_lost_on_the_way(text: &[u8], way: Way) -> bool {
    text.is_empty() && matches!(way, Way::Vector(_) | Way::Splice)
}

/// Something that may be a number, with N's [`SIGN`] if it is.
fn text(random: &mut StdRng) -> Vec<u8> {
    let multiple = random.random_range(1..u64::MAX / SIGN) * SIGN;
    let small = random.random_range(1..1000) * SIGN;
    let space = |random: &mut StdRng| -> String {
        (0..random.random_range(0..4))
            .map(|_| {
                *[' ', '\t', '\n', '\r', '\x0b', '\x0c']
                    .choose(random)
                    .expect("some")
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
                .expect("some")
        )
        .into(),
        9 => vec![],
        10 => {
            let length = *[31, 32, 33, 255, 4095, 4096, 4097, 70_000]
                .choose(random)
                .expect("some");
            vec![*b" 07x\n\0".choose(random).expect("some"); length]
        }
        _ => {
            let mut bytes = vec![0; random.random_range(1..40)];
            random.fill(&mut bytes[..]);
            bytes
        }
    };

    // Nobody could tell what is valid by chance from what was refused.
    if has_sign(&text) {
        text
    } else {
        b"none".to_vec()
    }
}

#[test]
fn to_counter_and_nout() {
    let lock = KernelLock::take();
    let _kstat = Kstat::started(&lock, "counter=7");
    let host = Host::new(&lock);
    let nft = host.nft(HookPoint::Output);
    let counter = host.open(COUNTER, OpenOptions::new().read(true).write(true));
    let nout = host.open(NOUT, OpenOptions::new().read(true).write(true));
    let mut random = seed::random();
    let writes = times(9000).max(LEAST);
    let (mut now, mut accepted) = (SIGN, 0);

    let traffic = host.bursts();
    let last = Mutex::new(0);
    let reader = (
        host.open(COUNTER, OpenOptions::new().read(true)),
        host.open(NOUT, OpenOptions::new().read(true)),
    );
    let read = || {
        let n = file::reread(COUNTER, &reader.0);
        assert_eq!(
            n % SIGN,
            0,
            "somebody read {n} from counter, which was never accepted"
        );

        let mut last = last.lock().expect("nobody failed with it");
        let nout = file::reread(NOUT, &reader.1);
        assert!(nout >= *last, "nout went back from {last} to {nout}");
        *last = nout;
    };
    while_repeating(&[&read], || {
        for _ in 0..writes {
            let text = text(&mut random);
            let way = way(&mut random, &text);
            let result = write(&counter, &text, way);
            let after = n_after(&text, way);

            let whole = match way {
                // White space may follow the number in a write of its own.
                Way::Vector(first) if !is_white_space(&text[first..]) => first,
                _ => text.len(),
            };

            match (after, &result) {
                (Some(n), Ok(written)) if *written == whole => {
                    now = n;
                    accepted += 1;
                }
                (None, Err(Errno::EINVAL | Errno::ERANGE | Errno::EFAULT)) => {}
                (None, Ok(0)) if is_lost_on_the_way(&text, way) => {}
                _ => panic!(
                    "{way:?} of {text:02x?} to counter: {result:?}, but N is to be {after:?}"
                ),
            }
            assert_eq!(
                file::reread(COUNTER, &counter),
                now,
                "N after {way:?} of {text:02x?}"
            );

            let result = write(&nout, &text, way);
            assert!(
                matches!(result, Err(Errno::EIO | Errno::EINVAL | Errno::ESPIPE))
                    || (result == Ok(0) && is_lost_on_the_way(&text, way)),
                "{way:?} of {text:02x?} to nout: {result:?}"
            );
        }
    });
    traffic.stop();
    host.set_counter(1);
    nft.assert_agrees(host.nout());
    println!("{accepted} were accepted by counter");
    assert!(accepted > writes / 20, "hardly anything was accepted");
    did(writes * 2, "hostile writes to counter and nout");
}

/// What the kernel's own bool parameters make of a text.
fn bool(text: &[u8]) -> Option<bool> {
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
fn to_start() {
    let lock = KernelLock::take();
    let _quick = setting::expedite_grace_periods();
    let kstat = Kstat::load(&lock, "counter=1");
    let busy = Host::new(&lock);
    let quiet = Host::new(&lock);
    let start = file::open(START, OpenOptions::new().read(true).write(true));
    let mut random = seed::random();
    let writes = times(1000).max(LEAST);
    let mut now = false;
    let mut refused = 0;

    let traffic = busy.bursts();
    for _ in 0..writes {
        let text = match random.random_range(0..3) {
            0 => [
                "1", "0", "on", "of", "off", "yes", "No", "o", "O\n", "true", "F", "2", "-1", " 1",
                "\n", "1x",
            ]
            .choose(&mut random)
            .expect("some")
            .as_bytes()
            .to_vec(),
            _ => text(&mut random),
        };
        // An offset means nothing to sysfs, and all pieces are one text, of a page at most.
        let way = way(&mut random, &text);
        let result = write(&start, &text, way);
        let after = match way {
            Way::At(offset) if offset > i64::MAX - text.len() as i64 => None,
            Way::Unmapped => None,
            _ => bool(&text),
        };

        match (after, &result) {
            (Some(after), Ok(_)) => now = after,
            (None, Err(Errno::EINVAL | Errno::EFAULT | Errno::EOVERFLOW)) => refused += 1,
            // Nothing was written, and nobody was told.
            (None, Ok(0)) => {}
            _ => panic!("{way:?} of {text:02x?} to start: {result:?}, but it is to be {after:?}"),
        }
        assert_eq!(
            kstat.is_started(),
            now,
            "start after {way:?} of {text:02x?}"
        );
        let before = quiet.nout();
        quiet.send_tcp(1);
        assert_eq!(quiet.nout() - before, u64::from(now), "start is {now}");
    }
    traffic.stop();
    kstat.unload();
    assert!(refused > writes / 10, "hardly anything was refused");
    did(writes, "hostile writes to start");
}

#[test]
fn to_the_loader() {
    let lock = KernelLock::take();
    let _quick = setting::expedite_grace_periods();
    let host = Host::new(&lock);
    let traffic = host.bursts();
    let mut random = seed::random();
    let loads = times(150).max(LEAST / 10);
    let mut accepted = 0;

    for _ in 0..loads {
        let &name = ["counter", "start", "hook", "nout", ""]
            .choose(&mut random)
            .expect("some");
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
            .expect("some")
            .as_bytes()
            .to_vec(),
            _ => text(&mut random),
        };
        let mut parameter = format!("{name}=").into_bytes();
        // A NUL would end it.
        let value: Vec<u8> = value
            .into_iter()
            .filter(|byte| *byte != 0)
            .take(3000)
            .collect();
        parameter.extend(&value);
        // Where space or quotes may make several parameters of it, or others, it is not known what is valid.
        let plain = !value
            .iter()
            .any(|byte| b" \t\n\x0b\x0c\r\xa0\"".contains(byte));
        let valid = match name {
            "counter" => n(&value).is_some(),
            "start" => bool(&value).is_some(),
            "hook" => [&b"local_out"[..], b"post_routing"].contains(&&value[..]),
            // The loader has no objection to what it does not know.
            _ => true,
        };

        let result = module::load(&lock, parameter.as_slice());
        assert!(
            !plain || result.is_ok() == valid,
            "loading with {}: {result:?}",
            parameter.escape_ascii()
        );
        match result {
            Ok(()) => {
                let (counter, start) = (file::number(COUNTER), file::number(START));
                if plain {
                    let set = |this, to| if name == this { to } else { None };
                    assert_eq!(counter, set("counter", n(&value)).unwrap_or(10), "N");
                    assert_eq!(
                        start,
                        set("start", bool(&value).map(u64::from)).unwrap_or(0),
                        "start"
                    );
                }
                assert_ne!(counter, 0);
                module::unload(&lock).unwrap_or_else(|error| panic!("unloading: {error}"));
                accepted += 1;
            }
            Err(Errno::EINVAL | Errno::ERANGE | Errno::ENOSPC) => assert!(
                !module::is_loaded(),
                "{} was refused, but there is something left",
                parameter.escape_ascii()
            ),
            Err(error) => panic!("loading with {}: {error}", parameter.escape_ascii()),
        }
    }
    traffic.stop();
    println!("{accepted} of {loads} were accepted");
    assert!(
        accepted > 0 && accepted < loads,
        "{accepted} of {loads} were accepted"
    );
    did(loads, "loads with hostile parameters");
}
