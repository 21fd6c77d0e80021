// SPDX-License-Identifier: GPL-2.0
/*
 * Lets the kernel's own fail_function (Documentation/fault-injection) make
 * fail what modules call to allocate per-CPU memory and to register things.
 * The kernel lists functions of its own that it can stand to see fail; these
 * are exported, and whoever calls them has to look at what they return.
 */
#include <linux/error-injection.h>
#include <linux/module.h>
#include <linux/netfilter.h>
#include <linux/percpu.h>
#include <linux/proc_fs.h>
#include <linux/seq_file.h>
#include <net/net_namespace.h>

ALLOW_ERROR_INJECTION(nf_register_net_hooks, ERRNO);
ALLOW_ERROR_INJECTION(pcpu_alloc_noprof, NULL);
ALLOW_ERROR_INJECTION(proc_create_data, NULL);
ALLOW_ERROR_INJECTION(proc_mkdir, NULL);
ALLOW_ERROR_INJECTION(register_pernet_subsys, ERRNO);
ALLOW_ERROR_INJECTION(single_open, ERRNO);

MODULE_DESCRIPTION("Lists functions for fail_function");
MODULE_LICENSE("GPL");
