// SPDX-License-Identifier: GPL-2.0
/*
 * Which of kstat's code has run, in whatever context, while this module has
 * been loaded, however often kstat was loaded meanwhile. For a kstat.ko whose
 * compilers were told to call __sanitizer_cov_trace_pc() everywhere (KCOV, which
 * does the same for the system calls of one task, is off).
 *
 * /sys/kernel/debug/reached, while kstat is loaded: the places that were
 * reached, as symbol+offset.
 */
#include <linux/bitmap.h>
#include <linux/debugfs.h>
#include <linux/instruction_pointer.h>
#include <linux/kcov.h>
#include <linux/module.h>
#include <linux/notifier.h>
#include <linux/seq_file.h>

#define MAX_SIZE	BIT(18)

static DECLARE_BITMAP(reached, MAX_SIZE);
static unsigned long text, size;
static struct dentry *file;

/* Modules are laid out alike whenever they are loaded: an offset will do. */
void notrace __sanitizer_cov_trace_pc(void)
{
	unsigned long offset = _RET_IP_ - READ_ONCE(text);

	if (offset < READ_ONCE(size) && !test_bit(offset, reached))
		set_bit(offset, reached);
}
EXPORT_SYMBOL_GPL(__sanitizer_cov_trace_pc);

static int notify(struct notifier_block *nb, unsigned long event, void *data)
{
	struct module *mod = data;

	if (event == MODULE_STATE_COMING && !strcmp(mod->name, "kstat")) {
		WRITE_ONCE(size, 0);
		WRITE_ONCE(text, (unsigned long)mod->mem[MOD_TEXT].base);
		WRITE_ONCE(size, min(mod->mem[MOD_TEXT].size, MAX_SIZE));
	}
	return NOTIFY_OK;
}

static struct notifier_block notifier = { .notifier_call = notify };

static int reached_show(struct seq_file *m, void *v)
{
	unsigned long offset;

	for_each_set_bit(offset, reached, MAX_SIZE)
		seq_printf(m, "%pS\n", (void *)(text + offset));
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
