# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Links the headers of a kernel to its tree, so that every module finds the metadata where it looks for it: in the
# folder /lib/modules/KERNELRELEASE/build. The links are beside the files of Debian's packages and replace none of them:
#
#	/usr/src/linux-headers-KERNELRELEASE/rust/FILE
#	/usr/lib/linux-kbuild-VERSION/scripts/FILE, for the scripts that Debian leaves out. The headers of all kernels of a
#	version share this folder, and the files are the same for all of them.

# Whether a file is a link to a tree of --install.
leads_to_tree() {
	case $(readlink "$1" || true) in "$system"/*) ;; *) return 1 ;; esac
}

# Makes a link to a file, and the folder for it. make_link FILE LINK
make_link() {
	local error

	[ "$(readlink "$2" || true)" = "$1" ] || error=$({ mkdir -p "${2%/*}" && ln -sfnT "$1" "$2"; } 2>&1) ||
		die "the link $2 cannot be made (${error#*: }): mend that and run 'rust-tree --install', or build modules with 'make KDIR=$tree'"
}

# Removes a link. remove_link LINK
remove_link() {
	rm -f "$1" 2>/dev/null || die "$1 cannot be removed: mount its file system read-write, and run 'rust-tree --install'"
}

# Links the scripts of headers to those of a tree that they lack. link_scripts HEADERS TREE
link_scripts() {
	local file link

	for file in "$2"/scripts/*; do
		if [ -L "$file" ]; then continue; fi # it is one of the headers' scripts
		link=$(readlink -f "$1/scripts")/${file##*/}
		if cmp -s "$link" "$file"; then continue; fi
		[ ! -e "$link" ] || leads_to_tree "$link" ||
			die "$link differs from $file: build modules with 'make KDIR=$2', and report this as a bug of rust-tree"
		make_link "$file" "$link"
	done
}

# Removes the metadata from headers. unlink_headers HEADERS
unlink_headers() {
	local link

	for link in "$1"/rust/*; do
		if leads_to_tree "$link"; then remove_link "$link"; fi
	done
	rmdir "$1/rust" 2>/dev/null || true
}

# Removes the links to trees that are gone, and the folders of removed packages that dpkg kept because of the links.
remove_stale_links() {
	local folder link

	for link in /usr/src/linux-headers-*/rust/* /usr/lib/linux-kbuild-*/scripts/*; do
		if leads_to_tree "$link" && [ ! -e "$link" ]; then remove_link "$link"; fi
	done
	for folder in /usr/src/linux-headers-*/rust /usr/lib/linux-kbuild-*/scripts; do
		if rmdir "$folder" 2>/dev/null; then rmdir --ignore-fail-on-non-empty "${folder%/*}"; fi
	done
}

# Removes a tree. Headers that shared its scripts are linked to those of another tree.
remove_tree() {
	local other

	rm -rf "$tree" "$work"
	[ "$cache" = "$system" ] || return 0
	remove_stale_links
	for other in "$system"/*/.key; do
		other=${other%/.key}
		[ ! -e "/lib/modules/${other##*/}/build/scripts" ] || link_scripts "/lib/modules/${other##*/}/build" "$other"
	done
}

# Has DKMS build its modules with Rust sources again for a kernel whose headers had no metadata: they may lack their Rust
# parts. If a build fails, the module stays as it was.
rebuild_modules() {
	local folder name backup=$cache/.$release.module

	command -v dkms >/dev/null || return 0
	for name in $(dkms status -k "$release" | sed -nE 's/^([^,]*), .*: installed.*/\1/p' | sort -u); do
		folder=/var/lib/dkms/$name
		[ -n "$(find -L "$folder/source" -name '*.rs' -print -quit)" ] || continue
		say "DKMS builds $name again, for its parts in Rust"
		rm -rf "$backup"
		cp -a "$folder/$release" "$backup"
		if ! { dkms unbuild "$name" -k "$release" && dkms install "$name" -k "$release"; } >&"$terminal"; then
			say "DKMS could not build $name, which stays as it was: see above, and run 'dkms install --force $name -k $release' to try again"
			rm -rf "${folder:?}/$release"
			mv "$backup" "$folder/$release"
			dkms install "$name" -k "$release" >&"$terminal" || true
		fi
		rm -rf "$backup"
	done
}

# Adds to the headers of a kernel what they lack. Prints a line if they lacked anything.
install_headers() {
	local before file

	find_headers
	before=$(readlink "$headers/rust/libkernel.rmeta" || true)
	# If the tree cannot be proven, modules are not built with it.
	[ -z "$before" ] || unproven=$headers
	examine
	[ -z "$found" ] || return 0
	lock
	if ! find_tree; then
		before=''
		make_tree
	fi
	unproven=''
	link_scripts "$headers" "$tree"
	for file in "$tree"/rust/*; do make_link "$file" "$headers/rust/${file##*/}"; done
	if [ "$before" != "$tree/rust/libkernel.rmeta" ]; then
		echo "rust-tree: Rust modules can be built for $release"
		# DKMS leaves processes behind that would hold the lock for some seconds.
		exec {lock}>&-
		rebuild_modules
	fi
}

# Adds to the headers of all installed kernels with Rust what they lack, and has DKMS build the modules that it could not
# build before. Removes the trees of all other kernels.
install_all_headers() {
	local at changed config code status=0

	for at in "$system"/*/ "$system"/.*.lock; do
		[ -e "$at" ] || continue
		release=${at#"$system/"} release=${release%/} release=${release#.} release=${release%.lock}
		[ ! -e "/lib/modules/$release/build/.config" ] || continue
		tree=$system/$release work=$system/.$release.work
		lock
		remove_tree
		rm -f "$system/.$release.lock"
	done
	remove_stale_links
	for config in /lib/modules/*/build/.config; do
		grep -qs '^CONFIG_RUST=y' "$config" || continue
		config=${config#/lib/modules/} release=${config%/build/.config} code=0
		changed=$("$lib/../rust-tree" --install "$release") || code=$?
		case $code in 0) ;; 130) exit 130 ;; *) status=1 ;; esac
		[ -n "$changed" ] || continue
		echo "$changed"
		if command -v dkms >/dev/null && [ ! -e /etc/dkms/no-autoinstall ]; then
			dkms autoinstall -k "$release" ||
				say "DKMS could not build all modules for $release: see above, and run 'dkms autoinstall -k $release' to try again"
		fi
	done
	[ $status = 0 ] || say "when that is mended, run 'rust-tree --install'; 'rust-tree --doctor KERNELRELEASE' says what a kernel lacks"
	return $status
}

# Removes all trees of --install, and the links to them.
remove_all_trees() {
	rm -rf "$system"
	remove_stale_links
}
