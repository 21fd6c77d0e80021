# SPDX-License-Identifier: GPL-2.0
#
# project.py LIBRARY MODULE: changes the rust-project.json that the kernel's script writes, from standard input to standard
# output. rust-analyzer knows the methods of built-in types only if it finds Rust's own libraries by itself, in LIBRARY.
# Crates that are not members of the workspace, all but those of MODULE, are not diagnosed.

import json, sys
library, module = sys.argv[1:]
project = json.load(sys.stdin)
kept = [i for i, crate in enumerate(project["crates"]) if not crate["root_module"].startswith(library)]
index = {old: new for new, old in enumerate(kept)}
project["crates"] = [project["crates"][i] for i in kept]
for crate in project["crates"]:
    crate["deps"] = [{**dep, "crate": index[dep["crate"]]} for dep in crate["deps"] if dep["crate"] in index]
    crate["is_workspace_member"] = crate["root_module"].startswith(module + "/")
project["sysroot_src"] = library
json.dump(project, sys.stdout, indent=4)
