// SPDX-License-Identifier: GPL-2.0

//! `make install`, and what a kernel that wants signatures takes. Runs in the lab, and boots a guest for each test.

use kstat_tests::{
    lab::{
        chroot::{copy_sources, project},
        rust_tree::{release, tree},
    },
    tool::{self, shell},
};
use std::process::Command;

/// Runs a script in a guest whose kernel has `append` on its command line; returns what it said.
#[track_caller]
fn guest(kernel: &[&str], append: &str, script: &str) -> String {
    let output = Command::new(project().join("scripts/vm"))
        .args(kernel)
        .args(["--", "bash", "-ec", script])
        .env("KSTAT_APPEND", append)
        .output()
        .expect("running scripts/vm");
    let said = tool::said(script, &output);

    println!("{said}");
    said
}

/// A key that no kernel knows, as DKMS would make it for a machine.
const KEY: &str =
    "openssl req -quiet -new -x509 -newkey rsa:2048 -nodes -subj /CN=stranger -outform DER \
    -keyout /tmp/mok.key -out /tmp/mok.pub 2>&1";

#[test]
fn what_make_install_installs_modprobe_finds_until_make_uninstall() {
    let copy = project().join("build/by-hand");
    shell(&format!(
        "rm -rf {copy}; mkdir -p {copy}",
        copy = copy.display()
    ));
    copy_sources(&copy);
    // Compiled and installed here, which is quick, as into other systems; loaded in a guest.
    let said = shell(&format!(
        "cd {copy}
        make() {{ command make --no-print-directory KDIR={tree} INSTALL_MOD_PATH={copy}/$1 \"${{@:2}}\" 2>&1; }}
        {KEY}
        make plain install
        make signed install SIGN_KEY=/tmp/mok.key
        make signed install SIGN_KEY=/tmp/mok.key
        make gone install
        make gone uninstall
        find gone -name 'kstat*'
        make gone uninstall KDIR=/nowhere || true
        if grep kstat gone/lib/modules/*/modules.dep; then exit 1; fi",
        copy = copy.display(),
        tree = tree().display(),
    ));
    println!("{said}");
    assert_eq!(said.matches("kstat is installed for ").count(), 4, "{said}");
    let [.., gone, refused, _make] = said.lines().collect::<Vec<_>>()[..] else {
        panic!("{said}");
    };
    assert!(
        gone.starts_with("kstat is no longer installed for "),
        "{said}"
    );
    assert!(
        refused.starts_with("kstat: /nowhere does not say for which kernel it is"),
        "{said}"
    );

    let said = guest(
        &[],
        "",
        &format!(
            "for root in plain signed gone; do
                mount --bind {}/$root/lib/modules/$(uname -r) /lib/modules/$(uname -r)
                modprobe kstat 2>&1 || continue
                echo \"$root: N is $(cat /proc/kstat/counter), signed by '$(modinfo -F signer kstat)', $(modinfo -F filename kstat)\"
                rmmod kstat
            done",
            copy.display()
        ),
    );
    let file = format!("/lib/modules/{}/updates/kstat.ko.xz", release());
    assert!(
        said.contains(&format!("plain: N is 10, signed by '', {file}\n")),
        "{said}"
    );
    assert!(
        said.contains(&format!("signed: N is 10, signed by 'stranger', {file}\n")),
        "{said}"
    );
    assert!(said.contains("FATAL: Module kstat not found"), "{said}");
}

/// Tries an unsigned module, one that a stranger signed, and one signed with `key`.
fn try_signatures(sign_file: &str, key: &str) -> String {
    format!(
        "{KEY}
        sign() {{ cp $KSTAT_KO /tmp/$1.ko; {sign_file} sha256 $2 $3 /tmp/$1.ko; }}
        load() {{ insmod $1 2>&1 && echo \"$1 is loaded, N is $(cat /proc/kstat/counter)\" && rmmod kstat || true; }}
        sign strange /tmp/mok.key /tmp/mok.pub
        load $KSTAT_KO; load /tmp/strange.ko
        {key}
        dmesg | grep -o 'Loading of.*'"
    )
}

const REFUSED: [&str; 2] = [
    "Loading of unsigned module is rejected",
    "Loading of module with unavailable key is rejected",
];

#[test]
fn a_stock_kernel_that_wants_signatures_takes_none_but_debians() {
    let said = guest(
        &[],
        "module.sig_enforce=1",
        &try_signatures("/lib/modules/$(uname -r)/build/scripts/sign-file", ""),
    );

    assert_eq!(
        said.matches("Key was rejected by service").count(),
        2,
        "{said}"
    );
    assert!(!said.contains("is loaded"), "{said}");
    for words in REFUSED {
        assert!(said.contains(words), "{words:?} is not in: {said}");
    }
}

/// This kernel was built with a key of its own, which it trusts as it would one that was enrolled.
#[test]
fn a_kernel_that_wants_signatures_takes_that_of_a_key_it_trusts() {
    let said = guest(
        &["-k", "uml"],
        "module.sig_enforce=1",
        &try_signatures(
            "$KSTAT_TREE/scripts/sign-file",
            "sign trusted $KSTAT_TREE/certs/signing_key.pem $KSTAT_TREE/certs/signing_key.x509
            load /tmp/trusted.ko",
        ),
    );

    assert_eq!(
        said.matches("Key was rejected by service").count(),
        2,
        "{said}"
    );
    assert_eq!(said.matches("is loaded").count(), 1, "{said}");
    assert!(
        said.contains("/tmp/trusted.ko is loaded, N is 10\n"),
        "{said}"
    );
    for words in REFUSED {
        assert!(said.contains(words), "{words:?} is not in: {said}");
    }
}
