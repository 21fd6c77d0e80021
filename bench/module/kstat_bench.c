// SPDX-License-Identifier: GPL-2.0
/*
 * Packet generator of the benchmark: sends prepared packets past the hooks of
 * NF_INET_LOCAL_OUT and the egress programs of the cgroup, as ip_local_out()
 * and ip_finish_output() do, and measures how long that takes. It does nothing
 * else with the packets.
 *
 * It also has the two hooks in C that kstat is compared with. User space drives
 * it by ioctls of /dev/kstat_bench: see kstat_bench.h.
 */
#include <linux/atomic.h>
#include <linux/bpf-cgroup.h>
#include <linux/etherdevice.h>
#include <linux/fs.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/ktime.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/netdevice.h>
#include <linux/netfilter.h>
#include <linux/netfilter_ipv4.h>
#include <linux/netfilter_ipv6.h>
#include <linux/nsproxy.h>
#include <linux/sched/signal.h>
#include <linux/skbuff.h>
#include <linux/slab.h>
#include <linux/tcp.h>
#include <linux/timex.h>
#include <linux/uaccess.h>
#include <linux/udp.h>
#include <net/ip.h>
#include <net/ipv6.h>
#include <net/net_namespace.h>
#include <net/sock.h>

#include "kstat_bench.h"

/* The data of an open descriptor. The socket sends the packet. */
struct bench {
	struct socket *socket;
	struct sk_buff *skb;
	bool ipv6;
	struct nf_hook_ops hooks[2];
	bool hooked;
};

/* How many times a thread has arrived in wait_for_all(), in all runs so far. */
static atomic_t arrived;

static unsigned int empty_hook(void *priv, struct sk_buff *skb,
			       const struct nf_hook_state *state)
{
	return NF_ACCEPT;
}

static atomic64_t tcp_packets;

/* The simplest counter: one atomic variable, which all CPUs share. */
static unsigned int global_hook(void *priv, struct sk_buff *skb,
				const struct nf_hook_state *state)
{
	if (ip_hdr(skb)->protocol == IPPROTO_TCP)
		atomic64_inc(&tcp_packets);
	return NF_ACCEPT;
}

static unsigned int global_hook6(void *priv, struct sk_buff *skb,
				 const struct nf_hook_state *state)
{
	unsigned int offset = 0;

	if (ipv6_find_hdr(skb, &offset, -1, NULL, NULL) == IPPROTO_TCP)
		atomic64_inc(&tcp_packets);
	return NF_ACCEPT;
}

/* Where a queued packet would continue. No hook here queues packets. */
static int never_called(struct net *net, struct sock *sk, struct sk_buff *skb)
{
	return 0;
}

static __always_inline void send_packets(struct bench *bench, u8 pf, u32 packets)
{
	struct sk_buff *skb = bench->skb;
	struct sock *sk = skb->sk;
	struct net *net = sock_net(sk);

	for (; packets; packets--) {
		if (nf_hook(pf, NF_INET_LOCAL_OUT, net, sk, skb, NULL,
			    skb->dev, never_called) == 1)
			(void)BPF_CGROUP_RUN_PROG_INET_EGRESS(sk, skb);
	}
}

/*
 * The family is a constant in each call of nf_hook(), as it is where the kernel
 * itself calls it.
 */
static noinline void send(struct bench *bench, u32 packets)
{
	if (bench->ipv6)
		send_packets(bench, NFPROTO_IPV6, packets);
	else
		send_packets(bench, NFPROTO_IPV4, packets);
}

/* Sends packets until threads have arrived here @arrivals times in all. */
static int wait_for_all(struct bench *bench, u32 arrivals, u64 *sent)
{
	atomic_inc(&arrived);
	while ((s32)(atomic_read(&arrived) - arrivals) < 0) {
		send(bench, 64);
		*sent += 64;
		if (fatal_signal_pending(current))
			return -EINTR;
		cond_resched();
	}
	return 0;
}

static int bench_run(struct bench *bench, struct kstat_bench_run *run)
{
	unsigned long flags;
	u64 cycles, ns;
	int error;

	if (!bench->skb)
		return -EINVAL;

	run->sent = run->packets;
	error = wait_for_all(bench, run->arrivals, &run->sent);
	if (error)
		return error;

	if (run->irqs_off)
		local_irq_save(flags);
	ns = ktime_get_ns();
	cycles = get_cycles();
	send(bench, run->packets);
	run->cycles = get_cycles() - cycles;
	run->ns = ktime_get_ns() - ns;
	if (run->irqs_off)
		local_irq_restore(flags);

	/* Threads that are done keep sending, so that all send as long as one is measured. */
	return wait_for_all(bench, run->arrivals + run->threads, &run->sent);
}

static void bench_drop_packet(struct bench *bench)
{
	if (!bench->skb)
		return;
	/* bench_release() releases the socket; the packet has no reference to it. */
	bench->skb->sk = NULL;
	kfree_skb(bench->skb);
	bench->skb = NULL;
}

static int bench_packet(struct bench *bench, const struct kstat_bench_packet *packet)
{
	struct sk_buff *skb;

	if (packet->length < sizeof(struct iphdr) ||
	    packet->length > sizeof(packet->bytes))
		return -EINVAL;

	skb = alloc_skb(LL_MAX_HEADER + packet->length, GFP_KERNEL);
	if (!skb)
		return -ENOMEM;
	skb_reserve(skb, LL_MAX_HEADER);
	skb_put_data(skb, packet->bytes, packet->length);
	skb_reset_network_header(skb);

	bench_drop_packet(bench);
	bench->ipv6 = ip_hdr(skb)->version == 6;
	skb->protocol = bench->ipv6 ? htons(ETH_P_IPV6) : htons(ETH_P_IP);
	skb_set_transport_header(skb, bench->ipv6 ? sizeof(struct ipv6hdr) :
						    sizeof(struct iphdr));
	skb->dev = sock_net(bench->socket->sk)->loopback_dev;
	skb->sk = bench->socket->sk;
	bench->skb = skb;
	return 0;
}

static int bench_hook(struct bench *bench, u32 kind)
{
	static const u8 families[] = { NFPROTO_IPV4, NFPROTO_IPV6 };
	struct net *net = sock_net(bench->socket->sk);
	int error, i;

	if (kind > KSTAT_BENCH_GLOBAL_ATOMIC)
		return -EINVAL;

	if (bench->hooked)
		nf_unregister_net_hooks(net, bench->hooks, ARRAY_SIZE(bench->hooks));
	bench->hooked = false;
	if (kind == KSTAT_BENCH_NO_HOOK)
		return 0;

	for (i = 0; i < ARRAY_SIZE(bench->hooks); i++) {
		bench->hooks[i] = (struct nf_hook_ops) {
			.hook = empty_hook,
			.pf = families[i],
			.hooknum = NF_INET_LOCAL_OUT,
			.priority = NF_IP_PRI_LAST,
		};
	}
	if (kind == KSTAT_BENCH_GLOBAL_ATOMIC) {
		bench->hooks[0].hook = global_hook;
		bench->hooks[1].hook = global_hook6;
	}
	error = nf_register_net_hooks(net, bench->hooks, ARRAY_SIZE(bench->hooks));
	bench->hooked = !error;
	return error;
}

static long bench_ioctl(struct file *file, unsigned int command, unsigned long argument)
{
	struct bench *bench = file->private_data;
	void __user *user = (void __user *)argument;
	struct kstat_bench_packet packet;
	struct kstat_bench_run run;
	int error;

	switch (command) {
	case KSTAT_BENCH_PACKET:
		if (copy_from_user(&packet, user, sizeof(packet)))
			return -EFAULT;
		return bench_packet(bench, &packet);
	case KSTAT_BENCH_HOOK:
		return bench_hook(bench, argument);
	case KSTAT_BENCH_RUN:
		if (copy_from_user(&run, user, sizeof(run)))
			return -EFAULT;
		error = bench_run(bench, &run);
		if (!error && copy_to_user(user, &run, sizeof(run)))
			return -EFAULT;
		return error;
	default:
		return -ENOTTY;
	}
}

static int bench_open(struct inode *inode, struct file *file)
{
	struct bench *bench = kzalloc(sizeof(*bench), GFP_KERNEL);
	int error;

	if (!bench)
		return -ENOMEM;

	/* The socket belongs to the opener's cgroup and network namespace. */
	error = sock_create(AF_INET, SOCK_DGRAM, IPPROTO_UDP, &bench->socket);
	if (error) {
		kfree(bench);
		return error;
	}
	file->private_data = bench;
	return 0;
}

static int bench_release(struct inode *inode, struct file *file)
{
	struct bench *bench = file->private_data;

	bench_hook(bench, KSTAT_BENCH_NO_HOOK);
	bench_drop_packet(bench);
	sock_release(bench->socket);
	kfree(bench);
	return 0;
}

static const struct file_operations bench_operations = {
	.owner = THIS_MODULE,
	.open = bench_open,
	.release = bench_release,
	.unlocked_ioctl = bench_ioctl,
};

static struct miscdevice bench_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "kstat_bench",
	.fops = &bench_operations,
	.mode = 0600,
};
module_misc_device(bench_device);

MODULE_DESCRIPTION("Measures what it costs a packet to pass netfilter hooks");
MODULE_LICENSE("GPL");
