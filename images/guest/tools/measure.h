/* Shared by the tools that time loops: clocks, options, batches, JSON. Linux on x86-64 only. */
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

/* The fences keep earlier loads before the reading and later instructions after it (Intel SDM,
 * RDTSC). */
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

/* Pins the process: the TSC of another CPU may differ. */
static inline void pin_to_current_cpu(void)
{
    cpu_set_t set;
    int cpu = sched_getcpu();

    CPU_ZERO(&set);
    CPU_SET(cpu < 0 ? 0 : cpu, &set);
    sched_setaffinity(0, sizeof set, &set);
}

static inline int parse_number(const char *text, uint64_t low, uint64_t high, uint64_t *value)
{
    char *end;

    errno = 0;
    *value = strtoull(text, &end, 0);
    return *text >= '0' && *text <= '9' && !*end && !errno && *value >= low && *value <= high;
}

static inline void print_header(const char *name, uint64_t ops)
{
    printf("{\"case\": \"%s\", \"ops\": %llu, \"tsc_khz\": %.0f, \"batches\": [",
           name, (unsigned long long)ops, tsc_khz());
}

static inline void print_batch(long index, uint64_t ns, uint64_t cycles)
{
    printf("%s{\"ns\": %llu, \"cycles\": %llu}", index ? ", " : "", (unsigned long long)ns,
           (unsigned long long)cycles);
}

/* Returns 1 if standard output cannot be written, else 0. */
static inline int print_footer(void)
{
    printf("]}\n");
    return fflush(stdout) || ferror(stdout);
}

#endif
