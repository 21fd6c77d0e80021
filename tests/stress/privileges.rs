// SPDX-License-Identifier: GPL-2.0

//! Privileges of five kinds of callers.
//!
//! Each caller tries all operations of kstat, and may do exactly what its privileges allow.
//! Meanwhile the host sends packets on all CPUs, none of which may be counted in another network
//! namespace.

use kstat_tests::{
    guest::{exclusive::KernelLock, host::Host, module::Kstat},
    scale::did,
    stress::container::Container,
    tool,
};
use std::collections::BTreeMap;

/// A shell script that tries all operations, as the caller.
///
/// It prints a line `OPERATION=OUTCOME` for each. The outcome is `done`, the text of an errno, or a
/// number that was read. The operation `host` writes to descriptor 9: the counter of the host,
/// opened by the host's root.
const SCRIPT: &str = r#"
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
# In a new network namespace, the loopback device is down.
busybox ip link set lo up 2>/dev/null
echo "before=$(busybox cat /proc/kstat/nout)"
# A connection that is refused: two packets.
busybox nc 127.0.0.1 9 </dev/null 2>/dev/null
echo "after=$(busybox cat /proc/kstat/nout)"
read -r _ packets _ <<-END
	$(busybox tail -n 1 /proc/net/kstat)
END
echo "packets=$packets"
try counter 'echo 3 >/proc/kstat/counter'
try host 'echo 5 >&9'
try nout 'echo 5 >/proc/kstat/nout'
try net 'echo 5 >/proc/net/kstat'
try start 'echo 0 >/sys/module/kstat/parameters/start'
try unload 'busybox rmmod kstat'
echo "n=$(busybox cat /proc/kstat/counter)"
"#;

const DONE: &str = "done";
const EACCES: &str = "Permission denied";
const EBADF: &str = "Bad file descriptor";
const EIO: &str = "Input/output error";
const EPERM: &str = "Operation not permitted";
const EROFS: &str = "Read-only file system";

/// Runs [`SCRIPT`] on the host by `command`, which gives up privileges and then runs its arguments.
/// Returns what the script printed.
fn run_script_by(host: &Host<'_>, command: &[&str]) -> String {
    // The host's root opens descriptor 9 before it gives up privileges.
    let open = r#"exec 9>/proc/kstat/counter; exec "$@""#;
    let args = [
        &["-c", open, "bash"],
        command,
        &["busybox", "sh", "-c", SCRIPT],
    ]
    .concat();

    host.run(|| tool::run("bash", &args))
}

/// Asserts that `output`, printed by [`SCRIPT`], has the `expected` outcomes. Then starts kstat
/// again if the caller was allowed to stop it.
#[track_caller]
fn check_outcomes(kstat: &Kstat<'_>, caller: &str, output: &str, expected: &[(&str, &str)]) {
    println!("{caller}:\n{output}");
    let outcomes: BTreeMap<_, _> = output
        .lines()
        .filter_map(|line| line.split_once('='))
        .collect();

    for (operation, outcome) in expected {
        assert_eq!(
            outcomes.get(operation),
            Some(outcome),
            "{operation}, tried by {caller}"
        );
    }
    let may_stop = expected.contains(&("start", DONE));
    assert_eq!(kstat.is_started(), !may_stop, "start, after {caller}");
    kstat.start();
}

#[test]
fn callers_can_do_exactly_what_their_privileges_allow() {
    const TO_UNPRIVILEGED_USER: [&str; 4] = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
    ];
    const WITHOUT_TWO_CAPABILITIES: [&str; 3] = [
        "setpriv",
        "--bounding-set=-net_admin,-sys_module",
        "--inh-caps=-net_admin,-sys_module",
    ];
    const INTO_NEW_NAMESPACES: [&str; 4] = ["unshare", "--user", "--map-root-user", "--net"];

    let lock = KernelLock::take();
    let kstat = Kstat::started(&lock, "counter=1");
    let host = Host::new(&lock);
    let traffic = host.bursts();
    traffic.wait_for(100);

    check_outcomes(
        &kstat,
        "an unprivileged user",
        &run_script_by(&host, &TO_UNPRIVILEGED_USER),
        &[
            ("counter", EACCES),
            ("host", EPERM),
            ("nout", EACCES),
            ("net", EACCES),
            ("start", EACCES),
            ("unload", EPERM),
            ("n", "1"),
        ],
    );
    check_outcomes(
        &kstat,
        "root without CAP_NET_ADMIN and CAP_SYS_MODULE",
        &run_script_by(&host, &WITHOUT_TWO_CAPABILITIES),
        &[
            ("counter", EPERM),
            ("host", EPERM),
            ("nout", EIO),
            ("net", EACCES),
            // Only the file's permissions protect it, which let root write. It takes no capability.
            ("start", DONE),
            ("unload", EPERM),
            ("n", "1"),
        ],
    );
    check_outcomes(
        &kstat,
        "an unprivileged user, as root of new namespaces",
        &run_script_by(
            &host,
            &[&TO_UNPRIVILEGED_USER[..], &INTO_NEW_NAMESPACES].concat(),
        ),
        &[
            ("before", "0"),
            ("after", "2"),
            ("packets", "2"),
            // The owner of the files, the host's root, is not mapped into the user namespace.
            ("counter", EACCES),
            ("host", EPERM),
            ("nout", EACCES),
            ("net", EACCES),
            ("start", EACCES),
            ("unload", EPERM),
            ("n", "1"),
        ],
    );
    check_outcomes(
        &kstat,
        "the host's root, as root of new namespaces",
        &run_script_by(&host, &INTO_NEW_NAMESPACES),
        &[
            ("before", "0"),
            ("after", "2"),
            ("packets", "2"),
            ("counter", DONE),
            ("host", EPERM),
            ("nout", EIO),
            ("net", EACCES),
            // The caller still owns the file, and writing it takes no capability.
            ("start", DONE),
            ("unload", EPERM),
            ("n", "3"),
        ],
    );
    check_outcomes(
        &kstat,
        "root of a container",
        &host.run(|| Container::new().run(SCRIPT)),
        &[
            ("before", "0"),
            ("after", "2"),
            ("packets", "2"),
            ("counter", EPERM),
            // runc passes no descriptor of the host on.
            ("host", EBADF),
            ("nout", EACCES),
            ("net", EACCES),
            ("start", EROFS),
            ("unload", EPERM),
            ("n", "1"),
        ],
    );

    assert_eq!(host.counter(), 1, "N of the host");
    traffic.stop();
    did(5, "kinds of callers that tried all operations");
}
