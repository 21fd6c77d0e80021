// SPDX-License-Identifier: GPL-2.0
/*
 * BPF programs that kstat is compared with. They count TCP packets in a per-CPU
 * array: two as netfilter hooks, for IPv4 and IPv6, and one at the egress of a
 * cgroup.
 */
#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define NF_ACCEPT	1
/* The programs skip at most this many IPv6 extension headers. */
#define MAX_HEADERS	8

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} packets SEC(".maps");

static __always_inline void count(void)
{
	__u32 key = 0;
	__u64 *value = bpf_map_lookup_elem(&packets, &key);

	if (value)
		++*value;
}

static __always_inline bool is_extension(__u8 header)
{
	return header == IPPROTO_HOPOPTS || header == IPPROTO_ROUTING ||
	       header == IPPROTO_DSTOPTS;
}

struct sk_buff;

struct bpf_nf_ctx {
	const struct nf_hook_state *state;
	struct sk_buff *skb;
} __attribute__((preserve_access_index));

extern int bpf_dynptr_from_skb(struct __sk_buff *skb, __u64 flags,
			       struct bpf_dynptr *dynptr) __ksym;
extern void *bpf_dynptr_slice(const struct bpf_dynptr *dynptr, __u32 offset,
			      void *buffer, __u32 buffer__szk) __ksym;

SEC("netfilter")
int netfilter_ipv4(struct bpf_nf_ctx *ctx)
{
	struct bpf_dynptr dynptr;
	struct iphdr buffer, *ip;

	if (bpf_dynptr_from_skb((struct __sk_buff *)ctx->skb, 0, &dynptr))
		return NF_ACCEPT;
	ip = bpf_dynptr_slice(&dynptr, 0, &buffer, sizeof(buffer));
	if (ip && ip->protocol == IPPROTO_TCP)
		count();
	return NF_ACCEPT;
}

SEC("netfilter")
int netfilter_ipv6(struct bpf_nf_ctx *ctx)
{
	__u32 offset = sizeof(struct ipv6hdr);
	struct ipv6_opt_hdr option, *header;
	struct bpf_dynptr dynptr;
	struct ipv6hdr buffer, *ip;
	__u8 next;
	int i;

	if (bpf_dynptr_from_skb((struct __sk_buff *)ctx->skb, 0, &dynptr))
		return NF_ACCEPT;
	ip = bpf_dynptr_slice(&dynptr, 0, &buffer, sizeof(buffer));
	if (!ip)
		return NF_ACCEPT;
	next = ip->nexthdr;
	for (i = 0; i < MAX_HEADERS && is_extension(next); i++) {
		header = bpf_dynptr_slice(&dynptr, offset, &option, sizeof(option));
		if (!header)
			return NF_ACCEPT;
		next = header->nexthdr;
		offset += (header->hdrlen + 1) * 8;
	}
	if (next == IPPROTO_TCP)
		count();
	return NF_ACCEPT;
}

SEC("cgroup_skb/egress")
int cgroup_egress(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ipv6_opt_hdr option;
	struct ipv6hdr *ipv6 = data;
	struct iphdr *ipv4 = data;
	__u32 offset = sizeof(*ipv6);
	__u8 next;
	int i;

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		if ((void *)(ipv4 + 1) <= end && ipv4->protocol == IPPROTO_TCP)
			count();
		return 1;
	}
	if (skb->protocol != bpf_htons(ETH_P_IPV6) || (void *)(ipv6 + 1) > end)
		return 1;
	next = ipv6->nexthdr;
	for (i = 0; i < MAX_HEADERS && is_extension(next); i++) {
		if (bpf_skb_load_bytes(skb, offset, &option, sizeof(option)))
			return 1;
		next = option.nexthdr;
		offset += (option.hdrlen + 1) * 8;
	}
	if (next == IPPROTO_TCP)
		count();
	return 1;
}

char LICENSE[] SEC("license") = "GPL";
