// SPDX-License-Identifier: GPL-2.0
/*
 * Which of kstat's code has run, in whatever context, while this module has
 * been loaded, however often kstat was loaded meanwhile. For a kstat.ko whose
 * compilers were told to call __sanitizer_cov_trace_pc() everywhere (KCOV, which
 * does the same for the system calls of one task, is off).
 *
 * /sys/kernel/debug/reached, while kstat is loaded: the places that were
 * reached, as symbol+offset; those in .init.text, which is gone by then, as
 * offsets in that, in hexadecimal, after the word "init".
 */
#include <linux/bitmap.h>
#include <linux/debugfs.h>
#include <linux/instruction_pointer.h>
#include <linux/kcov.h>
#include <linux/module.h>
#include <linux/notifier.h>
#include <linux/seq_file.h>

#define MAX_SIZE	BIT(18)

/* Modules are laid out alike whenever they are loaded: an offset will do. */
struct part {
	unsigned long base, size;
	DECLARE_BITMAP(reached, MAX_SIZE);
};

static struct part text, init;
static struct dentry *file;

static void notrace reach(struct part *part, unsigned long address)
{
	unsigned long offset = address - READ_ONCE(part->base);

	if (offset < READ_ONCE(part->size) && !test_bit(offset, part->reached))
		set_bit(offset, part->reached);
}

void notrace __sanitizer_cov_trace_pc(void)
{
	reach(&text, _RET_IP_);
	reach(&init, _RET_IP_);
}
EXPORT_SYMBOL_GPL(__sanitizer_cov_trace_pc);

static void have(struct part *part, const struct module_memory *memory)
{
	WRITE_ONCE(part->size, 0);
	WRITE_ONCE(part->base, (unsigned long)memory->base);
	WRITE_ONCE(part->size, min(memory->size, MAX_SIZE));
}

static int notify(struct notifier_block *nb, unsigned long event, void *data)
{
	struct module *mod = data;

	if (strcmp(mod->name, "kstat"))
		return NOTIFY_OK;

	if (event == MODULE_STATE_COMING) {
		have(&text, &mod->mem[MOD_TEXT]);
		have(&init, &mod->mem[MOD_INIT_TEXT]);
	} else {
		/* Others may have that memory next. */
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

MODULE_DESCRIPTION("Which of kstat's code has run");
MODULE_LICENSE("GPL");
