// SPDX-License-Identifier: GPL-2.0
/*
 * One function for each static inline function, macro, field or static lock
 * that the Rust wrappers use, and nothing else: what it does is said where it
 * is wrapped.
 */
#include <linux/cpumask.h>
#include <linux/mutex.h>
#include <linux/nsproxy.h>
#include <linux/percpu.h>
#include <linux/proc_fs.h>
#include <linux/sched.h>
#include <net/net_namespace.h>
#include <net/netns/generic.h>

#include "netfilter_shim.h"

struct net *shim_get_current_net(void)
{
	return get_net(current->nsproxy->net_ns);
}

void shim_put_net(struct net *net)
{
	put_net(net);
}

struct user_namespace *shim_net_user_ns(const struct net *net)
{
	return net->user_ns;
}

void *shim_net_generic(const struct net *net, unsigned int id)
{
	return net_generic(net, id);
}

static DEFINE_MUTEX(param_mutex);

void shim_param_lock(void)
{
	mutex_lock(&param_mutex);
}

void shim_param_unlock(void)
{
	mutex_unlock(&param_mutex);
}

void *shim_pde_data(const struct inode *inode)
{
	return pde_data(inode);
}

void __percpu *shim_alloc_percpu(size_t size, size_t align)
{
	return __alloc_percpu(size, align);
}

void *shim_raw_cpu_ptr(void __percpu *ptr)
{
	return raw_cpu_ptr(ptr);
}

void *shim_per_cpu_ptr(void __percpu *ptr, int cpu)
{
	return per_cpu_ptr(ptr, cpu);
}

int shim_cpumask_next_possible(int cpu)
{
	return cpumask_next(cpu, cpu_possible_mask);
}
