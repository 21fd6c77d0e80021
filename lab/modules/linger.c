// SPDX-License-Identifier: GPL-2.0
/*
 * Has whoever calls a function stay at its beginning for a time, and warns if
 * the per-CPU memory is freed meanwhile that the function was called with.
 *
 * KASAN does not see that: it knows nothing of per-CPU memory, nor of what is
 * done there by inline assembly.
 *
 * Loaded with function=SYMBOL or function=MODULE:SYMBOL, and milliseconds=.
 */
#include <linux/bug.h>
#include <linux/delay.h>
#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/percpu.h>

static char *function;
module_param(function, charp, 0444);

static unsigned int milliseconds;
module_param(milliseconds, uint, 0444);

/* What who stays here was called with. */
static DEFINE_PER_CPU(unsigned long, first_argument);

/* Preemption is off while a probe is handled. */
static int linger(struct kprobe *probe, struct pt_regs *regs)
{
	this_cpu_write(first_argument, regs->di);
	mdelay(milliseconds);
	this_cpu_write(first_argument, 0);
	return 0;
}

static int free(struct kprobe *probe, struct pt_regs *regs)
{
	int cpu;

	for_each_possible_cpu(cpu)
		WARN_ONCE(regs->di && READ_ONCE(per_cpu(first_argument, cpu)) == regs->di,
			  "freed while somebody is to use it\n");
	return 0;
}

static struct kprobe lingering = { .pre_handler = linger };
static struct kprobe freeing = { .symbol_name = "free_percpu", .pre_handler = free };
static struct kprobe *probes[] = { &lingering, &freeing };

static int __init linger_init(void)
{
	lingering.symbol_name = function;
	return register_kprobes(probes, ARRAY_SIZE(probes));
}

static void __exit linger_exit(void)
{
	unregister_kprobes(probes, ARRAY_SIZE(probes));
}

module_init(linger_init);
module_exit(linger_exit);
MODULE_DESCRIPTION("Delays the callers of a function");
MODULE_LICENSE("GPL");
