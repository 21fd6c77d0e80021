// SPDX-License-Identifier: GPL-2.0

//! Reading and setting N: /proc/kstat/counter.
//!
//! nout shows the count in steps of N. These tests are about the file; `publishing` has the tests
//! of how N changes nout.

use kstat_tests::{
    guest::{
        daemon::Folder,
        exclusive::KernelLock,
        file::{self, COUNTER},
        host::Host,
        identity,
        memory::PAGE,
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

/// A host with N = 7 that has sent 25 packets, so that nout shows 21.
struct Fixture<'t> {
    _kstat: Kstat<'t>,
    host: Host<'t>,
}

impl<'t> Fixture<'t> {
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

    /// Runs `attempt` on the host, and asserts that it fails with `error` and changes nothing.
    #[track_caller]
    fn assert_refuses(
        &self,
        action: &str,
        error: Errno,
        attempt: impl FnOnce() -> Result<(), Errno> + Send,
    ) {
        assert_eq!(self.host.run(attempt), Err(error), "{action}");
        self.assert_unchanged(action);
    }

    /// Asserts that `action` has changed neither N nor nout.
    #[track_caller]
    fn assert_unchanged(&self, action: &str) {
        assert_eq!(self.host.counter(), 7, "counter after {action}");
        assert_eq!(self.host.nout(), 21, "nout after {action}");
    }
}

#[test]
fn file_has_mode_0644_and_belongs_to_root() {
    let lock = KernelLock::take();
    let _kstat = Kstat::load(&lock, "");

    file::assert_root_owned(COUNTER, 0o644);
}

#[test]
fn numbers_from_1_to_u64_max_are_accepted_and_read_back() {
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
fn n_can_be_set_before_start_and_after_stop() {
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

#[test]
fn white_space_around_the_number_is_accepted() {
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
fn zero_negative_and_malformed_numbers_are_refused_with_einval() {
    let lock = KernelLock::take();
    let fixture = Fixture::new(&lock);

    for text in [
        "0", "0\n", "00", "-1", "-10\n", "", "\n", " ", "ten", "10x", "x10", "0x10", "1 0",
        "10\n20\n", "1.5", "1e3", "10\0",
    ] {
        fixture.assert_refuses(&format!("writing {text:?}"), Errno::EINVAL, || {
            file::put(COUNTER, text)
        });
    }
}

#[test]
fn empty_write_is_refused_with_einval() {
    let lock = KernelLock::take();
    let fixture = Fixture::new(&lock);

    fixture.assert_refuses("writing nothing", Errno::EINVAL, || file::put(COUNTER, ""));
}

#[test]
fn number_above_u64_max_is_refused_with_erange() {
    let lock = KernelLock::take();
    let fixture = Fixture::new(&lock);

    for text in [
        "18446744073709551616",
        "18446744073709551616\n",
        "99999999999999999999",
        "100000000000000000000\n",
    ] {
        fixture.assert_refuses(&format!("writing {text:?}"), Errno::ERANGE, || {
            file::put(COUNTER, text)
        });
    }
}

#[test]
fn text_longer_than_32_bytes_is_refused_with_einval() {
    let lock = KernelLock::take();
    let fixture = Fixture::new(&lock);

    for text in [
        format!("{:33}", 7),
        format!("{:0>33}", 7),
        "9".repeat(33),
        " ".repeat(4096) + "7",
        "7".to_owned() + &"\n".repeat(1 << 20),
    ] {
        fixture.assert_refuses(
            &format!("writing {} bytes", text.len()),
            Errno::EINVAL,
            || file::put(COUNTER, &text),
        );
    }
}

#[test]
fn write_at_an_offset_other_than_0_is_refused_with_einval() {
    let lock = KernelLock::take();
    let fixture = Fixture::new(&lock);

    for offset in [1, 2, 4096] {
        let mut file = fixture.host.open(COUNTER, OpenOptions::new().write(true));
        file.seek(SeekFrom::Start(offset))
            .unwrap_or_else(|error| panic!("seeking to {offset}: {error}"));

        fixture.assert_refuses(&format!("write at {offset}"), Errno::EINVAL, || {
            file::write(&file, b"20")
        });
    }
}

#[test]
fn pwrite_at_an_offset_other_than_0_is_refused_with_einval() {
    let lock = KernelLock::take();
    let fixture = Fixture::new(&lock);

    for offset in [1, 2, 4096] {
        fixture.assert_refuses(&format!("pwrite at {offset}"), Errno::EINVAL, || {
            file::writer(COUNTER)
                .write_at(b"20", offset)
                .map(drop)
                .map_err(file::errno)
        });
    }
}

#[test]
fn refused_write_does_not_move_the_offset() {
    let lock = KernelLock::take();
    let _kstat = Kstat::load(&lock, "");
    let file = file::writer(COUNTER);

    assert_eq!(file::write(&file, b"0\n"), Err(Errno::EINVAL));
    assert_eq!(file::write(&file, b"20\n"), Ok(()));
    assert_eq!(file::number(COUNTER), 20);
}

#[test]
fn second_number_written_to_a_descriptor_is_refused_with_einval() {
    let lock = KernelLock::take();
    let _kstat = Kstat::load(&lock, "");
    let file = file::writer(COUNTER);

    assert_eq!(file::write(&file, b"20\n"), Ok(()), "first write");
    assert_eq!(
        file::write(&file, b"30\n"),
        Err(Errno::EINVAL),
        "second write"
    );
    assert_eq!(file::number(COUNTER), 20);
}

#[test]
fn white_space_in_a_later_write_is_accepted_and_changes_nothing() {
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
fn white_space_not_right_after_a_number_is_refused_with_einval() {
    let lock = KernelLock::take();
    let fixture = Fixture::new(&lock);
    let assert_refused_at = |action: &str, file: &File, offset| {
        fixture.assert_refuses(action, Errno::EINVAL, || {
            file.write_at(b"\n", offset).map(drop).map_err(file::errno)
        });
    };

    for offset in [0, 1, 2, 3] {
        let file = file::writer(COUNTER);
        assert_refused_at("white space without a number", &file, offset);
    }
    let file = file::writer(COUNTER);
    assert_eq!(file::write(&file, b"x"), Err(Errno::EINVAL));
    assert_refused_at("white space after a refused text", &file, 1);
    let file = file::writer(COUNTER);
    assert_eq!(file::write(&file, b"10"), Ok(()));
    for offset in [0, 1, 3] {
        assert_refused_at("white space not right after the number", &file, offset);
    }
}

/// kstat(4) names the ways of writing in which the digits arrive in pieces.
#[test]
fn program_sets_n_or_changes_nothing_if_it_writes_all_digits_at_once() {
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
        // These write the newline separately, as toybox does.
        "perl -e 'open F, q(>), $ENV{F} or die; $| = 1; select F; $| = 1; print F 100 or die; print F qq(\\n) or die'",
        "python3 -c 'import os; f = open(os.environ[\"F\"], \"wb\", 0); f.write(b\"100\"); f.write(b\"\\n\")'",
    ];
    const REFUSED: [&str; 6] = [
        "printf '100\\0' >$F",
        // The read has moved the offset.
        "exec 3<>$F; cat <&3; echo 100 >&3",
        // These open with O_APPEND and seek to the end.
        "tee -a $F <$t",
        "awk '{ print >>ENVIRON[\"F\"] }' $t",
        "python3 -c 'import os; open(os.environ[\"F\"], \"a\").write(\"100\")'",
        // Files of procfs have no operation for sendfile(2).
        "python3 -c 'import os; os.sendfile(os.open(os.environ[\"F\"], os.O_WRONLY), os.open(os.environ[\"t\"], 0), 0, 4)'",
    ];
    // The first piece is a number, which is set. The next piece is refused.
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
fn unreadable_buffer_is_refused_with_efault() {
    let lock = KernelLock::take();
    let fixture = Fixture::new(&lock);
    let page = GuardedPage::new();

    fixture.assert_refuses("writing from an unmapped address", Errno::EFAULT, || {
        raw_write(&file::writer(COUNTER), ptr::without_provenance(8), 2)
    });
    // The two digits can be read, and the third byte cannot.
    fixture.assert_refuses("writing past the end of a page", Errno::EFAULT, || {
        raw_write(&file::writer(COUNTER), page.last_bytes(b"20"), 3)
    });
}

/// Calls `write(2)` with a buffer that may be unreadable.
fn raw_write(file: &File, text: *const u8, length: usize) -> Result<(), Errno> {
    // SAFETY: The kernel only reads the buffer, and checks that it can.
    let result = unsafe { libc::write(file.as_raw_fd(), text.cast(), length) };

    Errno::result(result).map(drop)
}

/// A page that can be read and written, followed by a page without any access.
struct GuardedPage(*mut u8);

// SAFETY: The mapping belongs to no thread, and one thread at a time uses it.
unsafe impl Sync for GuardedPage {}

impl GuardedPage {
    fn new() -> Self {
        // SAFETY: This makes a new mapping, at an address that the kernel chooses.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                2 * PAGE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        assert_ne!(start, libc::MAP_FAILED, "mmap: {}", Errno::last());

        // SAFETY: This is the second page of the mapping, which nothing uses.
        let result = unsafe { libc::mprotect(start.byte_add(PAGE), PAGE, libc::PROT_NONE) };
        assert_eq!(result, 0, "mprotect: {}", Errno::last());
        Self(start.cast())
    }

    /// Copies `bytes` to the end of the readable page, and returns their address.
    fn last_bytes(&self, bytes: &[u8]) -> *const u8 {
        // SAFETY: The bytes fit into the page, and no other thread uses it now.
        unsafe {
            let start = self.0.add(PAGE - bytes.len());
            start.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
            start
        }
    }
}

impl Drop for GuardedPage {
    fn drop(&mut self) {
        // SAFETY: `new` mapped these two pages, and nothing uses them any more.
        unsafe { libc::munmap(self.0.cast(), 2 * PAGE) };
    }
}

#[test]
fn unprivileged_user_can_read_n_and_is_refused_a_write_with_eacces() {
    let lock = KernelLock::take();
    let fixture = Fixture::new(&lock);

    for text in ["20\n", "0\n", "", "ten", "99999999999999999999"] {
        fixture.assert_refuses(
            &format!("{text:?} of the user nobody"),
            Errno::EACCES,
            || identity::as_nobody(|| file::put(COUNTER, text)),
        );
    }
    assert_eq!(
        fixture
            .host
            .run(|| identity::as_nobody(|| file::number(COUNTER))),
        7,
        "N as the user nobody reads it"
    );
}

#[test]
fn root_without_cap_net_admin_is_refused_with_eperm() {
    let lock = KernelLock::take();
    let fixture = Fixture::new(&lock);

    for text in ["20\n", "0\n", "", "ten", "99999999999999999999"] {
        fixture.assert_refuses(
            &format!("{text:?} of root without CAP_NET_ADMIN"),
            Errno::EPERM,
            || identity::without_net_admin(|| file::put(COUNTER, text)),
        );
    }
}

#[test]
fn shell_without_cap_net_admin_prints_operation_not_permitted() {
    let lock = KernelLock::take();
    let fixture = Fixture::new(&lock);

    let output = fixture.host.run(|| {
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

    assert_eq!(output.stdout, b"0\n", "user ID of the shell");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        stderr.contains("Operation not permitted"),
        "bash says {stderr}"
    );
    fixture.assert_unchanged("an echo without CAP_NET_ADMIN");
}

#[test]
fn writer_needs_cap_net_admin_even_if_the_opener_had_it() {
    let lock = KernelLock::take();
    let fixture = Fixture::new(&lock);
    let file = fixture.host.open(COUNTER, OpenOptions::new().write(true));

    fixture.assert_refuses("root without CAP_NET_ADMIN", Errno::EPERM, || {
        identity::without_net_admin(|| file::write(&file, b"20\n"))
    });
    fixture.assert_refuses("the user nobody", Errno::EPERM, || {
        identity::as_nobody(|| file::write(&file, b"20\n"))
    });
    // With the capability, a write to the same descriptor succeeds.
    assert_eq!(file::write(&file, b"20\n"), Ok(()));
    assert_eq!(fixture.host.counter(), 20);
}

#[test]
fn opener_needs_cap_net_admin_even_if_the_writer_has_it() {
    let lock = KernelLock::take();
    let fixture = Fixture::new(&lock);
    let file = fixture
        .host
        .run(|| identity::without_net_admin(|| file::writer(COUNTER)));

    fixture.assert_refuses("root", Errno::EPERM, || file::write(&file, b"20\n"));
}

/// Sets N, and reads it back, as root of a new user namespace that `unshare` makes with `options`.
///
/// Returns the text that `cat` prints, or an error with the message of bash.
fn echo_in_user_namespace(options: &[&str]) -> io::Result<String> {
    let args = [
        options,
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
fn cap_net_admin_is_checked_in_the_owning_user_namespace() {
    let lock = KernelLock::take();
    let fixture = Fixture::new(&lock);

    // The new user namespace owns the new network namespace.
    let own = fixture
        .host
        .run(|| echo_in_user_namespace(&["--user", "--map-root-user", "--net"]));
    assert_eq!(own.expect("setting N of the new namespace"), "20\n");
    fixture.assert_unchanged("an echo in another namespace");

    // The new user namespace does not own the host's network namespace.
    let error = fixture
        .host
        .run(|| echo_in_user_namespace(&["--user", "--map-root-user"]))
        .expect_err("setting N of the host's namespace");
    assert!(
        error.to_string().contains("Operation not permitted"),
        "bash says {error}"
    );
    fixture.assert_unchanged("an echo by root of another user namespace");
}
