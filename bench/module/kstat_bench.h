/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What /dev/kstat_bench understands; bench/src/device.rs has the same.
 */
#ifndef KSTAT_BENCH_H
#define KSTAT_BENCH_H

#include <linux/ioctl.h>
#include <linux/types.h>

/* The packet that is sent from now on: an IP header and what follows. */
struct kstat_bench_packet {
	__u32 length;
	__u8 bytes[252];
};

/* Sends packets. */
struct kstat_bench_run {
	/* How many are timed. */
	__u32 count;
	/* How many threads do this at the same time, each with a descriptor of its own. */
	__u32 threads;
	/* How often threads will have met when all have come; then they are timed. */
	__u32 meet;
	/* Whether nothing may interrupt. */
	__u32 irqs_off;
	/* How long it took; by get_cycles(), which some machines have not. */
	__u64 ns;
	__u64 cycles;
	/* How many were sent in all, those before and after the timed ones included. */
	__u64 sent;
};

/* What is hooked at NF_INET_LOCAL_OUT, for IPv4 and IPv6, in the descriptor's namespace. */
enum {
	KSTAT_BENCH_NOTHING,
	KSTAT_BENCH_EMPTY,
	KSTAT_BENCH_GLOBAL,
};

#define KSTAT_BENCH_PACKET _IOW('k', 1, struct kstat_bench_packet)
#define KSTAT_BENCH_HOOK _IO('k', 2)
#define KSTAT_BENCH_RUN _IOWR('k', 3, struct kstat_bench_run)

#endif
