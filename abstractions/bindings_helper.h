/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The input of bindgen: headers with the declarations that the wrappers use
 * and that the bindings of the kernel crate lack. Kbuild lists their names.
 */
#include <linux/capability.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/mount.h>
#include <linux/namei.h>
#include <linux/netfilter.h>
#include <linux/netfilter_ipv4.h>
#include <linux/path.h>
#include <linux/proc_fs.h>
#include <linux/seq_file.h>
#include <linux/user_namespace.h>
#include <net/ipv6.h>
#include <net/net_namespace.h>

#include "../netfilter_shim.h"
