/* The schedule of arrivals. */
#include "load.h"

#include <math.h>

/* splitmix64: https://prng.di.unimi.it/splitmix64.c */
uint64_t next_random(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
}

double uniform(uint64_t *state)
{
    return (next_random(state) >> 11) * 0x1p-53;
}

/* Seconds since the start at which `expected` arrivals are expected: the inverse of the integral of
 * the rate. */
static double time_of(double expected, double rate, double ramp)
{
    double in_ramp = rate * ramp / 2;

    return expected < in_ramp ? sqrt(2 * expected * ramp / rate) : ramp / 2 + expected / rate;
}

static void schedule_next(struct target *target)
{
    double step = target->periodic ? 1 : -log1p(-uniform(&target->times));

    if (target->periodic && !target->arrivals)   /* targets of one rate are out of phase */
        step = 1 - uniform(&target->times);
    target->arrivals += step;
    double at = time_of(target->arrivals, target->rate, ramp_ns / 1e9) * 1e9;
    target->next = at < end_ns ? (int64_t)at : INT64_MAX;
}

/* A binary heap of targets: no target arrives before the one at (i - 1) / 2. */
static unsigned heap[MAX_TARGETS], heap_size;

static void sift_down(unsigned at)
{
    unsigned moved = heap[at], child;

    while ((child = 2 * at + 1) < heap_size) {
        if (child + 1 < heap_size && targets[heap[child + 1]].next < targets[heap[child]].next)
            child++;
        if (targets[moved].next <= targets[heap[child]].next)
            break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = moved;
}

/* Schedules the first arrival of each target of this process. */
void schedule_all(void)
{
    for (unsigned i = 0; i < target_count; i++)
        if (targets[i].worker == worker) {
            schedule_next(&targets[i]);
            heap[heap_size++] = i;
        }
    for (unsigned at = heap_size / 2; at-- > 0;)
        sift_down(at);
}

int64_t next_arrival(void)
{
    return heap_size ? targets[heap[0]].next : INT64_MAX;
}

unsigned take_arrival(void)
{
    unsigned index = heap[0];

    schedule_next(&targets[index]);
    sift_down(0);
    return index;
}
