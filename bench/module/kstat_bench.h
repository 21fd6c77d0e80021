/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The ioctls of /dev/kstat_bench. bench/src/device.rs must have the same
 * numbers and structs.
 */
#ifndef KSTAT_BENCH_H
#define KSTAT_BENCH_H

#include <linux/ioctl.h>
#include <linux/types.h>

/* KSTAT_BENCH_PACKET sets the packet that later runs send, from the IP header on. */
struct kstat_bench_packet {
	__u32 length;
	__u8 bytes[252];
};

/* KSTAT_BENCH_RUN sends packets and measures how long that takes. */
struct kstat_bench_run {
	/* In: how many packets to send while the time is measured. */
	__u32 packets;
	/* In: how many threads run at the same time, each with its own descriptor. */
	__u32 threads;
	/*
	 * In: the number of arrivals at which the measurement starts. The module
	 * counts the arrivals of all threads, and never resets that count.
	 */
	__u32 arrivals;
	/* In: whether interrupts are disabled while the time is measured. */
	__u32 irqs_off;
	/* Out: the time taken. Some machines have no get_cycles(). */
	__u64 ns;
	__u64 cycles;
	/* Out: all packets sent, including those before and after the measurement. */
	__u64 sent;
};

/*
 * KSTAT_BENCH_HOOK registers one of these hooks at NF_INET_LOCAL_OUT, for IPv4
 * and IPv6, in the network namespace of the descriptor. It removes the hook
 * that was registered before.
 */
enum {
	/* No hook. */
	KSTAT_BENCH_NO_HOOK,
	/* A hook that does nothing. */
	KSTAT_BENCH_EMPTY,
	/* A hook that counts TCP packets in one variable for all CPUs. */
	KSTAT_BENCH_GLOBAL_ATOMIC,
};

#define KSTAT_BENCH_PACKET _IOW('k', 1, struct kstat_bench_packet)
#define KSTAT_BENCH_HOOK _IO('k', 2)
#define KSTAT_BENCH_RUN _IOWR('k', 3, struct kstat_bench_run)

#endif
