/* What the tools that time loops share: clocks, options, batches, JSON. Linux and x86-64 only. */
#ifndef HARNESS_MEASURE_H
#define HARNESS_MEASURE_H

#include <errno.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static inline uint64_t ns_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC_RAW, &t);
    return t.tv_sec * 1000000000ull + t.tv_nsec;
}

/* No earlier load, and no later instruction, crosses the reading (Intel SDM, RDTSC). */
static inline uint64_t tsc_now(void)
{
    uint32_t low, high;

    __asm__ volatile("lfence\n rdtsc\n lfence" : "=a"(low), "=d"(high) : : "memory");
    return (uint64_t)high << 32 | low;
}

static inline double tsc_khz(void)
{
    uint64_t ns = ns_now(), tsc = tsc_now(), ns_end;

    do
        ns_end = ns_now();
    while (ns_end - ns < 20000000);
    return (double)(tsc_now() - tsc) * 1e6 / (double)(ns_end - ns);
}

/* A batch must not move to another CPU: its clock may differ. */
static inline void stay_here(void)
{
    cpu_set_t set;
    int cpu = sched_getcpu();

    CPU_ZERO(&set);
    CPU_SET(cpu < 0 ? 0 : cpu, &set);
    sched_setaffinity(0, sizeof set, &set);
}

static inline int number(const char *text, uint64_t low, uint64_t high, uint64_t *value)
{
    char *end;

    errno = 0;
    *value = strtoull(text, &end, 0);
    return *text >= '0' && *text <= '9' && !*end && !errno && *value >= low && *value <= high;
}

static inline void print_head(const char *name, uint64_t ops)
{
    printf("{\"case\": \"%s\", \"ops\": %llu, \"tsc_khz\": %.0f, \"batches\": [",
           name, (unsigned long long)ops, tsc_khz());
}

static inline void print_batch(long number, uint64_t ns, uint64_t cycles)
{
    printf("%s{\"ns\": %llu, \"cycles\": %llu}", number ? ", " : "", (unsigned long long)ns,
           (unsigned long long)cycles);
}

/* 0, or 1 when nobody can read it. */
static inline int print_tail(void)
{
    printf("]}\n");
    return fflush(stdout) || ferror(stdout);
}

#endif
