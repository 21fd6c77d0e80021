# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# --doctor: runs the checks that making a tree begins with, and prints what each found. Changes nothing.

# What find_tree() says is a part of the answer.
exec {terminal}>&1
problems=0

# Runs a check. Prints SENTENCE if it passes, else the check's own. inspect CHECK SENTENCE
inspect() {
	local message

	if message=$(terminal=2 && "$1" 2>&1); then
		echo "ok       $2"
	else
		echo "${message//rust-tree: /problem  }"
		problems=$((problems + 1))
	fi
}

# Ends the program if a check has failed: the later checks depend on the earlier ones.
stop_at_problems() {
	[ $problems = 0 ] || die "Rust modules cannot be built for $release: do what the lines with 'problem' say"
}

is_made() {
	find_tree || die "the metadata is not made yet: run 'rust-tree --install' as root, or build modules with 'make KDIR=\$(rust-tree)'"
}

is_linked_completely() {
	local file

	for file in "$found"/rust/* "$found"/scripts/*; do
		cmp -s "$file" "$headers/${file#"$found"/}" || die "the metadata is in $found, but the headers have no link to it: run 'rust-tree --install' as root, or build modules with 'make KDIR=$found'"
	done
}

has_source() {
	[ -n "$source" ] || apt-cache madison "linux-source-$series" 2>/dev/null | grep -F "| $origin |" >/dev/null ||
		die "the metadata is made from the package linux-source-$series=$origin, which is not installed, and apt does not know it: run 'apt update'"
}

echo "rust-tree $version on $(sed -n 's/^PRETTY_NAME="\(.*\)"$/\1/p' /etc/os-release), $(uname -m), kernel $(uname -r)"
inspect find_headers "the headers of $release are installed"
stop_at_problems
find_headers
inspect require_rust "the kernel is built with CONFIG_RUST"
stop_at_problems
# The headers have links to the tree in the folder of all users. That tree is judged, also for a user who has another one.
[ ! -e "$system/$release" ] || cache=$system tree=$system/$release
inspect require_tools "make, gcc, xz, rustc and bindgen are installed"
inspect require_rustc "rustc is the one that built the kernel: $(rustc --version 2>/dev/null || true)"
if come_with_metadata; then
	echo "ok       the headers come with metadata: $headers"
	stop_at_problems
else
	inspect require_origin "the headers are those of a Debian kernel: $headers"
	stop_at_problems
	require_origin
	inspect require_config "their configuration is the kernel's"
	stop_at_problems
	examine
	find_source
	if find_tree; then
		echo "ok       the metadata is made: $found"
		inspect is_linked_completely "the headers have links to it"
	else
		inspect has_source "the package linux-source-$series $origin, from which it is made, is $([ -n "$source" ] && echo installed || echo known to apt)"
		inspect require_library "the source of Rust's libraries is installed"
		inspect require_room "$(free_space) MB of disk space and $(free_memory) MB of memory are free"
		inspect is_made ""
	fi
	stop_at_problems
fi
echo "ok       Rust modules can be built for $release: make -C /lib/modules/$release/build M=FOLDER"
