# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Links the headers of a kernel to its tree, so that every module finds the metadata where it looks for it: in the
# folder /lib/modules/KERNELRELEASE/build. The links are beside the files of Debian's packages and replace none of them:
#
#	/usr/src/linux-headers-KERNELRELEASE/rust
#	/usr/lib/linux-kbuild-VERSION/scripts/FILE, for the files that Debian leaves out. The headers of all kernels of a
#	version share this folder, and the files are the same for all of them.

# make_link FILE LINK
make_link() {
	[ "$(readlink "$2" || true)" = "$1" ] || ln -sfnT "$1" "$2" 2>/dev/null ||
		die "$2 cannot be made: mount its file system read-write and run 'rust-tree --install', or build modules with 'make KDIR=$tree'"
}

# Links the scripts of headers to those of a tree that they lack. link_scripts HEADERS TREE
link_scripts() {
	local file link

	for file in "$2"/scripts/*; do
		if [ -L "$file" ]; then continue; fi # it is one of the headers' scripts
		link=$(readlink -f "$1/scripts")/${file##*/}
		[ -e "$link" ] || make_link "$file" "$link"
		cmp -s "$link" "$file" ||
			die "$link differs from $file: build modules with 'make KDIR=$2', and report this as a bug of rust-tree"
	done
}

# Removes the links to trees that are gone, and the folders of removed packages that dpkg kept because of the links.
# Links the scripts to another tree.
remove_stale_links() {
	local link other

	for link in /usr/src/linux-headers-*/rust /usr/lib/linux-kbuild-*/scripts/*; do
		case $(readlink "$link" || true) in "$system"/*) [ ! -e "$link" ] || continue ;; *) continue ;; esac
		rm -f "$link" 2>/dev/null || die "$link cannot be removed: mount its file system read-write, and run it again"
		rmdir --ignore-fail-on-non-empty -p "${link%/*}" 2>/dev/null || true
	done
	for other in "$system"/*/.key; do
		other=${other%/.key}
		[ ! -e "/lib/modules/${other##*/}/build/scripts" ] || link_scripts "/lib/modules/${other##*/}/build" "$other"
	done
}

remove_tree() {
	rm -rf "$tree" "$work"
	[ "$cache" != "$system" ] || remove_stale_links
}

# Has DKMS build the modules with Rust sources for a kernel whose headers had no metadata: it may have built them without
# their Rust parts, or not at all. Modules of which it builds none by itself are left to the user.
build_modules() {
	local name module status

	command -v dkms >/dev/null || return 0
	for name in $(dkms status | sed -nE 's/^([^,:]*)[,:].*/\1/p' | sort -u); do
		module=/var/lib/dkms/$name/source
		[ -n "$(find -L "$module" -name '*.rs' -print -quit)" ] || continue
		if dkms status "$name" -k "$release" | grep -qE ': (built|installed)'; then
			say "DKMS builds $name again, for its parts in Rust"
			dkms unbuild "$name" -k "$release" >&"$terminal" || continue
		elif [ -e /etc/dkms/no-autoinstall ] || ! grep -qE '^AUTOINSTALL=.?[yY]' "$module/dkms.conf"; then
			continue
		fi
		status=0
		dkms install "$name" -k "$release" >&"$terminal" || status=$?
		# 77 if the module is not for this kernel.
		case $status in 0 | 77) ;; *) say "DKMS could not build $name: see above, and run 'dkms install $name -k $release' to try again" ;; esac
	done
}

# Adds to the headers of a kernel what they lack.
install_headers() {
	local before

	examine
	[ -z "$found" ] || return 0
	before=$(readlink "$headers/rust" || true)
	lock
	if ! find_tree; then
		# Modules are not built with the metadata of other headers if this fails.
		[ -z "$before" ] || rm -f "$headers/rust"
		before=''
		make_tree
	fi
	make_link "$tree/rust" "$headers/rust"
	link_scripts "$headers" "$tree"
	if [ "$before" != "$tree/rust" ]; then
		say "Rust modules can be built for $release"
		# DKMS leaves processes behind that would hold the lock for some seconds.
		exec {lock}>&-
		build_modules
	fi
}

# Does the same for all kernels with Rust whose headers are installed. Removes the trees of all others.
install_all_headers() {
	local at config status=0

	for at in "$system"/*/ "$system"/.*.lock; do
		[ -e "$at" ] || continue
		release=${at#"$system/"} release=${release%/} release=${release#.} release=${release%.lock}
		[ ! -e "/lib/modules/$release/build/.config" ] || continue
		tree=$system/$release work=$system/.$release.work
		lock
		remove_tree
		rm -f "$system/.$release.lock"
	done
	[ ! -e "$system" ] || remove_stale_links
	for config in /lib/modules/*/build/.config; do
		grep -qs '^CONFIG_RUST=y' "$config" || continue
		config=${config#/lib/modules/}
		"$lib/../rust-tree" --install "${config%/build/.config}" || status=1
	done
	[ $status = 0 ] || say "when that is mended, run 'rust-tree --install'; 'rust-tree --doctor KERNELRELEASE' says what a kernel lacks"
	return $status
}
