# SPDX-License-Identifier: GPL-2.0
# What a person types. How the module is built stands in Kbuild, which the kernel's build system reads.

KDIR ?= /lib/modules/$(shell uname -r)/build

.PHONY: modules
modules: kdir
	@$(MAKE) --no-print-directory -C $(KDIR) M=$(CURDIR) modules

# The kernel can take a Rust module, and its headers carry what the compiler needs to know for it.
.PHONY: kdir
kdir:
	@test -n "$(KDIR)" || { echo "kstat: KDIR= names no folder: what should have printed it said above why not." >&2; exit 1; }
	@test -e $(KDIR)/.config || { echo "kstat: there are no kernel headers in $(KDIR):" \
		"install those of your kernel (linux-headers-$(shell uname -r)), or name others with KDIR=." >&2; exit 1; }
	@grep -q '^CONFIG_RUST=y' $(KDIR)/.config || { echo "kstat: the kernel of $(KDIR) is built without CONFIG_RUST" \
		"and cannot load Rust modules: boot one that has it (see README.md), or run 'make demo' to try kstat in a guest." >&2; exit 1; }
	@test -e $(KDIR)/rust/libkernel.rmeta || { echo "kstat: the kernel of $(KDIR) has CONFIG_RUST, but its headers" \
		"come without Rust metadata: make it, and build with it, by 'make KDIR=\$$(scripts/rust-tree)'." >&2; exit 1; }
	@for option in NETFILTER IPV6 PROC_FS; do grep -q "^CONFIG_$$option=[ym]" $(KDIR)/.config || { \
		echo "kstat: the kernel of $(KDIR) is built without CONFIG_$$option, which kstat is about: boot one that has it." >&2; exit 1; }; done
	@for tool in rustc bindgen; do command -v $$tool >/dev/null || { \
		echo "kstat: $$tool is missing: install it (apt install rustc rust-src bindgen)." >&2; exit 1; }; done

.PHONY: demo
demo:
	@scripts/vm -- scripts/demo

.PHONY: test
test:
	@scripts/test $(KERNELS)

.PHONY: stress
stress:
	@KSTAT_STRESS=$(or $(STRESS),1) scripts/stress $(TESTS)

.PHONY: bench
bench:
	@scripts/bench

.PHONY: check
check:
	@scripts/check

.PHONY: clean
clean:
	rm -rf build
	rm -f *.o *.ko *.mod *.mod.c .*.o .*.cmd .*.d Module.symvers modules.order bindings_generated.rs

.PHONY: help
help:
	@echo 'make         build kstat.ko for the running kernel, or for KDIR=<folder of its headers>'
	@echo 'make demo    see kstat work, in a guest of a stock Debian kernel (sets up the lab)'
	@echo 'make test    run the tests, in such a guest; KERNELS=all for one of each kernel there is'
	@echo 'make stress  do the worst to it, on debug kernels; STRESS=10 for ten times as much'
	@echo 'make bench   see what counting costs a packet, beside what else counts'
	@echo 'make check   check formatting and style, and what lints find'
	@echo 'make clean   remove what was built here'
