/* Latencies in buckets of about 3 %: 32 buckets to each power of two of nanoseconds. */
#ifndef BENCH_HISTOGRAM_H
#define BENCH_HISTOGRAM_H

#include <stdint.h>

#define SUB_BITS 5
#define BUCKETS ((64 - SUB_BITS + 1) << SUB_BITS)

struct histogram {
    uint64_t count[BUCKETS], total;
    int64_t largest;
};

static inline int bucket_of(int64_t ns)
{
    uint64_t value = ns > 0 ? (uint64_t)ns : 0;
    if (value < (1u << SUB_BITS))
        return (int)value;
    int octave = 63 - __builtin_clzll(value) - SUB_BITS;
    return ((octave + 1) << SUB_BITS) + (int)((value >> octave) - (1u << SUB_BITS));
}

/* The middle of a bucket, in nanoseconds. */
static inline double bucket_middle(int bucket)
{
    int octave = (bucket >> SUB_BITS) - 1, rest = bucket & ((1 << SUB_BITS) - 1);
    if (octave < 0)
        return rest;
    return ((double)((1 << SUB_BITS) + rest) + 0.5) * (double)(1ull << octave);
}

static inline void histogram_add(struct histogram *h, int64_t ns)
{
    h->count[bucket_of(ns)]++;
    h->total++;
    if (ns > h->largest)
        h->largest = ns;
}

/* The latency that `share` (0..1) of the operations did not exceed, in nanoseconds. */
static inline double histogram_quantile(const struct histogram *h, double share)
{
    uint64_t seen = 0, wanted = (uint64_t)(share * (double)h->total);
    for (int i = 0; i < BUCKETS; i++) {
        seen += h->count[i];
        if (h->count[i] && seen > wanted)
            return bucket_middle(i) < (double)h->largest ? bucket_middle(i) : (double)h->largest;
    }
    return (double)h->largest;
}

#endif
