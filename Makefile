# SPDX-License-Identifier: GPL-2.0
# The commands of the project: see "make help". Kbuild, which the kernel's build system reads, says how
# kstat.ko is built.

KDIR ?= /lib/modules/$(shell uname -r)/build

# The architecture for which the kernel was configured. It is always passed on, as some environments set ARCH
# to another name, such as amd64.
arch = $(shell sed -n 's,^# Linux/\([^ ]*\) .*,\1,p' $(KDIR)/.config)

# RUSTC and BINDGEN go on the command line: kbuild assigns both, so it ignores them in the environment.
kbuild = $(MAKE) --no-print-directory -C $(KDIR) M=$(CURDIR) $(if $(arch),ARCH=$(arch)) \
	$(if $(RUSTC),RUSTC=$(RUSTC)) $(if $(BINDGEN),BINDGEN=$(BINDGEN))

# KBUILD_OUTPUT would replace KDIR as the kernel's build folder. BINDGEN_EXTRA_CLANG_ARGS may have the flags
# of a user-space SDK, which do not fit the kernel's headers.
unexport KBUILD_OUTPUT BINDGEN_EXTRA_CLANG_ARGS

# The characters, besides white space, that kbuild's makefiles and their shell commands do not accept in a path.
special := "\#$$%&'():;<>\`|
quote = '$(subst ','\'',$(1))'

.PHONY: modules
modules: kdir
	@$(kbuild) modules

# Checks that kstat can be built with KDIR: the kernel has the options that kstat needs, its headers have Rust
# metadata, and the tools run and are those that built the kernel. A check that fails prints one sentence.
.PHONY: kdir
kdir:
	@for folder in "$$(pwd -P)" $(call quote,$(KDIR)) $(call quote,$(MO)); do \
		printf '%s\0' "$$folder" | LC_ALL=C.UTF-8 grep -qxz $(call quote,[^[:space:]$(special)]*) || { printf '%s %s %s\n' \
		"kstat: the kernel's build system cannot use the folder '$$folder': move it to a path" \
		"in UTF-8 that has no white space and none of" $(call quote,$(special)) >&2; exit 1; }; done
	@test -n "$(KDIR)" || { echo "kstat: KDIR= names no folder: if a command should have printed it, see above what went wrong." >&2; exit 1; }
	@test -e $(KDIR)/.config || { echo "kstat: there are no kernel headers in $(KDIR):" \
		"install the headers of your kernel (linux-headers-$(shell uname -r)), or name others with KDIR=." >&2; exit 1; }
	@grep -q '^CONFIG_RUST=y' $(KDIR)/.config || { echo "kstat: the kernel of $(KDIR) is built without CONFIG_RUST" \
		"and cannot load Rust modules: boot one that has it (see README.md), or run 'make demo' to try kstat in a guest." >&2; exit 1; }
	@test -e $(KDIR)/rust/libkernel.rmeta || { echo "kstat: the kernel of $(KDIR) has CONFIG_RUST, but its headers" \
		"come without Rust metadata: add it with 'rust-tree --install' (package rust-tree), or run 'make KDIR=\$$(rust-tree/rust-tree)'." >&2; exit 1; }
	@! findmnt -n -o OPTIONS -T $(KDIR)/rust/. 2>/dev/null | grep -qw noexec || { echo "kstat: $(KDIR)/rust is on a file system" \
		"that is mounted noexec, and rustc cannot load macros from there: remount it with exec, or use headers on another file system." >&2; exit 1; }
	@for option in NETFILTER IPV6 PROC_FS SYSFS MODULES 64BIT; do grep -q "^CONFIG_$$option=[ym]" $(KDIR)/.config || { \
		echo "kstat: the kernel of $(KDIR) is built without CONFIG_$$option, which kstat needs: boot one that has it." >&2; exit 1; }; done
	@for tool in $(or $(RUSTC),rustc) $(or $(BINDGEN),bindgen); do command -v $$tool >/dev/null || { \
		echo "kstat: $$tool is missing: install it (apt install rustc rust-src bindgen)." >&2; exit 1; }; done
	@$(or $(RUSTC),rustc) --version >/dev/null || { echo "kstat: $(or $(RUSTC),rustc) does not run, for the reason above:" \
		"install one that does, and name it with RUSTC= if it is not 'rustc'." >&2; exit 1; }
	@# bindgen loads libclang only if it has a header to read: give it an empty one.
	@$(or $(BINDGEN),bindgen) /dev/null -- -xc >/dev/null || { echo "kstat: $(or $(BINDGEN),bindgen) does not run, for the reason" \
		"above: install one that does (and libclang), and name it with BINDGEN= if it is not 'bindgen'." >&2; exit 1; }
	@want=$$(sed -n 's/^CONFIG_RUSTC_VERSION_TEXT="\(.*\)"$$/\1/p' $(KDIR)/.config); have=$$($(or $(RUSTC),rustc) --version); \
		test "$$want" = "$$have" || { echo "kstat: the kernel of $(KDIR) was built by '$$want', and rustc here is" \
		"'$$have': install the rustc that built the kernel, and name it with RUSTC= if it is not 'rustc'." >&2; exit 1; }

# The kernel of the lab, by a name that scripts/lab takes.
kernel = $(if $(KERNEL),-k $(KERNEL))

.PHONY: demo
demo:
	@scripts/vm $(kernel) -- bash lab/guest/demo

# PUBLISH=1 puts the results of KERNELS=all into docs/tested-kernels and README.md.
.PHONY: test
test:
	@$(if $(PUBLISH),$(if $(TESTS)$(filter-out all,$(or $(KERNELS),none)),$(error PUBLISH=1 is for whole runs: type 'make test KERNELS=all PUBLISH=1')))
	@$(if $(and $(filter new,$(KERNELS)),$(TESTS)),$(error KERNELS=new runs no tests: leave out TESTS=))
	@scripts/test '$(or $(KERNELS),trixie-backports)' $(if $(TESTS),-- $(TESTS))
	@$(if $(PUBLISH),scripts/lab lab/program tested && cp build/tested/README.md . && cp build/tested/tested-kernels docs/)

.PHONY: coverage
coverage:
	@scripts/lab lab/program coverage

.PHONY: mutants
mutants:
	@scripts/lab lab/program mutants $(MUTANTS)

.PHONY: test-install
test-install: deb
	@scripts/lab $(kernel) cargo build -q --locked --test install
	@scripts/lab $(kernel) -n cargo test --locked --test install -- --show-output $(TESTS)

.PHONY: stress
stress:
	@KSTAT_STRESS=$(or $(STRESS),1) scripts/lab lab/program stress $(TESTS)

# PUBLISH=1 puts the results into docs/.
.PHONY: bench
bench:
	@scripts/lab $(kernel) lab/program bench
	@$(if $(PUBLISH),cp build/bench/performance.md docs/; [ ! -e build/bench/chart.svg ] || cp build/bench/chart.svg docs/performance.svg)

# The kernel's script looks for crate roots in all folders below the one that it is given; build/ may have copies of
# this module. It knows no environment of a module's own.
.PHONY: rust-analyzer
rust-analyzer: kdir
	@mkdir -p build/rust-analyzer
	@$(kbuild) MO=$(CURDIR)/build/rust-analyzer modules
	@folder=$$(mktemp -d) && trap 'rm -r "$$folder"' EXIT && ln -s -t "$$folder" $(CURDIR)/kstat.rs $(CURDIR)/Kbuild && \
	rust-tree/rust-tree --rust-project "$$folder" $(release) >"$$folder/project" && \
	sed "s|$$folder|$(CURDIR)|; s|\"RUST_MODFILE\"|\"BINDINGS_GENERATED\": \"$(CURDIR)/build/rust-analyzer/bindings_generated.rs\", \"KSTAT_VERSION\": \"$(shell cat VERSION)\", &|" \
		"$$folder/project" >rust-project.json

.PHONY: check
check:
	@scripts/lab lab/program check

.PHONY: deb
deb:
	@scripts/deb

# Installs the module where modprobe finds it, compressed as its kernel is configured. If there is a key, signs
# the module: with SIGN_KEY= and SIGN_CERT=, or the key that DKMS made for this machine, or the key in the
# kernel's build folder.
SIGN_KEY ?= $(firstword $(wildcard /var/lib/dkms/mok.key $(KDIR)/certs/signing_key.pem))
SIGN_CERT ?= $(patsubst %.pem,%.x509,$(SIGN_KEY:.key=.pub))
sign_hash = $(shell sed -n 's/^CONFIG_MODULE_SIG_HASH="\(.*\)"$$/\1/p' $(KDIR)/.config)
release = $(shell cat $(KDIR)/include/config/kernel.release 2>/dev/null)

.PHONY: install
install: kdir
	@# Link it again: a kstat.ko that is there may have been signed already.
	@rm -f kstat.ko
	@$(kbuild) modules
	@$(if $(SIGN_KEY),$(KDIR)/scripts/sign-file $(or $(sign_hash),sha256) $(SIGN_KEY) $(SIGN_CERT) kstat.ko)
	@# kbuild may sign it once more, and its depmod needs System.map, which headers packages lack: turn both off.
	@$(kbuild) CONFIG_MODULE_SIG_ALL= quiet_cmd_depmod= cmd_depmod=: modules_install
	@depmod -b $(INSTALL_MOD_PATH)/ $(release)
	@echo "kstat is installed for $(release): 'modprobe kstat' loads it."

.PHONY: uninstall
uninstall:
	@test -n "$(release)" || { echo "kstat: $(KDIR) does not say for which kernel it is:" \
		"name in KDIR= the headers with which kstat was built." >&2; exit 1; }
	@rm -f $(INSTALL_MOD_PATH)/lib/modules/$(release)/updates/kstat.ko*
	@depmod -b $(INSTALL_MOD_PATH)/ $(release)
	@echo "kstat is no longer installed for $(release)."

# Removes the files that make and make install wrote beside the sources.
.PHONY: clean
clean:
	rm -f *.o *.ko *.mod *.mod.c .*.o .*.cmd .*.d Module.symvers modules.order bindings_generated.rs rust-project.json

# Removes all that this project made on this machine: build/, labs, kernels, trees and crates.
.PHONY: distclean
distclean: clean
	rm -rf target
	@scripts/lab --remove

.PHONY: help
help:
	@echo 'make               build kstat.ko for the running kernel, or for the headers in KDIR=FOLDER'
	@echo 'make install       build kstat.ko and install it where modprobe finds it, without a package; needs root'
	@echo 'make uninstall     remove what make install installed; needs root'
	@echo 'make demo          show kstat at work in a guest with a stock Debian kernel; less than a minute'
	@echo 'make test          run the tests in such guests; 13 minutes; TESTS=NAME for some tests, KERNELS=all for every kernel, JOBS=2 for two at a time'
	@echo '                   KERNELS=new tries the kernels that docs/tested-kernels lacks; demo, bench and test-install take KERNEL=NAME'
	@echo 'make test-install  install, upgrade and purge the packages in new Debian systems; half an hour, needs a network'
	@echo 'make stress        run the stress tests on KASAN and KCSAN kernels; 20 minutes; STRESS=10 for 10 times the repetitions'
	@echo 'make coverage      list the lines of the module that no test reaches; 40 minutes'
	@echo 'make mutants       check that each change in tests/mutants makes a test fail; 2 hours; MUTANTS=NAME for one'
	@echo 'make bench         measure what counting costs per packet, with kstat and with other counters; 17 minutes'
	@echo 'make rust-analyzer write rust-project.json for rust-analyzer; needs what make needs'
	@echo 'make check         check formatting and style, and run the linters'
	@echo 'make deb           build the Debian packages in build/deb'
	@echo 'make clean         remove what make built beside the sources'
	@echo 'make distclean     remove also build/, the labs, the kernels and the caches, and say how much that freed'
	@echo
	@echo 'demo, test, test-install, stress, coverage, mutants, bench, check and deb run in the lab, a Debian system in ~/.cache/kstat. The first'
	@echo 'of them makes the lab: a few minutes, 2.6 GB, and a network, but no root. The first make stress also builds its two'
	@echo 'kernels (22 minutes, 5 GB); the first make test and make bench build user-mode Linux (6 minutes).'
	@echo 'Times are those of 2 CPUs without KVM.'
