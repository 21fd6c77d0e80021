// SPDX-License-Identifier: GPL-2.0
/*
 * Has calls of kstat's fail that allocate memory or register things,
 * for tasks that have asked for failures by /proc/PID/make-it-fail.
 *
 * /sys/kernel/debug/fail_points/FUNCTION: which of the next calls fails, 1 for
 * the very next, and 0 when it has.
 *
 * The kernel's own fail_function cannot do that here. It needs a probe that is
 * not optimized; that is a trap, which x86 handles as it does an NMI; and
 * should_fail() is for tasks.
 */
#include <linux/debugfs.h>
#include <linux/kallsyms.h>
#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/sched.h>
#include <linux/string.h>

struct point {
	struct kprobe probe;
	long value;
	u32 nth;
};

static int enter(struct kprobe *probe, struct pt_regs *regs);
static void after(struct kprobe *probe, struct pt_regs *regs, unsigned long flags);

/* With a second handler a probe is not optimized, and the first can do more. */
#define POINT(function, returned) {				\
	.probe = {						\
		.symbol_name = #function,			\
		.pre_handler = enter,				\
		.post_handler = after,				\
	},							\
	.value = (returned),					\
}

static struct point points[] = {
	POINT(nf_register_net_hooks, -ENOMEM),
	POINT(pcpu_alloc_noprof, 0),
	POINT(proc_create_data, 0),
	POINT(proc_mkdir, 0),
	POINT(register_pernet_subsys, -ENOMEM),
	POINT(rust_helper_krealloc_node_align, 0),
	POINT(single_open, -ENOMEM),
	POINT(vfs_kern_mount, -ENOMEM),
};

static struct dentry *folder;

static bool is_kstats(unsigned long address)
{
	char name[KSYM_SYMBOL_LEN];

	sprint_symbol(name, address);
	return strstr(name, "[kstat]");
}

static int enter(struct kprobe *probe, struct pt_regs *regs)
{
	struct point *point = container_of(probe, struct point, probe);
	unsigned long caller = *(unsigned long *)regs->sp;

	if (!point->nth || !current->make_it_fail || !is_kstats(caller))
		return 0;
	if (--point->nth)
		return 0;

	/* Back to where it was called. */
	regs_set_return_value(regs, point->value);
	regs->ip = caller;
	regs->sp += sizeof(caller);
	return 1;
}

static void after(struct kprobe *probe, struct pt_regs *regs, unsigned long flags)
{
}

static int __init fail_points_init(void)
{
	int error, i;

	for (i = 0; i < ARRAY_SIZE(points); i++) {
		error = register_kprobe(&points[i].probe);
		if (error)
			goto unregister;
	}

	folder = debugfs_create_dir("fail_points", NULL);
	for (i = 0; i < ARRAY_SIZE(points); i++)
		debugfs_create_u32(points[i].probe.symbol_name, 0600, folder, &points[i].nth);
	return 0;

unregister:
	while (i--)
		unregister_kprobe(&points[i].probe);
	return error;
}
module_init(fail_points_init);

static void __exit fail_points_exit(void)
{
	int i;

	debugfs_remove(folder);
	for (i = 0; i < ARRAY_SIZE(points); i++)
		unregister_kprobe(&points[i].probe);
}
module_exit(fail_points_exit);

MODULE_DESCRIPTION("Has kstat's calls of the kernel fail");
MODULE_LICENSE("GPL");
