// SPDX-License-Identifier: GPL-2.0
/*
 * Makes calls fail by which kstat allocates memory or registers something, in
 * tasks for which /proc/PID/make-it-fail is 1.
 *
 * Writing n to /sys/kernel/debug/fail_points/FUNCTION makes the n-th call of
 * FUNCTION from now on fail. The file counts down, and reads 0 once that call
 * has failed.
 *
 * The kernel's own fail_function (CONFIG_FAIL_FUNCTION) does not work here. Its
 * kprobe is not optimized, so it is a trap. x86 handles the trap as an NMI, and
 * should_fail() makes nothing fail for a task unless in_task() is true.
 */
#include <linux/debugfs.h>
#include <linux/kallsyms.h>
#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/sched.h>
#include <linux/string.h>

struct point {
	struct kprobe probe;
	/* The return value of a call that fails. */
	long value;
	/* The second argument is a size. A call with size 0 frees, which cannot fail. */
	bool reallocates;
	/* Which of the next calls fails; 0 if none does. */
	u32 nth;
};

static int enter(struct kprobe *probe, struct pt_regs *regs);
static void after(struct kprobe *probe, struct pt_regs *regs, unsigned long flags);

/*
 * The post_handler keeps the kprobe from being optimized into a jump. Only the
 * pre_handler of a kprobe that is not optimized can change the instruction
 * pointer (Documentation/trace/kprobes.rst).
 */
#define POINT(function, returned, ...) {			\
	.probe = {						\
		.symbol_name = #function,			\
		.pre_handler = enter,				\
		.post_handler = after,				\
	},							\
	.value = (returned),					\
	__VA_ARGS__						\
}

static struct point points[] = {
	POINT(nf_register_net_hooks, -ENOMEM),
	POINT(pcpu_alloc_noprof, 0),
	POINT(proc_create_data, 0),
	POINT(proc_create_net_single, 0),
	POINT(proc_mkdir, 0),
	POINT(register_pernet_subsys, -ENOMEM),
	POINT(rust_helper_krealloc_node_align, 0, .reallocates = true),
	POINT(single_open, -ENOMEM),
	POINT(vfs_kern_mount, -ENOMEM),
};

static struct dentry *folder;

static bool is_in_kstat(unsigned long address)
{
	char name[KSYM_SYMBOL_LEN];

	sprint_symbol(name, address);
	return strstr(name, "[kstat]");
}

static int enter(struct kprobe *probe, struct pt_regs *regs)
{
	struct point *point = container_of(probe, struct point, probe);
	unsigned long caller = *(unsigned long *)regs->sp;

	if (!point->nth || !current->make_it_fail || !is_in_kstat(caller))
		return 0;
	if (point->reallocates && !regs_get_kernel_argument(regs, 1))
		return 0;
	if (--point->nth)
		return 0;

	/* Return to the caller without running the function. */
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

MODULE_DESCRIPTION("Makes calls of kernel functions by kstat fail");
MODULE_LICENSE("GPL");
