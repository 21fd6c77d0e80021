# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# --rust-project: prints rust-project.json for the module in a folder, by the kernel's own script.

find_or_make_tree
[ "$found" != "$headers" ] || die "these headers come with metadata: run 'make -C $headers M=$module rust-analyzer' instead"
library=$(rustc --print sysroot)/lib/rustlib/src/rust/library
[ -e "$library" ] || die "$library is missing: install it (apt install rust-src)"
command -v python3 >/dev/null || die "python3 is missing: install it (apt install python3)"

# They are quoted for a shell.
arguments=()
eval "arguments=($(cat "$found/analyzer/arguments"))"
RUSTC=rustc python3 "$found/analyzer/scripts/generate_rust_analyzer.py" "${arguments[@]}" \
	"$found/analyzer" "$found/analyzer" "$(rustc --print sysroot)" "$library" "$module" |
	python3 "$lib/project.py" "$library" "$module"
