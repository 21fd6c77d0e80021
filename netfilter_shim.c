// SPDX-License-Identifier: GPL-2.0
/* The C part of the Rust wrappers: hook registration, inline functions, macros, a mutex. */
#include <linux/cpumask.h>
#include <linux/nsproxy.h>
#include <linux/percpu.h>
#include <linux/proc_fs.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <net/net_namespace.h>
#include <net/netns/generic.h>

#include "netfilter_shim.h"

/*
 * Registers a hook for IPv4 and one for IPv6. The caller frees the result with
 * kfree() after it has unregistered them and an RCU grace period has passed.
 */
struct shim_nf_hooks *shim_nf_register_hooks(struct net *net, nf_hookfn *ipv4, nf_hookfn *ipv6,
					     void *priv, unsigned int hooknum, int priority)
{
	struct shim_nf_hooks *hooks = kzalloc(sizeof(*hooks), GFP_KERNEL);
	struct nf_hook_ops common = { .priv = priv, .hooknum = hooknum, .priority = priority };
	int err;

	if (!hooks)
		return ERR_PTR(-ENOMEM);
	*hooks = (struct shim_nf_hooks){ .ops = { common, common } };
	hooks->ops[0].pf = NFPROTO_IPV4;
	hooks->ops[0].hook = ipv4;
	hooks->ops[1].pf = NFPROTO_IPV6;
	hooks->ops[1].hook = ipv6;

	err = nf_register_net_hooks(net, hooks->ops, 2);
	if (!err)
		return hooks;
	/* If only the second hook failed, nfnetlink_hook may still read the first one's ops. */
	kfree_rcu(hooks, rcu);
	return ERR_PTR(err);
}

/* Returns NULL if the current task is exiting and has left its namespaces. */
struct net *shim_current_net(void)
{
	return current->nsproxy ? current->nsproxy->net_ns : NULL;
}

void shim_get_net(struct net *net)
{
	get_net(net);
}

void shim_put_net(struct net *net)
{
	put_net(net);
}

struct user_namespace *shim_net_user_ns(const struct net *net)
{
	return net->user_ns;
}

/* Like net_generic(), but returns NULL if @net has no room for @id yet. */
void *shim_net_generic(const struct net *net, unsigned int id)
{
	struct net_generic *generic;

	guard(rcu)();
	generic = rcu_dereference(net->gen);
	return id < generic->s.len ? generic->ptr[id] : NULL;
}

DEFINE_MUTEX(shim_param_mutex); /* protects the values of module parameters */

struct proc_dir_entry *shim_proc_create_net(struct net *net, const char *name, umode_t mode,
					    int (*show)(struct seq_file *, void *), void *data)
{
	return proc_create_net_single(name, mode, net->proc_net, show, data);
}

void __percpu *shim_alloc_percpu(size_t size, size_t align)
{
	return __alloc_percpu(size, align);
}

/* Adds atomically, as the task may be moved to another CPU after raw_cpu_ptr(). */
void shim_raw_cpu_add(atomic64_t __percpu *counter, s64 value)
{
	atomic64_add(value, raw_cpu_ptr(counter));
}

void shim_raw_cpu_add2(atomic64_t __percpu *counters, s64 first, s64 second)
{
	atomic64_t *part = raw_cpu_ptr(counters);

	atomic64_add(first, part);
	atomic64_add(second, part + 1);
}

void *shim_per_cpu_ptr(void __percpu *ptr, int cpu)
{
	return per_cpu_ptr(ptr, cpu);
}

int shim_cpumask_next_possible(int cpu)
{
	return cpumask_next(cpu, cpu_possible_mask);
}
