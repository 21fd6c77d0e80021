// SPDX-License-Identifier: GPL-2.0
/*
 * Has whoever calls a function stay at its beginning for a time, so that what
 * does not wait for them is seen to go on without them.
 *
 * Loaded with function=SYMBOL or function=MODULE:SYMBOL, and milliseconds=.
 */
#include <linux/delay.h>
#include <linux/kprobes.h>
#include <linux/module.h>

static char *function;
module_param(function, charp, 0444);

static unsigned int milliseconds;
module_param(milliseconds, uint, 0444);

static int linger(struct kprobe *probe, struct pt_regs *regs)
{
	mdelay(milliseconds);
	return 0;
}

static struct kprobe probe = { .pre_handler = linger };

static int __init linger_init(void)
{
	probe.symbol_name = function;
	return register_kprobe(&probe);
}

static void __exit linger_exit(void)
{
	unregister_kprobe(&probe);
}

module_init(linger_init);
module_exit(linger_exit);
MODULE_DESCRIPTION("Delays the callers of a function");
MODULE_LICENSE("GPL");
