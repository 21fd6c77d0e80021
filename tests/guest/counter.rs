// SPDX-License-Identifier: GPL-2.0

//! N: the file `counter`.

use kstat_tests::{
    guest::{
        daemon::Folder,
        exclusive::KernelLock,
        file::{self, COUNTER},
        host::Host,
        identity,
        module::Kstat,
    },
    tool,
};
use nix::errno::Errno;
use std::{
    fs::{File, OpenOptions},
    io::{self, Seek, SeekFrom},
    os::{fd::AsRawFd, unix::fs::FileExt},
    ptr,
};

/// A host with N = 7, which no text here has in it, on which nout shows 21 of 25 packets.
struct Subject<'t> {
    _kstat: Kstat<'t>,
    host: Host<'t>,
}

impl<'t> Subject<'t> {
    #[track_caller]
    fn new(lock: &'t KernelLock) -> Self {
        let kstat = Kstat::started(lock, "counter=7");
        let host = Host::new(lock);

        host.send_tcp(25);
        Self {
            _kstat: kstat,
            host,
        }
    }

    /// Asserts that `attempt`, made on the host, fails with `error` and changes nothing.
    #[track_caller]
    fn assert_refuses(
        &self,
        what: &str,
        error: Errno,
        attempt: impl FnOnce() -> Result<(), Errno> + Send,
    ) {
        assert_eq!(self.host.run(attempt), Err(error), "{what}");
        self.assert_unchanged(what);
    }

    #[track_caller]
    fn assert_unchanged(&self, what: &str) {
        assert_eq!(self.host.counter(), 7, "counter after {what}");
        assert_eq!(self.host.nout(), 21, "nout after {what}");
    }
}

#[test]
fn it_is_0644_and_roots() {
    let lock = KernelLock::take();
    let _kstat = Kstat::load(&lock, "");

    file::assert_roots(COUNTER, 0o644);
}

#[test]
fn it_takes_every_decimal_number_from_1_to_u64_max_and_shows_it() {
    let lock = KernelLock::take();
    let _kstat = Kstat::load(&lock, "");

    for n in [1, 2, 9, 10, 1_000_003, u64::MAX - 1, u64::MAX] {
        for text in [format!("{n}"), format!("{n}\n")] {
            assert_eq!(file::put(COUNTER, &text), Ok(()), "writing {text:?}");
            assert_eq!(file::read(COUNTER), format!("{n}\n"), "after {text:?}");
        }
    }
}

#[test]
fn white_space_around_the_number_is_allowed() {
    let lock = KernelLock::take();
    let _kstat = Kstat::load(&lock, "");

    for text in [
        " 20",
        "20 ",
        "\t20\n",
        "\n20\n\n",
        " \t\n\x0b\x0c\r20 \t\n\x0b\x0c\r",
    ] {
        assert_eq!(file::put(COUNTER, "10"), Ok(()), "writing 10");
        assert_eq!(file::put(COUNTER, text), Ok(()), "writing {text:?}");
        assert_eq!(file::number(COUNTER), 20, "after {text:?}");
    }
}

#[test]
fn what_is_no_number_from_1_is_refused_with_einval() {
    let lock = KernelLock::take();
    let subject = Subject::new(&lock);

    for text in [
        "0", "0\n", "00", "-1", "-10\n", "", "\n", " ", "ten", "10x", "x10", "0x10", "1 0",
        "10\n20\n", "1.5", "1e3", "10\0",
    ] {
        subject.assert_refuses(&format!("writing {text:?}"), Errno::EINVAL, || {
            file::put(COUNTER, text)
        });
    }
}

#[test]
fn a_write_of_no_bytes_is_refused_with_einval() {
    let lock = KernelLock::take();
    let subject = Subject::new(&lock);

    subject.assert_refuses("writing nothing", Errno::EINVAL, || file::put(COUNTER, ""));
}

#[test]
fn a_number_that_is_too_large_is_refused_with_erange() {
    let lock = KernelLock::take();
    let subject = Subject::new(&lock);

    for text in [
        "18446744073709551616",
        "18446744073709551616\n",
        "99999999999999999999",
        "100000000000000000000\n",
    ] {
        subject.assert_refuses(&format!("writing {text:?}"), Errno::ERANGE, || {
            file::put(COUNTER, text)
        });
    }
}

#[test]
fn a_text_longer_than_any_number_can_be_is_refused_with_einval() {
    let lock = KernelLock::take();
    let subject = Subject::new(&lock);

    for text in [
        format!("{:33}", 7),
        format!("{:0>33}", 7),
        "9".repeat(33),
        " ".repeat(4096) + "7",
        "7".to_owned() + &"\n".repeat(1 << 20),
    ] {
        subject.assert_refuses(
            &format!("writing {} bytes", text.len()),
            Errno::EINVAL,
            || file::put(COUNTER, &text),
        );
    }
}

#[test]
fn a_write_at_an_offset_is_refused_with_einval() {
    let lock = KernelLock::take();
    let subject = Subject::new(&lock);

    for offset in [1, 2, 4096] {
        let mut file = subject.host.open(COUNTER, OpenOptions::new().write(true));
        file.seek(SeekFrom::Start(offset))
            .unwrap_or_else(|error| panic!("seeking to {offset}: {error}"));

        subject.assert_refuses(&format!("write at {offset}"), Errno::EINVAL, || {
            file::write(&file, b"20")
        });
    }
}

#[test]
fn a_pwrite_at_an_offset_is_refused_with_einval() {
    let lock = KernelLock::take();
    let subject = Subject::new(&lock);

    for offset in [1, 2, 4096] {
        subject.assert_refuses(&format!("pwrite at {offset}"), Errno::EINVAL, || {
            file::writer(COUNTER)
                .write_at(b"20", offset)
                .map(drop)
                .map_err(file::errno)
        });
    }
}

#[test]
fn a_second_write_to_a_descriptor_is_at_an_offset_and_refused() {
    let lock = KernelLock::take();
    let _kstat = Kstat::load(&lock, "");
    let file = file::writer(COUNTER);

    assert_eq!(file::write(&file, b"20\n"), Ok(()), "the first");
    assert_eq!(
        file::write(&file, b"30\n"),
        Err(Errno::EINVAL),
        "the second"
    );
    assert_eq!(file::number(COUNTER), 20);
}

#[test]
fn white_space_behind_a_number_that_was_set_succeeds_and_changes_nothing() {
    let lock = KernelLock::take();
    let _kstat = Kstat::load(&lock, "");
    let file = file::writer(COUNTER);

    assert_eq!(file::write(&file, b"20"), Ok(()), "the number");
    for text in ["\n", " \t\n\x0b\x0c\r", "\n"] {
        assert_eq!(file::write(&file, text.as_bytes()), Ok(()), "{text:?}");
        assert_eq!(file::number(COUNTER), 20, "after {text:?}");
    }
    for text in ["1", "\n1", "\0", ""] {
        assert_eq!(
            file::write(&file, text.as_bytes()),
            Err(Errno::EINVAL),
            "{text:?}"
        );
        assert_eq!(file::number(COUNTER), 20, "after {text:?}");
    }
}

#[test]
fn white_space_elsewhere_than_behind_a_number_is_refused_with_einval() {
    let lock = KernelLock::take();
    let subject = Subject::new(&lock);
    let refuses = |what: &str, file: &File, offset| {
        subject.assert_refuses(what, Errno::EINVAL, || {
            file.write_at(b"\n", offset).map(drop).map_err(file::errno)
        });
    };

    for offset in [0, 1, 2, 3] {
        refuses("where nothing was set", &file::writer(COUNTER), offset);
    }
    let refused = file::writer(COUNTER);
    assert_eq!(file::write(&refused, b"x"), Err(Errno::EINVAL));
    refuses("behind what was refused", &refused, 1);
    let set = file::writer(COUNTER);
    assert_eq!(file::write(&set, b"10"), Ok(()));
    for offset in [0, 1, 3] {
        refuses("not right behind the number", &set, offset);
    }
}

/// kstat(4) says which ways of writing arrive in pieces.
#[test]
fn common_programs_set_the_number_or_change_nothing_unless_digits_arrive_in_pieces() {
    const SET: [&str; 18] = [
        "echo 100 >$F",
        "echo -n 100 >$F",
        "printf '100\\r\\n' >$F",
        "echo 100 >>$F",
        "echo 100 1<>$F",
        "cat $t >$F",
        "cp $t $F",
        "tee $F <$t",
        "dd if=$t of=$F",
        "dd if=$t of=$F conv=notrunc oflag=append",
        "busybox cp $t $F",
        "busybox dd if=$t of=$F",
        "sed -n \"w $F\" $t",
        "sort -o $F $t",
        "awk '{ print >ENVIRON[\"F\"] }' $t",
        "python3 -c 'import os; open(os.environ[\"F\"], \"w\").write(\"100\")'",
        // The newline apart, as toybox writes it.
        "perl -e 'open F, q(>), $ENV{F} or die; $| = 1; select F; $| = 1; print F 100 or die; print F qq(\\n) or die'",
        "python3 -c 'import os; f = open(os.environ[\"F\"], \"wb\", 0); f.write(b\"100\"); f.write(b\"\\n\")'",
    ];
    const REFUSED: [&str; 6] = [
        "printf '100\\0' >$F",
        "exec 3<>$F; cat <&3; echo 100 >&3",
        // These open with O_APPEND, and seek to the end.
        "tee -a $F <$t",
        "awk '{ print >>ENVIRON[\"F\"] }' $t",
        "python3 -c 'import os; open(os.environ[\"F\"], \"a\").write(\"100\")'",
        "python3 -c 'import os; os.sendfile(os.open(os.environ[\"F\"], os.O_WRONLY), os.open(os.environ[\"t\"], 0), 0, 4)'",
    ];
    // The first piece is a number, and counts; the next is refused.
    const IN_PIECES: [(&str, u64); 2] = [
        ("dd if=$t of=$F bs=1", 1),
        (
            "python3 -c 'import os; f = os.open(os.environ[\"F\"], os.O_WRONLY); n = os.writev(f, [b\"10\", b\"0\\n\"]); n == 4 or os.write(f, b\"100\\n\"[n:])'",
            10,
        ),
    ];

    let lock = KernelLock::take();
    let _kstat = Kstat::load(&lock, "");
    let folder = Folder::new();
    let text = folder.write("text", "100\n");
    let run = |command: &str| {
        assert_eq!(file::put(COUNTER, "7\n"), Ok(()));
        let script = format!("export F={COUNTER} t={text}\n{command}");
        let output = tool::attempt("bash", &["-c", &script], "");
        (output.status.success(), file::number(COUNTER))
    };

    for command in SET {
        assert_eq!(run(command), (true, 100), "{command}");
    }
    for command in REFUSED {
        assert_eq!(run(command), (false, 7), "{command}");
    }
    for (command, first) in IN_PIECES {
        assert_eq!(run(command), (false, first), "{command}");
    }
}

#[test]
fn a_refused_write_does_not_move_the_offset() {
    let lock = KernelLock::take();
    let _kstat = Kstat::load(&lock, "");
    let file = file::writer(COUNTER);

    assert_eq!(file::write(&file, b"0\n"), Err(Errno::EINVAL));
    assert_eq!(file::write(&file, b"20\n"), Ok(()));
    assert_eq!(file::number(COUNTER), 20);
}

#[test]
fn a_buffer_that_cannot_be_read_is_refused_with_efault() {
    let lock = KernelLock::take();
    let subject = Subject::new(&lock);
    let page = HalfMapped::new();

    subject.assert_refuses("writing from nowhere", Errno::EFAULT, || {
        raw_write(&file::writer(COUNTER), ptr::without_provenance(8), 2)
    });
    // The number is there, and the new line behind it is not.
    subject.assert_refuses("writing from a page's end", Errno::EFAULT, || {
        raw_write(&file::writer(COUNTER), page.last_bytes(b"20"), 3)
    });
}

/// `write(2)` of what is not memory of ours.
fn raw_write(file: &File, text: *const u8, length: usize) -> Result<(), Errno> {
    // SAFETY: The kernel checks what it is given.
    let result = unsafe { libc::write(file.as_raw_fd(), text.cast(), length) };

    Errno::result(result).map(drop)
}

/// A page that can be read and written, before one that cannot.
struct HalfMapped(*mut u8);

// SAFETY: It is memory like any other.
unsafe impl Sync for HalfMapped {}

impl HalfMapped {
    const PAGE: usize = 4096;

    fn new() -> Self {
        // SAFETY: This asks for new memory, wherever there is room.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                2 * Self::PAGE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        assert_ne!(start, libc::MAP_FAILED, "mmap: {}", Errno::last());

        // SAFETY: It is the second page of the two.
        let result =
            unsafe { libc::mprotect(start.byte_add(Self::PAGE), Self::PAGE, libc::PROT_NONE) };
        assert_eq!(result, 0, "mprotect: {}", Errno::last());
        Self(start.cast())
    }

    /// Puts `bytes` at the very end of the page.
    fn last_bytes(&self, bytes: &[u8]) -> *const u8 {
        // SAFETY: The bytes fit in the page, and nobody else uses it.
        unsafe {
            let start = self.0.add(Self::PAGE - bytes.len());
            start.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
            start
        }
    }
}

impl Drop for HalfMapped {
    fn drop(&mut self) {
        // SAFETY: `new` mapped this much, and nobody uses it any more.
        unsafe { libc::munmap(self.0.cast(), 2 * Self::PAGE) };
    }
}

#[test]
fn nobody_can_read_it_and_is_refused_a_write_with_eacces_by_its_mode() {
    let lock = KernelLock::take();
    let subject = Subject::new(&lock);

    for text in ["20\n", "0\n", "", "ten", "99999999999999999999"] {
        subject.assert_refuses(&format!("nobody's {text:?}"), Errno::EACCES, || {
            identity::as_nobody(|| file::put(COUNTER, text))
        });
    }
    assert_eq!(
        subject
            .host
            .run(|| identity::as_nobody(|| file::number(COUNTER))),
        7,
        "what nobody reads"
    );
}

#[test]
fn root_without_cap_net_admin_is_refused_with_eperm() {
    let lock = KernelLock::take();
    let subject = Subject::new(&lock);

    for text in ["20\n", "0\n", "", "ten", "99999999999999999999"] {
        subject.assert_refuses(
            &format!("{text:?} of root without CAP_NET_ADMIN"),
            Errno::EPERM,
            || identity::without_net_admin(|| file::put(COUNTER, text)),
        );
    }
}

#[test]
fn setpriv_without_cap_net_admin_is_told_that_it_is_not_permitted() {
    let lock = KernelLock::take();
    let subject = Subject::new(&lock);

    let output = subject.host.run(|| {
        tool::attempt(
            "setpriv",
            &[
                "--bounding-set=-net_admin",
                "bash",
                "-c",
                "id -u; echo 20 > /proc/kstat/counter",
            ],
            "",
        )
    });

    assert_eq!(output.stdout, b"0\n", "who writes");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("Operation not permitted"), "bash says {said}");
    subject.assert_unchanged("an echo without CAP_NET_ADMIN");
}

#[test]
fn a_descriptor_of_the_capable_gives_the_incapable_who_write_to_it_no_right() {
    let lock = KernelLock::take();
    let subject = Subject::new(&lock);
    let file = subject.host.open(COUNTER, OpenOptions::new().write(true));

    subject.assert_refuses("root without CAP_NET_ADMIN", Errno::EPERM, || {
        identity::without_net_admin(|| file::write(&file, b"20\n"))
    });
    subject.assert_refuses("nobody", Errno::EPERM, || {
        identity::as_nobody(|| file::write(&file, b"20\n"))
    });
    // It was not the descriptor.
    assert_eq!(file::write(&file, b"20\n"), Ok(()));
    assert_eq!(subject.host.counter(), 20);
}

#[test]
fn a_descriptor_of_the_incapable_does_not_borrow_the_rights_of_the_capable_who_write_to_it() {
    let lock = KernelLock::take();
    let subject = Subject::new(&lock);
    let file = subject
        .host
        .run(|| identity::without_net_admin(|| file::writer(COUNTER)));

    subject.assert_refuses("root", Errno::EPERM, || file::write(&file, b"20\n"));
}

/// What bash says when it is told to set N by who is root in a user namespace of his own.
fn echo_in_user_namespace(unshare: &[&str]) -> io::Result<String> {
    let args = [
        unshare,
        &[
            "bash",
            "-c",
            "echo 20 > /proc/kstat/counter && cat /proc/kstat/counter",
        ],
    ]
    .concat();
    let output = tool::attempt("unshare", &args, "");

    match output.status.code() {
        Some(0) => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        _ => Err(io::Error::other(
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )),
    }
}

#[test]
fn cap_net_admin_is_asked_for_in_the_user_namespace_that_owns_the_network_namespace() {
    let lock = KernelLock::take();
    let subject = Subject::new(&lock);

    // Whose user namespace owns the network namespace.
    let own = subject
        .host
        .run(|| echo_in_user_namespace(&["--user", "--map-root-user", "--net"]));
    assert_eq!(own.expect("setting N of an own namespace"), "20\n");
    subject.assert_unchanged("an echo in another namespace");

    // Whose does not, however much root he is there.
    let error = subject
        .host
        .run(|| echo_in_user_namespace(&["--user", "--map-root-user"]))
        .expect_err("setting N of somebody else's namespace");
    assert!(
        error.to_string().contains("Operation not permitted"),
        "bash says {error}"
    );
    subject.assert_unchanged("an echo by another user namespace's root");
}

#[test]
fn it_can_be_set_and_read_whether_counting_goes_on_or_not() {
    let lock = KernelLock::take();
    let kstat = Kstat::load(&lock, "");
    let host = Host::new(&lock);

    host.set_counter(3);
    assert_eq!(host.counter(), 3, "before start");
    kstat.start();
    host.send_tcp(4);
    assert_eq!((host.counter(), host.nout()), (3, 3), "started");
    kstat.stop();
    host.set_counter(2);
    assert_eq!((host.counter(), host.nout()), (2, 3), "stopped");
}
