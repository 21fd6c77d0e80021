# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Finds the headers of a kernel, and checks what building modules or a tree needs. Each check ends with one sentence if
# it fails.

# What making a tree takes: disk space in MB, memory in MB for each job of make, and packages.
space=400 memory=1100
packages='build-essential xz-utils rustc rust-src bindgen'

# Sets headers, and for a kernel of another architecture than this machine's, cross and flags.
find_headers() {
	local to

	headers=$(readlink -f "/lib/modules/$release/build" || true)
	if [ ! -e "$headers/.config" ]; then
		to=$(readlink "/lib/modules/$release/build" || true)
		case $to in
		/*) die "/lib/modules/$release/build is a link to $to, which has no kernel: restore the folder in which the kernel was built, or install the package linux-headers-$release" ;;
		*) die "the headers of $release are not installed: install the package linux-headers-$release" ;;
		esac
	fi
	cross='' flags=()
	case $(sed -n 's,^# Linux/\([^ ]*\) .*,\1,p' "$headers/.config"),$(uname -m) in
	arm64,aarch64) ;;
	arm64,*) cross=aarch64-linux-gnu- flags=("ARCH=arm64" "CROSS_COMPILE=$cross") ;;
	x86,aarch64) cross=x86_64-linux-gnu- flags=("ARCH=x86" "CROSS_COMPILE=$cross") ;;
	esac
}

require_rust() {
	grep -q '^CONFIG_RUST=y' "$headers/.config" ||
		die "the kernel $release is built without CONFIG_RUST and cannot load Rust modules: use a kernel that has it"
}

require_tools() {
	local gcc=gcc-${cross%-} tool

	[ -z "$cross" ] || command -v "${cross}gcc" >/dev/null || die "${cross}gcc is missing: install it (apt install ${gcc//_/-})"
	for tool in make gcc xz rustc bindgen; do
		command -v $tool >/dev/null || die "$tool is missing: install it (apt install $packages)"
	done
	bindgen --version >/dev/null || die "bindgen does not run, for the reason above: install one that does"
}

# A rustc does not accept metadata of another version.
require_rustc() {
	local want have

	want=$(sed -n 's/^CONFIG_RUSTC_VERSION_TEXT="\(.*\)"$/\1/p' "$headers/.config")
	have=$(rustc --version) || die "rustc does not run, for the reason above: install one that does"
	[ "$want" = "$have" ] ||
		die "the kernel $release was built by '$want', and rustc here is '$have': install the rustc that built the kernel"
}

# Whether the headers' metadata are links that --install made.
is_linked() {
	case $(readlink "$headers/rust/libkernel.rmeta" || true) in "$cache"/* | "$system"/*) ;; *) return 1 ;; esac
}

# Whether the headers come with metadata, as those of other distributions and built kernels do.
come_with_metadata() {
	[ -e "$headers/rust/libkernel.rmeta" ] && ! is_linked
}

# Sets origin, the version of the source of Debian's headers, and common, the folder of their other half.
require_origin() {
	local own='build modules with the folder in which the kernel was built (make KDIR=)'

	if [ -L "$headers/rust" ] && [ ! -e "$headers/rust" ]; then
		die "the metadata of $release is in a package that is not installed: install linux-lib-rust-$release"
	elif origin=$(dpkg-query -f '${source:Version}' -W "linux-headers-$release" 2>/dev/null); then
		common=$(sed -n 's,^include \(/.*\)/Makefile$,\1,p' "$headers/Makefile")
		[ -e "$common/Makefile" ] || die "$headers/Makefile does not include the Makefile of a package linux-headers-*-common: reinstall linux-headers-$release"
	elif [ -e "$headers/rust/kernel/lib.rs" ] || [ -e "$headers/source/rust/kernel/lib.rs" ]; then
		die "the kernel in $headers is not built with its Rust crates: run 'make -C $headers' first"
	elif [ -d "$headers/rust" ]; then
		die "the headers in $headers have a folder rust/ without metadata, and rust-tree has the source of Debian's kernels only: $own"
	else
		die "$headers belongs to no package linux-headers-$release, so its source is unknown: $own"
	fi
}

# The configuration of the headers has to be the kernel's, except for some lines about keys, which Debian
# leaves out of the kernel's.
require_config() {
	local config other

	for config in "/lib/modules/$release/config" "/boot/config-$release"; do
		[ -e "$config" ] || continue
		other=$(grep CONFIG_ "$config" | grep -vxFf "$headers/.config" | head -n 1 || true)
		[ -z "$other" ] ||
			die "$headers/.config is not the kernel's configuration, which has '$other': reinstall linux-headers-$release"
	done
}

# Sets series, and source, the archive of the package linux-source, which is empty if that is not installed in the
# version of the headers.
find_source() {
	series=$(grep -oE '^[0-9]+\.[0-9]+' <<<"$release")
	source=/usr/src/linux-source-$series.tar.xz
	[ -e "$source" ] && [ "$(dpkg-query -f '${Version}' -W "linux-source-$series" 2>/dev/null || true)" = "$origin" ] || source=''
}

# The source of Rust's libraries, of which core is compiled.
require_library() {
	[ -e "$(rustc --print sysroot)/lib/rustlib/src/rust/library/core" ] || die "rust-src is missing: install it (apt install rust-src)"
}

# Prints the folder of trees, or the one in which it will be made.
existing_cache() {
	local at=$cache

	until [ -e "$at" ]; do at=$(dirname "$at"); done
	echo "$at"
}

free_space() {
	df --output=avail -BM "$(existing_cache)" | tail -n 1 | tr -dc 0-9
}

free_memory() {
	awk '/^(MemAvailable|SwapFree):/ { sum += $2 } END { print int(sum / 1024) }' /proc/meminfo
}

require_room() {
	! findmnt -n -o OPTIONS -T "$(existing_cache)" | grep -qw noexec ||
		die "$cache is on a file system that is mounted noexec, and making a tree runs programs there: name another folder in RUST_TREE_CACHE="
	[ "$(free_space)" -ge $space ] || die "$cache has $(free_space) MB free, and making a tree takes $space MB: free some space, and run it again"
	[ "$(free_memory)" -ge $memory ] || die "$(free_memory) MB of memory and swap are free, and making a tree takes $memory MB: end some programs or add swap, and run it again"
}
