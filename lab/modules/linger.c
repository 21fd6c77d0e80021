// SPDX-License-Identifier: GPL-2.0
/*
 * Delays every call of a function at its first instruction, and warns if the
 * per-CPU memory that is the call's first argument is freed meanwhile.
 *
 * KASAN does not report such a use after free: it neither tracks per-CPU memory
 * nor instruments inline assembly.
 *
 * Parameters: function=SYMBOL or function=MODULE:SYMBOL, and milliseconds=, the
 * length of the delay.
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

/* The first argument of the call that is delayed on each CPU; 0 if none is. */
static DEFINE_PER_CPU(unsigned long, first_argument);

/* kprobe handlers run with preemption off: a CPU delays one call at a time. */
static int linger(struct kprobe *probe, struct pt_regs *regs)
{
	this_cpu_write(first_argument, regs->di);
	mdelay(milliseconds);
	this_cpu_write(first_argument, 0);
	return 0;
}

static int check_free(struct kprobe *probe, struct pt_regs *regs)
{
	int cpu;

	for_each_possible_cpu(cpu)
		WARN_ONCE(regs->di && READ_ONCE(per_cpu(first_argument, cpu)) == regs->di,
			  "per-CPU memory freed while a delayed call is to use it\n");
	return 0;
}

static struct kprobe delayed = { .pre_handler = linger };
static struct kprobe freeing = { .symbol_name = "free_percpu", .pre_handler = check_free };
static struct kprobe *probes[] = { &delayed, &freeing };

static int __init linger_init(void)
{
	delayed.symbol_name = function;
	return register_kprobes(probes, ARRAY_SIZE(probes));
}

static void __exit linger_exit(void)
{
	unregister_kprobes(probes, ARRAY_SIZE(probes));
}

module_init(linger_init);
module_exit(linger_exit);
MODULE_DESCRIPTION("Delays calls of a function");
MODULE_LICENSE("GPL");
