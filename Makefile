# SPDX-License-Identifier: GPL-2.0
# What a person types. How the module is built stands in Kbuild, which the kernel's build system reads.

KDIR ?= /lib/modules/$(shell uname -r)/build

# The architecture is the one that the kernel was configured for: some environments set ARCH to another name, such as amd64.
arch = $(shell sed -n 's,^# Linux/\([^ ]*\) .*,\1,p' $(KDIR)/.config)

# Other tools than the kernel's build system would take are named to it, also if the environment does.
kbuild = $(MAKE) --no-print-directory -C $(KDIR) M=$(CURDIR) $(if $(arch),ARCH=$(arch)) \
	$(if $(RUSTC),RUSTC=$(RUSTC)) $(if $(BINDGEN),BINDGEN=$(BINDGEN))

# The kernel's build folder is KDIR, and the clang flags of a user-space SDK do not fit the kernel's headers.
unexport KBUILD_OUTPUT BINDGEN_EXTRA_CLANG_ARGS

# Besides white space, kbuild's makefiles and their shell commands do not take these characters in a path.
special := "\#$$%&'():;<>\`|
quote = '$(subst ','\'',$(1))'

.PHONY: modules
modules: kdir
	@$(kbuild) modules

# The kernel can take a Rust module, and its headers carry what the compiler needs to know for it.
.PHONY: kdir
kdir:
	@for folder in "$$(pwd -P)" $(call quote,$(KDIR)) $(call quote,$(MO)); do \
		printf '%s\0' "$$folder" | LC_ALL=C.UTF-8 grep -qxz $(call quote,[^[:space:]$(special)]*) || { printf '%s %s %s\n' \
		"kstat: the kernel's build system cannot use the folder '$$folder': move it to a path" \
		"in UTF-8 that has no white space and none of" $(call quote,$(special)) >&2; exit 1; }; done
	@test -n "$(KDIR)" || { echo "kstat: KDIR= names no folder: what should have printed it said above why not." >&2; exit 1; }
	@test -e $(KDIR)/.config || { echo "kstat: there are no kernel headers in $(KDIR):" \
		"install those of your kernel (linux-headers-$(shell uname -r)), or name others with KDIR=." >&2; exit 1; }
	@grep -q '^CONFIG_RUST=y' $(KDIR)/.config || { echo "kstat: the kernel of $(KDIR) is built without CONFIG_RUST" \
		"and cannot load Rust modules: boot one that has it (see README.md), or run 'make demo' to try kstat in a guest." >&2; exit 1; }
	@test -e $(KDIR)/rust/libkernel.rmeta || { echo "kstat: the kernel of $(KDIR) has CONFIG_RUST, but its headers" \
		"come without Rust metadata: make it, and build with it, by 'make KDIR=\$$(rust-tree/rust-tree)'." >&2; exit 1; }
	@! findmnt -n -o OPTIONS -T $(KDIR)/rust/. 2>/dev/null | grep -qw noexec || { echo "kstat: $(KDIR)/rust is on a file system" \
		"that is mounted noexec, and rustc cannot load macros from there: remount it with exec, or use headers on another one." >&2; exit 1; }
	@for option in NETFILTER IPV6 PROC_FS SYSFS MODULES 64BIT; do grep -q "^CONFIG_$$option=[ym]" $(KDIR)/.config || { \
		echo "kstat: the kernel of $(KDIR) is built without CONFIG_$$option, which kstat needs: boot one that has it." >&2; exit 1; }; done
	@for tool in $(or $(RUSTC),rustc) $(or $(BINDGEN),bindgen); do command -v $$tool >/dev/null || { \
		echo "kstat: $$tool is missing: install it (apt install rustc rust-src bindgen)." >&2; exit 1; }; done
	@$(or $(RUSTC),rustc) --version >/dev/null || { echo "kstat: $(or $(RUSTC),rustc) does not run, for the reason above:" \
		"install one that does, and name it with RUSTC= if it is not 'rustc'." >&2; exit 1; }
	@# Without a header to read, bindgen does not load libclang.
	@$(or $(BINDGEN),bindgen) /dev/null -- -xc >/dev/null || { echo "kstat: $(or $(BINDGEN),bindgen) does not run, for the reason" \
		"above: install one that does (and libclang), and name it with BINDGEN= if it is not 'bindgen'." >&2; exit 1; }
	@want=$$(sed -n 's/^CONFIG_RUSTC_VERSION_TEXT="\(.*\)"$$/\1/p' $(KDIR)/.config); have=$$($(or $(RUSTC),rustc) --version); \
		test "$$want" = "$$have" || { echo "kstat: the kernel of $(KDIR) was built by '$$want', and rustc here is" \
		"'$$have': install the one that built it, and name it with RUSTC= if it is not 'rustc'." >&2; exit 1; }

# What DKMS says, which knows the kernel by its release.
.PHONY: dkms
dkms:
	@KDIR=$$(rust-tree $(KERNELRELEASE)) && $(MAKE) --no-print-directory KDIR=$$KDIR

.PHONY: demo
demo:
	@scripts/vm -- bash lab/guest/demo

.PHONY: test
test:
	@scripts/test $(KERNELS) $(if $(TESTS),-- $(TESTS))

.PHONY: test-install
test-install: deb
	@scripts/lab cargo test --locked --test install -- --show-output $(TESTS)

.PHONY: stress
stress:
	@KSTAT_STRESS=$(or $(STRESS),1) scripts/stress $(TESTS)

.PHONY: bench
bench:
	@scripts/bench

.PHONY: check
check:
	@scripts/check

.PHONY: deb
deb:
	@scripts/deb

# Puts the module where its kernel looks for it, compressed as that is configured to; and signed, if there is a key: that
# which DKMS made for this machine, or the kernel's, in its own build folder, or SIGN_KEY= and SIGN_CERT=.
SIGN_KEY ?= $(firstword $(wildcard /var/lib/dkms/mok.key $(KDIR)/certs/signing_key.pem))
SIGN_CERT ?= $(patsubst %.pem,%.x509,$(SIGN_KEY:.key=.pub))
sign_hash = $(shell sed -n 's/^CONFIG_MODULE_SIG_HASH="\(.*\)"$$/\1/p' $(KDIR)/.config)
release = $(shell cat $(KDIR)/include/config/kernel.release 2>/dev/null)

.PHONY: install
install: kdir
	@# So as not to sign it twice.
	@rm -f kstat.ko
	@$(kbuild) modules
	@$(if $(SIGN_KEY),$(KDIR)/scripts/sign-file $(or $(sign_hash),sha256) $(SIGN_KEY) $(SIGN_CERT) kstat.ko)
	@# kbuild's own depmod wants System.map, which headers packages lack.
	@$(kbuild) CONFIG_MODULE_SIG_ALL= quiet_cmd_depmod= cmd_depmod=: modules_install
	@depmod -b $(INSTALL_MOD_PATH)/ $(release)
	@echo "kstat is installed for $(release): 'modprobe kstat' loads it."

.PHONY: uninstall
uninstall:
	@test -n "$(release)" || { echo "kstat: $(KDIR) does not say of which kernel it is:" \
		"name the headers that kstat was built with by KDIR=." >&2; exit 1; }
	@rm -f $(INSTALL_MOD_PATH)/lib/modules/$(release)/updates/kstat.ko*
	@depmod -b $(INSTALL_MOD_PATH)/ $(release)
	@echo "kstat is no longer installed for $(release)."

.PHONY: clean
clean:
	rm -rf build
	rm -f *.o *.ko *.mod *.mod.c .*.o .*.cmd .*.d Module.symvers modules.order bindings_generated.rs

.PHONY: help
help:
	@echo 'make         build kstat.ko for the running kernel, or for KDIR=<folder of its headers>'
	@echo 'make demo    see kstat work, in a guest of a stock Debian kernel (sets up the lab)'
	@echo 'make test    run the tests, in such a guest; KERNELS=all for one of each kernel there is'
	@echo 'make test-install    install the package in fresh Debian systems, upgrade around it, purge it'
	@echo 'make stress  run the stress tests on KASAN and KCSAN kernels; STRESS=10 for ten times as much'
	@echo 'make bench   see what counting costs a packet, beside what else counts'
	@echo 'make deb     make the Debian package, in build/deb'
	@echo 'make install    put it where modprobe finds it, without a package; make uninstall takes it away again'
	@echo 'make check   check formatting and style, and what lints find'
	@echo 'make clean   remove what was built here'
