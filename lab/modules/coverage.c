// SPDX-License-Identifier: GPL-2.0
/*
 * Records which code of kstat has run, in any context, since this module was
 * loaded. kstat may be loaded and unloaded several times meanwhile.
 *
 * kstat.ko has to be built with -fsanitize-coverage=trace-pc and its equivalent
 * for Rust, so that each basic block calls __sanitizer_cov_trace_pc().
 * This module provides that function. KCOV provides it too, but follows only
 * the system calls of one task; CONFIG_KCOV has to be off.
 *
 * While kstat is loaded, /sys/kernel/debug/reached lists the return addresses
 * of the calls that were made, one a line. An address in .text is shown as
 * SYMBOL+OFFSET/SIZE. The kernel has freed .init.text by then, so an address in
 * it is shown as "init OFFSET": the offset in the section, in hexadecimal.
 */
#include <linux/bitmap.h>
#include <linux/debugfs.h>
#include <linux/instruction_pointer.h>
#include <linux/kcov.h>
#include <linux/module.h>
#include <linux/notifier.h>
#include <linux/seq_file.h>

#define MAX_SIZE	BIT(18)

/*
 * A section of kstat.ko. Its layout is the same each time kstat is loaded, so
 * an offset identifies a place.
 */
struct section {
	unsigned long base, size;
	DECLARE_BITMAP(reached, MAX_SIZE);
};

static struct section text, init;
static struct dentry *file;

static void notrace record(struct section *section, unsigned long address)
{
	unsigned long offset = address - READ_ONCE(section->base);

	if (offset < READ_ONCE(section->size) && !test_bit(offset, section->reached))
		set_bit(offset, section->reached);
}

void notrace __sanitizer_cov_trace_pc(void)
{
	record(&text, _RET_IP_);
	record(&init, _RET_IP_);
}
EXPORT_SYMBOL_GPL(__sanitizer_cov_trace_pc);

static void follow(struct section *section, const struct module_memory *memory)
{
	WRITE_ONCE(section->size, 0);
	WRITE_ONCE(section->base, (unsigned long)memory->base);
	WRITE_ONCE(section->size, min(memory->size, MAX_SIZE));
}

static int notify(struct notifier_block *nb, unsigned long event, void *data)
{
	struct module *mod = data;

	if (strcmp(mod->name, "kstat"))
		return NOTIFY_OK;

	if (event == MODULE_STATE_COMING) {
		follow(&text, &mod->mem[MOD_TEXT]);
		follow(&init, &mod->mem[MOD_INIT_TEXT]);
	} else {
		/* Another module may be loaded at these addresses next. */
		WRITE_ONCE(init.size, 0);
	}
	return NOTIFY_OK;
}

static struct notifier_block notifier = { .notifier_call = notify };

static int reached_show(struct seq_file *m, void *v)
{
	unsigned long offset;

	for_each_set_bit(offset, text.reached, MAX_SIZE)
		seq_printf(m, "%pS\n", (void *)(text.base + offset));
	for_each_set_bit(offset, init.reached, MAX_SIZE)
		seq_printf(m, "init %lx\n", offset);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(reached);

static int __init coverage_init(void)
{
	int error = register_module_notifier(&notifier);

	if (!error)
		file = debugfs_create_file("reached", 0400, NULL, NULL, &reached_fops);
	return error;
}
module_init(coverage_init);

static void __exit coverage_exit(void)
{
	debugfs_remove(file);
	unregister_module_notifier(&notifier);
}
module_exit(coverage_exit);

MODULE_DESCRIPTION("Records which code of kstat has run");
MODULE_LICENSE("GPL");
