// SPDX-License-Identifier: GPL-2.0

//! People who are not to do what root may: each tries all there is, and may do so much and no more.
//!
//! Meanwhile the host sends packets on all CPUs, of which nobody elsewhere is to see one.

use kstat_tests::{
    guest::{exclusive::KernelLock, host::Host, module::Kstat},
    scale::did,
    stress::container::Container,
    tool,
};
use std::collections::BTreeMap;

/// What everybody tries. Says for each thing whether it was done, or the kernel's word for why not.
/// Descriptor 9 is the host's counter, opened by its root.
const TRIES: &str = r#"
try() {
	name=$1
	shift
	if answer=$(busybox sh -c "$*" 2>&1); then
		echo "$name=done"
	else
		answer=${answer##*: }
		echo "$name=${answer%)}"
	fi
}
# In a namespace of one's own it is to be up.
busybox ip link set lo up 2>/dev/null
echo "before=$(busybox cat /proc/kstat/nout)"
# A connection that is refused: two packets.
busybox nc 127.0.0.1 9 </dev/null 2>/dev/null
echo "after=$(busybox cat /proc/kstat/nout)"
try counter 'echo 3 >/proc/kstat/counter'
try host 'echo 5 >&9'
try nout 'echo 5 >/proc/kstat/nout'
try start 'echo 0 >/sys/module/kstat/parameters/start'
try unload 'busybox rmmod kstat'
echo "n=$(busybox cat /proc/kstat/counter)"
"#;

const EACCES: &str = "Permission denied";
const EPERM: &str = "Operation not permitted";
const EIO: &str = "Input/output error";

/// Has somebody try, who comes to be by these words before a command.
fn have_try(host: &Host<'_>, who: &[&str]) -> BTreeMap<String, String> {
    // Opened while it is root's, and root of the host.
    let open = r#"exec 9>/proc/kstat/counter; exec "$@""#;
    let args = [&["-c", open, "bash"], who, &["busybox", "sh", "-c", TRIES]].concat();

    said(&host.run(|| tool::run("bash", &args)))
}

fn said(output: &str) -> BTreeMap<String, String> {
    println!("{output}");
    output
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, outcome)| (name.to_owned(), outcome.to_owned()))
        .collect()
}

#[track_caller]
fn assert_tried(who: &str, tried: &BTreeMap<String, String>, expected: &[(&str, &str)]) {
    for (name, outcome) in expected {
        assert_eq!(
            tried.get(*name).map(String::as_str),
            Some(*outcome),
            "{name}, tried by {who}"
        );
    }
}

#[test]
fn each_may_do_what_they_may_and_sees_nothing_of_the_hosts() {
    const NOBODY: [&str; 4] = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
    ];
    const OWN: [(&str, &str); 2] = [("before", "0"), ("after", "2")];
    const IN_USER_NAMESPACE: [&str; 4] = ["unshare", "--user", "--map-root-user", "--net"];

    let lock = KernelLock::take();
    let kstat = Kstat::started(&lock, "counter=1");
    let host = Host::new(&lock);
    let traffic = host.bursts();
    traffic.wait_for(100);

    let tried = have_try(&host, &NOBODY);
    assert_tried(
        "an unprivileged user",
        &tried,
        &[
            ("counter", EACCES),
            ("host", EPERM),
            ("nout", EACCES),
            ("start", EACCES),
            ("unload", EPERM),
            ("n", "1"),
        ],
    );

    let tried = have_try(
        &host,
        &[
            "setpriv",
            "--bounding-set=-net_admin,-sys_module",
            "--inh-caps=-net_admin,-sys_module",
        ],
    );
    assert_tried(
        "root without CAP_NET_ADMIN and CAP_SYS_MODULE",
        &tried,
        &[
            ("counter", EPERM),
            ("host", EPERM),
            ("nout", EIO),
            // It is the whole machine's, and has the permissions of its file.
            ("start", "done"),
            ("unload", EPERM),
            ("n", "1"),
        ],
    );
    assert!(!kstat.is_started());
    kstat.start();

    let tried = have_try(&host, &[&NOBODY[..], &IN_USER_NAMESPACE].concat());
    assert_tried(
        "root of an unprivileged user's namespaces",
        &tried,
        &[
            OWN[0],
            OWN[1],
            // The file is of a user that is not in that namespace.
            ("counter", EACCES),
            ("host", EPERM),
            ("nout", EACCES),
            ("start", EACCES),
            ("unload", EPERM),
            ("n", "1"),
        ],
    );

    let tried = have_try(&host, &IN_USER_NAMESPACE);
    assert_tried(
        "root, in namespaces of its own",
        &tried,
        &[
            OWN[0],
            OWN[1],
            ("counter", "done"),
            ("host", EPERM),
            ("nout", EIO),
            // The file is root's, who this still is outside of them: no capability is asked for.
            ("start", "done"),
            ("unload", EPERM),
            ("n", "3"),
        ],
    );
    assert!(!kstat.is_started());
    kstat.start();

    let tried = said(&host.run(|| Container::new().run(TRIES)));
    assert_tried(
        "root of a container",
        &tried,
        &[
            OWN[0],
            OWN[1],
            ("counter", EPERM),
            // It is given no descriptor of the host's.
            ("host", "Bad file descriptor"),
            ("nout", EACCES),
            ("start", "Read-only file system"),
            ("unload", EPERM),
            ("n", "1"),
        ],
    );

    assert_eq!(host.counter(), 1, "the host's N");
    traffic.stop();
    did(5, "hostile people");
}
