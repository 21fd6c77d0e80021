# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Makes trees. A tree has the metadata and the macros, links to the headers, so that modules can be built with it, and the
# sources of the kernel's crates for rust-analyzer. Its file .key records what it was made from, and .contents the
# checksums of its files. A tree is made in another folder, and moved to its place when it is complete.

list_trees() {
	local key

	{ printf '%s\n' "$cache"/*/.key "$system"/*/.key; } | sort -u | while read -r key; do
		[ ! -e "$key" ] || { key=${key%/.key} && printf '%s\t%s\t%s\n' "${key##*/}" "$(du -sh "$key" | cut -f 1)" "$key"; }
	done
}

# Waits for another rust-tree that makes this tree.
lock() {
	local unwritable="$cache is not writable: make it so, or name another folder in RUST_TREE_CACHE="

	mkdir -p "$cache" 2>/dev/null || die "$unwritable"
	# The mode is 0600: another user could otherwise hold the lock and block us.
	(umask 077 && : >>"$cache/.$release.lock") 2>/dev/null || die "$unwritable"
	exec {lock}<"$cache/.$release.lock"
	flock -n "$lock" || { say "waiting for another rust-tree, which makes $tree" && flock "$lock"; }
}

contents() {
	cd "$1" && { find . -type l -printf '%p -> %l\n' && find . -type f ! -path './.*' -exec sha256sum {} +; } | sort
}

# Checks what building modules needs. Sets found to the headers if they come with metadata, else key to what a tree
# depends on.
examine() {
	found='' key=''
	find_headers
	require_rust
	require_tools
	require_rustc
	if come_with_metadata; then
		found=$headers
		return
	fi
	require_origin
	require_config
	# Increase the number at its beginning if make_tree() changes.
	key=$(echo 5 && cat "$headers/.config" "$headers/Module.symvers" | sha256sum &&
		echo "$headers $origin" && rustc -vV && bindgen --version)
}

# Sets found to a tree that can be used. Says why others cannot, unless its argument is "quiet". examine() goes before.
find_tree() {
	local at why

	for at in "$tree" "$system/$release"; do
		if [ ! -e "$at" ]; then
			continue
		elif [ "$(cat "$at/.key" 2>/dev/null)" != "$key" ]; then
			why='it was made from other headers, or by another rustc or bindgen'
		elif ! (contents "$at") | cmp -s - "$at/.contents"; then
			why='its files were changed after it was made'
		else
			found=$at
			return
		fi
		[ "${1:-}" = quiet ] || say "$at cannot be used: $why"
		[ "$tree" != "$system/$release" ] || break
	done
	return 1
}

# Long commands run in background jobs, which have process groups of their own (set -m): the shell handles a signal at
# once while it waits for a job, and can kill all processes of the job.
run() {
	"$@" </dev/null &
	wait $!
}
end_jobs() {
	local job

	for job in $(jobs -p); do kill -- "-$job" || true; done
	wait
} 2>/dev/null

# Runs when rust-tree ends, in whatever way. No partly made tree is left behind, and no link to one that may not fit. step
# is what failed if a command failed without a message of ours.
clean_up() {
	local status=$?

	trap - EXIT
	[ -z "$making" ] || end_jobs
	if [ $status != 0 ] && [ -n "$step" ]; then
		tail -n 20 "$log" >&2
		if [ "$(free_space)" -lt 50 ]; then
			say "the file system of $cache is full, so $step failed: free $space MB there, and run it again"
		elif grep -qE 'SIGKILL|Killed|out of memory' "$log"; then
			say "$step failed because the machine has too little memory: end some programs or add swap, and run it again"
		else
			say "$step failed: see above"
		fi
		status=1
	fi
	[ -z "$making" ] || rm -rf "$work"
	[ -z "$unproven" ] || unlink_headers "$unproven"
	exit $status
}

# Prints the last line of the log every 5 seconds.
progress() {
	while sleep 5; do
		say "$(printf '%4d s  %s' "$SECONDS" "$(tail -n 1 "$log")")"
	done
}

download() {
	say "downloading linux-source-$series=$origin"
	run env -C "$work" apt-get -qq -o APT::Sandbox::User= download "linux-source-$series=$origin" >"$log" 2>&1 ||
		die "the source of $release is needed, but apt cannot download it ($(grep -m 1 '^E: ' "$log" || echo 'it prints no error')):" \
			"run it again with a network, after 'apt update', or install linux-source-$series=$origin"
}

# Makes the folders in which the kernel's makefiles expect the source and the results of a build. The crates come from the
# source, the build system and the C headers from the headers packages. Some crates have bindings for headers in drivers/,
# which the headers packages lack; they name them from include/uapi/, <../../drivers/...>, which must be a folder for that.
unpack() {
	mkdir -p "$work/source/include/uapi"
	ln -s "$common"/{arch,tools} "$work/source/"
	ln -s "$common"/include/uapi/* "$work/source/include/uapi/"
	find "$common/include" -mindepth 1 -maxdepth 1 ! -name uapi -exec ln -s -t "$work/source/include" {} +
	cp "$common/Makefile" "$work/source/"
	ln -s "$headers"/{.config,.kernelvariables,arch,include} "$work/build/"
	if [ -n "$source" ]; then
		xz -dc "$source"
	else
		dpkg-deb --fsys-tarfile "$work"/*.deb | tar -xO "./usr/src/linux-source-$series.tar.xz" | xz -dc
	fi | tar -C "$work/source" --strip-components=1 --wildcards --exclude='*/drivers/*/*/*/*' \
		-x "linux-source-$series/rust" "linux-source-$series/scripts" "linux-source-$series/drivers/*.h"
}

# Runs make in the kernel. The configuration is complete: may-sync-config= keeps make from calling Kconfig. The
# environment is empty: variables of the caller, or of a make that called us, must not change this build.
kbuild() {
	run env -i PATH="$PATH" HOME="${HOME:-/}" LC_ALL=C TMPDIR="$work" make -C "$work/source" O="$work/build" -j "$jobs" \
		"${flags[@]}" may-sync-config= need-compiler=1 "$@"
}

# Builds rust/ and the programs that this needs, but no object for the kernel itself (KBUILD_BUILTIN). `make prepare` would
# also build files that no module needs. Also prints the arguments that the kernel's makefile gives to its script for
# rust-analyzer.
build() {
	cat >>"$work/source/Makefile" <<'EOT'

ifneq ($(need-sub-make),1)
PHONY += rust-metadata
rust-metadata: scripts_basic
	$(if $(CONFIG_X86),$(Q)$(MAKE) $(build)=scripts scripts/target.json)
	$(Q)$(MAKE) KBUILD_BUILTIN= $(build)=rust
	$(Q)$(MAKE) -n $(build)=rust rust-analyzer >commands
endif
EOT
	# The longest chain of steps is core, bindings, kernel. With two jobs, the macros, for which bindings waits, are
	# made beside core, and uapi and zerocopy beside bindings. Optimizing syn, which only the macros use while they
	# run, would take a fifth of the time, and formatting the output of bindgen a twentieth.
	cat >>"$work/source/rust/Makefile" <<'EOT'

$(obj)/bindings/bindings_generated.rs $(obj)/uapi/uapi_generated.rs: | $(obj)/$(libmacros_name)
$(obj)/zerocopy.o: | $(obj)/uapi.o
EOT
	sed -i 's/--crate-type rlib -O /--crate-type rlib /' "$work/source/rust/Makefile"
	jobs=$(($(free_memory) / memory))
	[ $jobs -ge 1 ] || jobs=1
	[ $jobs -lt "$(nproc)" ] || jobs=$(nproc)
	say "building the kernel crate's metadata: about a minute"
	progress &
	kbuild objtool="$headers/tools/objtool/objtool" RUSTFMT=cat RUSTFLAGS_kernel.o=-Zthreads=2 \
		rust-metadata >"$log" 2>&1
	end_jobs
	# Without the last four arguments, which are folders.
	sed -z 's/\\\n//g' "$work/build/commands" | tr '\t' ' ' | tr -s ' ' |
		sed -n 's/^MAKEFLAGS= [^ ]*generate_rust_analyzer\.py \(.*\)\( [^ ]*\)\{4\} > rust-project\.json$/\1/p' >"$work/arguments"
	[ -s "$work/arguments" ] || die "the kernel's makefile has no command for rust-analyzer that rust-tree understands"
}

# Proves that this build matches the kernel: each Rust symbol that it exports has to be one of the kernel's, and each of
# the kernel's has to be in this build.
prove() {
	local all same missing

	sed -n 's/^EXPORT_SYMBOL_RUST_GPL(\(.*\));$/\1/p' "$work"/build/rust/exports_*_generated.h | sort -u >"$work/built"
	cut -f 2 "$headers/Module.symvers" | sort -u >"$work/kernel"
	all=$(wc -l <"$work/built")
	same=$(comm -12 "$work/built" "$work/kernel" | wc -l)
	say "$same of $all exported Rust symbols are in the kernel"
	if [ "$all" = 0 ] || [ "$same" != "$all" ]; then
		die "the metadata does not match $release; the first symbols that the kernel lacks:" \
			"$(comm -23 "$work/built" "$work/kernel" | sed -n 1,3p | paste -sd ' ')"
	fi
	missing=$(grep -E '^(_R|rust_helper_)' "$work/kernel" | comm -13 "$work/built" - | sed -n 1,3p | paste -sd ' ')
	[ -z "$missing" ] || die "the metadata lacks Rust symbols that $release exports: $missing"
}

write_tree() {
	local path

	mkdir -p "$work/tree/rust" "$work/tree/scripts" "$work/tree/analyzer/scripts" "$work/tree/analyzer/include/generated"
	mv "$work"/build/rust/*.rmeta "$work"/build/rust/*.so "$work/tree/rust/"
	# The target, which x86 has, and the script by which modules find out whether Rust can be used, with its files.
	[ ! -e "$work/build/scripts/target.json" ] || cp "$work/build/scripts/target.json" "$work/tree/scripts/"
	cp "$work"/source/scripts/{rust_is_available*,min-tool-version.sh} "$work/tree/scripts/"
	for path in "$headers"/* "$headers/.config" "$headers/.kernelvariables" "$headers"/scripts/*; do
		case ${path#"$headers/"} in
		Makefile | rust | scripts) ;;
		*) [ ! -e "$path" ] || [ -e "$work/tree/${path#"$headers/"}" ] || ln -s "$path" "$work/tree/${path#"$headers/"}" ;;
		esac
	done
	for path in "$work/source" "$work/build"; do
		env -C "$path" find rust -name '*.rs' -print0 | tar -C "$path" --null -T - -c | tar -C "$work/tree/analyzer" -x
	done
	for path in "$work"/tree/rust/*.so; do ln -s "../../rust/${path##*/}" "$work/tree/analyzer/rust/"; done
	cp "$work"/source/scripts/{generate_rust_analyzer.py,Makefile} "$work/tree/analyzer/scripts/"
	cp "$headers/include/generated/rustc_cfg" "$work/tree/analyzer/include/generated/"
	cp "$work/arguments" "$work/tree/analyzer/"
	sed "s|^KBUILD_OUTPUT=.*|KBUILD_OUTPUT=$tree|" "$headers/Makefile" >"$work/tree/Makefile"
	(contents "$work/tree") >"$work/contents"
	mv "$work/contents" "$work/tree/.contents"
	echo "$key" >"$work/tree/.key"
	rm -rf "$tree"
	mv "$work/tree" "$tree"
}

# Makes the tree, and sets found to it. examine() goes before.
make_tree() {
	set -m
	making=1 log=$work/log
	trap 'end_jobs; code=130; die "interrupted: no files are left; run it again"' HUP INT TERM
	rm -rf "$work"
	require_library
	require_room
	find_source
	mkdir -p "$work/source" "$work/build"
	[ -n "$source" ] || download
	say "unpacking the source"
	step='unpacking the source'
	run unpack 2>"$log"
	rm -f "$work"/*.deb
	step='building the metadata'
	build
	prove
	step='writing the tree'
	write_tree 2>"$log"
	step='' making='' found=$tree
	rm -rf "$work"
	trap - HUP INT TERM
	set +m
}
