// SPDX-License-Identifier: GPL-2.0

//! `make install`, and kernels that load only signed modules. Runs in the lab, and boots a guest
//! for each test.

use kstat_tests::{
    lab::{
        copy_sources, project,
        rust_tree::{release, tree},
        vm,
    },
    tool::{shell, Outcome},
};

/// Runs `script` in a guest that scripts/vm boots with `options` and with `append` on its kernel
/// command line. Asserts that the script succeeds, and returns its output.
#[track_caller]
fn run_in_guest(options: &[&str], append: &str, script: &str) -> String {
    let output = Outcome::of(
        vm().args(options)
            .args(["--", "bash", "-ec", script])
            .env("KSTAT_APPEND", append),
    )
    .expect_success();

    println!("{output}");
    output
}

/// Makes a signing key that no kernel trusts, as DKMS makes one for each machine.
const MAKE_KEY: &str =
    "openssl req -quiet -new -x509 -newkey rsa:2048 -nodes -subj /CN=stranger -outform DER \
    -keyout /tmp/mok.key -out /tmp/mok.pub 2>&1";

#[test]
fn modprobe_finds_the_installed_module_until_make_uninstall() {
    // The guest sees build/, and not the lab's /tmp.
    let copy = tempfile::Builder::new()
        .prefix("make-install-")
        .tempdir_in(project().join("build"))
        .expect("making a folder");
    let copy = copy.path();
    copy_sources(copy);
    // The module is compiled and installed in the lab, which is faster than a guest, with
    // INSTALL_MOD_PATH. The guest loads it.
    let output = shell(&format!(
        "cd {copy}
        make() {{ command make --no-print-directory KDIR={tree} INSTALL_MOD_PATH={copy}/$1 \"${{@:2}}\" 2>&1; }}
        {MAKE_KEY}
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
    println!("{output}");
    assert_eq!(
        output.matches("kstat is installed for ").count(),
        4,
        "{output}"
    );
    let [.., gone, refused, _make] = output.lines().collect::<Vec<_>>()[..] else {
        panic!("{output}");
    };
    assert!(
        gone.starts_with("kstat is no longer installed for "),
        "{output}"
    );
    assert!(
        refused.starts_with("kstat: /nowhere does not say for which kernel it is"),
        "{output}"
    );

    let output = run_in_guest(
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
        output.contains(&format!("plain: N is 10, signed by '', {file}\n")),
        "{output}"
    );
    assert!(
        output.contains(&format!("signed: N is 10, signed by 'stranger', {file}\n")),
        "{output}"
    );
    assert!(output.contains("FATAL: Module kstat not found"), "{output}");
}

/// Returns a shell script that tries to load an unsigned module and one that is signed by the key
/// of [`MAKE_KEY`], and then runs `more`, which can call `sign` and `load`.
fn try_signatures(sign_file: &str, more: &str) -> String {
    format!(
        "{MAKE_KEY}
        sign() {{ cp $KSTAT_KO /tmp/$1.ko; {sign_file} sha256 $2 $3 /tmp/$1.ko; }}
        load() {{ insmod $1 2>&1 && echo \"$1 is loaded, N is $(cat /proc/kstat/counter)\" && rmmod kstat || true; }}
        sign strange /tmp/mok.key /tmp/mok.pub
        load $KSTAT_KO; load /tmp/strange.ko
        {more}
        dmesg | grep -o 'Loading of.*'"
    )
}

/// The kernel's messages about an unsigned module, and about a module signed by an unknown key.
const REFUSED: [&str; 2] = [
    "Loading of unsigned module is rejected",
    "Loading of module with unavailable key is rejected",
];

#[test]
fn stock_kernel_enforcing_signatures_refuses_other_keys_than_debians() {
    let output = run_in_guest(
        &[],
        "module.sig_enforce=1",
        &try_signatures("/lib/modules/$(uname -r)/build/scripts/sign-file", ""),
    );

    assert_eq!(
        output.matches("Key was rejected by service").count(),
        2,
        "{output}"
    );
    assert!(!output.contains("is loaded"), "{output}");
    for words in REFUSED {
        assert!(output.contains(words), "{words:?} is not in: {output}");
    }
}

/// The user-mode kernel was built with a key of its own. It trusts this key as it trusts an
/// enrolled key.
#[test]
fn kernel_enforcing_signatures_loads_a_module_signed_by_a_trusted_key() {
    let output = run_in_guest(
        &["-k", "uml"],
        "module.sig_enforce=1",
        &try_signatures(
            "$KSTAT_TREE/scripts/sign-file",
            "sign trusted $KSTAT_TREE/certs/signing_key.pem $KSTAT_TREE/certs/signing_key.x509
            load /tmp/trusted.ko",
        ),
    );

    assert_eq!(
        output.matches("Key was rejected by service").count(),
        2,
        "{output}"
    );
    assert_eq!(output.matches("is loaded").count(), 1, "{output}");
    assert!(
        output.contains("/tmp/trusted.ko is loaded, N is 10\n"),
        "{output}"
    );
    for words in REFUSED {
        assert!(output.contains(words), "{words:?} is not in: {output}");
    }
}
