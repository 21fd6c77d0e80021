/* SPDX-License-Identifier: GPL-2.0 */
/* Declarations for the Rust wrappers. bindings_helper.h includes them for bindgen. */
#ifndef NETFILTER_SHIM_H
#define NETFILTER_SHIM_H

#include <linux/fs.h>
#include <linux/mutex.h>
#include <linux/netfilter.h>
#include <linux/skbuff.h>

enum {
	SHIM_FMODE_PWRITE = (__force unsigned int)FMODE_PWRITE,
	SHIM_SB_KERNMOUNT = SB_KERNMOUNT,
	SHIM_SKB_NETWORK_HEADER = offsetof(struct sk_buff, network_header),
};

struct shim_nf_hooks {
	struct nf_hook_ops ops[2];
	struct rcu_head rcu;
};

struct shim_nf_hooks *shim_nf_register_hooks(struct net *net, nf_hookfn *ipv4, nf_hookfn *ipv6,
					     void *priv, unsigned int hooknum, int priority);

struct net *shim_current_net(void);
void shim_get_net(struct net *net);
void shim_put_net(struct net *net);
struct user_namespace *shim_net_user_ns(const struct net *net);
void *shim_net_generic(const struct net *net, unsigned int id);

extern struct mutex shim_param_mutex;

struct proc_dir_entry *shim_proc_create_net(struct net *net, const char *name, umode_t mode,
					    int (*show)(struct seq_file *, void *), void *data);

void __percpu *shim_alloc_percpu(size_t size, size_t align);
void shim_raw_cpu_add(atomic64_t __percpu *counter, s64 value);
void shim_raw_cpu_add2(atomic64_t __percpu *counters, s64 first, s64 second);
void *shim_per_cpu_ptr(void __percpu *ptr, int cpu);
int shim_cpumask_next_possible(int cpu);

#endif
