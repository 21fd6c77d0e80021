/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What Rust cannot reach in the kernel's headers: static inline functions,
 * macros, locks that need no initialization, and fields of structs that are
 * not, or not by a lasting name, in the bindings of every kernel.
 * bindgen reads this file by way of bindings_helper.h.
 */
#ifndef NETFILTER_SHIM_H
#define NETFILTER_SHIM_H

#include <linux/fs.h>
#include <linux/skbuff.h>
#include <linux/types.h>

struct inode;
struct net;
struct user_namespace;

enum {
	SHIM_FMODE_PWRITE = (__force unsigned int)FMODE_PWRITE,
	SHIM_SKB_NETWORK_HEADER = offsetof(struct sk_buff, network_header),
};

struct net *shim_get_current_net(void);
void shim_put_net(struct net *net);
struct user_namespace *shim_net_user_ns(const struct net *net);
void *shim_net_generic(const struct net *net, unsigned int id);

void shim_param_lock(void);
void shim_param_unlock(void);

void *shim_pde_data(const struct inode *inode);

void __percpu *shim_alloc_percpu(size_t size, size_t align);
void *shim_raw_cpu_ptr(void __percpu *ptr);
void *shim_per_cpu_ptr(void __percpu *ptr, int cpu);
int shim_cpumask_next_possible(int cpu);

#endif
